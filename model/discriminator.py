"""The adversary: Real-ESRGAN's U-Net discriminator with spectral normalisation (Wang et al., ICCVW 2021).

Parameter names are those of the published checkpoints: `conv0/weight` (HWIO), `conv0/bias`, `conv1/weight` to
`conv8/weight`, `conv9/weight`, `conv9/bias`. The state of spectral normalisation is apart from them, in `conv1/u` to
`conv8/u`: every forward takes one power iteration from it, and only `normalize` returns its result.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from model.layers import (
    Params,
    check_shapes,
    conv2d,
    leaky_relu,
    spectral_norm,
    upsample_bilinear,
    variance_scaling,
)

PUBLISHED_FEATURES = 64
NORMALIZED = tuple(f"conv{layer}" for layer in range(1, 9))
HALVING = ("conv1", "conv2", "conv3")  # kernel 4, stride 2; the others have kernel 3, stride 1
SIZE_MULTIPLE = 2 ** len(HALVING)
TORCH_PARTS = {"weight_orig": "weight", "weight_u": "u"}
UNUSED_PART = "weight_v"  # of published files: it follows from u


def discriminator_shapes(num_features: int = PUBLISHED_FEATURES) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every trained parameter, in order."""
    factors = (1, 2, 4, 8, 4, 2, 1, 1, 1)  # of `num_features`, in the outputs of conv0 to conv8
    channels = [3, *(factor * num_features for factor in factors), 1]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(10):
        name = f"conv{layer}"
        size = 4 if name in HALVING else 3
        shapes[f"{name}/weight"] = (size, size, channels[layer], channels[layer + 1])
        if name not in NORMALIZED:
            shapes[f"{name}/bias"] = (channels[layer + 1],)
    return shapes


def vector_shapes(num_features: int = PUBLISHED_FEATURES) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every vector of spectral normalisation, in order."""
    shapes = discriminator_shapes(num_features)
    return {f"{name}/u": (1, shapes[f"{name}/weight"][3]) for name in NORMALIZED}


def init_discriminator(seed: int, *, num_features: int = PUBLISHED_FEATURES
                       ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Draw He-normal kernels, zero biases, and vectors of norm one in random directions."""
    rng = np.random.default_rng(seed)
    params = {name: tf.zeros(shape) if name.endswith("/bias") else variance_scaling(rng, shape)
              for name, shape in discriminator_shapes(num_features).items()}
    vectors = {name: tf.math.l2_normalize(tf.constant(rng.normal(size=shape).astype(np.float32)))
               for name, shape in vector_shapes(num_features).items()}
    return params, vectors


def discriminator_params_from_torch(state: Mapping[str, np.ndarray]
                                    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Convert a published file (RealESRGAN_x4plus_netD.pth); the number of features follows from it.

    Args:
        state: `conv0.weight` (OIHW), `conv1.weight_orig`, `conv1.weight_u` and so on.

    Returns:
        Parameters and vectors, as from `init_discriminator`.

    Raises:
        ValueError: the names or shapes are others; lists what is missing, extra and of another shape.
    """
    found = {}
    for torch_name, value in state.items():
        layer, _, part = torch_name.rpartition(".")
        array = np.asarray(value, np.float32)
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        if part == "weight_u":
            array = array.reshape(1, -1)
        if part != UNUSED_PART:
            found[f"{layer}/{TORCH_PARTS.get(part, part)}"] = array
    num_features = found["conv0/bias"].size if "conv0/bias" in found else PUBLISHED_FEATURES
    params, vectors = discriminator_shapes(num_features), vector_shapes(num_features)
    check_shapes({name: array.shape for name, array in found.items()}, {**params, **vectors},
                 network="UNetDiscriminatorSN")
    return ({name: tf.constant(found[name]) for name in params}, {name: tf.constant(found[name]) for name in vectors})


def normalize(params: Params, vectors: Params) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Take one power iteration per layer.

    Returns:
        What `discriminate` convolves with, to be shared by the forwards of one training step, and the vectors after the
        iteration. Gradients pass from the former to `params`.
    """
    weights, advanced = dict(params), {}
    for name in NORMALIZED:
        weights[f"{name}/weight"], advanced[f"{name}/u"] = spectral_norm(params[f"{name}/weight"], vectors[f"{name}/u"])
    return weights, advanced


def discriminate(weights: Params, images: tf.Tensor) -> tf.Tensor:
    """Classify every pixel as real or not, with weights from `normalize`.

    Args:
        weights: normalised.
        images: [n, h, w, 3] float32 RGB in [0, 1]; height and width are divisible by 8.

    Returns:
        Logits [n, h, w, 1]: positive where an image looks real.
    """
    if any(size is not None and size % SIZE_MULTIPLE for size in images.shape[1:3]):
        raise ValueError(f"the discriminator needs images with sides divisible by {SIZE_MULTIPLE}. Received: "
                         f"{tuple(images.shape)}.")
    features = leaky_relu(conv2d(weights, "conv0", images))
    skips = []
    for name in HALVING:
        skips.append(features)
        # of even sizes, SAME pads a kernel of 4 by one pixel on each side
        features = leaky_relu(tf.nn.conv2d(features, weights[f"{name}/weight"], strides=2, padding="SAME"))
    for name in ("conv4", "conv5", "conv6"):
        features = _conv(weights, name, upsample_bilinear(features)) + skips.pop()
    for name in ("conv7", "conv8"):
        features = _conv(weights, name, features)
    return conv2d(weights, "conv9", features)


def discriminator(params: Params, vectors: Params, images: tf.Tensor) -> tf.Tensor:
    """Classify every pixel; see `discriminate`. The power iteration it takes is not saved."""
    return discriminate(normalize(params, vectors)[0], images)


def _conv(weights: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    return leaky_relu(tf.nn.conv2d(inputs, weights[f"{name}/weight"], strides=1, padding="SAME"))
