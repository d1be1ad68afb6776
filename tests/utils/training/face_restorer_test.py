"""What a face restorer starts from, its validation, and its state in checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from config import GeneratorConfig, RestorerTrainingConfig
from model.face_restorer import POSITION_WEIGHT, init_face_restorer
from model.restorer_trainer import RestorerTrainer
from tests.helpers.face_restorer import SMALL_RESTORER, nearest_restorer, small_restorer
from tests.helpers.reference_weights import reference_generator
from utils.data.face_samples import FaceSample
from utils.errors import UserError
from utils.face.restorers import save_face_restorer
from utils.metrics.fidelity import psnr_y
from utils.training.face_restorer import RESTORER_LAYOUT, RestorerValidator, checkpoint_params, start_params
from utils.training.state import Checkpoints
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


def configure(init, *, network=SMALL_RESTORER):
    config = RestorerTrainingConfig(network=network)
    return replace(config, loss=replace(config.loss, lpips=0.0),
                   optimization=replace(config.optimization, init=str(init), seed=3))


@pytest.fixture
def files(tmp_path):
    """A checkpoint of an RRDBNet and a file of a face restorer, both small."""
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(reference_generator(2, 8, 4)))
    save_face_restorer(tmp_path / "x.npz", small_restorer())
    return tmp_path


def test_an_rrdbnet_is_started_from_as_it_is(files):
    found = start_params(configure(files / "model"), None)
    assert not np.any(found.pop(POSITION_WEIGHT))
    for name, value in reference_generator(2, 8, 4).items():
        np.testing.assert_array_equal(found[name], value)


def test_everything_is_taken_from_a_face_restorer(files):
    found = start_params(configure(files / "x.npz"), None)
    for name, value in small_restorer().items():
        np.testing.assert_array_equal(found[name], value.astype(np.float16))


@pytest.mark.parametrize("name", ["model", "x.npz"])
def test_another_architecture_is_one_line(files, name):
    with pytest.raises(UserError, match=rf"{name} .*num_blocks=2.*network.num_blocks") as caught:
        start_params(configure(files / name, network=GeneratorConfig(3, 8, 4)), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.npz", "missing"])
def test_weights_that_are_not_there_are_named(tmp_path, name):
    with pytest.raises(UserError, match=str(tmp_path / name)):
        start_params(configure(tmp_path / name), None)


def test_validation_compares_the_inner_part_with_the_truth():
    """A network that repeats pixels, of which the truth is 10/255 brighter."""
    lq = np.random.default_rng(0).integers(0, 200, (12, 12, 3), np.uint8)
    target = np.repeat(np.repeat(lq, 4, 0), 4, 1) + np.uint8(10)
    sample = FaceSample(lq, target.astype(np.float32) / 255, np.zeros((12, 12, 8), np.float32))
    validator = RestorerValidator([sample, sample], 1, lambda left, right: float(np.abs(left - right).mean()))
    scores, pictures = validator.evaluate({name: tf.constant(value) for name, value in nearest_restorer().items()})
    assert list(scores) == validator.columns
    inside = (slice(8, -8), slice(8, -8))
    assert scores["psnr"] == pytest.approx(psnr_y((target - np.uint8(10))[inside], target[inside]), rel=1e-6)
    assert scores["brightness"] == pytest.approx(-10)
    assert scores["lpips"] == pytest.approx(10 / 255, rel=1e-4)
    assert scores["lpips_bicubic"] > 0
    assert {name: picture.shape for name, picture in pictures.items()} == {"face_0": (48, 3 * 48, 3)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trainer after two updates, saved."""
    trainer = RestorerTrainer(configure("random"), init_face_restorer(0, SMALL_RESTORER))
    rng = np.random.default_rng(0)
    batch = (rng.integers(0, 256, (1, 8, 8, 3), np.uint8), rng.random((1, 32, 32, 3), np.float32),
             rng.random((1, 8, 8, 8), np.float32))
    for _ in range(2):
        trainer.apply(trainer.compute(*batch))
    checkpoints = Checkpoints(tmp_path_factory.mktemp("saved"), RESTORER_LAYOUT, keep=1, keep_every=0)
    checkpoints.save(trainer)
    return trainer, checkpoints


def test_a_checkpoint_returns_the_state_bit_for_bit(saved):
    trainer, checkpoints = saved
    other = RestorerTrainer(trainer.config, init_face_restorer(1, SMALL_RESTORER))
    checkpoints.restore(2, other)
    assert other.iteration == 2
    assert len({RESTORER_LAYOUT.variable_name(key) for key in trainer.variables}) == len(trainer.variables)
    for key, variable in trainer.variables.items():
        np.testing.assert_array_equal(other.variables[key], variable)


def test_checkpoint_params_are_the_moving_average(saved):
    trainer, checkpoints = saved
    found = checkpoint_params(checkpoints.prefix(2))
    assert found.keys() == trainer.params().keys()
    for name, value in trainer.params().items():
        np.testing.assert_array_equal(found[name], value)
