"""The bootstrap's interval against exact enumeration and resamples drawn one by one."""

from itertools import product

import numpy as np
import pytest

from utils.metrics import bootstrap
from utils.metrics.bootstrap import Difference, paired_difference


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
    difference = paired_difference([3.0], [1.0])
    assert difference == (2, None, None)
    assert difference.text(1) == "+2.0"
    assert Difference(-1, 0.25, 2).text(2) == "-1.00 [+0.25, +2.00]"


def test_an_interval_is_that_of_resamples_drawn_one_by_one(monkeypatch):
    values = np.random.default_rng(3).normal(0.0, 1.0, 37)
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 500)
    one_by_one = np.random.default_rng(0)
    means = [values[one_by_one.integers(37, size=37)].mean() for _ in range(500)]
    for limit in (1000, 1_000_000):  # how many are drawn at once changes nothing
        monkeypatch.setattr(bootstrap, "MAX_DRAWS", limit)
        found = paired_difference(values, np.zeros(37))[1:]
        assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)
