"""Adam (Kingma & Ba, 2015) in the form of TensorFlow 1, which the published code uses.

The rate is corrected for the bias, not the moments: `lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)`.
Where gradients are small the result differs from PyTorch's and Keras' Adam.
"""

from typing import NamedTuple

import tensorflow as tf


class AdamState(NamedTuple):
    """A parameter and the running means of its gradient and of its square."""

    value: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor


def adam(state: AdamState, gradient: tf.Tensor, *, update: tf.Tensor, learning_rate: float, beta1: float, beta2: float,
         epsilon: float) -> AdamState:
    """Give the state after one update.

    Args:
        state: zeros as both means before the first update.
        gradient: of the shape of the parameter.
        update: which update this is, from 1; a float scalar of the parameter's type.
        learning_rate: lr in the formula.
        beta1: how much of the mean of the gradient is kept.
        beta2: how much of the mean of its square is kept.
        epsilon: as in the formula.
    """
    first = beta1 * state.first + (1 - beta1) * gradient
    second = beta2 * state.second + (1 - beta2) * tf.square(gradient)
    rate = learning_rate * tf.sqrt(1 - beta2**update) / (1 - beta1**update)
    return AdamState(state.value - rate * first / (tf.sqrt(second) + epsilon), first, second)
