"""The terms of the training losses: tensors in, scalars out. Their weights are in `config.LossConfig`.

The perceptual term is in `model.lpips`. BCE is the binary cross-entropy of logits, written with
BCE(x, 1) = softplus(-x) and BCE(x, 0) = softplus(x).
"""

import math

import tensorflow as tf

DECAY_ITERATIONS = 10_000  # in which the weight of an early inner step falls by three times 1 / K
SMALLEST_SHARE = 0.03  # of 1 / K: lower bound of that weight
CONTRAST_SCALES = 3  # sizes at which contrasts are compared, each half of the one before
CONTRAST_WINDOW, CONTRAST_STRIDE = 8, 4  # pixels
CONTRAST_FLOOR = 3e-3  # of a range of 1; smaller contrasts hardly count


def l1_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Mean of |target - output|."""
    return tf.reduce_mean(tf.abs(target - output))


def gradient_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Mean of |differences between neighbours of target - output|, down and across, added: [n, h, w, c] each."""
    error = target - output
    return (tf.reduce_mean(tf.abs(error[:, 1:] - error[:, :-1]))
            + tf.reduce_mean(tf.abs(error[:, :, 1:] - error[:, :, :-1])))


def contrast_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Mean of |local contrast of target - local contrast of output| at three sizes, added.

    Both are [n, h, w, c], of a range of 1 and of at least 8x8 pixels.

    The contrast of a window is the root mean square of its differences between neighbours. It measures how much detail
    there is, not where, so unlike losses of pixels it does not favour blurred averages.
    """
    total = tf.zeros((), target.dtype)
    for scale in range(CONTRAST_SCALES):
        if scale:
            target, output = (tf.nn.avg_pool2d(image, 2, 2, "VALID") for image in (target, output))
        total += l1_loss(_local_contrast(target), _local_contrast(output))
    return total


def _local_contrast(image: tf.Tensor) -> tf.Tensor:
    down = image[:, 1:, :-1] - image[:, :-1, :-1]
    across = image[:, :-1, 1:] - image[:, :-1, :-1]
    energy = tf.reduce_mean(tf.square(down) + tf.square(across), axis=-1, keepdims=True)
    return tf.sqrt(tf.nn.avg_pool2d(energy, CONTRAST_WINDOW, CONTRAST_STRIDE, "SAME") + CONTRAST_FLOOR**2)


def frequency_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Mean modulus of the Fourier coefficients of target - output, divided by the root of the number of pixels.

    [n, h, w, c] each; with this factor the loss of white noise does not depend on the size.
    """
    spectrum = tf.signal.rfft2d(tf.transpose(target - output, [0, 3, 1, 2]))
    num_pixels = tf.cast(tf.size(target[0, :, :, 0]), target.dtype)
    return tf.reduce_mean(tf.abs(spectrum)) / tf.sqrt(num_pixels)


def distilled_target(target: tf.Tensor, teacher: tf.Tensor, weight: float, sigma: float) -> tf.Tensor:
    """Replace the high frequencies of a target by a teacher's: target + weight * highpass(teacher - target).

    Regressing unpredictable detail blurs; the teacher's detail can be predicted. The high-pass filter subtracts a
    Gaussian blur, which is normalised at the edges. Values are not clipped.

    Args:
        target: [n, h, w, c], of static size.
        teacher: output of the teacher, likewise.
        weight: 0 to 1; 1 replaces all of it.
        sigma: the blur's standard deviation, in pixels.
    """
    difference = teacher - target
    reach = min(math.ceil(3 * sigma), max(target.shape[1:3]) - 1)  # farther taps lie outside
    taps = tf.exp(-tf.square(tf.range(-reach, reach + 1, dtype=difference.dtype) / sigma) / 2)

    def blur(values: tf.Tensor, shape: list[int]) -> tf.Tensor:
        kernel = tf.tile(tf.reshape(taps, [*shape, 1, 1]), [1, 1, values.shape[-1], 1])
        return tf.nn.depthwise_conv2d(values, kernel, [1, 1, 1, 1], "SAME")

    across, down = [1, -1], [-1, 1]
    coverage = blur(blur(tf.ones_like(difference[:1, :, :, :1]), across), down)
    return target + weight * (difference - blur(blur(difference, across), down) / coverage)


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
