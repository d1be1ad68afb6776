"""The bootstrap interval of a mean of paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 10_000
COVERAGE = 0.95
MAX_DRAWS = 1_000_000  # at once, to bound memory


class Difference(NamedTuple):
    """The mean of paired differences, and the ends of its interval, which less than two pairs do not have."""

    mean: float
    low: float | None = None
    high: float | None = None

    def text(self, digits: int) -> str:
        """Return `mean [low, high]` with signs; without the interval where there is none."""
        return f"{self.mean:+.{digits}f}" + (
            "" if self.low is None else f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]")


def paired_difference(values: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Difference:
    """Return mean(values - others) and its 95 % percentile bootstrap interval over the images (Efron, 1979).

    Both are finite, one value per image, and not empty.
    """
    from scipy.stats import bootstrap  # takes a second

    differences = np.subtract(values, others)
    if len(differences) < 2:
        return Difference(float(differences.mean()))
    found = bootstrap([differences], np.mean, n_resamples=NUM_RESAMPLES, confidence_level=COVERAGE,
                      method="percentile", batch=max(1, MAX_DRAWS // len(differences)), rng=np.random.default_rng(seed))
    return Difference(float(differences.mean()), *map(float, found.confidence_interval))
