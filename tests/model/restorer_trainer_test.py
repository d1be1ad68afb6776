from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from config import RestorerTrainingConfig
from model.face_restorer import POSITION_WEIGHT, face_restorer
from model.lpips import init_lpips, lpips
from model.muon import muon
from model.restorer_trainer import AVERAGE, NETWORK, M, RestorerTrainer, V
from tests.helpers.face_restorer import SMALL_RESTORER, small_restorer


def configure(*, lpips=0.0, **optimization):
    config = RestorerTrainingConfig(network=SMALL_RESTORER)
    return replace(config, loss=replace(config.loss, lpips=lpips),
                   optimization=replace(config.optimization, **optimization))


@pytest.fixture(autouse=True)
def eager(request):
    """Tracing takes longer than anything here but a run of many iterations."""
    tf.config.run_functions_eagerly("traced" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


def make(config, params=None, lpips_params=None):
    params = {name: tf.constant(value) for name, value in (params or small_restorer()).items()}
    return RestorerTrainer(config, params, lpips_params)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (2, 12, 12, 3), np.uint8), rng.random((2, 48, 48, 3), np.float32),
            rng.normal(size=(2, 12, 12, 8)).astype(np.float32))


def test_the_loss_weighs_l1_and_lpips_of_the_inner_part_and_so_do_its_gradients(batch):
    heads = init_lpips(0)
    update = make(configure(lpips=0.3), lpips_params=heads).compute(*batch)
    params = {name: tf.constant(value) for name, value in small_restorer().items()}
    target = batch[1][:, 8:-8, 8:-8]
    with tf.GradientTape() as tape:
        tape.watch(params)
        output = face_restorer(params, tf.constant(batch[0], tf.float32) / 255, batch[2])[:, 8:-8, 8:-8]
        terms = {"l1": tf.reduce_mean(tf.abs(output - target)), "lpips": tf.reduce_mean(lpips(heads, output, target))}
        loss = terms["l1"] + 0.3 * terms["lpips"]
    assert list(update.scalars) == ["loss", "l1", "lpips", "learning_rate"]
    for name, value in {**terms, "loss": loss}.items():
        assert update.scalars[name] == pytest.approx(float(value), rel=1e-5)
    expected = tape.gradient(loss, params)
    assert update.gradients.keys() == params.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(update.gradients[name], gradient, rtol=1e-3, atol=1e-6)
    assert update.gradient_norm == pytest.approx(float(tf.linalg.global_norm(list(expected.values()))), rel=1e-5)


def test_values_that_are_not_finite_are_named(batch):
    params = small_restorer()
    params["conv_last/bias"] = np.full_like(params["conv_last/bias"], np.nan)
    assert set(make(configure(), params).compute(*batch).not_finite()) == {"loss", "l1", "gradient_norm"}


@pytest.mark.parametrize(("iteration", "rate"), [
    (0, 0.25e-3), (1, 0.5e-3 * (0.1 + 0.9 * (0.5 + 0.5 * np.cos(np.pi / 12)))), (6, 1e-3 * 0.55), (12, 1e-4),
    (1000, 1e-4)])
def test_the_rate_rises_and_falls_along_half_a_cosine(iteration, rate):
    trainer = make(configure(learning_rate=1e-3, warmup_iters=4, num_iterations=12, min_lr_ratio=0.1))
    trainer.iteration = iteration
    assert trainer.learning_rate() == pytest.approx(rate, rel=1e-9)


def test_kernels_of_the_blocks_take_the_step_of_muon(batch):
    trainer, name = make(configure(learning_rate=1e-2, warmup_iters=0, min_lr_ratio=1.0)), "body/1/rdb2/conv3/weight"
    before, update = trainer.params(NETWORK)[name], trainer.compute(*batch)
    gradient = update.gradients[name] * min(1, 1 / update.gradient_norm)
    trainer.apply(update)
    expected = before - 1e-2 * muon({name: tf.zeros_like(gradient)}, {name: gradient})[1][name]
    np.testing.assert_allclose(trainer.params(NETWORK)[name], expected, atol=2e-5)


def test_steps_of_other_parameters_are_those_of_adam_by_hand_and_the_average_follows(batch):
    trainer = make(configure(learning_rate=1e-2, warmup_iters=0, min_lr_ratio=1.0, clip_norm=0.0, beta1=0.8, beta2=0.9,
                             epsilon=1e-3, position_lr_ratio=3.0, ema_decay=0.2))
    for name, ratio in (("conv_last/weight", 1.0), (POSITION_WEIGHT, 3.0)):
        value, m, v, average = (trainer.variables[kind, name].numpy().astype(np.float64)
                                for kind in (NETWORK, M, V, AVERAGE))
        for _ in range(2):
            update = trainer.compute(*batch)
            trainer.apply(update)
            number, gradient = trainer.iteration, update.gradients[name].numpy()
            m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
            rate = ratio * 1e-2 * np.sqrt(1 - 0.9**number) / (1 - 0.8**number)
            value = value - rate * m / (np.sqrt(v) + 1e-3)
            decay = min(0.2, (number + 1) / (number + 10))
            average = decay * average + (1 - decay) * value
        for kind, expected in ((NETWORK, value), (M, m), (V, v), (AVERAGE, average)):
            np.testing.assert_allclose(trainer.variables[kind, name], expected, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(trainer.params()[name], average, rtol=1e-4, atol=1e-7)


def test_a_long_gradient_is_scaled_to_the_norm_and_a_short_one_left(batch):
    """The first moment after one step is 1 - beta1 of the gradient that Adam was given."""
    update = make(configure()).compute(*batch)
    for norm, scale in ((0.5 * update.gradient_norm, 0.5), (2 * update.gradient_norm, 1.0)):
        clipped = make(configure(clip_norm=norm))
        clipped.apply(update)
        for name, gradient in update.gradients.items():
            part = 1.0 if name.startswith("body/") and name.endswith("/weight") else 0.1
            np.testing.assert_allclose(clipped.variables[M, name], part * scale * gradient, rtol=1e-4, atol=1e-9)


def test_equal_traced_runs_give_equal_bits(batch):
    """The second run is from the same start, in the same graph, which takes long to trace."""
    trainer, results = make(configure()), []
    start = {key: variable.numpy() for key, variable in trainer.variables.items()}
    for _ in range(2):
        for key, variable in trainer.variables.items():
            variable.assign(start[key])
        trainer.iteration = 0
        for _ in range(2):
            trainer.apply(trainer.compute(*batch))
        results.append({key: variable.numpy() for key, variable in trainer.variables.items()})
    assert any((results[0][key] != start[key]).any() for key in start)
    for key, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][key])
