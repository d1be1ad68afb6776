"""The generator: the residual-in-residual dense network of Real-ESRGAN (Wang et al., 2021), x4.

Parameter names are those of the published files: `body/0/rdb1/conv1/weight` (HWIO) and `.../bias`.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from config import GeneratorConfig
from model.layers import Params, check_shapes, conv2d, leaky_relu, upsampled_conv2d, variance_scaling

RESIDUAL_SCALE = 0.2
DENSE_LAYERS = 5
DENSE_BLOCKS = 3
FULL_SIZE = GeneratorConfig()  # as published


def rrdbnet_shapes(num_blocks: int = FULL_SIZE.num_blocks, num_features: int = FULL_SIZE.num_features,
                   growth: int = FULL_SIZE.growth) -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of every parameter, in the order of the published checkpoint."""
    channels = {"conv_first": (3, num_features), **trunk_channels(num_blocks, num_features, growth)}
    for name in ("conv_up1", "conv_up2", "conv_hr"):
        channels[name] = (num_features, num_features)
    channels["conv_last"] = (num_features, 3)
    return convolution_shapes(channels)


def trunk_channels(num_blocks: int, num_features: int, growth: int) -> dict[str, tuple[int, int]]:
    """Return layer -> channels (in, out) of the blocks and of the convolution that ends them."""
    channels = {}
    for block in range(num_blocks):
        for dense in range(1, DENSE_BLOCKS + 1):
            for layer in range(1, DENSE_LAYERS + 1):
                out = num_features if layer == DENSE_LAYERS else growth
                channels[f"body/{block}/rdb{dense}/conv{layer}"] = (num_features + growth * (layer - 1), out)
    return {**channels, "conv_body": (num_features, num_features)}


def convolution_shapes(channels: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of 3x3 convolutions from their channels (in, out)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (c_in, c_out) in channels.items():
        shapes[f"{name}/weight"] = (3, 3, c_in, c_out)
        shapes[f"{name}/bias"] = (c_out,)
    return shapes


def rrdbnet_architecture(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Infer (num_blocks, num_features, growth) from the names and shapes of a parameter set.

    Raises:
        ValueError: the names or shapes are not those of an RRDBNet; lists what is missing and what is extra.
    """
    blocks = {int(name.split("/")[1]) for name in shapes if name.startswith("body/") and name.split("/")[1].isdigit()}
    num_blocks = len(blocks)
    num_features = tuple(shapes.get("conv_first/weight", (0,)))[-1]
    growth = tuple(shapes.get("body/0/rdb1/conv1/weight", (0,)))[-1]
    expected = rrdbnet_shapes(num_blocks or FULL_SIZE.num_blocks, num_features or FULL_SIZE.num_features,
                              growth or FULL_SIZE.growth)
    check_shapes(shapes, expected, network="RRDBNet")
    return num_blocks, num_features, growth


def init_rrdbnet(seed: int, *, num_blocks: int = FULL_SIZE.num_blocks, num_features: int = FULL_SIZE.num_features,
                 growth: int = FULL_SIZE.growth) -> dict[str, tf.Tensor]:
    """Draw random parameters: He-normal kernels (times 0.1 inside the dense blocks, as in ESRGAN), zero biases."""
    return draw_params(seed, rrdbnet_shapes(num_blocks, num_features, growth))


def draw_params(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tf.Tensor]:
    """Draw parameters of given shapes, as `init_rrdbnet` does."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in shapes.items():
        if name.endswith("/bias"):
            params[name] = tf.zeros(shape)
        else:
            params[name] = variance_scaling(rng, shape) * (0.1 if "body/" in name else 1.0)
    return params


def rrdbnet(params: Params, images: tf.Tensor) -> tf.Tensor:
    """Upscale images four times.

    Args:
        params: as from `init_rrdbnet`; the number of blocks follows from the names. With bfloat16 parameters the
            convolutions run in bfloat16 while the sums of residuals stay in the type of the images.
        images: [n, h, w, 3] RGB in [0, 1].

    Returns:
        [n, 4h, 4w, 3] in the type of the images, not clipped.
    """
    features = trunk(params, tf.cast(conv2d(params, "conv_first", images), images.dtype))
    features = leaky_relu(upsampled_conv2d(params, "conv_up1", features))
    features = leaky_relu(upsampled_conv2d(params, "conv_up2", features))
    features = leaky_relu(conv2d(params, "conv_hr", features))
    return tf.cast(conv2d(params, "conv_last", features), images.dtype)


def trunk(params: Params, features: tf.Tensor, *, scope: str = "") -> tf.Tensor:
    """Run features [n, h, w, c] through the blocks whose names begin with `scope`: the same shape and type."""
    first = features
    for block in range(_num_blocks(params, scope)):
        features = _residual_in_residual(params, f"{scope}body/{block}", features)
    return first + tf.cast(conv2d(params, f"{scope}conv_body", features), first.dtype)


def _num_blocks(params: Params, scope: str) -> int:
    count = 0
    while f"{scope}body/{count}/rdb1/conv1/weight" in params:
        count += 1
    return count


def _residual_in_residual(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    features = inputs
    for dense in range(1, DENSE_BLOCKS + 1):
        features = _residual_dense(params, f"{name}/rdb{dense}", features)
    return inputs + RESIDUAL_SCALE * features


def _residual_dense(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    grown = [tf.cast(inputs, params[f"{name}/conv1/weight"].dtype)]
    for layer in range(1, DENSE_LAYERS):
        grown.append(leaky_relu(conv2d(params, f"{name}/conv{layer}", tf.concat(grown, axis=3))))
    residual = conv2d(params, f"{name}/conv{DENSE_LAYERS}", tf.concat(grown, axis=3))
    return inputs + RESIDUAL_SCALE * tf.cast(residual, inputs.dtype)
