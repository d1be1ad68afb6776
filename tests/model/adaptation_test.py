import functools

import numpy as np
import pytest
import tensorflow as tf

from model.adaptation import (
    Support,
    backtracking_step,
    inner_steps,
    pooled_loss,
    pooled_loss_and_gradients,
    support_loss,
    support_loss_and_gradients,
)
from model.rrdbnet import rrdbnet
from tests.helpers.small_networks import small_generator

LOSS = functools.partial(support_loss, rrdbnet)
LOSS_AND_GRADIENTS = functools.partial(support_loss_and_gradients, rrdbnet)


def generator():
    return {name: tf.constant(value) for name, value in small_generator().items()}


def faces(seed, count=3, height=6, width=5):
    rng = np.random.default_rng(seed)
    lq = rng.random((count, height, width, 3), np.float32)
    hq = lq.repeat(4, axis=1).repeat(4, axis=2)
    return Support(*(tf.constant(x) for x in (lq, hq, rng.random((count, 4 * height, 4 * width, 1), np.float32))))


def test_loss_is_the_mean_of_weighted_absolute_differences():
    support = Support(tf.zeros((1, 1, 1, 3)), tf.constant(np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)),
                      tf.constant([[[[1.0], [2.0]], [[0.0], [0.5]]]]))
    constant = lambda params, images: tf.ones((1, 2, 2, 3))  # noqa: E731
    assert float(support_loss(constant, {}, support)) == pytest.approx((1 + 0 + 1 + 2 * (2 + 3 + 4) + .5 * (8 + 9 + 10))
                                                                       / 12)


def test_a_divided_batch_gives_the_loss_and_gradient_of_the_whole():
    params, whole = generator(), faces(0, count=5)
    parts = [Support(*(x[:2] for x in whole)), Support(*(x[2:] for x in whole))]
    loss, gradients = pooled_loss_and_gradients(LOSS_AND_GRADIENTS, params, parts)
    expected_loss, expected = LOSS_AND_GRADIENTS(params, whole)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    for name in params:
        np.testing.assert_allclose(gradients[name], expected[name], atol=1e-6)


def test_patches_of_two_sizes_count_by_their_pixels():
    params, large, small = generator(), faces(1, count=2, height=8, width=8), faces(2, count=1, height=4, width=8)
    expected = (128 * float(LOSS(params, large)) + 32 * float(LOSS(params, small))) / 160
    assert float(pooled_loss(LOSS, params, [large, small])) == pytest.approx(expected, rel=1e-6)


def test_one_step_subtracts_the_gradient_times_the_rate():
    params, support = generator(), faces(3)
    [step] = inner_steps(params, [support], loss_and_gradients=LOSS_AND_GRADIENTS, learning_rate=0.05)
    loss, gradients = LOSS_AND_GRADIENTS(params, support)
    assert float(step.loss) == float(loss)
    assert step.learning_rate == 0.05
    for name in params:
        np.testing.assert_allclose(step.params[name], params[name] - 0.05 * gradients[name], atol=1e-7)


def test_two_steps_equal_one_step_after_another():
    params, support = generator(), faces(4)
    run = functools.partial(inner_steps, supports=[support], loss_and_gradients=LOSS_AND_GRADIENTS, learning_rate=0.05)
    first, second = run(params, num_steps=2)
    [again] = run(first.params)
    assert float(second.loss) == float(again.loss)
    for name in params:
        np.testing.assert_array_equal(second.params[name], again.params[name])


def test_no_steps_are_none():
    assert list(inner_steps(generator(), [faces(5)], loss_and_gradients=LOSS_AND_GRADIENTS, learning_rate=1.0,
                            num_steps=0)) == []


def test_no_support_is_an_error():
    with pytest.raises(ValueError, match="at least one support"):
        next(inner_steps(generator(), [], loss_and_gradients=LOSS_AND_GRADIENTS, learning_rate=0.1))


# Meta-gradients are checked on a generator that is smooth almost everywhere and runs in float64.

def tiny_generator(params, images):
    """Return one nearest-upsampled 1x1 convolution through a tanh: [n, h, w, 3] -> [n, 4h, 4w, 3]."""
    mixed = tf.tanh(tf.einsum("nhwc,cd->nhwd", images, params["mix"]) + params["bias"])
    return tf.repeat(tf.repeat(mixed, 4, axis=1), 4, axis=2)


def squared_loss_and_gradients(params, support):
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = tf.reduce_mean(support.weights * (support.face_hq - tiny_generator(params, support.face_lq)) ** 2)
    return loss, tape.gradient(loss, params)


class MetaProblem:
    """Two inner steps on a face batch, and a squared error on a query image."""

    def __init__(self):
        rng = np.random.default_rng(6)
        self.params = {"mix": tf.constant(rng.normal(size=(3, 3))), "bias": tf.constant(rng.normal(size=3))}
        self.weights = tf.constant(rng.random((2, 12, 12, 1)))
        self.lq, self.hq = tf.constant(rng.random((2, 3, 3, 3))), tf.constant(rng.random((2, 12, 12, 3)))
        self.query_lq, self.query_hq = tf.constant(rng.random((1, 4, 4, 3))), tf.constant(rng.random((1, 16, 16, 3)))

    def adapt(self, params, weights):
        *_, last = inner_steps(params, [Support(self.lq, self.hq, weights)],
                               loss_and_gradients=squared_loss_and_gradients, learning_rate=0.3, num_steps=2,
                               second_order=True)
        return last.params

    def query_loss(self, params):
        return tf.reduce_mean((self.query_hq - tiny_generator(params, self.query_lq)) ** 2)

    def meta_gradient(self):
        with tf.GradientTape() as tape:
            tape.watch([self.params, self.weights])
            loss = self.query_loss(self.adapt(self.params, self.weights))
        return tape.gradient(loss, [self.params, self.weights])


def test_second_order_meta_gradient_equals_central_differences():
    problem, rng, step = MetaProblem(), np.random.default_rng(7), 1e-5
    by_params, by_weights = problem.meta_gradient()
    for _ in range(3):
        direction = {name: rng.normal(size=value.shape) for name, value in problem.params.items()}
        weight_direction = rng.normal(size=problem.weights.shape)
        plus, minus = (float(problem.query_loss(problem.adapt(
            {name: value + sign * step * direction[name] for name, value in problem.params.items()},
            problem.weights + sign * step * weight_direction))) for sign in (1, -1))
        actual = sum(float(tf.reduce_sum(by_params[name] * direction[name])) for name in direction)
        actual += float(tf.reduce_sum(by_weights * weight_direction))
        assert actual == pytest.approx((plus - minus) / (2 * step), rel=1e-6)


def quadratic_loss(params, support):
    return tf.reduce_sum(params["x"] ** 2)


@pytest.mark.parametrize(("rate", "taken"), [(0.4, 0.4), (1.5, 0.75), (20.0, 0.625), (100.0, 0.0)])
def test_backtracking_halves_until_the_held_out_loss_does_not_grow(rate, taken):
    # for x^2 a step of rate r multiplies x by 1 - 2r: it grows where r > 1; 100 / 32 is still above one
    params = {"x": tf.constant([1.0, -2.0])}
    step = backtracking_step(quadratic_loss, [faces(8)], max_halvings=5)
    moved, rate_taken = step(params, {"x": 2 * params["x"]}, rate)
    assert rate_taken == pytest.approx(taken)
    np.testing.assert_allclose(moved["x"], params["x"] * (1 - 2 * taken), rtol=1e-6)


def test_backtracking_does_not_take_a_step_to_infinity():
    step = backtracking_step(lambda params, support: tf.reduce_sum(tf.math.log(params["x"])), [faces(9)],
                             max_halvings=5)
    params = {"x": tf.constant([1.0])}
    moved, rate = step(params, {"x": tf.constant([1e6])}, 1.0)
    assert rate == 0.0
    assert moved["x"] is params["x"]
