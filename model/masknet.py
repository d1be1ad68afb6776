"""MaskNet: predicts, per pixel, how far a restored face may be trusted (Yin et al., section 3.3).

Parameter names are those of the published checkpoints: `conv1/kernel` (HWIO) and `conv1/bias` to `conv8`.
"""

import numpy as np
import tensorflow as tf

from model.layers import Params, conv2d, resize_bicubic_legacy, variance_scaling

NUM_LAYERS = 8


def masknet_shapes(num_features: int = 64) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(1, NUM_LAYERS + 1):
        c_in = 6 if layer == 1 else num_features
        c_out = 1 if layer == NUM_LAYERS else num_features
        shapes[f"conv{layer}/kernel"] = (3, 3, c_in, c_out)
        shapes[f"conv{layer}/bias"] = (c_out,)
    return shapes


def init_masknet(seed: int, *, num_features: int = 64, last_bias: float = 0.0) -> dict[str, tf.Tensor]:
    """Draw truncated normal kernels of variance 1 / fan_in (TF1's variance scaling) and zero biases.

    As each ReLU halves the variance, W starts close to `last_bias`, the bias of the last layer.
    """
    rng = np.random.default_rng(seed)
    params = {name: tf.zeros(shape) if name.endswith("/bias") else
              variance_scaling(rng, shape, gain=1.0, truncated=True)
              for name, shape in masknet_shapes(num_features).items()}
    params[f"conv{NUM_LAYERS}/bias"] += last_bias
    return params


def masknet(params: Params, face_lq: tf.Tensor, face_hq: tf.Tensor) -> tf.Tensor:
    """Weigh each pixel of restored faces.

    Args:
        params: as from `init_masknet`.
        face_lq: [n, h, w, 3], float32 RGB in [0, 1]; upsampled to the size of `face_hq` by TF1's bicubic.
        face_hq: [n, 4h, 4w, 3], likewise.

    Returns:
        [n, 4h, 4w, 1] float32 >= 0, unbounded above: the last layer ends in a ReLU too.
    """
    upsampled = tf.cast(resize_bicubic_legacy(face_lq, tf.shape(face_hq)[1:3]), face_hq.dtype)
    features = tf.concat([upsampled, face_hq], axis=3)
    for layer in range(1, NUM_LAYERS + 1):
        features = tf.nn.relu(conv2d(params, f"conv{layer}", features, weight="kernel"))
    return features
