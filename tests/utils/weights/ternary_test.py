"""Differences from a base, with trits and codes by hand."""

import numpy as np
import pytest

from tests.helpers.reference_weights import reference_generator
from tests.helpers.small_networks import small_masknet
from utils.errors import UserError
from utils.weights import manifest
from utils.weights.checkpoints import checkpoint_tensors, load_super_resolver
from utils.weights.manifest import Entry, FileSet, WeightFile
from utils.weights.npz import write_npz_weights
from utils.weights.ternary import decode_difference, unpack_trits

KERNEL = (3, 3, 64, 32)  # large enough for trits
RANDOM = np.random.default_rng(0)
BASE = {"a/weight": RANDOM.normal(0, 0.1, KERNEL).astype(np.float16).astype(np.float32),
        "a/bias": np.float32([0.5, -0.25]), "b/weight": np.ones((1, 1, 2, 2), np.float32)}
TRITS = RANDOM.integers(-1, 2, KERNEL)
STEPS = np.linspace(0.001, 0.02, KERNEL[-1], dtype=np.float32)


def packed(trits):
    """Pack trits, five to a code, the first lowest."""
    digits = np.ones(-(-trits.size // 5) * 5, np.int64)
    digits[:trits.size] += trits.ravel()
    return (digits.reshape(-1, 5) * [1, 3, 9, 27, 81]).sum(1).astype(np.uint8)


ENCODED = {"CODES": packed(TRITS), "STEPS": STEPS, "PLAIN": np.float32([0.125, 7.25, 0, 1, 2, -5])}


def test_trits_are_the_digits_of_base_3_the_first_lowest():
    # 194 = 2 + 1*3 + 0*9 + 1*27 + 2*81
    assert unpack_trits(np.uint8([194, 120]), 6).tolist() == [1, 0, -1, 0, 1, -1]
    assert unpack_trits(np.uint8([242, 0]), 10).tolist() == [1] * 5 + [-1] * 5


def test_a_difference_is_added_by_trits_to_large_kernels_and_as_it_is_to_all_else():
    found = decode_difference(ENCODED, BASE)
    np.testing.assert_array_equal(found["a/weight"], BASE["a/weight"] + (TRITS * STEPS).astype(np.float32))
    np.testing.assert_array_equal(found["a/bias"], np.float32([0.625, 7]))
    np.testing.assert_array_equal(found["b/weight"], np.float32([[[[1, 2], [3, -4]]]]))


def test_a_base_in_either_precision_gives_the_same_weights():
    exact = {name: value + RANDOM.uniform(0, 1e-4, value.shape).astype(np.float32) for name, value in BASE.items()}
    # ncnn's files drop bits of kernels, of which 13 are too many, and keep biases as they are
    halves = {name: (value.view(np.uint32) >> 13 << 13).view(np.float32) if value.ndim == 4 else value
              for name, value in exact.items()}
    for name, value in decode_difference(ENCODED, halves).items():
        np.testing.assert_array_equal(decode_difference(ENCODED, exact)[name], value)


@pytest.mark.parametrize(("name", "value", "match"), [
    ("CODES", np.zeros(5, np.uint8), r"CODES \(5,\) instead of \(3687,\)"),
    ("STEPS", np.zeros(31), r"STEPS \(31,\) instead of \(32,\)"),
    ("PLAIN", np.zeros((2, 3)), r"PLAIN \(2, 3\) instead of \(6,\)"),
    ("CODES", np.full(3687, 243, np.uint8), "0 to 242"), ("c", np.zeros(1), "extra: c")])
def test_what_is_no_difference_from_the_base_is_refused(name, value, match):
    with pytest.raises(ValueError, match=match):
        decode_difference(ENCODED | {name: value}, BASE)


@pytest.fixture
def weights_dir(tmp_path, monkeypatch):
    """A weights folder in which `realesrgan` is a small network."""
    generator = reference_generator(num_blocks=1, num_features=8, growth=4)
    write_npz_weights(tmp_path / "weights" / "base.npz", checkpoint_tensors(generator))
    entry = Entry("realesrgan", "base", "BSD", ("x",), (FileSet("", (WeightFile("base.npz"),), ()),), ("https://a.org",))
    monkeypatch.setattr(manifest, "load_manifest", lambda: {"realesrgan": entry})
    return tmp_path / "weights"


def write_difference(path, **changes):
    size = sum(value.size for value in reference_generator(num_blocks=1, num_features=8, growth=4).values())
    arrays = {"BASE/realesrgan": np.uint8(1), "CODES": np.zeros(0, np.uint8), "STEPS": np.zeros(0),
              "PLAIN": np.full(size, 0.5), **{f"Mask/{name}": value for name, value in small_masknet().items()}}
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})


def test_a_file_of_a_difference_becomes_weights_by_its_base(tmp_path, weights_dir):
    write_difference(tmp_path / "x.npz")
    found = load_super_resolver(str(tmp_path / "x.npz"), weights_dir=weights_dir)
    base = load_super_resolver(str(weights_dir / "base.npz")).generator
    for name, value in base.items():
        np.testing.assert_allclose(found.generator[name], value + 0.5, atol=1e-6)
    assert found.mask.keys() == small_masknet().keys()
    assert found.meta_trained


def test_a_missing_base_is_named_with_the_way_to_get_it(tmp_path, weights_dir):
    write_difference(tmp_path / "x.npz")
    (weights_dir / "base.npz").unlink()
    with pytest.raises(UserError, match=r"x\.npz .*realesrgan: base\.npz .*https://a\.org"):
        load_super_resolver(str(tmp_path / "x.npz"), weights_dir=weights_dir)


@pytest.mark.parametrize("changes", [
    {"BASE/realesrgan": np.uint8(2)}, {"BASE/realesrgan": None}, {"BASE/gpen": np.uint8(1)}, {"PLAIN": None},
    {"MODEL/conv_first/bias": np.zeros(8)}, {"Mask/conv1/bias": np.zeros(3)}, {"STEPS": np.float32(np.inf)}],
    ids=["format", "no base", "two bases", "missing", "foreign", "MaskNet", "infinite"])
def test_a_file_of_something_else_is_one_line(tmp_path, weights_dir, changes):
    write_difference(tmp_path / "x.npz", **changes)
    with pytest.raises(UserError, match=r"x\.npz ") as caught:
        load_super_resolver(str(tmp_path / "x.npz"), weights_dir=weights_dir)
    assert "\n" not in str(caught.value)
