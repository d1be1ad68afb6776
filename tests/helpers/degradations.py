"""Arrays that Real-ESRGAN's own degradation gave, and checks of what is drawn."""

from pathlib import Path

import numpy as np
import pytest

from utils.image.io import quantize

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "degrade.npz")
IMAGE = (REFERENCE["img"] / 255).astype(np.float32)


def shrink(image):
    """Return the means of 4x4 pixels, uint8."""
    height, width = image.shape[0] // 4, image.shape[1] // 4
    return quantize(image.reshape(height, 4, width, 4, 3).mean(axis=(1, 3), dtype=np.float64))


def thin(image, step):
    """Keep every `step`-th row and column, and the last ones, as the reference does."""
    rows, columns = (np.union1d(np.arange(0, side, step), [side - 1]) for side in image.shape[:2])
    return image[rows][:, columns]


def check_frequencies(values, probabilities):
    """Compare with binomial expectations, within five standard deviations."""
    values = list(values)
    assert set(values) <= set(probabilities)
    for value, probability in probabilities.items():
        deviation = np.sqrt(len(values) * probability * (1 - probability))
        assert values.count(value) == pytest.approx(len(values) * probability, abs=5 * deviation + 1e-9), value


def check_uniform(values, low, high):
    values = np.array(list(values), float)
    assert low <= values.min()
    assert values.max() <= high
    assert values.mean() == pytest.approx((low + high) / 2, abs=5 * (high - low) / np.sqrt(12 * len(values)))
    assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.1)
