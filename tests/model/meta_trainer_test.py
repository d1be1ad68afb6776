from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from config import TrainingConfig
from model.adam import AdamState, adam
from model.discriminator import init_discriminator, normalize
from model.masknet import init_masknet
from model.meta_learner import Networks, Task, batch_gradients
from model.meta_trainer import MetaTrainer
from tests.helpers.small_networks import small_generator

CONFIG = TrainingConfig()


def configure(**groups):
    """The published configuration with one task, no LPIPS and what is given: configure(meta={"clip_norm": 1})."""
    groups.setdefault("meta", {}).setdefault("tasks_per_batch", 1)
    return replace(CONFIG, **{group: replace(getattr(CONFIG, group), **values) for group, values in groups.items()})


@pytest.fixture(autouse=True)
def eager(request):
    """Tracing takes longer than anything here; one test runs traced."""
    tf.config.run_functions_eagerly("traced" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def networks():
    discriminator, vectors = init_discriminator(0, num_features=4)
    generator = {name: tf.constant(value) for name, value in small_generator().items()}
    return Networks(generator, init_masknet(0, num_features=8), discriminator, vectors)


@pytest.fixture(scope="module")
def two_tasks():
    rng = np.random.default_rng(0)
    return Task(*(rng.random((2, 1, side, side, 3), np.float32) for side in (4, 16, 8, 32, 32)))


@pytest.fixture(scope="module")
def tasks(two_tasks):
    return Task(*(images[:1] for images in two_tasks))


def iterate(trainer, tasks, count=1):
    for _ in range(count):
        update = trainer.compute(lambda _: tasks)
        trainer.apply(update)
    return update


def largest_change(trainer, params, kind):
    return max(float(np.abs(trainer.params(kind)[name] - value).max()) for name, value in params.items())


def test_an_iteration_takes_adam_steps_along_the_mean_gradients(networks, two_tasks):
    config, tasks = configure(meta={"tasks_per_batch": 2}), two_tasks
    trainer = MetaTrainer(config, networks)
    update = iterate(trainer, tasks)
    sums, rows = batch_gradients(networks, Task(*map(tf.constant, tasks)), inner=config.inner, loss=config.loss,
                                 second_order=True)
    for kind, rate in (("generator", 3e-5), ("mask", 3e-5), ("discriminator", 1e-4)):
        for name, start in getattr(networks, kind).items():
            zeros = tf.zeros_like(start)
            expected = adam(AdamState(start, zeros, zeros), getattr(sums, kind)[name] / 2, update=tf.constant(1.0),
                            learning_rate=rate, beta1=0.9, beta2=0.999, epsilon=1e-8)
            np.testing.assert_allclose(trainer.params(f"{kind}/m")[name], expected.m, rtol=1e-3, atol=1e-7)
            np.testing.assert_allclose(trainer.params(kind)[name], expected.value, rtol=0, atol=2e-7)
    np.testing.assert_allclose(np.stack(list(update.scalars.values()), axis=1), rows, rtol=1e-5)
    norm = np.sqrt(sum(np.sum((value.numpy() / 2) ** 2) for group in sums[:2] for value in group.values()))
    assert update.gradient_norm == pytest.approx(float(norm), rel=1e-4)


def test_vectors_advance_once_with_the_weights_before_the_update(networks, tasks):
    trainer = MetaTrainer(configure(), networks)
    iterate(trainer, tasks)
    for name, expected in normalize(networks.discriminator, networks.vectors)[1].items():
        np.testing.assert_allclose(trainer.params("vectors")[name], expected, atol=1e-6)


def test_computing_changes_nothing(networks, tasks):
    trainer = MetaTrainer(configure(), networks)
    trainer.compute(lambda _: tasks)
    for kind in ("generator", "mask", "discriminator", "vectors"):
        assert largest_change(trainer, getattr(networks, kind), kind) == 0
    assert trainer.iteration == 0


def test_equal_traced_runs_give_equal_bits(networks, tasks):
    """The second run is from the same start, in the same graph, which takes long to trace."""
    trainer = MetaTrainer(configure(), networks)
    start = {key: variable.numpy() for key, variable in trainer.variables.items()}
    iterate(trainer, tasks, 3)
    first = {key: variable.numpy() for key, variable in trainer.variables.items()}
    for key, variable in trainer.variables.items():
        variable.assign(start[key])
    trainer.iteration = trainer.discriminator_updates = 0
    iterate(trainer, tasks, 3)
    assert any((first[key] != start[key]).any() for key in start)
    for key, variable in trainer.variables.items():
        np.testing.assert_array_equal(variable, first[key])


def test_a_long_gradient_is_clipped_and_its_norm_reported_as_it_was(networks, tasks):
    free, clipped = MetaTrainer(configure(), networks), MetaTrainer(configure(meta={"clip_norm": 0.01}), networks)
    updates = [iterate(trainer, tasks) for trainer in (free, clipped)]
    assert updates[0].gradient_norm == pytest.approx(updates[1].gradient_norm, rel=1e-5)
    assert updates[0].gradient_norm > 0.02
    norm = np.sqrt(sum(np.sum(np.square(value)) for group in updates[1].gradients[:2] for value in group.values()))
    assert norm == pytest.approx(0.01, rel=1e-4)
    for name, value in updates[0].gradients.discriminator.items():
        np.testing.assert_allclose(updates[1].gradients.discriminator[name], value, rtol=1e-3, atol=1e-7)


def test_the_average_follows_the_parameters_by_its_decay(networks, tasks):
    trainer = MetaTrainer(configure(meta={"ema_decay": 0.9}), networks)
    expected = {kind: dict(getattr(networks, kind)) for kind in ("generator", "mask")}
    for _ in range(3):
        iterate(trainer, tasks)
        expected = {kind: {name: 0.9 * value + 0.1 * trainer.params(kind)[name] for name, value in group.items()}
                    for kind, group in expected.items()}
    for kind, group in expected.items():
        for name, value in group.items():
            np.testing.assert_allclose(trainer.params(f"{kind}/average")[name], value, atol=1e-7)
            np.testing.assert_array_equal(trainer.learned(kind)[name], trainer.params(f"{kind}/average")[name])


def test_a_frozen_discriminator_stays_until_its_iteration_then_begins_its_own_count(networks, tasks):
    trainer = MetaTrainer(configure(discriminator={"freeze_until": 2}), networks)
    iterate(trainer, tasks, 2)
    assert largest_change(trainer, networks.discriminator, "discriminator") == 0
    assert largest_change(trainer, networks.generator, "generator") > 0
    assert trainer.discriminator_updates == 0
    iterate(trainer, tasks)
    # the first Adam step moves each value by at most its rate, with the correction of a first step
    assert largest_change(trainer, networks.discriminator, "discriminator") == pytest.approx(1e-4, rel=1e-2)
    assert (trainer.iteration, trainer.discriminator_updates) == (3, 1)


def test_second_order_begins_at_its_iteration(networks, tasks):
    """With the mask's own term off, MaskNet moves through second order alone."""
    trainer = MetaTrainer(configure(inner={"second_order_from": 1}, loss={"mask": 0.0}), networks)
    iterate(trainer, tasks)
    assert largest_change(trainer, networks.mask, "mask") == 0
    iterate(trainer, tasks)
    assert largest_change(trainer, networks.mask, "mask") > 0


def test_without_a_discriminator_there_is_nothing_of_it(networks, tasks):
    trainer = MetaTrainer(configure(), networks._replace(discriminator=None, vectors=None))
    update = iterate(trainer, tasks)
    assert not [kind for kind, _ in trainer.variables if kind.startswith(("discriminator", "vectors"))]
    assert not {"gan", "discriminator_loss", "discriminator_gradient_norm"} & set(update.summary())
    assert trainer.discriminator_updates == 0


def test_values_that_are_not_finite_are_named(networks, tasks):
    broken = tasks._replace(scene_target=np.where(tasks.scene_target > 0.99, np.nan, tasks.scene_target))
    update = MetaTrainer(configure(), networks).compute(lambda _: broken)
    assert set(update.not_finite()) == {"l1", "outer_loss", "gradient_norm"}


def test_a_summary_has_means_and_extremes_of_the_mask(networks, two_tasks):
    update = MetaTrainer(configure(meta={"tasks_per_batch": 2}), networks).compute(lambda _: two_tasks)
    summary = update.summary()
    assert summary["l1"] == pytest.approx(float(np.mean(update.scalars["l1"])))
    assert summary["mask_min"] == update.scalars["mask_min"].min()
    assert summary["mask_max"] == update.scalars["mask_max"].max()
    assert len(update.scalars["l1"]) == 2
