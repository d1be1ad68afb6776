"""Blur kernels of Real-ESRGAN's degradation (Wang et al., ICCVW 2021), and filtering with them.

Images are float32 [h, w, c]; kernels float64 [size, size] with sum 1. Sizes and sigmas in pixels, angles in radians.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from scipy.special import j1

from config import GAUSSIAN_KINDS, DegradationStage
from utils.plain_data import Range

NEGLIGIBLE = 1e-6  # total weight of the taps that filtering leaves out
Size = Annotated[int, range(1, 100, 2)]
Sigma = Annotated[float, Range(0.01, 100)]
MAX_DIRECT_TAPS = 129  # with more, cv2.filter2D uses a Fourier transform, up to ten times as slow


@dataclass(frozen=True)
class GaussianKernel:
    """A Gaussian, generalised Gaussian or plateau kernel.

    With q the squared Mahalanobis distance: exp(-q/2) for `iso` and `aniso`, exp(-q**beta / 2) for the generalised
    kinds, 1 / (1 + q**beta) for plateaus. `rotation` turns the sigma_x axis from x towards y (downwards). Isotropic
    kinds have equal sigmas.
    """

    kind: Annotated[str, GAUSSIAN_KINDS]
    size: Size
    sigma_x: Sigma
    sigma_y: Sigma
    rotation: Annotated[float, Range(-math.pi, math.pi)] = 0.0
    beta: Annotated[float, Range(0.01, 100)] = 1.0

    def weights(self) -> np.ndarray:
        """Return the kernel, [size, size]."""
        x, y = _offsets(self.size)
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        squared = ((cosine * x + sine * y) / self.sigma_x) ** 2 + ((cosine * y - sine * x) / self.sigma_y) ** 2
        if self.kind.startswith("plateau"):
            values = 1 / (1 + squared ** self.beta)
        else:
            values = np.exp(-0.5 * squared ** self.beta)
        return values / values.sum()


@dataclass(frozen=True)
class SincKernel:
    """A circular low-pass filter, which makes ringing. `cutoff` in radians per pixel."""

    size: Size
    cutoff: Annotated[float, Range(0.01, math.pi)]

    def weights(self) -> np.ndarray:
        """Return the kernel, [size, size]."""
        distance = np.hypot(*_offsets(self.size))
        distance[self.size // 2, self.size // 2] = 1  # anything but 0
        values = self.cutoff * j1(self.cutoff * distance) / (2 * np.pi * distance)
        values[self.size // 2, self.size // 2] = self.cutoff ** 2 / (4 * np.pi)
        return values / values.sum()


Kernel = GaussianKernel | SincKernel


def _offsets(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of every tap, relative to the middle."""
    steps = np.arange(size, dtype=np.float64) - size // 2
    return np.meshgrid(steps, steps)


def sample_kernel(rng: np.random.Generator, stage: DegradationStage) -> Kernel | None:
    """Draw the blur kernel of one stage; None: no blur."""
    if rng.random() >= stage.blur_prob:
        return None
    size = int(rng.choice(stage.kernel_sizes))
    if rng.random() < stage.sinc_prob:
        return SincKernel(size, float(rng.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi)))
    kind = str(rng.choice(stage.kernel_kinds, p=stage.kernel_probs))
    sigma_x = sigma_y = float(rng.uniform(*stage.sigma_range))
    rotation, beta = 0.0, 1.0
    if kind.endswith("aniso"):
        sigma_y = float(rng.uniform(*stage.sigma_range))
        rotation = float(rng.uniform(-np.pi, np.pi))
    if not kind.startswith(("iso", "aniso")):
        low, high = stage.betap_range if kind.startswith("plateau") else stage.betag_range
        beta = float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
    return GaussianKernel(kind, size, sigma_x, sigma_y, rotation, beta)


def apply_kernel(image: np.ndarray, kernel: Kernel | None) -> np.ndarray:
    """Correlate an image with a kernel, with reflected borders (edge pixels not repeated); None: no change.

    Taps with a total weight below 1e-6 are left out.
    """
    if kernel is None:
        return image
    weights = _drop_negligible(kernel.weights())
    if isinstance(kernel, GaussianKernel) and kernel.kind == "iso":
        return filter_separably(image, weights.sum(axis=0))
    return filter_image(image, weights)


def _drop_negligible(weights: np.ndarray) -> np.ndarray:
    """Set the smallest weights to 0, which cv2.filter2D skips, and crop edges that are all 0."""
    order, kept = np.argsort(np.abs(weights), axis=None), weights.copy()
    kept.ravel()[order[np.cumsum(np.abs(weights).ravel()[order]) < NEGLIGIBLE]] = 0
    middle = len(kept) // 2
    radius = int(np.abs(np.argwhere(kept) - middle).max())
    return kept[middle - radius:middle + radius + 1, middle - radius:middle + radius + 1]


def filter_separably(image: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Correlate rows and columns of a float32 image with `profile` [size], borders as in `apply_kernel`."""
    # two calls of filter2D take two thirds of the time of sepFilter2D
    return cv2.filter2D(cv2.filter2D(image, -1, profile[None, :]), -1, profile[:, None])


def filter_image(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlate an image with square weights of odd size, borders as in `apply_kernel`.

    Large kernels are applied in horizontal strips, which avoids OpenCV's slow Fourier transform.
    """
    size, height = len(weights), image.shape[0]
    rows = max(1, MAX_DIRECT_TAPS // size)
    if rows >= size:
        return cv2.filter2D(image, -1, weights)
    radius = size // 2
    padded = cv2.copyMakeBorder(image, radius, radius, 0, 0, cv2.BORDER_REFLECT_101)
    total = np.zeros_like(image)
    for top in range(0, size, rows):
        strip = weights[top:top + rows]
        seen = padded[top:top + height + len(strip) - 1]
        total += cv2.filter2D(seen, -1, strip, anchor=(radius, 0))[:height]
    return total
