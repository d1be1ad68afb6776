"""NIQE against two published programs (tests/data/metrics.npz), whose luma and arithmetic differ."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

import utils.metrics.niqe as module
from tests.helpers.reference_weights import draw
from utils.metrics.fidelity import luma
from utils.metrics.niqe import NIQE_LUMAS, niqe, niqe_features, pristine_model, yiq_luma

EXPECTED = np.load(Path(__file__).parents[2] / "data" / "metrics.npz")
MODEL_MEAN, MODEL_COVARIANCE = EXPECTED["niqe_model_mean"][0], EXPECTED["niqe_model_covariance"]


def noisy(image, name, sigma):
    """Add noise that depends on a name."""
    return np.clip(np.rint(image + sigma * draw(name, image.shape, 1.0).astype(np.float64)), 0, 255).astype(np.uint8)


def reference_images():
    """Return the images of the reference figures; the last has saturated areas, where NIQE is imprecise."""
    photo = skimage.data.astronaut()
    blurred = np.rint(cv2.blur(photo[30:330].astype(np.float64), (3, 3), borderType=cv2.BORDER_REPLICATE))
    return [noisy(photo, "niqe/0", 2), noisy(photo[:, 60:400], "niqe/1", 4),
            noisy(blurred.astype(np.uint8), "niqe/2", 6), photo]


IMAGES = reference_images()


@pytest.mark.parametrize(("index", "tolerance"), [(0, 2e-5), (1, 2e-5), (2, 2e-5), (3, 2e-2)])
def test_figures_are_those_of_basicsr_in_float64(index, tolerance):
    found = niqe(NIQE_LUMAS["basicsr"](IMAGES[index]))
    assert found == pytest.approx(EXPECTED["niqe_basicsr"][index], rel=tolerance)


@pytest.mark.parametrize(("index", "tolerance"), [(0, 1e-4), (1, 3e-4), (2, 1e-4), (3, 5e-3)])
def test_figures_are_those_of_pyiqa(index, tolerance):
    """Where a luma lies halfway between two numbers the rounding is arbitrary, which moves the second by 2.5e-4."""
    found = niqe(NIQE_LUMAS["pyiqa"](IMAGES[index]))
    assert found == pytest.approx(EXPECTED["niqe_pyiqa"][index], rel=tolerance)


def test_features_are_those_of_basicsr_block_by_block():
    features = niqe_features(luma(IMAGES[2]))
    rows, columns = 3, 5
    by_columns = features.reshape(rows, columns, 36).swapaxes(0, 1).reshape(-1, 36)
    np.testing.assert_allclose(by_columns, EXPECTED["niqe_features_2"], atol=2e-3)  # shapes go in steps of 1e-3
    for image, mean in zip(IMAGES[:3], EXPECTED["niqe_mean_features"], strict=False):
        np.testing.assert_allclose(niqe_features(luma(image)).mean(axis=0), mean, atol=2e-4)


def test_halving_keeps_straight_lines_and_mirrors_the_border():
    ramp = np.add.outer(np.arange(20.0), 3 * np.arange(40.0))
    half = module._halve(ramp)
    np.testing.assert_allclose(half[2:-2, 2:-2], ramp[:-1:2, :-1:2][2:-2, 2:-2] + 2, atol=1e-12)
    mirrored = module._halve(np.pad(ramp, 8, mode="symmetric"))[4:-4, 4:-4]
    np.testing.assert_allclose(half, mirrored, atol=1e-12)


@pytest.mark.parametrize(("rgb", "expected"), [
    ((0, 0, 0), 0), ((255, 255, 255), 255), ((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)])
def test_the_luma_of_pyiqa_has_the_full_range(rgb, expected):
    np.testing.assert_array_equal(yiq_luma(np.full((2, 3, 3), rgb, np.uint8)), np.full((2, 3), expected))


def test_what_does_not_fill_a_block_does_not_count():
    whole = luma(IMAGES[0])[:192, :288]
    more = np.pad(whole, ((0, 95), (0, 95)), constant_values=77)
    assert niqe(more) == niqe(whole)
    assert niqe(np.pad(more, ((0, 1), (0, 0)))) != niqe(whole)


def test_small_and_flat_images_are_refused():
    gray = luma(IMAGES[0])
    assert np.isfinite(niqe(gray[:96, :192]))
    with pytest.raises(ValueError, match=r"two blocks of 96x96 pixels\. Received: 191x100"):
        niqe(gray[:100, :191])
    for level in (0.0, 128.0, 255.0):
        flat = np.full((200, 200), level)
        flat[192:] = gray[:8, :200]  # behind the last whole block
        with pytest.raises(ValueError, match=r"two blocks of 96x96 pixels with texture\. Received: a flat image\."):
            niqe(flat)


def test_blocks_that_are_partly_flat_count_in_the_mean_where_they_have_values_but_not_in_the_covariance(monkeypatch):
    features = np.random.default_rng(0).random((4, 36))
    features[1, 20:] = np.nan
    monkeypatch.setattr(module, "niqe_features", lambda _: features)
    mean = np.array([np.mean([row[index] for row in features if not np.isnan(row[index])]) for index in range(36)])
    covariance = np.cov(features[[0, 2, 3]].T)
    difference = MODEL_MEAN - mean
    expected = np.sqrt(difference @ np.linalg.pinv((MODEL_COVARIANCE + covariance) / 2) @ difference)
    assert niqe(luma(IMAGES[0])) == pytest.approx(expected, rel=1e-9)
    features[0, 0] = features[2, 0] = np.nan
    with pytest.raises(ValueError, match="Received: one"):
        niqe(luma(IMAGES[0]))


def test_the_model_of_the_project_is_that_of_basicsr():
    mean, covariance = pristine_model()
    np.testing.assert_array_equal(mean, MODEL_MEAN)
    np.testing.assert_array_equal(covariance, MODEL_COVARIANCE)
