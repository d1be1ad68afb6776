
import numpy as np
import pytest
import tensorflow as tf

from model.losses import (
    discriminator_loss,
    gan_loss,
    inner_step_weights,
    l1_loss,
    mask_loss,
)


def test_l1_is_the_mean_absolute_difference():
    assert l1_loss(tf.constant([[0.0, 1.0, 2.0]]), tf.constant([[0.5, 1.0, 0.0]])).numpy() == pytest.approx(2.5 / 3)


def draw_images(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_equal_images_cost_nothing_and_have_a_finite_gradient():
    images = tf.constant(draw_images(6, 1, 8, 8, 3))
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = l1_loss(tf.identity(images), images)
    assert loss.numpy() == 0
    assert np.isfinite(tape.gradient(loss, images)).all()


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
