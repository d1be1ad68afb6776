"""Image quality metrics. Images are uint8 RGB [h, w, 3] of one size; PSNR is in dB."""

import numpy as np

# BT.601 limited range, as MATLAB's rgb2ycbcr, for RGB in 0..255
LUMA = np.array([65.481, 128.553, 24.966]) / 255
LUMA_OFFSET = 16.0


def luma(image: np.ndarray) -> np.ndarray:
    """Give the luma [h, w] in 16..235, rounded to whole numbers, as float64."""
    return np.rint(image.astype(np.float64) @ LUMA + LUMA_OFFSET)


def psnr_y(image: np.ndarray, reference: np.ndarray) -> float:
    """Give the PSNR of the luma (peak 255); inf for equal images.

    Raises:
        ValueError: the sizes differ.
    """
    if image.shape != reference.shape:
        raise ValueError(f"PSNR needs images of one size. Received: {image.shape} and {reference.shape}.")
    error = np.mean((luma(image) - luma(reference)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
