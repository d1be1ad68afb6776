from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from config import RestorerTrainingConfig
from model.restorer_trainer import NETWORK, M, RestorerTrainer, V
from tests.helpers.reference_restorer import SMALL_RESTORER, reference_restore, small_restorer

CORNERS = np.array([[0, 0], [128, 72]], np.int32)


def configure(**optimization):
    """Return the default configuration in float32 with a small network and the given settings."""
    config = RestorerTrainingConfig(network=SMALL_RESTORER)
    return replace(config, optimization=replace(config.optimization, **({"bfloat16": False} | optimization)))


@pytest.fixture(autouse=True)
def eager(request):
    """Tracing takes longer than anything here but a run of many iterations."""
    tf.config.run_functions_eagerly("traced" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


def make(config, params=None):
    return RestorerTrainer(config, {name: tf.constant(value) for name, value in (params or small_restorer()).items()})


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return (*(rng.integers(0, 256, (2, 16, 16, 3), np.uint8) for _ in range(2)), CORNERS)


def reference_loss(params, batch):
    """Compute the loss in float64."""
    restored = np.stack([reference_restore(params, face / 255, corner)
                         for face, corner in zip(batch[0], batch[2], strict=True)])
    return np.abs(restored - batch[1] / 255.0).mean()


def test_the_loss_equals_numpy(batch):
    update = make(configure()).compute(*batch)
    assert update.scalars["loss"] == pytest.approx(reference_loss(small_restorer(), batch), rel=1e-4)
    assert update.summary().keys() == {"loss", "learning_rate", "gradient_norm"}


def test_gradients_equal_differences_of_the_reference_in_float64(batch):
    params = {name: value.astype(np.float64) for name, value in small_restorer().items()}
    gradients = make(configure()).compute(*batch).gradients
    rng = np.random.default_rng(1)
    for layer in ("4/conv_in", "4/body/0/rdb2/conv3", "4/conv_body", "2/conv_up", "2/conv_in", "conv_last"):
        names = [f"{layer}/weight", f"{layer}/bias"]
        direction = {name: rng.normal(size=params[name].shape) for name in names}

        def loss_at(step, direction=direction):
            return reference_loss(params | {name: params[name] + step * value for name, value in direction.items()},
                                  batch)

        slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
        found = sum(float((gradients[name].numpy() * value).sum()) for name, value in direction.items())
        assert found == pytest.approx(slope, rel=2e-3, abs=1e-6), layer


def test_gradient_norm_is_that_of_all_gradients_together(batch):
    update = make(configure(clip_norm=1e-3)).compute(*batch)
    norm = np.sqrt(sum(np.sum(np.square(value.numpy(), dtype=np.float64)) for value in update.gradients.values()))
    assert update.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert norm > 1e-2


def test_bfloat16_convolutions_give_nearly_the_same_loss_and_float32_gradients(batch):
    exact, rounded = (make(configure(bfloat16=kind)).compute(*batch) for kind in (False, True))
    assert 0 < abs(rounded.scalars["loss"] / exact.scalars["loss"] - 1) < 0.01
    assert {value.dtype for value in rounded.gradients.values()} == {tf.float32}
    cosine = sum(float(tf.reduce_sum(exact.gradients[name] * value)) for name, value in rounded.gradients.items()) / (
        exact.gradient_norm * rounded.gradient_norm)
    assert cosine > 0.99


def test_values_that_are_not_finite_are_named(batch):
    params = small_restorer()
    params["conv_last/bias"] = np.full_like(params["conv_last/bias"], np.nan)
    assert set(make(configure(), params).compute(*batch).not_finite()) == {"loss", "gradient_norm"}


@pytest.mark.parametrize(("iteration", "rate"), [
    (0, 0.25e-3), (1, 0.5e-3), (3, 1e-3),  # warm-up
    (4, 1e-3),  # the cosine begins at its top
    (6, 1e-3 * (0.1 + 0.9 * (0.5 + 0.5 * 0.5 ** 0.5))),  # a quarter of the way: cos(45 degrees)
    (8, 1e-3 * 0.55), (11, 1e-3 * (0.1 + 0.9 * (0.5 - 0.5 * 0.9238795325))),  # the middle; 7/8
    (12, 1e-4), (13, 1e-4), (1000, 1e-4)])  # the end and beyond
def test_the_rate_rises_then_falls_along_half_a_cosine(iteration, rate):
    trainer = make(configure(learning_rate=1e-3, warmup_iters=4, num_iterations=12, min_lr_ratio=0.1))
    trainer.iteration = iteration
    assert trainer.learning_rate() == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(("warmup_iters", "rates"), [(0, [1, 0.5, 0]), (2, [0.5, 1, 1]), (5, [0.2, 0.4, 0.6])])
def test_the_rate_without_a_warmup_iters_and_with_one_as_long_as_training(warmup_iters, rates):
    trainer = make(configure(learning_rate=1.0, warmup_iters=warmup_iters, num_iterations=2, min_lr_ratio=0.0))
    for iteration, rate in enumerate(rates):
        trainer.iteration = iteration
        assert trainer.learning_rate() == pytest.approx(rate, abs=1e-12)


def test_computing_changes_nothing_and_reports_the_rate_of_the_coming_step(batch):
    trainer = make(configure(learning_rate=1e-3, warmup_iters=4))
    update = trainer.compute(*batch)
    assert (trainer.iteration, update.scalars["learning_rate"]) == (0, 0.25e-3)
    for name, value in small_restorer().items():
        np.testing.assert_array_equal(trainer.params()[name], value)


def test_steps_are_those_of_adam_by_hand(batch):
    config = configure(learning_rate=1e-2, warmup_iters=2, num_iterations=100, clip_norm=0.0, beta1=0.8, beta2=0.9,
                       epsilon=1e-3)
    trainer, name = make(config), "conv_last/weight"
    value, first, second = small_restorer()[name].astype(np.float64), 0.0, 0.0
    for number, rate in ((1, 0.5e-2), (2, 1e-2)):
        update = trainer.compute(*batch)
        trainer.apply(update)
        gradient = update.gradients[name].numpy().astype(np.float64)
        first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
        corrected = rate * np.sqrt(1 - 0.9**number) / (1 - 0.8**number)
        value = value - corrected * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(trainer.variables[M, name], first, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(trainer.variables[V, name], second, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(trainer.variables[NETWORK, name], value, atol=1e-7)
    assert trainer.iteration == 2


def test_a_long_gradient_is_scaled_to_the_norm_and_a_short_one_left(batch):
    """Adam's first mean after one step is 1 - beta1 of the gradient that it was given."""
    free = make(configure(clip_norm=0.0))
    update = free.compute(*batch)
    for norm, scale in ((0.5 * update.gradient_norm, 0.5), (2 * update.gradient_norm, 1.0)):
        clipped = make(configure(clip_norm=norm))
        clipped.apply(update)
        for name, gradient in update.gradients.items():
            np.testing.assert_allclose(clipped.variables[M, name], 0.1 * scale * gradient, rtol=1e-4, atol=1e-9)


def test_a_traced_network_learns_one_pair_by_heart():
    """Its colours are shifted, which the last bias alone can undo but where samples were clipped."""
    rng = np.random.default_rng(2)
    target = rng.integers(60, 200, (1, 32, 32, 3), np.uint8)
    degraded = np.clip(target + np.array([-40, 25, 10]), 0, 255).astype(np.uint8)
    trainer = make(configure(learning_rate=5e-3, warmup_iters=5, num_iterations=80), small_restorer(scale=0.5))
    losses = []
    for _ in range(80):
        update = trainer.compute(degraded, target, CORNERS[:1])
        trainer.apply(update)
        losses.append(update.scalars["loss"])
    assert losses[-1] < 0.2 * losses[0]
    assert losses[0] > 0.05


def test_equal_traced_runs_give_equal_bits(batch):
    trainers = [make(configure()) for _ in range(2)]
    for trainer in trainers:
        for _ in range(2):
            trainer.apply(trainer.compute(*batch))
    for key, variable in trainers[0].variables.items():
        np.testing.assert_array_equal(variable, trainers[1].variables[key])
