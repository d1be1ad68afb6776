"""The face restorer of this project, `rrdb-face`: blocks of an RRDBNet at several scales, from coarse to fine.

At each scale the network sees the aligned face, folded to the stride of that scale, and what the coarser scale made of
it. Residual-in-residual dense blocks (Wang et al., 2018) at a coarse scale know the face, at a fine one the noise and
the detail. The network is told where in the aligned face it is, and predicts what is to be added.
"""

import re
from collections.abc import Mapping

import tensorflow as tf

from config import FaceRestorerConfig
from model.layers import Params, check_shapes, conv2d, leaky_relu
from model.rrdbnet import convolution_shapes, draw_params, trunk, trunk_channels

FACE_SIZE = 512  # pixels: the side of an aligned face
OUTPUT_GAIN = 0.01  # of the last layer's initial weights, so that the network begins close to the identity


def face_restorer_shapes(architecture: FaceRestorerConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of every parameter, by scale: `8/conv_in/weight`, `8/body/0/...`, ..."""
    channels, coarser = {}, 0
    for stride, features, blocks in zip(architecture.strides, architecture.features, architecture.blocks, strict=True):
        positions = 0 if coarser else 2
        channels[f"{stride}/conv_in"] = (3 * stride**2 + positions, features)
        if coarser:
            channels[f"{stride}/conv_up"] = (coarser, 4 * features)
        if blocks:
            channels.update({f"{stride}/{layer}": size
                             for layer, size in trunk_channels(blocks, features, features // 2).items()})
        coarser = features
    channels["conv_last"] = (coarser, 3 * architecture.strides[-1]**2)
    return convolution_shapes(channels)


def init_face_restorer(seed: int, architecture: FaceRestorerConfig) -> dict[str, tf.Tensor]:
    """Draw parameters."""
    params = draw_params(seed, face_restorer_shapes(architecture))
    return {**params, "conv_last/weight": OUTPUT_GAIN * params["conv_last/weight"]}


def face_restorer(params: Params, faces: tf.Tensor, corners: tf.Tensor | None = None) -> tf.Tensor:
    """Restore aligned faces, or parts of them.

    Args:
        params: as `init_face_restorer` gives. With bfloat16 parameters the convolutions run in bfloat16.
        faces: [n, h, w, 3] RGB in [0, 1], 512x512 or a part of that; sides divisible by the coarsest stride.
        corners: [n, 2], of parts: row and column of their first pixel in the whole face; None: they are whole.

    Returns:
        As `faces`, not clipped.
    """
    centred, features, strides = faces - 0.5, None, _strides(params)
    for stride in strides:
        seen = tf.nn.space_to_depth(centred, stride)
        if features is None:
            seen = tf.concat([seen, _positions(seen, stride, corners)], axis=3)
        seen = tf.cast(conv2d(params, f"{stride}/conv_in", seen), faces.dtype)
        if features is not None:
            seen += tf.cast(tf.nn.depth_to_space(conv2d(params, f"{stride}/conv_up", features), 2), faces.dtype)
        features = leaky_relu(seen)
        if f"{stride}/conv_body/weight" in params:
            features = trunk(params, features, scope=f"{stride}/")
    residual = tf.nn.depth_to_space(conv2d(params, "conv_last", features), strides[-1])
    return faces + tf.cast(residual, faces.dtype)


def _strides(names: Mapping[str, object]) -> list[int]:
    """Return the strides of the scales that parameters belong to, the coarsest first."""
    return sorted({int(name.split("/")[0]) for name in names if re.fullmatch(r"\d+/conv_in/weight", name)},
                  reverse=True)


def _positions(grid: tf.Tensor, stride: int, corners: tf.Tensor | None) -> tf.Tensor:
    """Say where in the face each cell of a coarse grid [n, h, w, c] lies: [n, h, w, 2], from -1 to 1."""
    shape = tf.shape(grid)
    rows, columns = tf.meshgrid(tf.range(shape[1]), tf.range(shape[2]), indexing="ij")
    places = tf.cast(tf.stack([rows, columns], axis=2), grid.dtype) * stride + stride / 2
    corners = tf.zeros([shape[0], 2]) if corners is None else corners
    return (places + tf.cast(corners, grid.dtype)[:, None, None]) * (2 / FACE_SIZE) - 1


def face_restorer_architecture(shapes: Mapping[str, tuple[int, ...]]) -> FaceRestorerConfig:
    """Infer the architecture from the names and shapes of a parameter set.

    Raises:
        ValueError: they are not those of a face restorer; lists what is missing, extra or of another shape.
    """
    strides = _strides(shapes)
    found = FaceRestorerConfig()
    if strides and strides == [strides[0] >> step for step in range(len(strides))]:
        found = FaceRestorerConfig(
            tuple(strides), tuple(tuple(shapes[f"{stride}/conv_in/weight"])[-1] for stride in strides),
            tuple(len({name.split("/")[2] for name in shapes if name.startswith(f"{stride}/body/")})
                  for stride in strides))
    check_shapes(shapes, face_restorer_shapes(found), network="face restorer")
    return found
