"""Gaussian and Poisson noise of Real-ESRGAN's degradation (Wang et al., ICCVW 2021).

Images are float32 RGB in [0, 1], [h, w, 3]. Gray noise is one field that all three channels share.

Both distributions are drawn from tables of their quantiles, several times as fast as NumPy's own generators.
"""

import functools

import cv2
import numpy as np
from scipy.special import ndtri, pdtr

NOISE_TYPES = ("gaussian", "poisson")
LEVELS = 256
NORMAL_BITS, POISSON_BITS = 16, 12  # of the number of quantiles; beyond lie 4.3 and 3.7 standard deviations


def add_noise(rng: np.random.Generator, image: np.ndarray, kind: str, strength: float, *, gray: bool) -> np.ndarray:
    """Add noise and clip to [0, 1].

    Args:
        rng: where the noise comes from.
        image: values outside [0, 1] are allowed.
        kind: `gaussian` or `poisson`.
        strength: standard deviation in units of 1/255, or what Poisson noise is multiplied by.
        gray: the same noise in all channels.
    """
    make = gaussian_noise if kind == "gaussian" else poisson_noise
    noisy = image + make(rng, image, strength, gray=gray)
    return np.clip(noisy, 0, 1, out=noisy)


def gaussian_noise(rng: np.random.Generator, image: np.ndarray, sigma: float, *, gray: bool) -> np.ndarray:
    """Draw white Gaussian noise for an image: [h, w, 3], or [h, w, 1] if gray; sigma in units of 1/255."""
    quantiles = rng.integers(0, 2 ** NORMAL_BITS, (*image.shape[:2], 1 if gray else 3), dtype=np.uint16)
    noise = _normal_table().take(quantiles)
    noise *= sigma / 255
    return noise


def poisson_noise(rng: np.random.Generator, image: np.ndarray, scale: float, *, gray: bool) -> np.ndarray:
    """Draw signal-dependent noise: `scale` times (Poisson(v * x) / v - x) for every sample x of the 8-bit image.

    v is the number of different levels in the image (of its luma if gray), rounded up to a power of two: an image of
    few levels is taken for one of few photons.

    Returns:
        [h, w, 3], or [h, w, 1] if gray, float32.
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
    """Tabulate Poisson(photons * x) / photons - x for every 8-bit level: row after row its quantiles, flat."""
    rates = np.arange(LEVELS) / (LEVELS - 1) * photons
    counts = np.arange(2 * photons + 20)  # the largest quantile of the largest rate is among them
    rows = [(np.searchsorted(pdtr(counts, rate), _middles(POISSON_BITS)) - rate) / photons for rate in rates]
    return np.concatenate(rows).astype(np.float32)


def _middles(bits: int) -> np.ndarray:
    """Divide (0, 1) into 2**bits equal parts and give their middles."""
    return (np.arange(1 << bits) + 0.5) / (1 << bits)
