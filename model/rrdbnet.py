"""The generator: the residual-in-residual dense network of Real-ESRGAN (Wang et al., 2021), x4.

Parameter names are those of the published files: `body/0/rdb1/conv1/weight` (HWIO) and `.../bias`.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from config import GeneratorConfig
from model.layers import Params, check_shapes, conv2d, leaky_relu, upsampled_conv2d, variance_scaling

Block = Callable[[Params, tf.Tensor], tf.Tensor]
RESIDUAL_SCALE = 0.2
DENSE_LAYERS = 5
DENSE_BLOCKS = 3
# One in eight weights of a half-precision file lies midway between two numbers of bfloat16. A step, however short,
# would round all of these its way (2 of 255 in brightness). This share of a weight sends every other one up instead.
TIE_BREAK = 2.0**-13
FULL_SIZE = GeneratorConfig()  # as published


def rrdbnet_shapes(num_blocks: int = FULL_SIZE.num_blocks, num_features: int = FULL_SIZE.num_features,
                   growth: int = FULL_SIZE.growth) -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of every parameter, in the order of the published checkpoint."""
    channels = {"conv_first": (3, num_features)}
    for block in range(num_blocks):
        for dense in range(1, DENSE_BLOCKS + 1):
            for layer in range(1, DENSE_LAYERS + 1):
                out = num_features if layer == DENSE_LAYERS else growth
                channels[f"body/{block}/rdb{dense}/conv{layer}"] = (num_features + growth * (layer - 1), out)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        channels[name] = (num_features, num_features)
    channels["conv_last"] = (num_features, 3)
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
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in rrdbnet_shapes(num_blocks, num_features, growth).items():
        if name.endswith("/bias"):
            params[name] = tf.zeros(shape)
        else:
            params[name] = variance_scaling(rng, shape) * (0.1 if "body/" in name else 1.0)
    return params


def residual_block(params: Params, features: tf.Tensor) -> tf.Tensor:
    """Run features [n, h, w, c] through one block, with its parameters `rdb1/conv1/weight`, ...: the same shape."""
    inputs = features
    for dense in range(1, DENSE_BLOCKS + 1):
        features = _residual_dense(params, f"rdb{dense}", features)
    return inputs + RESIDUAL_SCALE * features


# Traced and optimised once for all blocks, a graph is ready in a third of the time. For inference alone: gradients are
# summed in another order, and a training must resume with equal bits.
traced_block = tf.function(residual_block, autograph=False, experimental_attributes={"_noinline": True})


def rrdbnet(params: Params, images: tf.Tensor, *, run_block: Block = residual_block) -> tf.Tensor:
    """Upscale images four times.

    Args:
        params: as `init_rrdbnet` returns; the number of blocks follows from the names. Each convolution runs in the
            type of its parameters, the sums of residuals in that of the images.
        images: [n, h, w, 3] RGB in [0, 1].
        run_block: `residual_block` or `traced_block`.

    Returns:
        [n, 4h, 4w, 3] in the type of the images, not clipped.
    """
    first = tf.cast(conv2d(params, "conv_first", images), images.dtype)
    return upsample(params, first, residual_blocks(params, first, range(count_blocks(params)), run_block))


def to_half_precision(params: Params, dtype: tf.DType) -> dict[str, tf.Tensor]:
    """Cast parameters for inference to `dtype`: all of them to float16, only those of the dense blocks to bfloat16.

    The convolutions outside of the blocks are 5 % of the arithmetic; with the 8 significant bits of bfloat16 they would
    cost 6 to 15 dB and shift the brightness by up to 0.6 of 255.
    """
    def cast(name: str, value: tf.Tensor) -> tf.Tensor:
        if dtype == tf.bfloat16:
            if not name.startswith("body/"):
                return value
            if name.endswith("/weight"):
                value *= 1 + TIE_BREAK * tf.constant((-1.0) ** np.arange(value.shape[2])[:, None], value.dtype)
        return tf.cast(value, dtype)

    return {name: cast(name, value) for name, value in params.items()}


def residual_blocks(params: Params, features: tf.Tensor, blocks: range, run_block: Block = residual_block) -> tf.Tensor:
    """Run features [n, h, w, c] through some of the blocks: the same shape and type."""
    for block in blocks:
        prefix = f"body/{block}/"
        features = run_block({name.removeprefix(prefix): value for name, value in params.items()
                              if name.startswith(prefix)}, features)
    return features


def upsample(params: Params, first: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """Reconstruct images [n, 4h, 4w, 3] from the first features and those after all blocks, [n, h, w, c] each."""
    features = first + tf.cast(conv2d(params, "conv_body", features), first.dtype)
    features = leaky_relu(upsampled_conv2d(params, "conv_up1", features))
    features = leaky_relu(upsampled_conv2d(params, "conv_up2", features))
    features = leaky_relu(conv2d(params, "conv_hr", features))
    return tf.cast(conv2d(params, "conv_last", features), first.dtype)


def count_blocks(names: Mapping[str, object]) -> int:
    """Count the blocks that parameters belong to."""
    count = 0
    while f"body/{count}/rdb1/conv1/weight" in names:
        count += 1
    return count


def _residual_dense(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    grown = [tf.cast(inputs, params[f"{name}/conv1/weight"].dtype)]
    for layer in range(1, DENSE_LAYERS):
        grown.append(leaky_relu(conv2d(params, f"{name}/conv{layer}", tf.concat(grown, axis=3))))
    residual = conv2d(params, f"{name}/conv{DENSE_LAYERS}", tf.concat(grown, axis=3))
    return inputs + RESIDUAL_SCALE * tf.cast(residual, inputs.dtype)
