"""Bytes and values of float16 files; the faults of files are tested with the networks that are kept in them."""

import numpy as np
import pytest

from utils.errors import UserError
from utils.weights.npz import is_npz, read_npz_weights, write_npz_weights


def written(path, arrays):
    write_npz_weights(path, arrays)
    return path.read_bytes()


def test_neither_order_nor_layout_nor_precision_in_memory_changes_the_bytes(tmp_path):
    kernel, bias = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 16, np.array(0.5, np.float32)
    expected = written(tmp_path / "x.npz", {"a/kernel": kernel, "b": bias})
    for variation in ({"b": bias, "a/kernel": kernel}, {"a/kernel": np.asfortranarray(kernel), "b": bias},
                      {"a/kernel": kernel.astype(np.float64), "b": bias.astype(np.float16)},
                      {"a/kernel": kernel.astype(">f4"), "b": bias}):
        assert written(tmp_path / "x.npz", variation) == expected
    assert written(tmp_path / "x.npz", {"a/kernel": kernel, "b": bias + 1}) != expected


def test_values_are_rounded_to_the_nearest_half_and_come_back_sorted_as_float32(tmp_path):
    # next to 1 halves are 2**-10 apart, next to 2048 they are 2; the smallest positive one is 2**-24; ties go to even
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, 2049, -65519, 2**-25, 3 * 2**-26], np.float32)
    write_npz_weights(tmp_path / "x", {"x": values, "a": np.ones((1, 2))})
    assert is_npz(tmp_path / "x")
    found = read_npz_weights(tmp_path / "x", holds="net")
    assert list(found) == ["a", "x"]
    np.testing.assert_array_equal(
        found["x"], np.array([1, 1 + 2**-9, 1 + 2**-10, 2048, -65504, 0, 2**-24], np.float32), strict=True)


def test_shapes_are_checked_and_the_reason_becomes_part_of_the_line(tmp_path):
    def check(shapes):
        raise ValueError(f"it has\n {shapes}.")

    write_npz_weights(tmp_path / "x.npz", {"a": np.ones((2, 1))})
    with pytest.raises(UserError, match=r"x\.npz holds no net: it has \{'a': \(2, 1\)\}\. "):
        read_npz_weights(tmp_path / "x.npz", holds="net", check=check)


def test_a_name_from_the_file_is_printable_and_short_in_a_message(tmp_path):
    np.savez(tmp_path / "x.npz", **{"a\x1b" + "b" * 2000: np.float32(np.nan)})
    with pytest.raises(UserError, match=r"a\?bbb") as cut:
        read_npz_weights(tmp_path / "x.npz", holds="net")
    assert len(str(cut.value)) < 400 + len(str(tmp_path))


def test_arrays_may_be_compressed_but_not_beyond_measure(tmp_path):
    values = {"a": np.arange(6, dtype=np.float16).reshape(2, 3)}
    np.savez_compressed(tmp_path / "x.npz", **values)
    np.testing.assert_array_equal(read_npz_weights(tmp_path / "x.npz", holds="net")["a"], values["a"])
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(40 * 2**20, np.float16))
    with pytest.raises(UserError, match="expand far beyond"):
        read_npz_weights(tmp_path / "x.npz", holds="net")


@pytest.mark.parametrize("value", [np.array(1j), np.array("1.5"), np.array(True), np.zeros(2, "f4,f4"),
                                   np.array({"a": 1}, object), np.float64(1e300)],
                         ids=["complex", "text", "bool", "pairs", "pickled", "overflow"])
def test_arrays_of_something_else_than_finite_numbers_are_refused(tmp_path, value, recwarn):
    np.savez(tmp_path / "x.npz", a=value)
    with pytest.raises(UserError, match=r"x\.npz"):
        read_npz_weights(tmp_path / "x.npz", holds="net")
    assert not recwarn.list  # they would be lines of their own


@pytest.mark.parametrize("value", [np.nan, -np.inf, 65520.0])
def test_values_beyond_float16_are_not_written(tmp_path, value):
    with pytest.raises(UserError, match="a has values"):
        write_npz_weights(tmp_path / "x.npz", {"a": np.float32([value])})
    assert list(tmp_path.iterdir()) == []
