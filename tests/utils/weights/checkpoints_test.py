import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.masknet import masknet_shapes
from model.rrdbnet import rrdbnet_shapes
from tests.small_networks import SMALL, small_generator, small_masknet
from tests.utils.weights.ncnn_test import write_rrdbnet
from utils.errors import UserError
from utils.weights import manifest as weights_module
from utils.weights.checkpoints import (
    checkpoint_tensors,
    find_checkpoint,
    is_weights_name,
    load_super_resolver,
    read_tensors,
    read_tf1_checkpoint,
    save_super_resolver,
    write_tf1_checkpoint,
)
from utils.weights.manifest import Entry, Variant, WeightFile, sha256_of

DATA = Path(__file__).parents[2] / "data"


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


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose manifest knows metaf2n-small and metaf2n; a function that notes the small one's hash."""
    (tmp_path / "own").mkdir()
    published = tuple(WeightFile(f"model-new{ending}", None, "") for ending in (".index", ".data-00000-of-00001"))
    manifest = {"metaf2n": Entry("metaf2n", "published", "?", ("test.py",), (Variant("TF1", published, ()),),
                                 ("https://example.org/drive",), "own")}

    def publish():
        file = tmp_path / "own" / "metaf2n-small.npz"
        variant = Variant("float16", (WeightFile(file.name, file.stat().st_size, sha256_of(file)),), ())
        manifest["metaf2n-small"] = Entry("metaf2n-small", "small", "MIT", ("test.py",), (variant,), folder="own",
                                          in_repository=True)
        return file

    monkeypatch.setattr(weights_module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(weights_module, "load_manifest", lambda: manifest)
    monkeypatch.chdir(tmp_path)
    return publish


def test_the_repositorys_checkpoint_goes_by_its_name(repository, tmp_path):
    save_super_resolver("own/metaf2n-small.npz", small_generator(), small_masknet())
    file = repository()
    found, expected = (load_super_resolver(path, weights_dir=tmp_path / "w") for path in ("metaf2n-small", str(file)))
    assert_same(found.generator, expected.generator)
    assert_same(found.mask, expected.mask)
    assert found.source == str(file)
    assert found.meta_trained


def test_the_repositorys_checkpoint_is_verified_and_got_back_with_git(repository, tmp_path):
    save_super_resolver("own/metaf2n-small.npz", small_generator())
    file = repository()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    fails("metaf2n-small", rf"^{file}: wrong hash .*Get it back with: git -C {tmp_path} checkout -- own/metaf2n-small")
    file.unlink()
    fails("metaf2n-small", "^metaf2n-small.npz not found in .* Get it back with: git ")


def test_the_published_checkpoint_goes_by_its_name_once_it_is_there(repository):
    fails("metaf2n", r"Download it by hand from https://example\.org/drive")
    write_tf1_checkpoint("own/model-new", checkpoint_tensors(small_generator(), small_masknet()))
    assert_same(load_super_resolver("metaf2n").generator, small_generator())


@pytest.mark.parametrize("there", ["metaf2n-small.index", "metaf2n-small/model.index"])
def test_a_checkpoint_or_folder_goes_before_a_name_of_the_manifest(repository, there):
    save_super_resolver("own/metaf2n-small.npz", small_generator())
    repository()
    changed = {name: value + 1 for name, value in small_generator().items()}
    write_tf1_checkpoint(Path(there).with_suffix(""), checkpoint_tensors(changed))
    assert_same(load_super_resolver("metaf2n-small").generator, changed)


def test_a_mistyped_name_gets_a_suggestion(repository):
    save_super_resolver("own/metaf2n-small.npz", small_generator())
    repository()
    for name in ("metaf2n-smal", "metaf2n-small.npz"):
        fails(name, rf"no weights are called '{name}'\. Did you mean 'metaf2n-small'\?")


@pytest.mark.parametrize(("path", "expected"), [
    ("metaf2n-small", True), ("metaf2n", True), ("realesrgan", True), ("realesrgan-anime", True),
    ("gpen-512", False), ("model-new", False), ("./metaf2n-small", False), ("rrdb-face", False)])
def test_names_are_told_from_paths(tmp_path, monkeypatch, path, expected):
    monkeypatch.chdir(tmp_path)
    assert is_weights_name(path) is expected
    Path(path).write_bytes(b"")
    assert not is_weights_name(path)


def assert_halves(loaded, exact):
    assert loaded.keys() == exact.keys()
    for name, value in exact.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], value.astype(np.float16))


def test_a_saved_npz_gives_both_networks_back_rounded_to_float16(tmp_path):
    save_super_resolver(tmp_path / "new" / "x.npz", small_generator(), small_masknet())
    weights = load_super_resolver(str(tmp_path / "new" / "x.npz"))
    assert_halves(weights.generator, small_generator())
    assert_halves(weights.mask, small_masknet())
    assert any((weights.generator[name] != value).any() for name, value in small_generator().items())
    assert weights.meta_trained
    assert weights.source == str(tmp_path / "new" / "x.npz")


def test_an_npz_holds_float16_under_the_names_of_a_tf1_checkpoint_and_once_rounded_stays(tmp_path):
    save_super_resolver(tmp_path / "x.npz", small_generator(), small_masknet())
    with np.load(tmp_path / "x.npz") as file:
        assert set(file.files) == set(checkpoint_tensors(small_generator(), small_masknet()))
        assert {"MODEL/body/0/rdb1/conv1/weight", "Mask/conv1/kernel"} < set(file.files)
        assert {file[name].dtype for name in file.files} == {np.dtype(np.float16)}
    loaded = load_super_resolver(str(tmp_path / "x.npz"))
    save_super_resolver(tmp_path / "again.npz", loaded.generator, loaded.mask)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "x.npz").read_bytes()


def test_equal_parameters_of_tensorflow_or_numpy_in_any_order_give_equal_bytes(tmp_path):
    for name, networks in (("a.npz", (small_generator(), small_masknet())), ("b.npz", [
            dict(reversed([(key, tf.constant(value)) for key, value in params.items()]))
            for params in (small_generator(), small_masknet())])):
        save_super_resolver(tmp_path / name, *networks)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_npz_of_float32_is_read_bit_for_bit(tmp_path):
    np.savez(tmp_path / "x.npz", **checkpoint_tensors(small_generator(), small_masknet()))
    weights = load_super_resolver(str(tmp_path / "x.npz"))
    assert_same(weights.generator, small_generator())
    assert_same(weights.mask, small_masknet())


def test_an_npz_without_masknet_has_none(tmp_path):
    save_super_resolver(tmp_path / "x.npz", small_generator())
    assert load_super_resolver(str(tmp_path / "x.npz")).mask is None


@pytest.mark.parametrize("value", [np.nan, -np.inf, 65520.0])
def test_values_beyond_float16_are_neither_written_nor_read(tmp_path, value):
    mask = small_masknet()
    mask["conv8/bias"] = np.full(1, value, np.float32)
    with pytest.raises(UserError, match=r"^these weights cannot be written as float16: Mask/conv8/bias has values that "
                                        r"are not finite or beyond 65504\. Take an earlier checkpoint\.$"):
        save_super_resolver(tmp_path / "x.npz", small_generator(), mask)
    assert list(tmp_path.iterdir()) == []
    with np.errstate(over="ignore"):
        np.savez(tmp_path / "x.npz", **{name: array.astype(np.float16) for name, array in
                                        checkpoint_tensors(small_generator(), mask).items()})
    fails(tmp_path / "x.npz", r"x\.npz holds no super-resolver: Mask/conv8/bias has values that are not finite\. Fetch")


@pytest.mark.parametrize(("arrays", "match"), [
    ({}, "not those of RRDBNet. missing: conv_first/weight"),
    ({"x\n": np.zeros(3)}, r"the name x\\n begins neither with MODEL/ nor Mask/"),
    (small_generator(), "the name conv_first/weight begins neither with MODEL/ nor Mask/"),
    ({**checkpoint_tensors(small_generator()), "global_step": np.zeros(())}, "the name global_step begins"),
    ({**checkpoint_tensors(small_generator()), "Mask/conv1/bias": np.zeros(64)}, "of MaskNet. missing: conv1/kernel"),
    ({**checkpoint_tensors(small_generator()), "MODEL/conv_last/bias": np.zeros(4)}, r"conv_last/bias \(4,\) instead"),
    ({"MODEL/conv_first/weight": np.array({"a": 1}, object)}, "of the type object, not of numbers"),
    ({"MODEL/conv_first/weight": np.array("text")}, "of the type str128, not of numbers")],
    ids=["nothing", "foreign", "without scopes", "more", "half a MaskNet", "another shape", "pickled", "text"])
def test_an_npz_of_something_else_is_one_line_that_says_why(tmp_path, arrays, match):
    np.savez(tmp_path / "x.npz", **arrays)
    fails(tmp_path / "x.npz", rf"x\.npz holds no super-resolver: .*{match}.* Fetch or make it again\.$")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing", "folder"])
def test_a_damaged_npz_is_named(tmp_path, damage):
    file = tmp_path / "x.npz"
    save_super_resolver(file, small_generator())
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes({"truncated": data[: len(data) // 2], "garbage": bytes(len(data)), "empty": b""}[damage])
    fails(file, f"^cannot read {file}: " if damage in ("missing", "folder") else f"^{file} holds no super-resolver: ")


def test_an_npz_that_cannot_be_written_is_one_line_and_keeps_the_earlier_one(tmp_path, monkeypatch):
    save_super_resolver(tmp_path / "x.npz", small_generator())
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path / 'x.npz' / 'y.npz'}: "):
        save_super_resolver(tmp_path / "x.npz" / "y.npz", small_generator())

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path / 'x.npz'}: No space left"):
        save_super_resolver(tmp_path / "x.npz", {"conv_first/bias": np.ones(8)})
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    assert_halves(load_super_resolver(str(tmp_path / "x.npz")).generator, small_generator())


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
