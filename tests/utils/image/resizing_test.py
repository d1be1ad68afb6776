"""Resizing, against PyTorch's interpolate as the original used it."""

import numpy as np
import pytest

from tests.helpers.degradations import IMAGE, REFERENCE, thin
from utils.image.resizing import RESIZE_MODES, resize_bicubic, resize_by, resize_to

ODD = IMAGE[:93, :107]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [0.37, 0.8, 1.3])
@pytest.mark.parametrize(("prefix", "image"), [("", IMAGE), ("odd_", ODD)])
def test_resizing_by_a_factor_equals_the_original(mode, factor, prefix, image):
    result = resize_by(image, factor, mode)
    halved = prefix or factor == 1.3  # as the reference is stored
    np.testing.assert_allclose(thin(result[::2, ::2] if halved else result, 4),
                               REFERENCE[f"{prefix}{mode}_x{factor}"], atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(48, 56), (64, 64), (25, 31), (150, 170)])
def test_resizing_to_a_size_equals_the_original(mode, height, width):
    result = resize_to(IMAGE, height, width, mode)
    np.testing.assert_allclose(thin(result[::2, ::2] if height == 150 else result, 4),
                               REFERENCE[f"{mode}_{height}x{width}"], atol=1e-5)


def covered_mean(image, height, width):
    """Average exactly what every output pixel covers, as a product with two matrices of overlaps."""
    def overlaps(count, size):
        edges = np.arange(count + 1) * size / count
        low, high = np.maximum(edges[:-1, None], np.arange(size)), np.minimum(edges[1:, None], np.arange(1, size + 1))
        return np.maximum(high - low, 0) * count / size

    rows, columns = overlaps(height, image.shape[0]), overlaps(width, image.shape[1])
    return np.einsum("yh,hwc,xw->yxc", rows, image, columns, optimize=True)


@pytest.mark.parametrize("factor", [0.15, 0.37, 0.8, 0.99, 1.0])
def test_area_is_the_mean_of_what_a_pixel_covers(factor):
    result = resize_by(ODD, factor, "area")
    np.testing.assert_allclose(result, covered_mean(ODD.astype(float), *result.shape[:2]), atol=1e-5)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_sizes_are_rounded_down(mode):
    for factor, *shapes in REFERENCE["shapes"].tolist():
        assert [side for image in (IMAGE, ODD) for side in resize_by(image, factor, mode).shape[:2]] == shapes


def test_bicubic_has_half_pixel_centres_and_keys_kernel_and_stays_in_range():
    signal = np.zeros((1, 9), np.float32)
    signal[0, 4] = 0.5

    def kernel(x, a=-0.75):  # Keys (1981)
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0

    expected = [max(0, 0.5 * kernel((position + 0.5) / 4 - 0.5 - 4)) for position in range(36)]
    np.testing.assert_allclose(resize_bicubic(signal, 4, 36)[2], expected, atol=1e-6)
    steps = np.tile(np.float32([0, 0, 1, 1, 0]), (5, 1))
    assert (resize_bicubic(steps, 20, 20).min(), resize_bicubic(steps, 20, 20).max()) == (0, 1)
