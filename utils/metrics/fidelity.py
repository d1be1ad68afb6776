"""PSNR (in dB) and SSIM. Images are uint8 RGB [h, w, 3]; two of different sizes are a ValueError."""

import cv2
import numpy as np

# BT.601 limited range, as MATLAB's rgb2ycbcr, for RGB in 0..255
STUDIO_LUMA = np.array([65.481, 128.553, 24.966])
LUMA_OFFSET = 16.0
PEAK = 255.0
PAPER_PSNR_OF_EQUAL, PAPER_EQUAL_BELOW = 100.0, 1e-10  # dB; mean squared error for samples in 0..1
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels
SSIM_STABILIZERS = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def luma(image: np.ndarray, *, weights: np.ndarray = STUDIO_LUMA) -> np.ndarray:
    """Return the luma [h, w] in 16..235, rounded to whole numbers, as float64; `weights` are those of the channels.

    Some colours lie halfway between two numbers: the order of operations, which decides, is the original script's.
    """
    return np.rint(image.astype(np.float64) @ weights / PEAK + LUMA_OFFSET)


def psnr_y(image: np.ndarray, reference: np.ndarray, *, keep: np.ndarray | None = None) -> float:
    """Return the PSNR of the luma (peak 255), over all pixels or those to `keep` [h, w] bool; inf where they are equal.

    Raises a ValueError if no pixel is kept.
    """
    _check_sizes(image, reference, "PSNR")
    if keep is not None and not keep.any():
        raise ValueError("PSNR needs a pixel to keep. Received: none.")
    return _psnr(*(luma(side) if keep is None else luma(side)[keep] for side in (image, reference)))


def psnr_rgb(image: np.ndarray, reference: np.ndarray) -> float:
    """Return the PSNR of all samples (peak 255); inf for equal images."""
    _check_sizes(image, reference, "PSNR")
    return _psnr(image.astype(np.float64), reference.astype(np.float64))


def psnr_paper(image: np.ndarray, reference: np.ndarray) -> float:
    """Return the PSNR of the original script, which takes red for blue in the luma.

    It is 100 dB where the mean squared error of the luma in 0..1 is below 1e-10.
    """
    _check_sizes(image, reference, "PSNR")
    left, right = (luma(side, weights=STUDIO_LUMA[::-1]) for side in (image, reference))
    return PAPER_PSNR_OF_EQUAL if np.mean((left - right) ** 2) < PAPER_EQUAL_BELOW * PEAK**2 else _psnr(left, right)


def _psnr(image: np.ndarray, reference: np.ndarray) -> float:
    error = np.mean((image - reference) ** 2)
    return float(10 * np.log10(PEAK**2 / error)) if error else float("inf")


def ssim(image: np.ndarray, reference: np.ndarray, *, keep: np.ndarray | None = None) -> float:
    """Return the mean structural similarity of the luma (Wang et al., 2004); 1 for equal images.

    As scikit-image's with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`, several
    times as fast. With `keep` [h, w] bool only windows that see nothing but pixels to keep count. Raises a ValueError
    if a side is shorter than 11 pixels, or no window is kept.
    """
    _check_sizes(image, reference, "SSIM")
    if min(image.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels. Received: "
                         f"{image.shape[1]}x{image.shape[0]}.")
    left, right = luma(image), luma(reference)
    mean_left, mean_right = _window_means(left), _window_means(right)
    variances = _window_means(left * left + right * right) - mean_left * mean_left - mean_right * mean_right
    covariance = _window_means(left * right) - mean_left * mean_right
    c1, c2 = SSIM_STABILIZERS
    similarity = ((2 * mean_left * mean_right + c1) * (2 * covariance + c2)
                  / ((mean_left * mean_left + mean_right * mean_right + c1) * (variances + c2)))
    if keep is None:
        return float(similarity.mean())
    margin = SSIM_WINDOW // 2
    counted = cv2.erode(keep.astype(np.uint8), np.ones((SSIM_WINDOW, SSIM_WINDOW), np.uint8)).astype(bool)
    counted = counted[margin:-margin, margin:-margin]
    if not counted.any():
        raise ValueError(f"SSIM needs {SSIM_WINDOW}x{SSIM_WINDOW} pixels to keep. Received: fewer.")
    return float(similarity[counted].mean())


def _window_means(values: np.ndarray) -> np.ndarray:
    """Return the means under the Gaussian window where it lies inside: float64 [h, w] -> [h - 10, w - 10]."""
    window = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)
    margin = SSIM_WINDOW // 2
    return cv2.sepFilter2D(values, cv2.CV_64F, window, window)[margin:-margin, margin:-margin]


def _check_sizes(image: np.ndarray, reference: np.ndarray, what: str) -> None:
    if image.shape != reference.shape:
        raise ValueError(f"{what} needs images of one size. Received: {image.shape} and {reference.shape}.")
