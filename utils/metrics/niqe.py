"""NIQE (Mittal et al., 2013), without a reference, in float64.

The image is cut from its upper left corner into blocks of 96x96 pixels; what is left over does not count.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from scipy.special import gamma

from utils.image.io import LUMA
from utils.metrics.fidelity import luma

BLOCK = 96  # pixels
NUM_SCALES = 2
FEWEST_BLOCKS = 2  # for a covariance
PRISTINE_MODEL = Path(__file__).with_name("niqe_pristine.npz")  # source and licence: weights/README.md
WINDOW, WINDOW_SIGMA = 7, 7 / 6  # pixels
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows down, columns right
SHAPES = np.arange(200, 10001) / 1000  # of generalised Gaussians, tried one by one
SHAPE_RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))  # grow with the shape
HALVING_TAPS = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256  # cubic convolution (a = -0.5), stretched by 2


@cache
def pristine_model() -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [36] and the covariance [36, 36] of natural photographs: LIVE's model, as BasicSR ships it."""
    with np.load(PRISTINE_MODEL) as arrays:
        return arrays["mean"], arrays["covariance"]


def yiq_luma(image: np.ndarray) -> np.ndarray:
    """Return the full-range luma [h, w] of uint8 RGB in 0..255, rounded to whole numbers, as float64.

    Computed in float32 as by pyiqa: one pixel in a thousand lies halfway between two numbers, and rounding decides.
    """
    red, green, blue = (image[:, :, channel].astype(np.float32) / np.float32(255) for channel in range(3))
    gray = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return np.rint(gray * np.float32(255)).astype(np.float64)


# BasicSR's is BT.601 limited range
NIQE_LUMAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"pyiqa": yiq_luma, "basicsr": luma}


def niqe(gray: np.ndarray) -> float:
    """Return the NIQE of a luma image [h, w], float64 in 0..255; lower is better. Large flat areas make it imprecise.

    Raises a ValueError if the image is smaller than two blocks, or too flat.
    """
    features = niqe_features(gray)
    complete = features[np.isfinite(features).all(axis=1)]
    rows, columns = (length // BLOCK * BLOCK for length in gray.shape)
    if np.ptp(gray[:rows, :columns]) == 0:  # rounding makes features of it
        raise ValueError("NIQE needs two blocks of 96x96 pixels with texture. Received: a flat image.")
    if len(complete) < FEWEST_BLOCKS:
        raise ValueError("NIQE needs two blocks of 96x96 pixels with texture. Received: "
                         f"{'one' if len(complete) else 'no block with texture to measure'}.")
    mean, covariance = pristine_model()
    difference = mean - np.nanmean(features, axis=0)
    spread = np.linalg.pinv((covariance + np.cov(complete, rowvar=False)) / 2)
    return float(np.sqrt(difference @ spread @ difference))


def niqe_features(gray: np.ndarray) -> np.ndarray:
    """Return the features [blocks, 36] of a luma image [h, w], float64 in 0..255; the blocks row by row.

    The first 18 features are of the image, the others of its half. Those of a block without contrast are nan.
    """
    rows, columns = gray.shape[0] // BLOCK, gray.shape[1] // BLOCK
    if rows * columns < FEWEST_BLOCKS:
        raise ValueError(f"NIQE needs two blocks of 96x96 pixels. Received: {gray.shape[1]}x{gray.shape[0]}.")
    gray = gray[:rows * BLOCK, :columns * BLOCK]
    features = []
    for scale in range(NUM_SCALES):
        if scale:
            gray = _halve(gray)
        block = BLOCK >> scale
        blocks = _normalize_contrast(gray).reshape(rows, block, columns, block).swapaxes(1, 2)
        features += _block_features(blocks.reshape(rows * columns, block, block))
    return np.stack(features, axis=1)


def _halve(gray: np.ndarray) -> np.ndarray:
    """Resize to a half as MATLAB's imresize: bicubic, antialiased, mirrored at the border with the edge repeated."""
    filtered = cv2.sepFilter2D(gray, cv2.CV_64F, HALVING_TAPS, HALVING_TAPS, anchor=(3, 3),
                               borderType=cv2.BORDER_REFLECT)
    return filtered[::2, ::2]


def _normalize_contrast(gray: np.ndarray) -> np.ndarray:
    """Subtract the local mean and divide by the local deviation plus one."""
    window = cv2.getGaussianKernel(WINDOW, WINDOW_SIGMA, cv2.CV_64F)

    def local_mean(values: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(values, cv2.CV_64F, window, window, borderType=cv2.BORDER_REPLICATE)

    mean = local_mean(gray)
    deviation = np.sqrt(np.abs(local_mean(gray * gray) - mean * mean))
    return (gray - mean) / (deviation + 1)


def _block_features(blocks: np.ndarray) -> list[np.ndarray]:
    """Return the 18 features of blocks [n, b, b], each as [n]."""
    shape, left, right = _fit_asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = _fit_asymmetric_gaussian(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return features


def _fit_asymmetric_gaussian(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit an asymmetric generalised Gaussian to every [b, b] of [n, b, b] by its moments (Lasmar et al., 2009).

    Returns shape, left and right width, each [n]; nan where one side has no values.
    """
    squares = values * values
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (np.sqrt(np.sum(squares, axis=(1, 2), where=side) / np.count_nonzero(side, axis=(1, 2)))
                       for side in (values < 0, values > 0))
        asymmetry = left / right
        ratio = np.mean(np.abs(values), axis=(1, 2)) ** 2 / np.mean(squares, axis=(1, 2))
        ratio *= (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1) ** 2
    above = np.clip(np.searchsorted(SHAPE_RATIOS, ratio), 1, len(SHAPES) - 1)
    nearer = above - (ratio - SHAPE_RATIOS[above - 1] <= SHAPE_RATIOS[above] - ratio)
    shape = np.where(np.isfinite(ratio), SHAPES[nearer], np.nan)
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width
