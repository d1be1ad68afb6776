"""Files written by PyTorch (tests/data/torch, see the script there) and hostile or damaged files written here."""

import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.file_readers import same
from tests.torch_file_writers import MAGIC, SIX, dict_code, literal, storage_code, tensor_code, write_legacy, write_zip
from utils.errors import UserError
from utils.weights.torch_files import load_state_dict, load_torch_file

FIXTURES = Path(__file__).parents[2] / "data" / "torch"
FORMATS = ["zip", "legacy"]

with np.load(FIXTURES / "expected.npz") as archive:
    EXPECTED = dict(archive)


WRITERS = [write_zip, write_legacy]


def fails(path: Path, message: str, read=load_torch_file) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# values


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("file_format", FORMATS)
def test_tensor_has_the_values_that_pytorch_saved(file_format, name):
    array = load_torch_file(FIXTURES / f"{file_format}.pth")["tensors"][name]
    if name == "dtype_bfloat16":
        assert array.dtype == ml_dtypes.bfloat16
        array = array.view(np.uint16)
    np.testing.assert_array_equal(array, EXPECTED[name], strict=True)


@pytest.mark.parametrize("file_format", FORMATS)
def test_arrays_own_writable_memory_in_c_order(file_format):
    for array in load_torch_file(FIXTURES / f"{file_format}.pth")["tensors"].values():
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.flags.c_contiguous


@pytest.mark.parametrize("file_format", FORMATS)
def test_tensors_of_one_storage_do_not_share_memory(file_format):
    tensors = load_torch_file(FIXTURES / f"{file_format}.pth")["tensors"]
    tensors["base"][:] = -1
    np.testing.assert_array_equal(tensors["row_of_base"], EXPECTED["row_of_base"])


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_stands_beside_tensors_is_kept(file_format):
    read = load_torch_file(FIXTURES / f"{file_format}.pth")
    del read["tensors"]
    assert same(read, {
        "ordered": {"b": np.ones(1, np.float32), "a": np.full(1, 2, np.float32)},
        "nested": {"list": [np.array([3]), {"deep": (np.array(4), "text")}], "size": (2, 3)},
        "epoch": 12, "big": 2**70, "negative": -7, "rate": 1e-4, "name": "grüße", "nothing": None, "flag": True,
        "dtype": "torch.float16", 5: "integer key"})


def test_unsigned_types_without_typed_storage_are_read():
    read = load_torch_file(FIXTURES / "unsigned.pth")
    assert same(read, {"uint16": np.array([1, 65535], np.uint16), "uint32": np.array([7], np.uint32)})


def test_parameters_are_read_as_arrays():
    read = load_torch_file(FIXTURES / "parameters.pth")
    assert same(read, {"weight": np.array([[1, 2]], np.float32), "bias": np.array([3], np.float32)})


def test_a_file_written_without_checksums_is_read():
    assert same(load_torch_file(FIXTURES / "without_checksums.pth"), {"w": np.array([1, 2], np.float32)})


def test_module_prefix_is_removed_and_metadata_ignored():
    read = load_state_dict(FIXTURES / "module.pth")
    assert same(read, {"0.weight": np.array([[1, 2]], np.float32), "0.bias": np.array([3], np.float32)})


def test_parameters_of_the_first_pytorch_versions_are_read(tmp_path):
    old = b"ctorch.nn.parameter\nParameter\n" + tensor_code() + b"\x85R(\x88\x89}tb"  # called, then given its state
    assert same(load_torch_file(write_legacy(tmp_path / "a.pth", dict_code(w=old))), {"w": SIX})


def test_texts_of_python_2_are_read(tmp_path):
    code = b"\x80\x02}U\x01w" + tensor_code() + b"s."
    assert same(load_torch_file(write_legacy(tmp_path / "a.pth", code)), {"w": SIX})


def test_a_view_of_a_legacy_storage_is_read(tmp_path):
    view = literal(("1", 2, 3))
    code = dict_code(w=tensor_code(storage_code(view=view), 1, (2,)))
    assert same(load_torch_file(write_legacy(tmp_path / "a.pth", code)), {"w": SIX[3:5]})


@pytest.mark.parametrize(("kind", "dtype"), [("FloatStorage", "f4"), ("DoubleStorage", "f8"), ("ShortStorage", "i2")])
def test_big_endian_files_are_read(tmp_path, kind, dtype):
    values = np.array([[1, -2, 3], [4, 5, 600]])
    path = write_zip(tmp_path / "a.pth", dict_code(w=tensor_code(storage_code(6, kind), 0, (2, 3), (3, 1))),
                     {"0": values.astype(f">{dtype}").tobytes()}, extra=[("byteorder", "big")])
    np.testing.assert_array_equal(load_torch_file(path)["w"], values.astype(dtype), strict=True)


def test_bfloat16_of_a_big_endian_file_is_read(tmp_path):
    path = write_zip(tmp_path / "a.pth", dict_code(w=tensor_code(storage_code(2, "BFloat16Storage"), 0, (2,))),
                     {"0": b"\x3f\x80\xc0\x40"}, extra=[("byteorder", "big")])
    assert load_torch_file(path)["w"].tolist() == [1.0, -3.0]


def test_any_nonzero_byte_is_true(tmp_path):
    code = dict_code(w=tensor_code(storage_code(3, "BoolStorage"), 0, (3,)))
    read = load_torch_file(write_zip(tmp_path / "a.pth", code, {"0": b"\0\x01\x02"}))["w"]
    assert read.view(np.uint8).tolist() == [0, 1, 1]


def test_the_stride_of_an_axis_of_one_element_is_free(tmp_path):
    code = dict_code(w=tensor_code(None, 2, (1, 3), (2**62, 1)))
    assert same(load_torch_file(write_zip(tmp_path / "a.pth", code)), {"w": SIX[None, 2:5]})


# choosing the weights


def test_params_ema_is_preferred_and_numbers_beside_tensors_left_out():
    assert same(load_state_dict(FIXTURES / "checkpoint.pth"), {"w": np.array([2], np.float32)})


def test_key_chooses_the_entry():
    assert same(load_state_dict(FIXTURES / "checkpoint.pth", "params"), {"w": np.array([1], np.float32)})


def test_a_missing_key_is_answered_with_the_keys_there_are():
    fails(FIXTURES / "checkpoint.pth", "no entry 'g_ema'. It has: params, params_ema, epoch",
          lambda path: load_state_dict(path, "g_ema"))


@pytest.mark.parametrize("key", [None, "epoch"])
def test_an_entry_without_tensors_is_refused(tmp_path, key):
    path = write_zip(tmp_path / "a.pth", dict_code(epoch=literal(1), other=literal({"a": 1})))
    fails(path, "holds no dictionary of tensors.*the file has: epoch, other", lambda path: load_state_dict(path, key))


def test_names_that_become_equal_without_the_prefix_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.pth", dict_code(**{"w": tensor_code(), "module.w": tensor_code()}))
    fails(path, "its entry module.w is not", load_state_dict)


def test_tensors_that_are_not_asked_for_are_not_read(tmp_path):
    code = dict_code(params=b"}" + literal("a") + tensor_code() + b"s",
                     other=b"}" + literal("b") + tensor_code(storage_code(key="gone")) + b"s")
    path = write_zip(tmp_path / "a.pth", code)
    assert same(load_state_dict(path), {"a": SIX})
    fails(path, "its part archive/data/gone is missing")


# code in files


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker: Path) -> dict[str, bytes]:
    """Pickles (protocol 2) that leave `marker` behind where they are executed, each by another way."""
    command = f"touch {marker}"
    write = f"open({str(marker)!r}, 'w')"
    system = f"c{os.system.__module__}\nsystem\n".encode()
    return {
        "os.system": pickle.dumps({"w": Calls(os.system, command)}, 2),
        "subprocess.Popen": pickle.dumps({"w": Calls(subprocess.Popen, ["touch", str(marker)])}, 2),
        "eval": pickle.dumps({"w": Calls(eval, write)}, 2),
        "exec": pickle.dumps({"w": Calls(exec, write)}, 2),
        "getattr": pickle.dumps({"w": Calls(getattr, Path(marker), "touch")}, 2),
        "protocol 4": pickle.dumps({"w": Calls(os.system, command)}, 4),
        "protocol 0": pickle.dumps({"w": Calls(os.system, command)}, 0),
        "INST": b"\x80\x02}" + literal("w") + b"(" + literal(command) + b"i" + system[1:] + b"s.",
        "OBJ": b"\x80\x02}" + literal("w") + b"(" + system + literal(command) + b"os.",
        "NEWOBJ": b"\x80\x02}" + literal("w") + system + literal((command,)) + b"\x81s.",
        "in a tensor": dict_code(w=b"ctorch._utils\n_rebuild_tensor_v2\n" + system + literal(command) + b"\x85R\x85R"),
        "in a legacy storage": dict_code(w=system + literal(command) + b"\x85RQ"),
        "joined names": dict_code(w=b"ccollections.OrderedDict\n__init__.__globals__\n)R"),
        "torch.load": dict_code(w=b"ctorch\nload\n" + literal(str(marker)) + b"\x85R"),
        "dotted through an allowed name": dict_code(
            w=b"\x8c\x05torch\x8c\x18Size.__class__.__base__1\x93)R"),
        "BUILD of a function": dict_code(w=b"ccollections\nOrderedDict\n" + literal({"function": 1}) + b"b)R"),
        "a storage type called": dict_code(w=b"ctorch\nFloatStorage\n)R"),
    }


ATTACKS = list(attacks(Path("/nowhere")))


def test_the_attacks_are_real(tmp_path):
    pickle.loads(attacks(tmp_path / "marker")["os.system"])
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("write", [*WRITERS, lambda path, code: path.write_bytes(code) and path],
                         ids=["zip", "legacy", "bare"])
def test_code_is_refused_and_not_run(tmp_path, attack, write):
    path = write(tmp_path / "bad.pth", attacks(tmp_path / "marker")[attack])
    fails(path, re.escape(str(path)))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(("attack", "name"), [
    ("os.system", f"{os.system.__module__}.system"), ("eval", "builtin.*eval"), ("torch.load", "torch.load"),
    ("protocol 4", "system"), ("OBJ", "system"), ("NEWOBJ", "system")])
def test_a_refusal_names_what_was_asked_for(tmp_path, attack, name):
    fails(write_zip(tmp_path / "bad.pth", attacks(tmp_path / "marker")[attack]), f"refuses to load .*{name}")


@pytest.mark.parametrize(("instruction", "code"), [
    ("INST", b"(icollections\nOrderedDict\n"), ("OBJ", b"(ccollections\nOrderedDict\no"),
    ("NEWOBJ", b"ccollections\nOrderedDict\n)\x81"), ("NEWOBJ_EX", b"ccollections\nOrderedDict\n)}\x92"),
    ("EXT1", b"\x82\x01"), ("PERSID", b"Pname\n")])
def test_instructions_that_make_objects_are_refused_by_name(tmp_path, instruction, code):
    fails(write_zip(tmp_path / "bad.pth", dict_code(w=code)), f"refuses the pickle instruction {instruction}\\.")


def test_the_sys_info_of_a_legacy_file_cannot_run_code(tmp_path):
    evil = pickle.dumps(Calls(os.system, f"touch {tmp_path / 'marker'}"), 2)
    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + evil)
    fails(path, "refuses to load")
    assert not (tmp_path / "marker").exists()


def test_attributes_of_a_state_dict_are_dropped(tmp_path):
    slots = (None, {"items": "overwritten", "__class__": 1, "keys": 2})  # pickle would setattr these
    code = b"\x80\x02ccollections\nOrderedDict\n)R" + literal("w") + tensor_code() + b"s" + literal(slots) + b"b."
    assert same(load_torch_file(write_zip(tmp_path / "a.pth", code)), {"w": SIX})


def test_control_characters_of_a_name_are_not_printed(tmp_path):
    path = write_zip(tmp_path / "bad.pth", dict_code(w=b"\x8c\x03a\nb\x8c\x05\x1b[31m\x93"))
    fails(path, re.escape(r"refuses to load a\nb.\x1b[31m"))


# bounds


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("offset", "shape", "strides"), [
    (0, (7,), (1,)), (1, (6,), (1,)), (6, (1,), (1,)), (0, (2, 3), (4, 1)), (0, (4,), (2,)), (2**62, (1,), (1,)),
    (0, (2**40, 2**40), (1, 1)), (0, (2,), (2**62,))])
def test_a_view_outside_its_storage_is_refused(tmp_path, write, offset, shape, strides):
    fails(write(tmp_path / "bad.pth", dict_code(w=tensor_code(None, offset, shape, strides))), "outside its storage")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("offset", "shape", "strides"), [
    (-1, (2,), (1,)), (5, (6,), (-1,)), (0, (-1,), (1,)), (0, (2, 3), (1,)), (0, [6], (1,)), (0, (6.0,), (1,)),
    (True, (2,), (1,)), (0, (1,) * 65, (1,) * 65), (0, 6, 1), (2**70, (1,), (1,))])
def test_an_impossible_shape_stride_or_offset_is_refused(tmp_path, write, offset, shape, strides):
    fails(write(tmp_path / "bad.pth", dict_code(w=tensor_code(None, offset, shape, strides))), "impossible")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("size", [5, 7, 2**40, 2**62])
def test_a_storage_that_does_not_have_the_stated_size_is_refused(tmp_path, write, size):
    fails(write(tmp_path / "bad.pth", dict_code(w=tensor_code(storage_code(size), 0, (2,)))), "stated|outside")


@pytest.mark.parametrize("count", [5, 7, -1, 2**62])
def test_a_stored_count_that_does_not_fit_is_refused(tmp_path, count):
    path = write_legacy(tmp_path / "bad.pth", dict_code(w=tensor_code()), counts={"0": count})
    fails(path, "does not have the stated")


@pytest.mark.parametrize("view", [("1", 4, 3), ("1", -1, 3), ("1", 0, 7), ("1", 0), "12", 3])
def test_a_storage_view_outside_its_storage_is_refused(tmp_path, view):
    code = dict_code(w=tensor_code(storage_code(view=literal(view)), 0, (1,)))
    fails(write_legacy(tmp_path / "bad.pth", code), "outside storage|download it again")


def test_a_tensor_outside_a_storage_view_is_refused(tmp_path):
    code = dict_code(w=tensor_code(storage_code(view=literal(("1", 2, 3))), 0, (4,)))
    fails(write_legacy(tmp_path / "bad.pth", code), "outside its storage of 12 bytes")


def test_one_storage_of_two_types_is_refused(tmp_path):
    code = dict_code(a=tensor_code(), b=tensor_code(storage_code(6, "IntStorage")))
    fails(write_zip(tmp_path / "bad.pth", code), "described in two ways")


@pytest.mark.parametrize("keys", [[], ["1"], ["0", "0"], [0], "0", [["0"]]])
def test_a_list_of_storages_that_does_not_match_is_refused(tmp_path, keys):
    fails(write_legacy(tmp_path / "bad.pth", dict_code(w=tensor_code()), keys=keys), "list of storages")


@pytest.mark.parametrize("write", WRITERS)
def test_an_expansion_far_beyond_the_file_is_refused(tmp_path, write):
    path = write(tmp_path / "bad.pth", dict_code(w=tensor_code(None, 0, (2**30, 2**10), (0, 0))))
    fails(path, "expand to more than 64 MiB")


@pytest.mark.parametrize("write", WRITERS)
def test_many_copies_of_one_tensor_far_beyond_the_file_are_refused(tmp_path, write):
    code = b"\x80\x02}" + literal("w") + b"](" + tensor_code(None, 0, (2**20,), (0,)) + b"2" * 100 + b"es."
    fails(write(tmp_path / "bad.pth", code), "expand to more than 64 MiB")


def test_a_compressed_file_is_refused(tmp_path):
    fails(write_zip(tmp_path / "bad.pth", dict_code(w=tensor_code()), compression=zipfile.ZIP_DEFLATED), "compressed")


def test_an_entry_larger_than_the_file_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.pth", dict_code(w=tensor_code(storage_code(2**28))))
    data = bytearray(path.read_bytes())
    at = data.rfind(b"archive/data/0") - 46  # its entry in the central directory
    data[at + 20:at + 28] = (2**30).to_bytes(4, "little") * 2
    path.write_bytes(data)
    fails(path, "larger than the file")


BOMBS = {
    "nested lists": b"\x80\x02}" + literal("w") + b"]" * 100_000 + b"a" * 99_999 + b"s.",
    "nested tuples": b"\x80\x02}" + literal("w") + b")" + b"\x85" * 200_000 + b"s.",
    "nested tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "a list in itself": b"\x80\x02}" + literal("w") + b"]q\x01h\x01as.",
    "doubled 100 times": b"\x80\x02}" + literal("w") + b"N" + b"2\x86" * 100 + b"s.",
    "wide doubling": b"\x80\x02}" + literal("w") + b"N" + (b"2" * 9 + b"\x87" + b"\x87") * 40 + b"s.",
    "more instructions than any file": b"\x80\x02}" + b"N0" * 1_000_001 + b".",
    "a huge memo index": b"\x80\x02}r\xff\xff\xff\x7f" + literal("w") + b"h\x05s.",
    "a huge text": b"\x80\x04}\x8d" + (2**40).to_bytes(8, "little") + b"w.",
    "a huge number": b"\x80\x02}" + literal("w") + b"\x8b\xff\xff\xff\x7f" + b"1" * 100 + b"s.",
    "many digits": b"\x80\x02}" + literal("w") + b"L" + b"9" * 100_000 + b"L\ns.",
    "an empty stack": b"\x80\x02.",
    "pops of nothing": b"\x80\x02}0000.",
    "a mark missing": b"\x80\x02}u.",
    "an odd dictionary": b"\x80\x02}(NNNu.",
    "an unknown memo": b"\x80\x02h\x09.",
    "an unknown instruction": b"\x80\x02}\xff.",
    "no end": b"\x80\x02}",
    "a bare storage": dict_code(w=storage_code()),
    "a bare function": dict_code(w=b"ctorch._utils\n_rebuild_tensor_v2\n"),
    "a tensor of nothing": dict_code(w=b"ctorch._utils\n_rebuild_tensor_v2\n(K\0K\0))\x89}tR"),
    "a parameter of nothing": dict_code(w=b"ctorch._utils\n_rebuild_parameter\n(K\0\x89}tR"),
    "pairs that are none": dict_code(w=b"ccollections\nOrderedDict\n]K\x01a\x85R"),
    "no dictionary": b"\x80\x02].",
    "empty": b"",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("write", WRITERS)
def test_a_hostile_or_senseless_pickle_is_refused(tmp_path, write, bomb):
    storages = {"0": SIX.tobytes()} if "storage" in bomb else {}
    fails(write(tmp_path / "bad.pth", BOMBS[bomb], storages), r"\.pth")


# damaged files


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"<!DOCTYPE html><html>", "web page"), (b"some text", "not a file written by torch.save"),
    (b"\x80\x02]q\0.", "is a pickle, but not"), (b"\x80", "download it again"), (b"PK\x03\x04", "download it again"),
    (b"a" * 257 + b"ustar\0" + b"\0" * 300, "tar format"), (bytes(1000), "not a file written by torch.save")])
def test_another_kind_of_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    fails(path, message)


@pytest.mark.parametrize("name", ["constants.pkl", "code/__torch__.py"])
def test_torchscript_is_refused_with_the_way_out(tmp_path, name):
    fails(write_zip(tmp_path / "bad.pth", dict_code(), extra=[(name, b"")]), "TorchScript.*state_dict")


def test_another_zip_archive_is_refused(tmp_path):
    path = tmp_path / "bad.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    fails(path, "not one written by torch.save")


def test_an_unknown_byte_order_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.pth", dict_code(w=tensor_code()), extra=[("byteorder", "middle")])
    fails(path, "unknown byte order")


def test_an_unknown_legacy_version_is_refused(tmp_path):
    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2))
    fails(path, "unknown version")


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_path_that_is_no_file_is_a_user_error(tmp_path, name):
    fails(tmp_path / name, "cannot read")


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_truncated_file_is_refused(tmp_path, file_format):
    data = (FIXTURES / f"{file_format}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:length])
        fails(path, r"cut\.pth")


def test_a_zip_file_with_a_damaged_byte_is_refused_or_read_correctly(tmp_path):
    data = (FIXTURES / "zip.pth").read_bytes()
    right = load_torch_file(FIXTURES / "zip.pth")
    path = tmp_path / "damaged.pth"
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(0, len(data), 5):
        path.write_bytes(data[:position] + bytes([data[position] ^ int(rng.integers(1, 256))]) + data[position + 1:])
        try:
            assert same(load_torch_file(path), right)
        except UserError:
            refused += 1
    assert refused > 100


def test_a_legacy_file_with_a_damaged_byte_is_refused_or_read_as_data(tmp_path):
    data = (FIXTURES / "legacy.pth").read_bytes()  # no checksums: another number or name cannot be noticed
    path = tmp_path / "damaged.pth"
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(0, len(data), 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ int(rng.integers(1, 256))]) + data[position + 1:])
        try:
            assert type(load_torch_file(path)) is dict
        except UserError:
            refused += 1
    assert refused > 100


# cost


@pytest.mark.parametrize("write", WRITERS)
def test_memory_peaks_below_twice_the_file(tmp_path, write):
    size = 2**20
    tensors = {f"w{index}": tensor_code(storage_code(size, key=str(index)), 0, (size,)) for index in range(8)}
    storages = {str(index): bytes(4 * size) for index in range(8)}
    path = write(tmp_path / "a.pth", dict_code(**tensors), storages)
    del storages
    tracemalloc.start()
    load_torch_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1.0 < peak / path.stat().st_size < 1.5


def test_pytorch_is_not_imported():
    code = "import sys, utils.weights.torch_files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FIXTURES.parent.parent.parent)


def test_reading_does_not_write(tmp_path):
    path = write_zip(tmp_path / "a.pth", dict_code(w=tensor_code()))
    before = path.read_bytes()
    load_torch_file(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]
