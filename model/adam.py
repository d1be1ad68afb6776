"""Adam (Kingma & Ba, 2015) in the form of TensorFlow 1, which the published code uses.

The rate is corrected for the bias, not the moments: `lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)`.
Where gradients are small the result differs from PyTorch's and Keras' Adam.
"""

from typing import NamedTuple

import tensorflow as tf


class AdamState(NamedTuple):
    """A parameter and the first and second moments of its gradient: running means of it (m) and of its square (v)."""

    value: tf.Tensor
    m: tf.Tensor
    v: tf.Tensor


def adam(state: AdamState, gradient: tf.Tensor, *, update: tf.Tensor, learning_rate: float, beta1: float, beta2: float,
         epsilon: float) -> AdamState:
    """Return the state after one update.

    Args:
        state: m and v are zero before the first update.
        gradient: of the shape of the parameter.
        update: t in the formula, from 1; a float scalar of the parameter's type.
        learning_rate: lr in the formula.
        beta1: decay of m.
        beta2: decay of v.
        epsilon: as in the formula.
    """
    m = beta1 * state.m + (1 - beta1) * gradient
    v = beta2 * state.v + (1 - beta2) * tf.square(gradient)
    rate = learning_rate * tf.sqrt(1 - beta2**update) / (1 - beta1**update)
    return AdamState(state.value - rate * m / (tf.sqrt(v) + epsilon), m, v)
