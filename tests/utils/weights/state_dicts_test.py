"""Files written by PyTorch (tests/data/torch, see the script there), NumPy pickles, and hostile or damaged files."""

import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.helpers.torch_file_writers import (
    MAGIC,
    SIX,
    dict_code,
    literal,
    storage_code,
    tensor_code,
    write_legacy,
    write_zip,
)
from utils.errors import UserError
from utils.weights.manifest import Entry, FileSet, UrlSource, WeightFile
from utils.weights.state_dicts import load_params, load_state_dict

FIXTURES = Path(__file__).parents[2] / "data" / "torch"
FORMATS = ["zip", "legacy"]
WRITERS = [write_zip, write_legacy]

with np.load(FIXTURES / "expected.npz") as archive:
    EXPECTED = dict(archive)


def fails(path: Path, message: str, **options) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_state_dict(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def holds(path: Path, expected: dict[str, np.ndarray], **options) -> None:
    found = load_state_dict(path, **options)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("file_format", FORMATS)
def test_tensors_have_the_values_that_pytorch_saved_and_memory_of_their_own(file_format):
    found = load_state_dict(FIXTURES / f"{file_format}.pth", "tensors")
    assert sorted(found) == sorted(EXPECTED)
    for name, array in found.items():
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.flags.c_contiguous
        if name == "dtype_bfloat16":
            assert array.dtype == ml_dtypes.bfloat16
            array = array.view(np.uint16)
        np.testing.assert_array_equal(array, EXPECTED[name], strict=True)


@pytest.mark.parametrize(("file", "expected"), [
    ("unsigned", {"uint16": np.array([1, 65535], np.uint16), "uint32": np.array([7], np.uint32)}),
    ("parameters", {"weight": np.array([[1, 2]], np.float32), "bias": np.array([3], np.float32)}),
    ("without_checksums", {"w": np.array([1, 2], np.float32)}),
    ("module", {"0.weight": np.array([[1, 2]], np.float32), "0.bias": np.array([3], np.float32)}),  # DataParallel
    ("checkpoint", {"w": np.array([2], np.float32)}),  # params_ema goes before params
])
def test_what_pytorch_writes_in_other_ways_is_read(file, expected):
    holds(FIXTURES / f"{file}.pth", expected)


def test_the_prefix_of_torch_compile_is_removed(tmp_path):
    holds(write_zip(tmp_path / "a.pth", dict_code(**{"_orig_mod.module.w": tensor_code()})), {"w": SIX})


def test_a_view_of_a_legacy_storage_and_any_stride_of_an_axis_of_one_element_are_read(tmp_path):
    code = dict_code(w=tensor_code(storage_code(view=literal(("1", 2, 3))), 1, (2,)))
    holds(write_legacy(tmp_path / "a.pth", code), {"w": SIX[3:5]})
    holds(write_zip(tmp_path / "b.pth", dict_code(w=tensor_code(None, 2, (1, 3), (2**62, 1)))), {"w": SIX[None, 2:5]})


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_numpy_arrays_are_read_with_nested_names(tmp_path, protocol):
    arrays = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "fortran": np.asfortranarray(EXPECTED["base"]),
              "big": np.array([1, 2], ">f8"), "count": np.array(3)}
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"Net": {"Conv": arrays}, "epoch": 3, "best": np.float64(0.5)},
                                                   protocol))
    holds(tmp_path / "a.ckpt", {f"Net/Conv/{name}": array for name, array in arrays.items()})


@pytest.mark.parametrize("values", [np.array([None]), np.array(["text"]), np.zeros(2, "f4,i4")])
def test_numpy_arrays_of_anything_but_numbers_are_refused(tmp_path, values):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"w": values}))
    fails(tmp_path / "a.ckpt", "numbers")


def test_key_chooses_the_entry_and_a_missing_one_is_answered_with_those_there_are():
    holds(FIXTURES / "checkpoint.pth", {"w": np.array([1], np.float32)}, key="params")
    fails(FIXTURES / "checkpoint.pth", "'g_ema'.* params, params_ema", key="g_ema")


@pytest.mark.parametrize("key", [None, "epoch"])
def test_an_entry_without_tensors_is_refused(tmp_path, key):
    path = write_zip(tmp_path / "a.pth", dict_code(epoch=literal(1), other=literal({"a": 1})))
    fails(path, "no weights.*epoch, other", key=key)


def state_code(name: str) -> bytes:
    return b"}" + literal(name) + tensor_code() + b"s"


@pytest.mark.parametrize(("entries", "chosen"), [
    ({"params": state_code("a"), "params_ema": b"N"}, "a"),
    ({"netG": state_code("a"), "epoch": literal(1)}, "a"),
    ({"w": tensor_code(), "optimizer": state_code("a")}, "w"),
    ({"optimizer": state_code("a"), "state_dict": state_code("b")}, "b"),
])
def test_the_entry_that_has_the_weights_is_found(tmp_path, entries, chosen):
    holds(write_zip(tmp_path / "a", dict_code(**entries)), {chosen: SIX})


def test_several_entries_that_may_be_the_weights_are_named_with_the_flag_that_chooses(tmp_path):
    path = write_zip(tmp_path / "a.pth", dict_code(netG=state_code("a"), netD=state_code("b"), epoch=literal(1)))
    fails(path, "netG, netD.*--weights_key")
    holds(path, {"b": SIX}, key="netD")


def test_safetensors_are_read_by_their_content(tmp_path):
    half = np.array([1.5, -3], ml_dtypes.bfloat16)
    arrays = {"half": np.array([[1, -2.5]], np.float16), "single": SIX.reshape(2, 3), "count": np.array(7),
              "flag": np.array([True, False])}
    safetensors.numpy.save_file(arrays, tmp_path / "a.pth")
    found = load_state_dict(tmp_path / "a.pth")
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    (tmp_path / "cut").write_bytes((tmp_path / "a.pth").read_bytes()[:-1])
    fails(tmp_path / "cut", "not a readable")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header + half.tobytes())
    holds(tmp_path / "b", {"w": half})


def test_names_that_become_equal_without_the_prefix_are_refused(tmp_path):
    fails(write_zip(tmp_path / "a.pth", dict_code(**{"w": tensor_code(), "module.w": tensor_code()})), "name w")


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker: Path) -> dict[str, bytes]:
    """Pickles that leave `marker` behind where they are executed, or set what they must not."""
    command = f"touch {marker}"
    system = f"c{os.system.__module__}\nsystem\n".encode()
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return {
        **{f"protocol {number}": pickle.dumps({"w": Calls(os.system, command)}, number) for number in (0, 2, 4)},
        "eval": pickle.dumps({"w": Calls(eval, f"open({str(marker)!r}, 'w')")}, 2),
        "INST": b"\x80\x02}" + literal("w") + b"(" + literal(command) + b"i" + system[1:] + b"s.",
        "NEWOBJ": b"\x80\x02}" + literal("w") + system + literal((command,)) + b"\x81s.",
        "in a legacy storage": dict_code(w=system + literal(command) + b"\x85RQ"),
        "dotted through an allowed name": dict_code(w=b"\x8c\x05torch\x8c\x18Size.__class__.__base__1\x93)R"),
        "attributes of a function": dict_code(w=function + literal((None, {"__defaults__": (1,)})) + b"b"),
        "a new function in a function": dict_code(w=function + literal((None, {"function": 1})) + b"b"),
        "byte order of float32": dict_code(
            w=b"ctorch\nFloatStorage\n" + literal((3, ">", None, None, None, -1, -1, 0)) + b"b"),
        "a storage type called": dict_code(w=b"ctorch\nFloatStorage\n)R"),
    }


@pytest.mark.parametrize("attack", list(attacks(Path("/nowhere"))))
@pytest.mark.parametrize("write", [*WRITERS, lambda path, code: path.write_bytes(code) and path],
                         ids=["zip", "legacy", "bare"])
def test_code_is_refused_and_not_run(tmp_path, attack, write):
    fails(write(tmp_path / "bad.pth", attacks(tmp_path / "marker")[attack]), "bad.pth")
    assert not (tmp_path / "marker").exists()
    holds(write_zip(tmp_path / "a.pth", dict_code(w=tensor_code())), {"w": SIX})  # nothing here has changed


def test_the_attacks_are_real_and_a_refusal_names_what_was_asked_for(tmp_path):
    attack = attacks(tmp_path / "marker")["protocol 2"]
    pickle.loads(attack)
    assert (tmp_path / "marker").exists()
    fails(write_zip(tmp_path / "bad.pth", attack), f"{os.system.__module__}.system")


def test_a_platform_record_of_a_legacy_file_cannot_run_code(tmp_path):
    evil = pickle.dumps(Calls(os.system, f"touch {tmp_path / 'marker'}"), 2)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + evil)
    fails(tmp_path / "bad.pth", "system")
    assert not (tmp_path / "marker").exists()


def doubled(start: bytes, wrap: bytes, times: int = 60) -> bytes:
    """An object that holds itself twice, `times` times over: a text or a walk of it would never end."""
    return start + b"".join(b"q\x09" + wrap for _ in range(times))


@pytest.mark.parametrize("write", [*WRITERS, lambda path, code: path.write_bytes(code) and path],
                         ids=["zip", "legacy", "bare"])
@pytest.mark.parametrize("code", [
    doubled(b"}", b"0}" + literal("a") + b"h\x09s" + literal("b") + b"h\x09s"),  # dictionaries
    tensor_code(shape=(1,)).replace(literal((1,)), b"(" + doubled(b"]", b"0]h\x09ah\x09a") + b"t"),
    tensor_code(b"(" + literal("storage") + b"ctorch\nFloatStorage\n" + literal("0") + literal("cpu")
                + doubled(b"]", b"0]h\x09ah\x09a") + b"tQ")], ids=["dictionaries", "shape", "size"])
def test_references_to_one_object_from_many_places_take_no_exponential_time(tmp_path, write, code):
    fails(write(tmp_path / "bad.pth", dict_code(w=code)), "bad.pth")


def test_attributes_of_a_state_dict_are_dropped(tmp_path):
    slots = (None, {"items": "overwritten", "__class__": 1})  # pickle would set these
    code = b"\x80\x02ccollections\nOrderedDict\n)R" + literal("w") + tensor_code() + b"s" + literal(slots) + b"b."
    holds(write_zip(tmp_path / "a.pth", code), {"w": SIX})


def test_control_characters_of_a_name_are_not_printed(tmp_path):
    path = write_zip(tmp_path / "bad.pth", dict_code(w=b"\x8c\x03a\nb\x8c\x05\x1b[31m\x93"))
    fails(path, re.escape(r"a\nb.\x1b[31m"))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("offset", "shape", "strides"), [
    (0, (7,), (1,)), (6, (1,), (1,)), (0, (2, 3), (4, 1)), (2**62, (1,), (1,)), (0, (2**40, 2**40), (1, 1)),
    (0, (2,), (2**62,)), (-1, (2,), (1,)), (0, (3,), (-1,)), (0, (-1,), (1,)), (0, (2, 3), (1,)), (0, (6.0,), (1,)),
    (0, (1,) * 65, (1,) * 65), (2**70, (1,), (1,))])
def test_a_tensor_outside_its_storage_or_of_an_impossible_shape_is_refused(tmp_path, write, offset, shape, strides):
    fails(write(tmp_path / "bad.pth", dict_code(w=tensor_code(None, offset, shape, strides))), "bad.pth")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("size", [7, 2**40, -1])
def test_a_storage_that_does_not_have_the_stated_size_is_refused(tmp_path, write, size):
    fails(write(tmp_path / "bad.pth", dict_code(w=tensor_code(storage_code(size), 0, (2,)))), "storage 0")


def test_an_expansion_far_beyond_the_file_is_refused(tmp_path):
    zeros = dict_code(w=tensor_code(None, 0, (2**30, 2**10), (0, 0)))
    fails(write_zip(tmp_path / "bad.pth", zeros), "expand far beyond")
    path = write_zip(tmp_path / "bad.pth", dict_code(w=tensor_code()), {"0": bytes(65 * 2**20)}, zipfile.ZIP_DEFLATED)
    fails(path, "expand far beyond")


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty"), (b"\n<!DOCTYPE html><p>sign in", "a web page"), (b"version https://git-lfs", "not a file of we"),
    (pickle.dumps([1, 2]), "dictionary"), (pickle.dumps({"a": 1}), "no arrays"), (b"\x80\x02garbage", "not a readable"),
    (b"PK\x03\x04garbage", "not a readable"),
])
def test_a_file_of_another_kind_is_named(tmp_path, content, reason):
    (tmp_path / "bad.pth").write_bytes(content)
    fails(tmp_path / "bad.pth", reason)


def test_another_byte_order_other_storages_and_an_archive_of_something_else_are_named(tmp_path):
    fails(write_zip(tmp_path / "order.pth", dict_code(w=tensor_code()), extra=[("byteorder", b"big")]), "byte order")
    fails(write_legacy(tmp_path / "keys.pth", dict_code(w=tensor_code()), keys=["1"]), "list of storages")
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as file:
        file.writestr("word/document.xml", "<w/>")
    fails(tmp_path / "bad.pth", r"not one written by torch\.save")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_cut_anywhere_is_refused(tmp_path, file_format):
    data = (FIXTURES / f"{file_format}.pth").read_bytes()
    for end in range(0, len(data), len(data) // 40):
        (tmp_path / "cut.pth").write_bytes(data[:end])
        fails(tmp_path / "cut.pth", "cut.pth", key="tensors")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    fails(tmp_path / "none.pth", "No such file")
    fails(tmp_path, "Is a directory")


@pytest.fixture
def entries(monkeypatch):
    """An entry of two files without hashes, one with a hash, known as the manifest's only ones."""
    source = (UrlSource("https://example.org/net"),)
    entries = {
        "pair": Entry("pair", "two files", "MIT", ("main.py",), (
            FileSet("v", (WeightFile("a.pth"), WeightFile("b.pth")), source),)),
        "pinned": Entry("pinned", "one file", "MIT", ("main.py",), (
            FileSet("v", (WeightFile("a.pth", None, "0" * 64),), source),), given_by="--net {file}")}
    monkeypatch.setattr("utils.weights.manifest.load_manifest", lambda: entries)


def sums(state):
    if "a" not in state:
        raise ValueError("missing: a")
    return {name: array.sum() for name, array in state.items()}


def test_the_files_of_an_entry_are_converted_together(entries, tmp_path):
    for name in "ab":
        write_zip(tmp_path / f"{name}.pth", dict_code(**{name: tensor_code()}))
    assert load_params("pair", sums, weights_dir=tmp_path) == {"a": SIX.sum(), "b": SIX.sum()}


def test_a_file_given_by_path_is_not_compared_with_a_hash(entries, tmp_path):
    path = write_zip(tmp_path / "a.pth", dict_code(a=tensor_code()))
    assert load_params(str(path), sums) == {"a": SIX.sum()}
    with pytest.raises(UserError, match=rf"wrong hash.*--net {path}"):
        load_params("pinned", sums, weights_dir=tmp_path)


def test_missing_weights_are_named_with_the_alternative(entries, tmp_path):
    with pytest.raises(UserError, match=r"a\.pth.*download_weights\.py pair .*\. Or leave it out\.$"):
        load_params("pair", sums, weights_dir=tmp_path, alternative="Or leave it out.")


@pytest.mark.parametrize("by_path", [True, False])
def test_weights_of_another_network_are_named_with_what_differs(entries, tmp_path, by_path):
    for name in "ab":
        write_zip(tmp_path / f"{name}.pth", dict_code(other=tensor_code()))
    source = str(tmp_path / "a.pth") if by_path else "pair"
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "a.pth")) + ".*missing: a"):
        load_params(source, sums, weights_dir=tmp_path)
