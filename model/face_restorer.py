"""The face restorer of this project, `rrdb-face`: the trunk of an RRDBNet on a coarse grid, as an encoder-decoder.

The trunk (Wang et al., 2018) sees an aligned face at an eighth of its size, where its receptive field spans much of the
face and a convolution is cheap. Steps of sub-pixel upsampling follow, each of which also gets the face at its own
resolution, so that a face that is hardly degraded keeps its detail. The network is told where in the aligned face it
is, and predicts what is to be added.
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from config import FaceRestorerConfig
from model.layers import Params, check_shapes, conv2d, leaky_relu
from model.rrdbnet import convolution_shapes, draw_params, trunk, trunk_channels

FACE_SIZE = 512  # pixels: the side of an aligned face
FINEST = 2  # pixels: the stride of the last step
OUTPUT_GAIN = 0.1  # of the last layer's initial weights, so that the network begins close to the identity


def face_restorer_shapes(architecture: FaceRestorerConfig) -> dict[str, tuple[int, ...]]:
    """Give name -> shape (HWIO and bias) of every parameter."""
    inner = architecture.num_features
    channels = {"conv_first": (3 * architecture.stride**2 + 2, inner),
                **trunk_channels(architecture.num_blocks, inner, architecture.growth)}
    for stride, width in zip(_strides_after(architecture.stride), architecture.widths, strict=True):
        channels[f"conv_up{stride}"] = (inner, 4 * width)
        channels[f"conv_in{stride}"] = (3 * stride**2, width)
        inner = width
    channels["conv_last"] = (inner, 3 * FINEST**2)
    return convolution_shapes(channels)


def _strides_after(stride: int) -> list[int]:
    """Give the strides of the steps after the trunk, as 4 and 2 after a trunk of 8."""
    return [stride >> step for step in range(1, stride.bit_length() - 1)]


def _stride(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Infer the trunk's stride from the channels that the first layer takes."""
    return math.isqrt(max(0, tuple(shapes["conv_first/weight"])[2] - 2) // 3)


def init_face_restorer(seed: int, architecture: FaceRestorerConfig) -> dict[str, tf.Tensor]:
    """Draw parameters."""
    params = draw_params(seed, face_restorer_shapes(architecture))
    return {**params, "conv_last/weight": OUTPUT_GAIN * params["conv_last/weight"]}


def face_restorer(params: Params, faces: tf.Tensor, corners: tf.Tensor | None = None) -> tf.Tensor:
    """Restore aligned faces, or parts of them.

    Args:
        params: as `init_face_restorer` gives. With bfloat16 parameters the convolutions run in bfloat16.
        faces: [n, h, w, 3] RGB in [0, 1], 512x512 or a part of that; sides divisible by the trunk's stride.
        corners: [n, 2], of parts: row and column of their first pixel in the whole face; None: they are whole.

    Returns:
        As `faces`, not clipped.
    """
    centred, coarse = faces - 0.5, _stride({name: value.shape for name, value in params.items()})
    first = tf.nn.space_to_depth(centred, coarse)
    first = tf.concat([first, _positions(first, coarse, corners)], axis=3)
    features = trunk(params, tf.cast(conv2d(params, "conv_first", first), faces.dtype))
    for stride in _strides_after(coarse):
        above = tf.nn.depth_to_space(conv2d(params, f"conv_up{stride}", features), 2)
        features = leaky_relu(above + conv2d(params, f"conv_in{stride}", tf.nn.space_to_depth(centred, stride)))
    residual = tf.nn.depth_to_space(conv2d(params, "conv_last", features), FINEST)
    return faces + tf.cast(residual, faces.dtype)


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
    published = FaceRestorerConfig()
    blocks = {name.split("/")[1] for name in shapes if name.startswith("body/")}

    def outputs(layer: str, default: int) -> int:
        return tuple(shapes.get(f"{layer}/weight", (default,)))[-1]

    stride = _stride(shapes) if len(shapes.get("conv_first/weight", ())) == 4 else 0
    if stride < 2 * FINEST or stride & (stride - 1):  # no power of two
        stride = published.stride
    found = FaceRestorerConfig(
        len(blocks) or published.num_blocks, outputs("conv_first", published.num_features),
        outputs("body/0/rdb1/conv1", published.growth), stride,
        tuple(outputs(f"conv_in{step}", published.widths[-1]) for step in _strides_after(stride)))
    check_shapes(shapes, face_restorer_shapes(found), network="face restorer")
    return found
