import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from model.losses import (
    contrast_loss,
    discriminator_loss,
    distilled_target,
    frequency_loss,
    gan_loss,
    gradient_loss,
    inner_step_weights,
    l1_loss,
    mask_loss,
)


def test_l1_is_the_mean_absolute_difference():
    assert l1_loss(tf.constant([[0.0, 1.0, 2.0]]), tf.constant([[0.5, 1.0, 0.0]])).numpy() == pytest.approx(2.5 / 3)


def draw_images(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_gradient_loss_adds_the_mean_differences_of_errors_down_and_across():
    target = tf.reshape(tf.constant([5.0, 5.0, 5.0, 5.0]), [1, 2, 2, 1])
    output = tf.reshape(tf.constant([5.0, 4.0, 2.0, -2.0]), [1, 2, 2, 1])  # errors 0, 1 above 3, 7
    assert gradient_loss(target, output).numpy() == pytest.approx((3 + 6) / 2 + (1 + 4) / 2)


def test_gradient_loss_is_a_mean_over_images_and_channels_which_do_not_mix():
    target, output = draw_images(0, 2, 5, 7, 3), draw_images(1, 2, 5, 7, 3)
    error = (target - output).astype(np.float64)
    expected = np.abs(np.diff(error, axis=1)).mean() + np.abs(np.diff(error, axis=2)).mean()
    assert gradient_loss(tf.constant(target), tf.constant(output)).numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 12, 6, 1)], ids=str)
def test_frequency_loss_is_the_mean_modulus_of_numpys_spectrum(shape):
    target, output = draw_images(3, *shape), draw_images(4, *shape)
    spectrum = np.fft.rfft2((target - output).astype(np.float64), axes=(1, 2))
    expected = np.abs(spectrum).mean() / np.sqrt(shape[1] * shape[2])
    assert frequency_loss(tf.constant(target), tf.constant(output)).numpy() == pytest.approx(expected, rel=1e-5)


def window_starts(side):
    """Give where windows of 8, 4 apart, begin that cover a side and stand out as little at its end as at its start."""
    count = -(-side // 4)
    return [4 * number - (4 * count + 4 - side) // 2 for number in range(count)]


def local_contrasts(image):
    """Give the contrasts of [h, w] in float64."""
    energy = np.square(np.diff(image, axis=0)[:, :-1]) + np.square(np.diff(image, axis=1)[:-1])
    return np.array([[np.sqrt(energy[max(y, 0):y + 8, max(x, 0):x + 8].mean() + 9e-6)
                      for x in window_starts(energy.shape[1])] for y in window_starts(energy.shape[0])])


def test_contrast_loss_adds_the_errors_of_local_contrasts_at_three_sizes():
    images = draw_images(12, 1, 24, 32, 1), 0.5 * draw_images(13, 1, 24, 32, 1)
    expected = 0
    for size in (1, 2, 4):
        target, output = (local_contrasts(image.reshape(24 // size, size, 32 // size, size).mean(axis=(1, 3)))
                          for image in images)
        expected += np.abs(target - output).mean()
    assert expected > 0.1
    assert contrast_loss(*map(tf.constant, images)).numpy() == pytest.approx(expected, rel=1e-4)


def test_contrasts_tell_how_much_detail_there_is_and_not_where():
    """White noise has the contrast of other white noise, for which L1 would take an even image."""
    noise, other = (np.random.default_rng(seed).normal(0.5, 0.1, (1, 128, 128, 3)).astype(np.float32)
                    for seed in (0, 1))
    even = np.full_like(noise, 0.5)
    assert l1_loss(noise, even) < 0.8 * l1_loss(noise, other)
    assert contrast_loss(tf.constant(noise), tf.constant(other)) < 0.2 * contrast_loss(
        tf.constant(noise), tf.constant(even))


def test_contrasts_see_neither_another_exposure_nor_colour():
    image = draw_images(14, 1, 16, 16, 3)
    assert contrast_loss(tf.constant(image), tf.constant(image + np.float32([0.1, -0.2, 0.3]))).numpy() < 1e-6


@pytest.mark.parametrize("term", [l1_loss, gradient_loss, frequency_loss, contrast_loss])
def test_equal_images_cost_nothing_and_have_a_finite_gradient(term):
    images = tf.constant(draw_images(6, 1, 8, 8, 3))
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = term(tf.identity(images), images)
    assert loss.numpy() == 0
    assert np.isfinite(tape.gradient(loss, images)).all()


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("sigma", [1.5, 4.0])
def test_details_are_what_scipys_gaussian_removes(share, sigma):
    """Wherever it does not reach over the edge; elsewhere SciPy has no such rule."""
    image, source = draw_images(7, 2, 40, 50, 3), draw_images(8, 2, 40, 50, 3)
    difference = (source - image).astype(np.float64)
    reach = math.ceil(3 * sigma)
    blurred = gaussian_filter(difference, (0, sigma, sigma, 0), radius=(0, reach, reach, 0))
    expected = image + share * (difference - blurred)
    inner = np.s_[:, 12:-12, 12:-12]
    result = distilled_target(tf.constant(image), tf.constant(source), share, sigma).numpy()
    np.testing.assert_allclose(result[inner], expected[inner], atol=1e-5)


def test_a_blur_wider_than_the_image_leaves_its_mean_alone():
    """Every tap weighs nearly the same; those beyond the image are not even made."""
    image, source = draw_images(10, 1, 6, 9, 2), draw_images(11, 1, 6, 9, 2)
    result = distilled_target(tf.constant(image), tf.constant(source), 1.0, 1e4).numpy()
    expected = source + (image - source).mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_another_exposure_and_colour_is_no_detail_up_to_the_edges():
    image = draw_images(9, 1, 9, 21, 3)
    shifted = image + np.float32([0.1, -0.2, 0.3])
    np.testing.assert_allclose(distilled_target(tf.constant(image), tf.constant(shifted), 1.0, 4.0), image, atol=1e-6)


def test_gan_loss_is_the_mean_of_minus_the_logarithm_of_the_probability_of_real():
    logits = tf.constant([0.0, np.log(3)], tf.float32)  # probabilities 1/2 and 3/4
    assert gan_loss(logits).numpy() == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)


def test_discriminator_loss_adds_the_means_of_either_kind():
    real = tf.constant([0.0, np.log(3)], tf.float32)
    fake = tf.constant([np.log(3)], tf.float32)  # probability of fake: 1/4
    expected = (np.log(2) + np.log(4 / 3)) / 2 + np.log(4)
    assert discriminator_loss(real, fake).numpy() == pytest.approx(expected)


def test_logits_far_from_zero_give_finite_losses_and_gradients():
    logits = tf.constant([-1000.0, 1000.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        generator_loss, both = gan_loss(logits), discriminator_loss(logits, logits)
    assert generator_loss == 500
    assert both == 1000
    np.testing.assert_allclose(tape.gradient(generator_loss, logits), [-0.5, 0])
    np.testing.assert_allclose(tape.gradient(both, logits), [-0.5, 0.5])


def test_mask_loss_is_the_mean_squared_difference_from_one():
    assert mask_loss(tf.constant([1.0, 3.0, 0.0])).numpy() == pytest.approx(5 / 3)


@pytest.mark.parametrize(("num_steps", "iteration", "expected"), [
    (1, 0, [1.0]), (1, 10**6, [1.0]),
    (2, 0, [0.5, 0.5]), (2, 1000, [0.35, 0.65]), (2, 10**6, [0.015, 0.985]),
    (4, 0, [0.25] * 4), (4, 2000, [0.1, 0.1, 0.1, 0.7]), (5, 10**6, [0.006] * 4 + [0.976])])
def test_weight_moves_to_the_last_inner_step(num_steps, iteration, expected):
    np.testing.assert_allclose(inner_step_weights(num_steps, tf.constant(iteration)), expected, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_weights_are_those_of_mzsr_and_sum_to_one_at_every_iteration(num_steps):
    weigh = tf.function(lambda iteration: inner_step_weights(num_steps, iteration))
    share = 1 / num_steps
    decay = share / (10_000 / 3)
    for iteration in range(0, 5000, 97):
        early = max(share - iteration * decay, 0.03 / num_steps)
        last = min(share + iteration * (num_steps - 1) * decay, 1 - (num_steps - 1) * 0.03 / num_steps)
        weights = weigh(tf.constant(iteration, tf.int64)).numpy()
        np.testing.assert_allclose(weights, [early] * (num_steps - 1) + [last], atol=1e-6)
        assert weights.sum() == pytest.approx(1, abs=1e-6)
