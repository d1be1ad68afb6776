"""Bytes and values of half-precision files; the faults of files are tested with the networks that are kept in them."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from utils.errors import UserError
from utils.weights.npz import not_finite, read_npz_weights, write_npz_weights


def written(path, arrays):
    write_npz_weights(path, arrays)
    return path.read_bytes()


def read(path):
    return read_npz_weights(path, holds="net", check=lambda shapes: None)


def test_neither_order_nor_layout_nor_precision_in_memory_changes_the_bytes(tmp_path):
    kernel, bias = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 16, np.array(0.5, np.float32)
    expected = written(tmp_path / "x.npz", {"a/kernel": kernel, "b": bias})
    for variation in ({"b": bias, "a/kernel": kernel}, {"a/kernel": np.asfortranarray(kernel), "b": bias},
                      {"a/kernel": kernel.astype(np.float64), "b": bias.astype(np.float16)},
                      {"a/kernel": kernel.astype(">f4"), "b": bias}):
        assert written(tmp_path / "x.npz", variation) == expected
    assert written(tmp_path / "x.npz", {"a/kernel": kernel, "b": bias + 1}) != expected


def test_values_are_rounded_to_the_nearest_half_and_ties_to_even(tmp_path):
    # next to 1 halves are 2**-10 apart, next to 2048 they are 2; the smallest positive one is 2**-24
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, 2049, -65519, 2**-25, 3 * 2**-26], np.float32)
    write_npz_weights(tmp_path / "x.npz", {"x": values})
    np.testing.assert_array_equal(read(tmp_path / "x.npz")["x"],
                                  np.array([1, 1 + 2**-9, 1 + 2**-10, 2048, -65504, 0, 2**-24], np.float32))


def test_values_are_rounded_to_fewer_bits_to_the_nearest_and_ties_to_even(tmp_path):
    """With 2 bits of mantissa 1, 1.25, 1.5, 1.75, 2, 2.5 follow each other."""
    values = np.float32([1.12, 1.125, 1.125 + 1e-6, 1.375, 1.88, 2.2, -1.13, 0.0, 2**-24, 9 * 2**-24])
    write_npz_weights(tmp_path / "a.npz", {"a": values}, mantissa_bits=2)
    expected = [1.0, 1.0, 1.25, 1.5, 2.0, 2.0, -1.25, 0.0, 2**-24, 8 * 2**-24]
    np.testing.assert_array_equal(read(tmp_path / "a.npz")["a"], np.float32(expected))


@pytest.mark.parametrize("bits", [9, 7, 4])
def test_rounded_files_are_smaller_and_off_by_half_of_the_last_bit(tmp_path, bits):
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float16).astype(np.float32)
    for name, kept in (("all", 10), ("some", bits)):
        write_npz_weights(tmp_path / f"{name}.npz", {"a": values}, mantissa_bits=kept)
    rounded = read(tmp_path / "some.npz")["a"]
    assert (np.abs(rounded - values) <= np.maximum(2.0 ** -(bits + 1) * np.exp2(np.floor(np.log2(np.abs(values)))),
                                                   2.0**-25)).all()
    assert len(set(rounded.tolist())) < 0.7 * len(set(values.tolist()))
    assert (tmp_path / "some.npz").stat().st_size < 0.96 * (tmp_path / "all.npz").stat().st_size


def test_what_rounds_up_beyond_float16_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a has values that .* beyond 63488\. .* or more bits of mantissa"):
        write_npz_weights(tmp_path / "a.npz", {"a": np.float32([65500.0])}, mantissa_bits=4)
    assert not list(tmp_path.iterdir())


def test_names_come_back_sorted_as_float32(tmp_path):
    write_npz_weights(tmp_path / "x.npz", {"b": np.ones(2), "a/c": np.zeros((1, 2)), "a": np.float32(3)})
    arrays = read(tmp_path / "x.npz")
    assert {name: value.tolist() for name, value in arrays.items()} == {"a": 3, "a/c": [[0, 0]], "b": [1, 1]}
    assert list(arrays) == ["a", "a/c", "b"]
    assert {value.dtype for value in arrays.values()} == {np.dtype(np.float32)}


def test_shapes_are_checked_and_the_reason_becomes_part_of_the_line(tmp_path):
    def check(shapes):
        raise ValueError(f"it has\n {shapes}.")

    write_npz_weights(tmp_path / "x.npz", {"a": np.ones((2, 1))})
    with pytest.raises(UserError) as caught:
        read_npz_weights(tmp_path / "x.npz", holds="net", check=check)
    assert str(caught.value) == f"{tmp_path / 'x.npz'} holds no net: it has {{'a': (2, 1)}}. Fetch or make it again."


@pytest.mark.parametrize(("shape", "message"), [
    ("(1000000, 1000000)", "buffer is smaller"), ("(-1,)", "impossible shape"), ("(" * 5000, ""),
    ("-" * 9000 + "1", "")], ids=["large", "negative", "nested", "signs"])
def test_a_header_is_a_claim_that_costs_nothing(tmp_path, shape, message):
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
    tracemalloc.start()
    with pytest.raises(UserError, match=rf"x\.npz holds no net: .*{message}.*Fetch or make it again\.$"):
        read(tmp_path / "x.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_a_reason_that_quotes_the_file_is_cut_short_and_printable(tmp_path):
    write_npz_weights(tmp_path / "x.npz", {"a" * 2000: np.ones(2)})
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content.replace(b"a", b"b", 1))
    with pytest.raises(UserError, match=r"holds no net: File name in directory 'aaa.*a\. Fetch or") as cut:
        read(tmp_path / "x.npz")
    assert len(str(cut.value)) < 350 + len(str(tmp_path))
    np.savez(tmp_path / "x.npz", **{"a\x1b": np.float32(np.nan)})
    with pytest.raises(UserError, match=r"holds no net: a\? has values that are not finite"):
        read(tmp_path / "x.npz")


def test_arrays_may_be_compressed_but_not_beyond_measure(tmp_path):
    values = {"a": np.arange(6, dtype=np.float16).reshape(2, 3)}
    np.savez_compressed(tmp_path / "x.npz", **values)
    np.testing.assert_array_equal(read(tmp_path / "x.npz")["a"], values["a"])
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(40 * 2**20, np.float16))
    tracemalloc.start()
    with pytest.raises(UserError, match="its arrays expand far beyond the file's size"):
        read(tmp_path / "x.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize("value", [np.array(1j), np.array("1.5"), np.array(True), np.zeros(2, "f4,f4")],
                         ids=["complex", "text", "bool", "pairs"])
def test_arrays_of_something_else_than_numbers_are_refused(tmp_path, value, recwarn):
    np.savez(tmp_path / "x.npz", a=value)
    with pytest.raises(UserError, match=r"an array is of the type \w+, not of numbers"):
        read(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", a=np.float64(1e300))
    with pytest.raises(UserError, match="a has values that are not finite"):
        read(tmp_path / "x.npz")
    assert not recwarn.list  # they would be lines of their own


def test_arrays_that_are_not_finite_are_named_in_order():
    assert not_finite({"a": np.ones(2), "b": np.array([1, np.nan]), "c": np.float32(1), "d": np.float16(np.inf)}) == [
        "b", "d"]
