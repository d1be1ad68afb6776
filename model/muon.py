"""Muon (Jordan et al., 2024): steps along the orthogonalised momentum of matrices, here of convolution kernels.

In batches of a few samples it learns faster than Adam, whose step is as long for directions of noise as for others.
"""

from collections.abc import Mapping

import tensorflow as tf

MOMENTUM = 0.95
FIRST, THIRD, FIFTH, ITERATIONS = 3.4445, -4.7750, 2.0315, 5  # of the polynomial that brings singular values near 1
RMS = 0.2  # of the step's elements, about that of Adam's, so that both take the same rate (Liu et al., 2025)


def muon(momenta: Mapping[str, tf.Tensor],
         gradients: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Compute the new momenta and the steps, to be subtracted times a rate, of kernels [h, w, in, out] by name."""
    momenta = {name: MOMENTUM * momenta[name] + gradient for name, gradient in gradients.items()}
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, gradient in gradients.items():
        alike.setdefault(tuple(gradient.shape), []).append(name)
    steps = {}
    for shape, names in alike.items():  # kernels of one shape at once
        matrices = tf.stack([tf.reshape(gradients[name] + MOMENTUM * momenta[name], [-1, shape[3]]) for name in names])
        longer = max(matrices.shape[1:])
        for name, step in zip(names, tf.unstack(RMS * longer**0.5 * orthogonalise(matrices)), strict=True):
            steps[name] = tf.reshape(step, shape)
    return momenta, steps


def orthogonalise(matrices: tf.Tensor) -> tf.Tensor:
    """Return matrices [n, rows, columns], rows >= columns, with singular values near 1 (0.7 to 1.2) in place of theirs.

    Newton-Schulz iteration with the coefficients of Jordan et al.
    """
    matrices /= tf.norm(matrices, axis=[1, 2], keepdims=True) + 1e-12
    for _ in range(ITERATIONS):
        gram = tf.matmul(matrices, matrices, transpose_a=True)
        matrices = FIRST * matrices + tf.matmul(matrices, THIRD * gram + FIFTH * tf.matmul(gram, gram))
    return matrices
