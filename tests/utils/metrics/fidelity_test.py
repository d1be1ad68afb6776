"""PSNR and SSIM: figures worked out by hand, and of independent programs (tests/data/metrics.npz, lpips.npz)."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from skimage.metrics import structural_similarity

from utils.metrics import fidelity as metrics
from utils.metrics.fidelity import luma, psnr_paper, psnr_rgb, psnr_y, ssim

DATA = Path(__file__).parents[2] / "data"
EXPECTED = np.load(DATA / "metrics.npz")
PAIRS = np.load(DATA / "lpips.npz")
PSNRS = ("psnr_y", "psnr_rgb", "psnr_paper")
ALL = (*PSNRS, "ssim")


def colour(*rgb, size=(2, 3)):
    return np.full((*size, 3), rgb, np.uint8)


def noisy(image, sigma):
    noise = np.random.default_rng(0).standard_normal(image.shape)
    return np.clip(np.rint(image + sigma * noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("rgb", "expected"), [
    ((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81), ((0, 255, 0), 145), ((0, 0, 255), 41),
    ((128, 128, 128), 126)])
def test_luma_is_that_of_bt_601_in_its_limited_range(rgb, expected):
    np.testing.assert_array_equal(luma(colour(*rgb)), np.full((2, 3), expected))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pair", range(3))
def test_figures_are_those_of_independent_programs(name, pair):
    found = getattr(metrics, name)(PAIRS[f"pair{pair}_a"], PAIRS[f"pair{pair}_b"])
    assert found == pytest.approx(EXPECTED[name][pair], abs=1e-6 if name == "ssim" else 1e-9)


def test_psnr_is_that_worked_out_by_hand_either_way_round():
    black, white = colour(0, 0, 0), colour(255, 255, 255)
    half = black.copy()
    half[:1] = 255  # half of the pixels differ by 219
    assert psnr_y(black, white) == pytest.approx(20 * np.log10(255 / 219), abs=1e-9)
    assert psnr_y(half, black) == psnr_y(black, half) == pytest.approx(20 * np.log10(255 / 219) + 10 * np.log10(2))
    assert psnr_rgb(half, black) == psnr_rgb(black, half) == pytest.approx(10 * np.log10(2))


def test_the_original_script_takes_red_for_blue():
    red, blue, black = colour(255, 0, 0), colour(0, 0, 255), colour(0, 0, 0)
    assert psnr_paper(red, black) == psnr_y(blue, black)
    assert psnr_paper(blue, black) == psnr_y(red, black)
    assert psnr_paper(red, black) != psnr_y(red, black)


@pytest.mark.parametrize(("rgb", "expected"), [((4, 194, 109), 126), ((240, 60, 180), 126), ((132, 102, 247), 125)])
def test_colours_halfway_between_two_numbers_go_where_the_original_arithmetic_has_them(rgb, expected):
    np.testing.assert_array_equal(luma(colour(*rgb)), np.full((2, 3), expected))


def test_the_original_script_has_100_db_for_nearly_equal_images_too():
    for size, expected in (((392, 392), 20 * np.log10(255 * 392)), ((393, 393), 100)):
        black = colour(0, 0, 0, size=size)
        other = black.copy()
        other[5, 6] = (0, 2, 0)  # a luma of 16 + 1
        assert psnr_paper(other, black) == pytest.approx(expected, abs=1e-9)
        assert psnr_y(other, black) == pytest.approx(20 * np.log10(255 * size[0]), abs=1e-9)


def test_equal_images_have_no_error():
    image = colour(1, 2, 3)
    assert psnr_y(image, image) == psnr_rgb(image, image) == float("inf")
    assert psnr_paper(image, image) == 100


@pytest.mark.parametrize("name", ALL)
def test_images_of_other_sizes_are_refused(name):
    with pytest.raises(ValueError, match=r"one size. Received: \(2, 3, 3\) and \(2, 2, 3\)"):
        getattr(metrics, name)(colour(0, 0, 0), colour(0, 0, 0)[:, :2])


def test_similarity_is_that_of_scikit_image_down_to_its_smallest_size():
    for height, width in ((11, 11), (11, 40), (64, 30)):
        image = skimage.data.astronaut()[100:100 + height, 200:200 + width]
        spoilt = noisy(image, 20)
        expected = structural_similarity(luma(image), luma(spoilt), data_range=255, gaussian_weights=True, sigma=1.5,
                                         use_sample_covariance=False)
        assert ssim(image, spoilt) == pytest.approx(expected, abs=1e-12)


def test_similarity_needs_the_window_inside_of_the_image():
    with pytest.raises(ValueError, match=r"at least 11x11 pixels\. Received: 40x10"):
        ssim(colour(0, 0, 0, size=(10, 40)), colour(0, 0, 0, size=(10, 40)))


def test_psnr_of_some_pixels_is_that_worked_out_by_hand():
    image, reference = np.full((4, 5, 3), 100, np.uint8), np.full((4, 5, 3), 100, np.uint8)
    image[0, 0], image[3, 4] = 0, 255
    keep = np.zeros((4, 5), bool)
    keep[:2] = True  # ten pixels, of which one is wrong: luma 16 in place of 102
    assert psnr_y(image, reference, keep=keep) == pytest.approx(10 * np.log10(255**2 / (86**2 / 10)), abs=1e-9)
    keep[0, 0] = False
    assert psnr_y(image, reference, keep=keep) == np.inf
    assert psnr_y(image, reference, keep=np.ones((4, 5), bool)) == psnr_y(image, reference)


def test_similarity_of_a_part_is_that_of_the_part_alone():
    photo = skimage.data.astronaut()[100:160, 100:180]
    other = noisy(photo, 8)
    keep = np.zeros(photo.shape[:2], bool)
    keep[5:45, 20:70] = True
    other_inside = other.copy()
    other_inside[~keep] = 0
    assert ssim(other_inside, photo, keep=keep) == pytest.approx(ssim(other[5:45, 20:70], photo[5:45, 20:70]), abs=1e-9)
    assert ssim(other, photo, keep=np.ones_like(keep)) == ssim(other, photo)


def test_a_part_must_hold_something_to_measure():
    photo = colour(1, 2, 3, size=(20, 20))
    keep = np.zeros((20, 20), bool)
    with pytest.raises(ValueError, match="a pixel to keep"):
        psnr_y(photo, photo, keep=keep)
    keep[5:15, :] = True
    with pytest.raises(ValueError, match="11x11 pixels to keep"):
        ssim(photo, photo, keep=keep)
