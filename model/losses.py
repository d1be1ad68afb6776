"""The terms of the training losses: tensors in, scalars out. Their weights are in `config.LossConfig`.

The perceptual term is in `model.lpips`. BCE is the binary cross-entropy of logits, written with
BCE(x, 1) = softplus(-x) and BCE(x, 0) = softplus(x).
"""

import tensorflow as tf

DECAY_ITERATIONS = 10_000  # in which the weight of an early inner step falls by three times 1 / K
SMALLEST_SHARE = 0.03  # of 1 / K: lower bound of that weight


def l1_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Mean of |target - output|."""
    return tf.reduce_mean(tf.abs(target - output))


def gan_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """Mean BCE(D(fake), 1): the generator's adversarial loss."""
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Mean BCE(D(real), 1) plus mean BCE(D(fake), 0)."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(tf.nn.softplus(fake_logits))


def mask_loss(weights: tf.Tensor) -> tf.Tensor:
    """Mean of (W - 1)^2: keeps MaskNet from weighting everything with 0."""
    return tf.reduce_mean(tf.square(weights - 1.0))


def inner_step_weights(num_steps: int, iteration: tf.Tensor) -> tf.Tensor:
    """Weight the outer losses after each of K inner steps, as MZSR does (Soh et al., CVPR 2020).

    All weights are 1 / K at first. Those before the last fall linearly, by 3 / K in 10,000 iterations, to 0.03 / K; the
    last one rises so that the sum stays 1.

    Args:
        num_steps: K.
        iteration: a scalar of any numeric type, from 0.

    Returns:
        [K] float32, of sum one.
    """
    share = 1.0 / num_steps
    lost = tf.cast(iteration, tf.float32) * (3.0 * share / DECAY_ITERATIONS)
    early = tf.maximum(share - lost, SMALLEST_SHARE * share)
    last = 1.0 - (num_steps - 1) * early
    return tf.stack([early] * (num_steps - 1) + [last])
