"""Resizing as the degradation does it: area, bilinear or bicubic, without antialiasing but for area.

Images are float32, [h, w, c]. Pixel centres lie at half-integers; bicubic is cubic convolution with a = -0.75. Both
equal PyTorch's interpolate, `area` is OpenCV's: every output pixel is the exact mean of the area it covers.
"""

import cv2
import numpy as np

RESIZE_MODES = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def resize_to(image: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """Resize to a size; the sampling step is input size / output size."""
    return cv2.resize(image, (width, height), interpolation=RESIZE_MODES[mode])


def resize_by(image: np.ndarray, factor: float, mode: str) -> np.ndarray:
    """Resize by a factor: the size is rounded down (1 pixel at least).

    The sampling step of bilinear and bicubic is exactly 1 / factor, so that a strip right and below may be lost; area
    covers the whole image.
    """
    height, width = (max(1, int(side * factor)) for side in image.shape[:2])
    if mode == "area" or 1 in (height, width):  # OpenCV refuses factors that give less than half a pixel
        return resize_to(image, height, width, mode)
    resized = cv2.resize(image, None, fx=factor, fy=factor, interpolation=RESIZE_MODES[mode])
    return resized[:height, :width]  # OpenCV rounds the size to the nearest


def resize_bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize [h, w] or [h, w, c] float32 by cubic convolution (half-pixel centres, a = -0.75), clipped to [0, 1]."""
    return np.clip(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
