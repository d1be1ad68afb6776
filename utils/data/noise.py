"""Gaussian and Poisson noise of Real-ESRGAN's degradation (Wang et al., ICCVW 2021), and wrong exposure and colours.

Images are float32 RGB in [0, 1], [h, w, 3]. Gray noise is one field shared by the three channels. Noise is drawn from
tables of quantiles, several times as fast as NumPy's own generators.
"""

import functools
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from scipy.special import ndtri, pdtr

from utils.plain_data import Range

NOISE_TYPES = ("gaussian", "poisson")
Gain = Annotated[float, Range(0, 10)]
LEVELS = 256
NORMAL_BITS, POISSON_BITS = 16, 12  # log2 of the number of quantiles, which reach 4.3 and 3.7 standard deviations


@dataclass(frozen=True)
class Tone:
    """Colour gains, then a power, clipped to [0, 1]. `gamma` below 1 brightens."""

    gamma: Annotated[float, Range(0.1, 10)]
    red: Gain
    green: Gain
    blue: Gain

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the image with wrong exposure and colours."""
        return np.clip(image * np.float32([self.red, self.green, self.blue]), 0, 1) ** np.float32(self.gamma)


def add_noise(rng: np.random.Generator, image: np.ndarray, kind: str, strength: float, *, gray: bool) -> np.ndarray:
    """Add noise of a kind of `NOISE_TYPES` and clip to [0, 1]; the image itself may exceed that range.

    `strength`: sigma in range 255, or the scale of Poisson noise. `gray`: the same noise in all channels.
    """
    make = gaussian_noise if kind == "gaussian" else poisson_noise
    return np.clip(image + make(rng, image, strength, gray=gray), 0, 1)


def gaussian_noise(rng: np.random.Generator, image: np.ndarray, sigma: float, *, gray: bool) -> np.ndarray:
    """Draw white Gaussian noise for an image: [h, w, 3], or [h, w, 1] if gray; sigma in range 255."""
    quantiles = rng.integers(0, 2 ** NORMAL_BITS, (*image.shape[:2], 1 if gray else 3), dtype=np.uint16)
    noise = _normal_table().take(quantiles)
    noise *= sigma / 255
    return noise


def poisson_noise(rng: np.random.Generator, image: np.ndarray, scale: float, *, gray: bool) -> np.ndarray:
    """Draw signal-dependent noise: `scale` * (Poisson(v * x) / v - x) for every sample x of the 8-bit image.

    v is the number of distinct levels in the image (in its luma if gray), rounded up to a power of two.
    Returns float32 [h, w, 3], or [h, w, 1] if gray.
    """
    samples = cv2.convertScaleAbs(np.maximum(image, 0), alpha=255)  # rounds, and clips at 1
    if gray:
        samples = cv2.cvtColor(samples, cv2.COLOR_RGB2GRAY)[:, :, None]
    used = np.count_nonzero(np.bincount(samples.ravel(), minlength=LEVELS))
    quantiles = rng.integers(0, 2 ** 16, samples.shape, dtype=np.uint16) >> (16 - POISSON_BITS)  # fast for whole words
    noise = _poisson_table(1 << (int(used) - 1).bit_length()).take(samples.astype(np.int32) << POISSON_BITS | quantiles)
    noise *= scale
    return noise


@functools.lru_cache(maxsize=1)
def _normal_table() -> np.ndarray:
    return ndtri(_middles(NORMAL_BITS)).astype(np.float32)


@functools.lru_cache(maxsize=3)  # of 4 MiB; photographs need those of 256 and 128
def _poisson_table(photons: int) -> np.ndarray:
    """Return the quantiles of Poisson(photons * x) / photons - x, a row for each 8-bit level x, flat."""
    rates = np.arange(LEVELS) / (LEVELS - 1) * photons
    counts = np.arange(2 * photons + 20)  # the largest quantile of the largest rate is among them
    rows = [(np.searchsorted(pdtr(counts, rate), _middles(POISSON_BITS)) - rate) / photons for rate in rates]
    return np.concatenate(rows).astype(np.float32)


def _middles(bits: int) -> np.ndarray:
    """Return the middles of 2**bits equal parts of (0, 1)."""
    return (np.arange(1 << bits) + 0.5) / (1 << bits)
