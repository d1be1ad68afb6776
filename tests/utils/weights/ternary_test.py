"""Trits by hand, errors of rounding by the normal distribution, and the faults of what is no difference."""

import math

import numpy as np
import pytest

from utils.weights.ternary import decode_difference, encode_difference, pack_trits, unpack_trits

KERNEL = (3, 3, 64, 32)  # large enough to be rounded
RANDOM = np.random.default_rng(0)
BASE = {"a/weight": RANDOM.normal(0, 0.1, KERNEL).astype(np.float16).astype(np.float32),
        "a/bias": np.float32([0.5, -0.25]), "b/weight": np.ones((1, 1, 2, 2), np.float32)}


def changed(spread):
    """Give weights a normal distribution of this standard deviation, per output channel, away from BASE."""
    difference = np.random.default_rng(1).normal(0, 1, KERNEL) * spread
    return {**BASE, "a/weight": (BASE["a/weight"] + difference).astype(np.float32)}


def round_trip(weights, base=BASE):
    return decode_difference(encode_difference(weights, base), base)


def test_trits_are_the_digits_of_base_3_the_first_lowest():
    # 2 + 1*3 + 0*9 + 1*27 + 2*81 = 194; then 0 and what is missing, which counts as 0: 3 + 9 + 27 + 81 = 120
    codes = pack_trits(np.float32([1, 0, -1, 0, 1, -1]))
    assert codes.dtype == np.uint8
    assert codes.tolist() == [194, 120]
    assert unpack_trits(codes, 6).tolist() == [1, 0, -1, 0, 1, -1]
    assert pack_trits(np.ones(5)).tolist() == [242]
    assert pack_trits(-np.ones((1, 5))).tolist() == [0]
    assert pack_trits(np.zeros(0)).size == 0


def test_a_channel_that_changed_by_one_size_everywhere_is_kept():
    """Its deviation is that size, so a multiple of it would keep nothing."""
    steps = np.linspace(0.001, 0.02, KERNEL[-1]).astype(np.float32)
    signs = np.where(np.random.default_rng(4).random(KERNEL) < 0.5, -1, 1)
    weights = {**BASE, "a/weight": BASE["a/weight"] + (signs * steps).astype(np.float32)}
    np.testing.assert_allclose(round_trip(weights)["a/weight"], weights["a/weight"], atol=1e-6)


@pytest.mark.parametrize("code", [243, 255, -1, 0.5])
def test_a_code_that_no_trits_have_is_refused(code):
    with pytest.raises(ValueError, match="a code is none of 0 to 242"):
        unpack_trits(np.array([0, code]), 10)


def test_differences_of_one_size_in_a_channel_come_back_as_they_are():
    steps = np.linspace(0.001, 0.02, KERNEL[-1]).astype(np.float32)
    trits = np.random.default_rng(2).integers(-1, 2, KERNEL)
    weights = {**BASE, "a/weight": BASE["a/weight"] + (trits * steps).astype(np.float32)}
    np.testing.assert_allclose(round_trip(weights)["a/weight"], weights["a/weight"], atol=1e-7)
    encoded = encode_difference(weights, BASE)
    np.testing.assert_allclose(encoded["STEPS"], steps, rtol=1e-4)
    assert (unpack_trits(encoded["CODES"], trits.size).reshape(KERNEL) == trits).all()


def test_a_normal_difference_loses_30_percent_of_its_square_whatever_its_size_in_each_channel():
    """The threshold t = 1.1 keeps P = erfc(t / sqrt 2) of the values, of mean size m: m^2 P of the square stays."""
    weights = changed(np.geomspace(1e-4, 1e-1, KERNEL[-1]))
    kept = math.erfc(1.1 / math.sqrt(2))
    size = math.sqrt(2 / math.pi) * math.exp(-0.605) / kept
    error, difference = round_trip(weights)["a/weight"] - weights["a/weight"], weights["a/weight"] - BASE["a/weight"]
    lost = (error**2).sum((0, 1, 2)) / (difference**2).sum((0, 1, 2))
    assert 1 - size**2 * kept == pytest.approx(0.3003, abs=1e-4)
    assert lost.mean() == pytest.approx(0.3003, abs=0.01)
    assert lost.max() < 0.4


def test_the_step_is_the_best_one_for_its_trits():
    weights = changed(0.01)
    encoded = encode_difference(weights, BASE)
    target = weights["a/weight"]

    def error(scale):
        return np.square(decode_difference({**encoded, "STEPS": encoded["STEPS"] * scale}, BASE)[
            "a/weight"] - target).sum()

    assert error(1) < min(error(0.97), error(1.03))


def test_what_is_no_large_kernel_stays_exact():
    weights = {**BASE, "a/bias": np.float32([0.625, 7]), "b/weight": np.float32([[[[1, 2], [3, -4]]]])}
    result = round_trip(weights)
    for name in ("a/bias", "b/weight"):
        np.testing.assert_array_equal(result[name], weights[name])
        assert result[name].dtype == np.float32
    np.testing.assert_array_equal(result["a/weight"], BASE["a/weight"])  # nothing was learnt: nothing is added
    # in the order of sorted names: a/bias, a/weight, b/weight
    assert encode_difference(weights, BASE)["PLAIN"].tolist() == [0.125, 7.25, 0, 1, 2, -5]


def test_a_base_in_either_precision_gives_the_same_weights():
    random = np.random.default_rng(3)
    exact = {name: value + random.uniform(0, 1e-4, value.shape).astype(np.float32) for name, value in BASE.items()}
    # ncnn's files drop bits of kernels, of which 13 are too many, and keep biases as they are
    halves = {name: (value.view(np.uint32) >> 13 << 13).view(np.float32) if value.ndim == 4 else value
              for name, value in exact.items()}
    assert any((np.abs(value.astype(np.float16) - value) > 0).any() for value in exact.values())
    encoded = encode_difference(changed(0.01), exact)
    for name, value in decode_difference(encoded, halves).items():
        np.testing.assert_array_equal(decode_difference(encoded, exact)[name], value)
    for name, value in encode_difference(changed(0.01), halves).items():
        np.testing.assert_array_equal(encoded[name], value)


@pytest.mark.parametrize(("name", "value", "match"), [
    ("CODES", np.zeros(5, np.uint8), r"wrong shape: CODES \(5,\) instead of \(3687,\)"),
    ("STEPS", np.zeros(31), r"STEPS \(31,\) instead of \(32,\)"),
    ("PLAIN", np.zeros((2, 3)), r"PLAIN \(2, 3\) instead of \(6,\)"),
    ("CODES", np.full(3687, 243, np.uint8), "a code is none of 0 to 242"), ("c", np.zeros(1), "extra: c")])
def test_what_is_no_difference_from_the_base_is_refused(name, value, match):
    with pytest.raises(ValueError, match=match):
        decode_difference({**encode_difference(BASE, BASE), name: value}, BASE)


def test_two_large_kernels_keep_their_own_trits_and_steps():
    base = {name: np.zeros(KERNEL, np.float32) for name in "ba"}
    weights = {"b": np.full(KERNEL, 0.5, np.float32), "a": np.full(KERNEL, -0.25, np.float32)}
    weights["b"][0] = 0
    for name, value in round_trip(weights, base).items():
        np.testing.assert_array_equal(value, weights[name])


def test_missing_names_and_other_networks_are_refused():
    encoded = encode_difference(BASE, BASE)
    del encoded["STEPS"]
    with pytest.raises(ValueError, match="missing: STEPS"):
        decode_difference(encoded, BASE)
    with pytest.raises(ValueError, match=r"a/bias \(3,\) instead of \(2,\)"):
        encode_difference({**BASE, "a/bias": np.zeros(3)}, BASE)
    with pytest.raises(ValueError, match="missing: b/weight"):
        encode_difference({name: BASE[name] for name in ("a/weight", "a/bias")}, BASE)
