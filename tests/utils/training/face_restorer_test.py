"""What a face restorer begins with, what a run says, and how its state lies in checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from config import FaceRestorerConfig, RestorerTrainingConfig
from model.face_restorer import init_face_restorer
from model.restorer_trainer import RestorerTrainer
from tests.helpers.reference_restorer import SMALL_RESTORER, small_restorer
from tests.helpers.reference_weights import reference_generator
from utils.errors import UserError
from utils.face.restorers import load_face_restorer, save_face_restorer
from utils.training.face_restorer import RestorerLayout, checkpoint_params, start_params
from utils.training.state import Checkpoints
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint
from utils.weights.manifest import find_weights


def configure(init, *, seed=0, network=SMALL_RESTORER, **optimization):
    config = RestorerTrainingConfig(network=network)
    return replace(config, optimization=replace(config.optimization, init=str(init), seed=seed, **optimization))


@pytest.fixture
def write_generator(tmp_path):
    """Write a checkpoint of an RRDBNet of 2 blocks, 8 features and a growth of 4 unless told otherwise."""
    def write(**architecture):
        generator = reference_generator(**({"num_blocks": 2, "num_features": 8, "growth": 4} | architecture))
        write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(generator))
        return tmp_path / "model", generator

    return write


def fails(match, config, weights_dir=None):
    with pytest.raises(UserError, match=match) as caught:
        start_params(config, weights_dir)
    assert "\n" not in str(caught.value)


def test_random_weights_follow_from_the_seed():
    found = start_params(configure("random", seed=3), None)
    for name, value in init_face_restorer(3, SMALL_RESTORER).items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_blocks_of_the_coarsest_scale_are_the_first_of_an_rrdbnet(write_generator, num_blocks):
    path, generator = write_generator()
    network = FaceRestorerConfig((8, 4, 2), (8, 8, 6), (num_blocks, 1, 0))
    found, drawn = start_params(configure(path, network=network), None), init_face_restorer(0, network)
    assert found.keys() == drawn.keys()
    taken = {name for name in drawn if name.startswith(("8/body/", "8/conv_body/"))}
    assert len(taken) == 2 * (15 * num_blocks + 1)
    for name, value in drawn.items():
        np.testing.assert_array_equal(found[name], generator[name.removeprefix("8/")] if name in taken else value)
    assert (generator["body/0/rdb1/conv1/weight"] != drawn["8/body/0/rdb1/conv1/weight"].numpy()).any()


def test_everything_is_taken_from_a_face_restorer(tmp_path):
    saved = small_restorer()
    save_face_restorer(tmp_path / "x.npz", saved)
    found = start_params(configure(tmp_path / "x.npz"), None)
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float16))
        assert found[name].dtype == tf.float32


def test_the_repositorys_restorer_can_be_gone_on_from():
    found = start_params(configure("rrdb-face", network=FaceRestorerConfig()), None)
    [path] = find_weights("rrdb-face").values()
    for name, value in load_face_restorer(path).items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(("architecture", "first"), [
    ({"num_blocks": 1}, "4/body/1/rdb1/conv1/weight"), ({"num_features": 10}, "4/body/0/rdb1/conv1/weight"),
    ({"growth": 6}, "4/body/0/rdb1/conv1/weight")])
def test_an_rrdbnet_that_does_not_fit_is_one_line(write_generator, architecture, first):
    path, _ = write_generator(**architecture)
    fails(f"{path} does not fit the configuration's network: there {first} is missing or of another shape. "
          "Change network.strides, .* or give --init random",
          configure(path, network=FaceRestorerConfig((4, 2), (8, 6), (2, 0))))


def test_an_rrdbnet_gives_nothing_to_a_coarsest_scale_without_blocks(write_generator):
    path, _ = write_generator()
    fails("coarsest scale, and there network.blocks has none",
          configure(path, network=FaceRestorerConfig((8, 4), (8, 8), (0, 1))))


@pytest.mark.parametrize(("network", "first"), [
    (FaceRestorerConfig((4, 2), (8, 6), (2, 0)), "4/body/1/rdb1/conv1/weight"),
    (FaceRestorerConfig((4, 2), (8, 4), (1, 0)), "2/conv_in/weight"),
    (FaceRestorerConfig((8, 4, 2), (8, 8, 6), (1, 1, 0)), "8/conv_in/weight")])
def test_a_face_restorer_that_does_not_fit_is_one_line(tmp_path, network, first):
    save_face_restorer(tmp_path / "x.npz", small_restorer())
    fails(f"x.npz does not fit the configuration's network: there {first} is missing or of another shape",
          configure(tmp_path / "x.npz", network=network))


def test_weights_that_are_not_there_or_damaged_are_named(tmp_path):
    fails(f"cannot read {tmp_path / 'x.npz'}: No such file", configure(tmp_path / "x.npz"))
    fails(f"{tmp_path / 'model'} does not exist", configure(tmp_path / "model"))
    fails(r"realesrgan-x4plus-anime.*download_weights\.py realesrgan-anime", configure("realesrgan-anime"), tmp_path)
    (tmp_path / "x.npz").write_bytes(b"PK")
    fails(f"{tmp_path / 'x.npz'} holds no face restorer", configure(tmp_path / "x.npz"))


@pytest.fixture
def saved(tmp_path):
    """A trainer after two updates, saved."""
    trainer = RestorerTrainer(configure("random", bfloat16=False), init_face_restorer(0, SMALL_RESTORER))
    tf.config.run_functions_eagerly(True)
    faces = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8, 3), np.uint8)
    for _ in range(2):
        trainer.apply(trainer.compute(*faces, np.zeros((1, 2), np.int32)))
    tf.config.run_functions_eagerly(False)
    checkpoints = Checkpoints(tmp_path, RestorerLayout(), keep=1, keep_every=0)
    checkpoints.save(trainer)
    return trainer, checkpoints


def test_a_checkpoint_gives_the_state_back_bit_for_bit(saved):
    trainer, checkpoints = saved
    other = RestorerTrainer(trainer.config, init_face_restorer(1, SMALL_RESTORER))
    checkpoints.restore(2, other)
    assert other.iteration == 2
    assert len({RestorerLayout().variable_name(key) for key in trainer.variables}) == len(trainer.variables)
    for key, variable in trainer.variables.items():
        np.testing.assert_array_equal(other.variables[key], variable)
        assert np.abs(variable).max() > 0 or key[1].endswith("/bias")


def test_checkpoint_params_are_the_network_alone(saved):
    trainer, checkpoints = saved
    found = checkpoint_params(checkpoints.prefix(2))
    assert found.keys() == trainer.params().keys()
    for name, value in trainer.params().items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(("key", "value"), [("strides", (8, 4)), ("features", (8, 4)), ("blocks", (1, 1))])
def test_a_checkpoint_fits_no_other_network(saved, key, value):
    trainer, checkpoints = saved
    config = replace(trainer.config, network=replace(SMALL_RESTORER, **{key: value}))
    with pytest.raises(UserError, match=rf"model-2 was trained with network.{key}=.*, not .*another --trial"):
        checkpoints.restore(2, RestorerTrainer(config, init_face_restorer(0, config.network)))
