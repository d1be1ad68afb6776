"""PSNR of the luma: figures worked out by hand, and of an independent program."""

from pathlib import Path

import numpy as np
import pytest

from utils.metrics import luma, psnr_y

REFERENCE = Path(__file__).parents[1] / "data" / "psnr.npz"


def colour(*rgb):
    return np.full((2, 3, 3), rgb, np.uint8)


@pytest.mark.parametrize(("rgb", "expected"), [
    ((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81), ((0, 255, 0), 145), ((0, 0, 255), 41),
    ((128, 128, 128), 126)])
def test_luma_is_that_of_bt_601_in_its_limited_range(rgb, expected):
    np.testing.assert_array_equal(luma(colour(*rgb)), np.full((2, 3), expected))


@pytest.mark.parametrize("pair", [0, 1])
def test_psnr_is_that_of_an_independent_program(pair):
    with np.load(REFERENCE) as arrays:
        found = psnr_y(arrays[f"pair{pair}_a"], arrays[f"pair{pair}_b"])
        assert found == pytest.approx(arrays["psnr_y"][pair], abs=1e-4)


def test_psnr_is_that_worked_out_by_hand_either_way_round():
    black, white = colour(0, 0, 0), colour(255, 255, 255)
    half = black.copy()
    half[:1] = 255  # half of the pixels differ by 219
    assert psnr_y(black, white) == pytest.approx(20 * np.log10(255 / 219), abs=1e-9)
    assert psnr_y(half, black) == psnr_y(black, half) == pytest.approx(20 * np.log10(255 / 219) + 10 * np.log10(2))


def test_equal_images_have_no_error():
    assert psnr_y(colour(1, 2, 3), colour(1, 2, 3)) == float("inf")


def test_images_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size. Received: \(2, 3, 3\) and \(2, 2, 3\)"):
        psnr_y(colour(0, 0, 0), colour(0, 0, 0)[:, :2])
