"""Checkpoints of training: the original's names, everything put back bit for bit, which are kept, what does not fit."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from model.discriminator import discriminator_shapes, init_discriminator, vector_shapes
from model.masknet import init_masknet, masknet_shapes
from model.meta_learner import Networks
from model.meta_trainer import MetaTrainer
from model.rrdbnet import rrdbnet_shapes
from tests.helpers.small_networks import small_generator
from utils.errors import UserError
from utils.training.configuration import META_TRAINING, resolve_config
from utils.training.state import CONFIG, META_LAYOUT, UPDATES, Checkpoints
from utils.weights.checkpoints import load_super_resolver, write_tf1_checkpoint

DATA = Path(__file__).parents[2] / "data"
LAYOUT = META_LAYOUT


def configure(*settings):
    return resolve_config(META_TRAINING, "smoke", ["meta.tasks_per_batch=1", "meta.learning_rate=1e-3", *settings])


def make_trainer(*settings, with_discriminator=True):
    """A trainer in its first state: small networks, all values non-zero."""
    discriminator = init_discriminator(0, num_features=4) if with_discriminator else (None, None)
    generator = {name: tf.constant(value) for name, value in small_generator().items()}
    config = configure(*settings, *([] if with_discriminator else ["loss.gan=0"]))
    return MetaTrainer(config, Networks(generator, init_masknet(0, num_features=8), *discriminator))


def disguise(trainer, iteration):
    """Fill every variable with values of its own, as if the trainer had come to an iteration."""
    rng = np.random.default_rng(iteration)
    for variable in trainer.variables.values():
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
    trainer.iteration, trainer.discriminator_updates = iteration, iteration // 2


def values(trainer):
    return {key: variable.numpy() for key, variable in trainer.variables.items()}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        np.testing.assert_array_equal(value, right[key], err_msg=str(key), strict=True)


@pytest.fixture(scope="module")
def trainer():
    return make_trainer()


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", LAYOUT, keep=3, keep_every=0)


def shapes(tensors):
    return {name: list(value.shape) for name, value in tensors.items()}


def published_shapes():
    """The 2,204 variables of a checkpoint that the original code wrote."""
    networks = json.loads((DATA / "tf1_checkpoint_names.json").read_text())
    layers = {f"conv{layer}/weight": shape for layer, shape in enumerate((
        [3, 3, 3, 64], [4, 4, 64, 128], [4, 4, 128, 256], [4, 4, 256, 512], [3, 3, 512, 256], [3, 3, 256, 128],
        [3, 3, 128, 64], [3, 3, 64, 64], [3, 3, 64, 64], [3, 3, 64, 1]))}
    discriminator = {**layers, "conv0/bias": [64], "conv9/bias": [1]}
    networks.update({f"Discriminator/{name}": shape for name, shape in discriminator.items()})
    slots = {f"{name}/{slot}": shape for name, shape in networks.items() for slot in ("Adam", "Adam_1")}
    vectors = {f"Discriminator/conv{layer}/u": [1, layers[f"conv{layer}/weight"][3]] for layer in range(1, 9)}
    counters = ("beta1_power", "beta1_power_1", "beta2_power", "beta2_power_1", "global_step", "stop_grad")
    return {**networks, **slots, **vectors, **{name: [] for name in counters}}


def full_size_tensors():
    """What a checkpoint of the published architecture holds, as symbols without memory."""
    networks = {"generator": rrdbnet_shapes(), "mask": masknet_shapes(), "discriminator": discriminator_shapes()}
    kinds = {f"{network}{slot}": shapes for network, shapes in networks.items() for slot in ("", "/m", "/v")}
    with tf.Graph().as_default():
        variables = {(kind, name): tf.zeros(shape) for kind, shapes in {**kinds, "vectors": vector_shapes()}.items()
                     for name, shape in shapes.items()}
        return LAYOUT.tensors(SimpleNamespace(variables=variables, config=resolve_config(META_TRAINING, "published"),
                                              iteration=0, discriminator_updates=0))


def test_variables_are_those_of_the_published_checkpoints_and_two_more():
    published = published_shapes()
    assert len(published) == 2204
    assert shapes(full_size_tensors()) == {**published, UPDATES: [], CONFIG: []}


@pytest.mark.parametrize(("kind", "name", "expected"), [
    ("generator", "conv_first/weight", "MODEL/conv_first/weight"),
    ("mask/m", "conv1/kernel", "Mask/conv1/kernel/Adam"),
    ("discriminator/v", "conv0/bias", "Discriminator/conv0/bias/Adam_1"),
    ("vectors", "conv1/u", "Discriminator/conv1/u"), ("mask/average", "conv8/bias", "Average/Mask/conv8/bias")])
def test_names_of_variables(kind, name, expected):
    assert LAYOUT.variable_name((kind, name)) == expected


def test_counters_are_as_tf1s_adam_keeps_them(trainer):
    trainer.iteration, trainer.discriminator_updates = 7, 3
    tensors = LAYOUT.tensors(trainer)
    expected = {"beta1_power": 0.9**8, "beta2_power": 0.999**8, "beta1_power_1": 0.9**4, "beta2_power_1": 0.999**4}
    for name, value in expected.items():
        assert tensors[name].dtype == np.float32
        assert tensors[name] == pytest.approx(value, rel=1e-6)
    assert (tensors["global_step"], tensors["global_step"].dtype, tensors[UPDATES]) == (7, np.int32, 3)


def test_restoring_puts_every_variable_and_counter_back_bit_for_bit(checkpoints):
    first, second = make_trainer("meta.ema_decay=0.5"), make_trainer("meta.ema_decay=0.5")
    disguise(first, 6)
    checkpoints.save(first)
    checkpoints.restore(6, second)
    assert_equal(values(first), values(second))
    assert (second.iteration, second.discriminator_updates) == (6, 3)
    assert len({value.tobytes() for value in values(first).values()}) == len(first.variables)  # none alike


def test_weights_of_a_checkpoint_and_their_averages_are_read_by_test_py(checkpoints):
    trainer = make_trainer("meta.ema_decay=0.5", with_discriminator=False)
    disguise(trainer, 4)
    checkpoints.save(trainer)
    for prefix, slot in (("model-4", ""), ("average-4", "/average")):
        weights = load_super_resolver(str(checkpoints.folder / prefix))
        for kind, params in (("generator", weights.generator), ("mask", weights.mask)):
            assert_equal(params, {name: value for (of, name), value in values(trainer).items() if of == kind + slot})
    of_the_folder = load_super_resolver(str(checkpoints.folder))
    np.testing.assert_array_equal(of_the_folder.mask["conv1/kernel"], trainer.variables["mask", "conv1/kernel"])


def test_checkpoint_of_the_original_code_is_told_from_one_of_a_run(checkpoints):
    write_tf1_checkpoint(checkpoints.prefix(3), {"MODEL/conv_last/bias": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"model-3.* --init .*model-3"):
        checkpoints.restore(3, make_trainer(with_discriminator=False))


def test_what_is_there_is_listed_by_number(checkpoints, trainer):
    checkpoints.folder.mkdir()
    for name in ("model-10", "model-9", "model-100", "average-11", "model-x", "model-", "model-7.old"):
        (checkpoints.folder / f"{name}.index").touch()
    (checkpoints.folder / "model-8.data-00000-of-00001").touch()
    assert checkpoints.iterations() == [9, 10, 100]
    assert checkpoints.latest() == 100


def test_going_back_moves_what_came_later_out_of_the_way(checkpoints):
    assert save_numbers(checkpoints, (2, 4)) == [2, 4]
    checkpoints.resume_at(4)
    assert checkpoints.iterations() == [2, 4]
    checkpoints.resume_at(2)
    folder = checkpoints.folder / "until_4_before_going_back_to_2"
    assert checkpoints.iterations() == [2]
    assert tf.train.latest_checkpoint(str(checkpoints.folder)) == str(checkpoints.prefix(2))
    assert {path.name for path in folder.iterdir()} == {
        f"{kind}-4.{ending}" for kind in ("model", "average") for ending in ("index", "data-00000-of-00001")}


def save_numbers(checkpoints, numbers):
    """Save at these iterations; give those that are there in the end."""
    trainer = make_trainer("meta.ema_decay=0.5", with_discriminator=False)
    for number in numbers:
        trainer.iteration = number
        checkpoints.save(trainer)
    files = {path.name for path in checkpoints.folder.iterdir()} - {"checkpoint"}
    averages = sorted(int(name[8:-6]) for name in files if name.startswith("average-") and name.endswith(".index"))
    assert files == {f"{prefix}-{number}{suffix}" for prefix in ("model", "average") for number in averages
                     for suffix in (".index", ".data-00000-of-00001")}
    return checkpoints.iterations()


@pytest.mark.parametrize(("keep", "keep_every", "numbers", "kept"), [
    (2, 0, (1, 2, 3, 10, 11), [10, 11]), (1, 2, (1, 2, 3, 4, 5), [2, 4, 5]), (9, 0, (1, 2), [1, 2]),
    (2, 0, (1, 10, 11), [10, 11]),
    (2, 0, (4, 6, 1, 2, 3), [2, 3, 4, 6])],
    ids=["the latest", "multiples", "few", "whose name others begin with", "later ones of a run that went back"])
def test_earlier_checkpoints_are_removed_with_their_averages(tmp_path, keep, keep_every, numbers, kept):
    assert save_numbers(Checkpoints(tmp_path / "x", LAYOUT, keep=keep, keep_every=keep_every), numbers) == kept


@pytest.mark.parametrize(("old", "new", "message"), [
    ([], ["generator.num_blocks=2"], r"generator.num_blocks=1, not 2\."),
    ([], ["discriminator.num_features=8"], r"discriminator.num_features=4, not 8\."),
    ([], ["loss.gan=0"], r"loss.gan=0.1 \(the discriminator\), not 0.0\."),
    (["loss.gan=0"], [], r"loss.gan=0.0 \(the discriminator\), not 0.1\."),
    ([], ["meta.ema_decay=0.9"], r"meta.ema_decay=0.0 \(the moving average\), not 0.9\.")])
def test_setting_that_does_not_fit_is_named(checkpoints, trainer, old, new, message):
    write_tf1_checkpoint(checkpoints.prefix(1), {
        CONFIG: LAYOUT.tensors(make_trainer(*old, with_discriminator="loss.gan=0" not in old))[CONFIG]})
    trainer = make_trainer()
    trainer.config = configure(*new)
    with pytest.raises(UserError, match=r"model-1 was trained with " + message + ".*another --trial") as caught:
        checkpoints.restore(1, trainer)
    assert "\n" not in str(caught.value)


def test_variables_that_are_missing_or_of_another_shape_are_named_and_nothing_is_restored(checkpoints, trainer):
    tensors = dict(LAYOUT.tensors(trainer))
    del tensors["Mask/conv3/bias/Adam"]
    tensors["Mask/conv8/bias"] = np.zeros(2, np.float32)
    write_tf1_checkpoint(checkpoints.prefix(1), tensors)
    before = values(trainer)
    with pytest.raises(UserError, match=r"model-1.* 2 .*Mask/(conv3/bias/Adam|conv8/bias) first"):
        checkpoints.restore(1, trainer)
    assert_equal(before, values(trainer))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_kill_while_saving_left_undone_is_made_good(checkpoints):
    save_numbers(checkpoints, (2, 4))
    before = names(checkpoints.folder)
    (checkpoints.folder / "checkpoint").write_text('model_checkpoint_path: "model-2"\n')  # killed before this
    for file in checkpoints.folder.glob("average-4.*"):  # killed between the averages and the checkpoint
        shutil.copy(file, file.with_name(file.name.replace("-4", "-6")))
    (checkpoints.folder / ".model-6.abc").mkdir()  # killed while TensorFlow wrote, and between both files
    (checkpoints.folder / ".model-6.abc" / "model-6.data-00000-of-00001.tempstate1").write_bytes(b"1")
    (checkpoints.folder / "model-6.data-00000-of-00001").write_bytes(b"1")
    checkpoints.resume_at(4)
    assert names(checkpoints.folder) == before
    assert tf.train.latest_checkpoint(str(checkpoints.folder)) == str(checkpoints.prefix(4))


@pytest.mark.parametrize("refused", [(os, "listdir"), (Path, "unlink"), (Path, "mkdir")])
def test_a_folder_that_cannot_be_read_or_written_is_named(checkpoints, monkeypatch, refused):
    save_numbers(checkpoints, (2, 4))
    (checkpoints.folder / ".model-6.abc").touch()

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(*refused, refuse)
    with pytest.raises(UserError, match=r"checkpoints: Read-only file system"):
        checkpoints.resume_at(2)
