import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from model.rrdbnet import rrdbnet_shapes
from tests.helpers.ncnn_file_writers import write_rrdbnet
from tests.helpers.small_networks import small_generator, small_masknet
from tests.helpers.torch_file_writers import write_state
from utils.errors import UserError
from utils.weights import manifest as weights_module
from utils.weights.checkpoints import (
    checkpoint_tensors,
    find_checkpoint,
    load_super_resolver,
    read_tensors,
    read_tf1_checkpoint,
    write_tf1_checkpoint,
)
from utils.weights.manifest import Entry, FileSet, WeightFile, sha256_of
from utils.weights.npz import write_npz_weights

DATA = Path(__file__).parents[2] / "data"
TENSORS = checkpoint_tensors(small_generator(), small_masknet())


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


def restore_with_tf1(prefix, arrays):
    """Read a checkpoint the way the original test.py does: a Saver over variables of these names and shapes."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.get_variable(name, initializer=tf.zeros(value.shape), use_resource=False)
                     for name, value in arrays.items()}
        tf.compat.v1.train.Saver(list(variables.values())).restore(session, str(prefix))
        return session.run(variables)


@pytest.mark.parametrize("folder", ["new", "a [1]*?"])  # TensorFlow takes the latter for patterns
def test_what_is_written_is_read_back_and_nothing_else_is_left(tmp_path, folder):
    folder = tmp_path / folder
    write_tf1_checkpoint(folder / "model-3", checkpoint_tensors(small_generator()))
    assert load_super_resolver(str(folder / "model-3")).mask is None
    write_tf1_checkpoint(folder / "model-3", TENSORS)
    weights = load_super_resolver(str(folder / "model-3"))
    assert_same(weights.generator, small_generator())
    assert_same(weights.mask, small_masknet())
    assert weights.meta_trained
    assert sorted(file.name for file in (folder).iterdir()) == [
        "model-3.data-00000-of-00001", "model-3.index"]


def test_the_original_loads_ours(tmp_path):
    write_tf1_checkpoint(tmp_path / "model", TENSORS)
    for scope in ("MODEL/", "Mask/"):
        arrays = {name: value for name, value in TENSORS.items() if name.startswith(scope)}
        assert_same(restore_with_tf1(tmp_path / "model", arrays), arrays)


def test_an_original_checkpoint_loads_by_its_prefix_any_of_its_files_or_its_folder(tmp_path):
    slots = {f"{name}/{slot}": value + 1 for name, value in TENSORS.items() for slot in ("Adam", "Adam_1")}
    others = {"Discriminator/conv1/u": np.ones((1, 4), np.float32), "global_step": np.int32(7)}
    save_with_tf1(tmp_path / "model-new", {**TENSORS, **slots, **others})
    for given in ("model-new", "model-new.index", "model-new.meta", "model-new.data-00000-of-00001", ""):
        assert_same(read_tf1_checkpoint(tmp_path / given), TENSORS)
        weights = load_super_resolver(str(tmp_path / given))
        assert_same(checkpoint_tensors(weights.generator, weights.mask), TENSORS)


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


def torch_state():
    """Return the small generator under PyTorch's names, kernels OIHW."""
    return {name.replace("/", "."): value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
            for name, value in small_generator().items()}


ESRGAN = {"conv_first": "model.0", "conv_body": "model.1.sub.1", "conv_up1": "model.3", "conv_up2": "model.6",
          "conv_hr": "model.8", "conv_last": "model.10"}, "model.1.sub.0.RDB{}.conv{}.0"
BSRGAN = {"conv_first": "conv_first", "conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2",
          "conv_hr": "HRconv", "conv_last": "conv_last"}, "RRDB_trunk.0.RDB{}.conv{}"


@pytest.mark.parametrize(("names", "dense"), [ESRGAN, BSRGAN], ids=["ESRGAN", "BSRGAN"])
def test_files_with_the_older_names_of_the_network_are_read(tmp_path, names, dense):
    names = names | {f"body.0.rdb{block}.conv{index}": dense.format(block, index)
                     for block in (1, 2, 3) for index in range(1, 6)}
    state = {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
             for name, value in torch_state().items()}
    assert_same(load_super_resolver(str(write_state(tmp_path / "x.pth", state))).generator, small_generator())


@pytest.mark.parametrize("name", ["x.ckpt", "x", "x.npz", "x.bin"])
@pytest.mark.parametrize("kind", ["torch", "npz", "safetensors"])
def test_a_file_is_recognised_by_its_content_whatever_its_name(tmp_path, name, kind):
    file = tmp_path / name
    if kind == "torch":
        write_state(file, torch_state())
    elif kind == "npz":
        with file.open("wb") as stream:
            np.savez(stream, **TENSORS)
    else:
        state = {key: np.ascontiguousarray(value) for key, value in torch_state().items()}
        file.write_bytes(safetensors.numpy.save(state))
    weights = load_super_resolver(str(file))
    assert_same(weights.generator, small_generator())
    assert (weights.meta_trained, weights.mask is not None) == ((True, True) if kind == "npz" else (False, False))


@pytest.mark.parametrize("index", [0, 1])
def test_an_ncnn_pair_loads_by_either_file(tmp_path, index):
    *paths, convolutions = write_rrdbnet(tmp_path)
    weights = load_super_resolver(str(paths[index]))
    assert not weights.meta_trained
    np.testing.assert_array_equal(weights.generator["body/1/rdb3/conv5/weight"],
                                  convolutions[30].transpose(2, 3, 1, 0))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose manifest knows metaf2n-small; returns its file."""
    file = tmp_path / "own" / "metaf2n-small.npz"
    write_npz_weights(file, TENSORS)
    file_set = FileSet("float16", (WeightFile(file.name, file.stat().st_size, sha256_of(file)),), ())
    entry = Entry("metaf2n-small", "small", "MIT", ("test.py",), (file_set,), folder="own", in_repository=True)
    monkeypatch.setattr(weights_module, "REPOSITORY", tmp_path)
    for module in ("manifest", "checkpoints"):
        monkeypatch.setattr(f"utils.weights.{module}.load_manifest", lambda: {entry.name: entry})
    monkeypatch.chdir(tmp_path)
    return file


def test_the_repositorys_checkpoint_goes_by_its_name(repository, tmp_path):
    by_name, by_path = (load_super_resolver(path, weights_dir=tmp_path / "w")
                        for path in ("metaf2n-small", str(repository)))
    assert_same(by_name.generator, by_path.generator)
    assert_same(by_name.mask, by_path.mask)
    assert by_name.source == str(repository)


@pytest.mark.parametrize("there", ["metaf2n-small.index", "metaf2n-small/model.index"])
def test_a_file_or_folder_does_not_hide_a_name_of_the_manifest_and_is_read_by_its_path(repository, there):
    changed = {name: value + 1 for name, value in small_generator().items()}
    write_tf1_checkpoint(Path(there).with_suffix(""), checkpoint_tensors(changed))
    assert load_super_resolver("metaf2n-small").source == str(repository)
    assert_same(load_super_resolver("./metaf2n-small").generator, changed)


@pytest.mark.parametrize("name", ["metaf2n-smal", "metaf2n-small_x.pth"])
def test_a_mistyped_name_or_file_does_not_exist_and_gets_suggestions(repository, name):
    fails(name, rf"{name} does not exist.* metaf2n-small")
    Path("metaf2n-smell.pth").touch()
    fails(name, "metaf2n-smell.pth")


def changed_tensors(**changes):
    """Return both networks' tensors, with changes by their names; None removes one."""
    tensors = {**TENSORS, **{name.replace("__", "/"): value for name, value in changes.items()}}
    return {name: value for name, value in tensors.items() if value is not None}


@pytest.mark.parametrize("kind", ["npz", "TF1"])
@pytest.mark.parametrize(("tensors", "match"), [
    ({"x": np.zeros(3)}, "missing: conv_first/weight"),
    (small_generator(), "missing: conv_first/weight"),
    (changed_tensors(Mask__conv5__bias=None), "MaskNet. missing: conv5/bias"),
    (changed_tensors(MODEL__conv_up2__weight=None, MODEL__conv_up3__weight=TENSORS["MODEL/conv_up2/weight"]),
     "missing: conv_up2/weight; extra: conv_up3/weight"),
    (changed_tensors(MODEL__conv_last__bias=np.zeros(4)), r"conv_last/bias \(4,\) instead"),
    (changed_tensors(Mask__conv8__bias=np.float32([np.nan])), "Mask/conv8/bias")],
    ids=["nothing", "without scopes", "half a MaskNet", "another name", "another shape", "not finite"])
def test_another_network_is_one_line_that_says_what_differs(tmp_path, tensors, kind, match):
    if kind == "npz":
        np.savez(tmp_path / "x", **tensors)
    else:
        write_tf1_checkpoint(tmp_path / "x", tensors)
    fails(tmp_path / ("x.npz" if kind == "npz" else "x"), rf"{tmp_path / 'x'}.*{match}")


@pytest.mark.parametrize("path", ["absent", "absent/model-new", "gone.pth", "gone.bin"])
def test_a_missing_checkpoint_is_named(tmp_path, path):
    fails(tmp_path / path, f"{tmp_path / path} does not exist")
    fails(tmp_path, f"no checkpoint in the folder {tmp_path}")


@pytest.mark.parametrize("name", ["model.index", "model.data-00000-of-00001", "x.npz", "x.pth"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: bytes(len(data)),
                                    lambda data: b"", None], ids=["truncated", "garbage", "empty", "missing"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    write_tf1_checkpoint(tmp_path / "model", TENSORS)
    write_npz_weights(tmp_path / "x.npz", checkpoint_tensors(small_generator()))
    write_state(tmp_path / "x.pth", torch_state())
    file = tmp_path / name
    data = file.read_bytes()
    file.unlink()
    if damage is not None:
        file.write_bytes(damage(data))
    fails(tmp_path / name.split(".index")[0].split(".data")[0], str(tmp_path / name.split(".")[0]))


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=str(tmp_path / "file" / "model")) as error:
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


def test_the_folder_of_a_run_gives_its_latest_checkpoint(tmp_path):
    for name in ("average-1000", "average-20", "model-1000", "model-900"):
        write_tf1_checkpoint(tmp_path / "trial_8" / "checkpoints" / name, {"x": np.zeros(1, np.float32)})
    assert find_checkpoint(tmp_path / "trial_8") == tmp_path / "trial_8" / "checkpoints" / "model-1000"


def test_a_folder_with_several_checkpoints_gives_the_one_its_state_file_names(tmp_path):
    names = ("average-2", "model-1", "model.v1.2")
    for name in names:
        write_tf1_checkpoint(tmp_path / name, {"x": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=", ".join(names)):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-1"\n')
    assert find_checkpoint(tmp_path) == tmp_path / "model-1"
    for ending in ("", ".index", ".data-00000-of-00001"):  # dots in a prefix are part of it
        assert find_checkpoint(tmp_path / f"model.v1.2{ending}") == tmp_path / "model.v1.2"
