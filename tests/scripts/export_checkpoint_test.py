"""The tool: values in both formats, what it prints, and errors of one line."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from scripts.export_checkpoint import main
from tests.helpers.small_networks import small_generator, small_masknet
from tests.helpers.tracing import untraced
from tests.helpers.workplace import Workplace
from utils.errors import UserError
from utils.weights.checkpoints import (
    checkpoint_tensors,
    load_super_resolver,
    read_tf1_checkpoint,
    write_tf1_checkpoint,
)

PYTORCH = Path(__file__).parents[1] / "data" / "torch" / "rrdbnet.pth"
TENSORS = checkpoint_tensors(small_generator(), small_masknet())
NUM_GENERATOR = sum(value.size for value in small_generator().values())


@pytest.fixture
def model(tmp_path):
    """A checkpoint of main.py: the networks, and what an export leaves behind."""
    others = {"MODEL/conv_last/bias/Adam": np.ones(3, np.float32), "global_step": np.int32(7),
              "Discriminator/conv0/bias": np.ones(4, np.float32)}
    write_tf1_checkpoint(tmp_path / "run" / "model-7", {**TENSORS, **others})
    return tmp_path / "run" / "model-7"


def export(model, output, *more):
    assert main(["--model_dir", str(model), "--output", str(output), *map(str, more)]) == 0


def fails(match, model, output, *more):
    with pytest.raises(UserError, match=match) as caught:
        export(model, output, *more)
    assert "\n" not in str(caught.value)


def assert_equal(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        np.testing.assert_array_equal(tensors[name], value)


def test_a_checkpoint_becomes_an_npz_rounded_to_float16(model, tmp_path, capsys):
    output = tmp_path / "new" / "x.npz"
    export(model, output)
    with np.load(output) as file:
        assert_equal(dict(file), {name: value.astype(np.float16) for name, value in TENSORS.items()})
    shown = capsys.readouterr()
    for part in (str(output), f"{NUM_GENERATOR:,}", "225,665", hashlib.sha256(output.read_bytes()).hexdigest()):
        assert part in shown.out
    assert shown.err == ""


def test_an_export_in_the_originals_format_holds_the_networks_bit_for_bit_and_nothing_else(model, tmp_path, capsys):
    export(model, tmp_path / "out" / "model.v2")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "model.v2.data-00000-of-00001", "model.v2.index"]
    assert_equal(read_tf1_checkpoint(tmp_path / "out" / "model.v2"), TENSORS)
    assert {name for name, _ in tf.train.list_variables(str(tmp_path / "out" / "model.v2"))} == set(TENSORS)
    assert str(tmp_path / "out" / "model.v2") in capsys.readouterr().out


@pytest.mark.parametrize("output", ["x.npz", "model"])
def test_weights_without_masknet_are_exported_without_and_with_a_note(tmp_path, capsys, output):
    export(PYTORCH, tmp_path / output)
    found, expected = load_super_resolver(str(tmp_path / output)), load_super_resolver(str(PYTORCH))
    assert found.mask is None
    for name, value in expected.generator.items():
        np.testing.assert_array_equal(found.generator[name],
                                      value.astype(np.float16 if output.endswith(".npz") else np.float32))
    notes = capsys.readouterr().err
    assert f"{PYTORCH} has no MaskNet" in notes
    assert "not meta-trained" in notes


@pytest.mark.parametrize(("output", "there"), [
    ("x.npz", "x.npz"), ("model", "model.index"), ("model", "model.data-00000-of-00001")])
def test_what_is_there_is_replaced_only_when_asked_to(model, tmp_path, output, there):
    (tmp_path / there).write_bytes(b"mine")
    fails(f"{tmp_path / there} .*--overwrite", model, tmp_path / output)
    assert (tmp_path / there).read_bytes() == b"mine"
    export(model, tmp_path / output, "--overwrite")
    assert load_super_resolver(str(tmp_path / output)).mask.keys() == small_masknet().keys()


def test_test_py_adapts_with_an_export_as_with_the_rounded_checkpoint(tmp_path):
    place = Workplace(tmp_path)
    place.add_photo("a.png")
    export(tmp_path / "model-new", tmp_path / "x.npz")
    export(tmp_path / "x.npz", tmp_path / "rounded")
    with untraced():
        for name in ("x.npz", "rounded"):
            assert place.run("--model_dir", str(tmp_path / name), out=tmp_path / "out" / name) == 0
    assert place.report(out=tmp_path / "out" / "x.npz")["a.png"]["status"] == "adapted"
    assert place.results(tmp_path / "out" / "x.npz") == place.results(tmp_path / "out" / "rounded") != {}


def test_an_entry_of_a_pytorch_file_is_chosen_by_its_name(tmp_path):
    file = PYTORCH.parent / "checkpoint.pth"  # of another network: the error names the array of the chosen entry
    fails("extra: w", file, tmp_path / "x.npz", "--weights_key", "params")
    fails("'g'.*params, params_ema", file, tmp_path / "x.npz", "--weights_key", "g")


def test_a_failed_export_leaves_nothing(model, tmp_path):
    generator = small_generator()
    generator["conv_hr/bias"] = np.full(8, 1e6, np.float32)
    write_tf1_checkpoint(model, checkpoint_tensors(generator))
    fails("float16: MODEL/conv_hr/bias", model, tmp_path / "x.npz")
    below_a_file = tmp_path / "run" / "model-7.index" / "x.npz"
    fails(str(below_a_file), PYTORCH, below_a_file)
    fails("/nowhere/model", "/nowhere/model", tmp_path / "x.npz")
    fails(r"download_weights\.py realesrgan --weights_dir", "realesrgan", tmp_path / "x.npz", "--weights_dir", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("output", ["x.pth", "model.index", "model.data-00000-of-00001", "x.bin", ".", "run"])
def test_an_output_that_test_py_would_take_for_something_else_is_refused(model, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    fails(f"--output .*{output}", model, output)
