import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.masknet import masknet_shapes
from model.rrdbnet import rrdbnet_shapes
from tests.small_networks import SMALL, small_generator, small_masknet
from tests.utils.ncnn_files_test import write_rrdbnet
from utils.checkpoints import (
    checkpoint_tensors,
    find_checkpoint,
    load_super_resolver,
    read_tensors,
    read_tf1_checkpoint,
    write_tf1_checkpoint,
)
from utils.errors import UserError

DATA = Path(__file__).parents[1] / "data"


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name])


def fails(path, message, **kwargs):
    with pytest.raises(UserError, match=message) as error:
        load_super_resolver(str(path), **kwargs)
    assert "\n" not in str(error.value)


def save_with_tf1(prefix, arrays):
    """Write a checkpoint the way the original code does: a graph of variables and a Saver."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
                     for name, value in arrays.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(prefix), write_meta_graph=True)


def restore_with_tf1(prefix, scope, arrays):
    """Read a checkpoint the way the original test.py does: a Saver over the variables of one scope."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {}
        for name, value in arrays.items():
            variables[name] = tf.compat.v1.get_variable(scope + name, initializer=tf.zeros(value.shape),
                                                        use_resource=False)
        tf.compat.v1.train.Saver(list(variables.values())).restore(session, str(prefix))
        return session.run(variables)


def original_arrays():
    """Give what the original's Saver stores besides the networks, too: optimiser slots and the discriminator."""
    arrays = {f"MODEL/{name}": value for name, value in small_generator().items()}
    arrays.update({f"Mask/{name}": value for name, value in small_masknet().items()})
    slots = {f"{name}/{slot}": value + 1 for name, value in arrays.items() for slot in ("Adam", "Adam_1")}
    return {**arrays, **slots, "Discriminator/conv1/u": np.ones((1, 4), np.float32), "global_step": np.int32(7)}


def test_what_is_written_is_read_back(tmp_path):
    write_tf1_checkpoint(tmp_path / "new" / "model-3", checkpoint_tensors(small_generator(), small_masknet()))
    weights = load_super_resolver(str(tmp_path / "new" / "model-3"))
    assert_same(weights.generator, small_generator())
    assert_same(weights.mask, small_masknet())
    assert weights.meta_trained


def test_writing_leaves_the_two_files_of_a_checkpoint_and_nothing_else(tmp_path):
    for _ in range(2):
        write_tf1_checkpoint(tmp_path / "model-3", checkpoint_tensors(small_generator()))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model-3.data-00000-of-00001", "model-3.index"]


def test_names_and_shapes_of_the_published_architecture_are_the_originals(tmp_path):
    zeros = [{name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
             for shapes in (rrdbnet_shapes(), masknet_shapes())]
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(*zeros))
    original = json.loads((DATA / "tf1_checkpoint_names.json").read_text())
    assert len(original) == 718
    assert dict(tf.train.list_variables(str(tmp_path / "model"))) == original


def test_the_original_loads_ours(tmp_path):
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator(), small_masknet()))
    assert_same(restore_with_tf1(tmp_path / "model", "MODEL/", small_generator()), small_generator())
    assert_same(restore_with_tf1(tmp_path / "model", "Mask/", small_masknet()), small_masknet())


@pytest.mark.parametrize("given", ["model-new", "model-new.index", "model-new.meta", "model-new.data-00000-of-00001",
                                   ""])
def test_an_original_checkpoint_loads_by_its_prefix_any_of_its_files_or_its_folder(tmp_path, given):
    save_with_tf1(tmp_path / "model-new", original_arrays())
    weights = load_super_resolver(str(tmp_path / given))
    assert_same(weights.generator, small_generator())
    assert_same(weights.mask, small_masknet())


def test_optimiser_slots_and_the_discriminator_are_left_alone(tmp_path):
    save_with_tf1(tmp_path / "model-new", original_arrays())
    tensors = read_tf1_checkpoint(tmp_path / "model-new")
    assert len(tensors) == len(small_generator()) + len(small_masknet())
    assert not [name for name in tensors if "Adam" in name or name.startswith("Discriminator")]


def test_a_checkpoint_without_masknet_has_none(tmp_path):
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    assert load_super_resolver(str(tmp_path / "model")).mask is None


def test_a_pytorch_file_gives_the_same_network_in_our_layout():
    weights = load_super_resolver(str(DATA / "torch" / "rrdbnet.pth"))
    assert {name: value.shape for name, value in weights.generator.items()} == rrdbnet_shapes(1, 4, 2)
    assert weights.mask is None
    assert not weights.meta_trained
    number = list(rrdbnet_shapes(1, 4, 2)).index("body/0/rdb2/conv3/weight")
    h, w, i, o = 2, 0, 5, 1
    assert weights.generator["body/0/rdb2/conv3/weight"][h, w, i, o] == pytest.approx(
        number + o / 10 + i / 100 + h / 1000 + w / 10000, rel=1e-6)
    np.testing.assert_allclose(weights.generator["conv_last/bias"], [41, 41.1, 41.2], rtol=1e-6)


@pytest.mark.parametrize("index", [0, 1])
def test_an_ncnn_pair_loads_by_either_file(tmp_path, index):
    *paths, convolutions = write_rrdbnet(tmp_path)
    weights = load_super_resolver(str(paths[index]))
    assert not weights.meta_trained
    np.testing.assert_array_equal(weights.generator["body/1/rdb3/conv5/weight"],
                                  convolutions[30].transpose(2, 3, 1, 0))


def test_a_name_of_the_manifest_is_looked_up_in_the_weights_folder(tmp_path):
    fails("realesrgan", "download_weights.py realesrgan", weights_dir=tmp_path)


@pytest.mark.parametrize("path", ["absent", "absent/model-new", "gone.pth", "gone.bin"])
def test_a_missing_checkpoint_is_named(tmp_path, path):
    fails(tmp_path / path, path.removesuffix(".bin"))


def test_a_folder_without_checkpoint_is_named(tmp_path):
    fails(tmp_path, "no checkpoint in the folder")


def test_a_folder_with_several_checkpoints_asks_which(tmp_path):
    for step in (1, 2):
        write_tf1_checkpoint(tmp_path / f"model-{step}", checkpoint_tensors(small_generator()))
    fails(tmp_path, "several checkpoints .model-1, model-2.")


def test_another_architecture_is_answered_with_missing_and_extra_names(tmp_path):
    generator = small_generator()
    generator["conv_up3/weight"] = generator.pop("conv_up2/weight")
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(generator))
    fails(tmp_path / "model", "missing: conv_up2/weight; extra: conv_up3/weight")


def test_a_masknet_of_another_architecture_is_refused(tmp_path):
    mask = small_masknet()
    del mask["conv5/bias"]
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator(), mask))
    fails(tmp_path / "model", "MaskNet. missing: conv5/bias")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    save_with_tf1(tmp_path / "model", {"other/weight": np.zeros((3, 3), np.float32)})
    fails(tmp_path / "model", "not those of RRDBNet. missing: conv_first/weight")


def test_values_that_are_not_finite_are_refused(tmp_path):
    generator = small_generator()
    generator["conv_hr/bias"] = generator["conv_hr/bias"] * np.nan
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(generator))
    fails(tmp_path / "model", "not finite, in conv_hr/bias")


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing"])
def test_a_damaged_checkpoint_is_named(tmp_path, suffix, damage):
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    file = tmp_path / f"model{suffix}"
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"truncated": data[: len(data) // 2], "garbage": bytes(len(data)), "empty": b""}[damage])
    fails(tmp_path / "model", "model")


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the checkpoint") as error:
        write_tf1_checkpoint(tmp_path / "file" / "model", checkpoint_tensors(small_generator()))
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_failure_while_writing_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))

    def full_disk(**_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full_disk)
    changed = {name: value + 1 for name, value in small_generator().items()}
    with pytest.raises(UserError, match="No space left"):
        write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(changed))
    assert_same(load_super_resolver(str(tmp_path / "model")).generator, small_generator())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stop_between_the_two_renames_never_leaves_a_mixture(tmp_path, monkeypatch):
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    original = os.replace

    def stop_at_the_index(source, target):
        if str(target).endswith(".index"):
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(os, "replace", stop_at_the_index)
    changed = {name: value + 1 for name, value in small_generator().items()}
    with pytest.raises(KeyboardInterrupt):
        write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(changed))
    fails(tmp_path / "model", "is not a checkpoint|does not exist")


def test_other_variables_keep_their_types(tmp_path):
    extra = {"global_step": np.int32(7), "stop_grad": np.bool_(False), "Discriminator/conv1/u": np.ones((1, 4), "f4")}
    write_tf1_checkpoint(tmp_path / "model", {**checkpoint_tensors(small_generator()), **extra})
    reader = tf.train.load_checkpoint(str(tmp_path / "model"))
    for name, value in extra.items():
        assert reader.get_tensor(name).dtype == value.dtype
        np.testing.assert_array_equal(reader.get_tensor(name), value)


def test_small_networks_are_what_these_tests_say():
    assert {name: value.shape for name, value in small_generator().items()} == rrdbnet_shapes(**SMALL)


def test_variables_are_read_by_their_full_names_sorted_and_in_their_types(tmp_path):
    arrays = {"b/x": np.arange(3, dtype=np.float32), "a/y": np.int32(7), "a/x": np.bool_(True),
              "c": np.array("text", object), "b/x/Adam": np.zeros(3, np.float32)}
    write_tf1_checkpoint(tmp_path / "model", arrays)
    found = read_tensors(tmp_path / "model", lambda name: not name.endswith("/Adam"))
    assert list(found) == ["a/x", "a/y", "b/x", "c"]
    for name in ("a/x", "a/y", "b/x"):
        np.testing.assert_array_equal(found[name], arrays[name])
        assert found[name].dtype == arrays[name].dtype
    assert found["c"] == b"text"
    assert read_tensors(tmp_path / "model", lambda _: False) == {}


def test_reading_variables_of_a_damaged_checkpoint_names_it(tmp_path):
    write_tf1_checkpoint(tmp_path / "model", {"x": np.zeros(1000, np.float32)})
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*model: .*Copy both of its files"):
        read_tensors(tmp_path / "model", lambda _: True)


def test_a_folder_with_several_checkpoints_gives_the_one_its_state_file_names(tmp_path):
    for name in ("model-1", "model-2", "average-2"):
        write_tf1_checkpoint(tmp_path / name, {"x": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"several checkpoints .average-2, model-1, model-2."):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-1"\n')
    assert find_checkpoint(tmp_path) == tmp_path / "model-1"


def test_dots_in_a_prefix_are_part_of_it(tmp_path):
    write_tf1_checkpoint(tmp_path / "model.v1.2", {"x": np.zeros(1, np.float32)})
    for given in ("model.v1.2", "model.v1.2.index", "model.v1.2.data-00000-of-00001", "."):
        assert find_checkpoint(tmp_path / given) == tmp_path / "model.v1.2"
