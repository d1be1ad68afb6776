"""The bootstrap's interval against the normal approximation, exact enumeration and its coverage."""

from itertools import product

import numpy as np
import pytest

from utils.metrics import bootstrap
from utils.metrics.bootstrap import paired_difference


def test_the_interval_of_many_pairs_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    others = rng.normal(30, 5, 500)
    differences = rng.normal(0.3, 0.2, 500)
    mean, low, high = paired_difference(others + differences, others)
    half = 1.96 * differences.std() / np.sqrt(500)
    assert mean == pytest.approx(differences.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.001)


def test_the_interval_of_three_pairs_is_that_of_all_resamples():
    differences = [0.0, 1.0, 5.0]
    means = np.mean(list(product(differences, repeat=3)), axis=1)
    expected = np.quantile(np.repeat(means, 1000), [0.025, 0.975])
    assert paired_difference(differences, np.zeros(3))[1:] == pytest.approx(expected)


def test_equal_seeds_give_equal_intervals_and_signs_turn_with_the_sides():
    left, right = np.random.default_rng(3).normal(size=(2, 30))
    mean, low, high = paired_difference(left, right, seed=5)
    assert paired_difference(left, right, seed=5) == (mean, low, high)
    assert paired_difference(left, right, seed=6)[1:] != (low, high)
    assert paired_difference(right, left, seed=5) == pytest.approx((-mean, -high, -low))


def test_one_pair_has_no_interval():
    mean, low, high = paired_difference([3.0], [1.0])
    assert mean == 2
    assert np.isnan([low, high]).all()


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    values = rng.normal(0.0, 1.0, 37)
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 500)
    at_once = paired_difference(values, np.zeros(37))
    monkeypatch.setattr(bootstrap, "MAX_DRAWS", 1000)
    assert paired_difference(values, np.zeros(37)) == at_once
    one_by_one = np.random.default_rng(0)
    means = [values[one_by_one.integers(37, size=37)].mean() for _ in range(500)]
    assert at_once[1:] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)
