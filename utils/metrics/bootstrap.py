"""The bootstrap interval of a mean of paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 10_000
COVERAGE = 0.95
MAX_DRAWS = 1_000_000  # at once, to bound memory


class Difference(NamedTuple):
    """The mean of paired differences, and the ends of its interval; these are nan for less than two pairs."""

    mean: float
    low: float
    high: float


def paired_difference(values: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Difference:
    """Return mean(values - others) and its 95 % percentile bootstrap interval over the images (Efron, 1979).

    Both are finite, one value per image, and not empty.
    """
    differences = np.subtract(values, others)
    count = len(differences)
    if count < 2:
        return Difference(float(differences.mean()), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    together = max(1, MAX_DRAWS // count)
    means = [differences[rng.integers(count, size=(min(together, NUM_RESAMPLES - start), count))].mean(axis=1)
             for start in range(0, NUM_RESAMPLES, together)]
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Difference(float(differences.mean()), float(low), float(high))
