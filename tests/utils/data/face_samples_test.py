"""Samples: exactly aligned, placed where they say, varied within their ranges, and a function of the generator alone.

Where geometry is looked at, a sample is degraded by the mean of 4x4 pixels and nothing else.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import skimage.data

from config import DegradationConfig, JitterConfig
from tests.helpers.workplace import picture
from utils.data import face_samples
from utils.data.face_samples import draw_face_sample
from utils.image.io import quantize

STILL = JitterConfig(rotation=0.0, scale_range=(1.0, 1.0), shift=0.0, tilt=0.0, gamma=0.0, gain=0.0,
                     saturation_range=(1.0, 1.0), gray_prob=0.0)
DEGRADATION = DegradationConfig()


@pytest.fixture
def area_only(monkeypatch):
    def shrink(image, *_):
        height, width = image.shape[0] // 4, image.shape[1] // 4
        return quantize(image.reshape(height, 4, width, 4, 3).mean(axis=(1, 3)))

    monkeypatch.setattr(face_samples, "degrade", shrink)


def draw_pair(face, seed, *, size=512, patch=None, jitter=STILL, lq_size=None):
    if lq_size:
        jitter = replace(jitter, lq_size_range=(lq_size, lq_size))
    return draw_face_sample(face, size, patch or size, jitter, DEGRADATION, np.random.default_rng(seed))


def smooth_noise(side, sigma, seed=0):
    """Return a face of waves several `sigma` pixels long, so that shrinking loses nothing."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return quantize(np.clip(0.5 + 0.15 * blurred / blurred.std(), 0, 1))


def misalignment(moved, still, margin):
    """Estimate the affine map x -> x + A x + t from one image to another, by least squares on gradients.

    Gives the shift t in the middle and A in pixels at the border: [6].
    """
    moved, still = (image.astype(np.float64).mean(axis=2) for image in (moved, still))
    down, across = np.gradient((moved + still) / 2)
    side = len(still)
    y, x = (np.mgrid[:side, :side] + 0.5) / (side / 2) - 1
    slopes = np.stack([factor * slope for slope in (across, down) for factor in (np.ones_like(x), x, y)], axis=2)
    inside = (slice(margin, side - margin),) * 2
    contrast = np.stack([np.ones_like(still), still - still.mean()], axis=2)  # shrinking flattens a little
    unknown = np.concatenate([slopes, contrast], axis=2)[inside].reshape(-1, 8)
    return np.linalg.lstsq(unknown, (still - moved)[inside].ravel(), rcond=None)[0][:6]


@pytest.mark.parametrize(("lq_size", "tilt", "patch"), [
    (48, 30, 512), (101.3, 15, 512), (128, 15, 256), (150, 0, 256), (200, 40, 256), (344, 15, 256), (700, 15, 256)])
def test_degraded_and_target_are_aligned_to_a_twentieth_of_a_pixel(area_only, lq_size, tilt, patch):
    """On average; of a single small face, to a fiftieth of its own pixels, as OpenCV rounds coordinates to 1/32."""
    found = []
    for seed in range(6):
        face = smooth_noise(512, max(4.0, 1.2 * 512 / lq_size), seed)
        pair = draw_pair(face, seed, patch=patch, lq_size=lq_size, jitter=replace(STILL, tilt=tilt))
        found.append(misalignment(pair.degraded, pair.target, margin=max(8, int(2 * 512 / lq_size))))
    np.testing.assert_allclose(np.mean(found, axis=0), 0, atol=0.05)
    np.testing.assert_allclose(found, 0, atol=max(0.05, 0.02 * 512 / lq_size))


@pytest.mark.parametrize("stored", [256, 512, 1024])
def test_varied_faces_are_aligned_too_whatever_the_size_they_are_stored_in(area_only, stored):
    face = smooth_noise(stored, stored / 64)
    found = [misalignment(pair.degraded, pair.target, margin=12) for seed in range(4) for pair in [draw_pair(
        face, seed, patch=256, lq_size=150, jitter=replace(JitterConfig(), gamma=0.0, gain=0.0, gray_prob=0.0))]]
    np.testing.assert_allclose(np.mean(found, axis=0), 0, atol=0.05)
    np.testing.assert_allclose(found, 0, atol=0.15)


def test_a_target_lies_at_its_corner_of_the_face_or_of_the_mirrored_face(area_only):
    face = picture(0, 96, 96)
    flips, corners = [], []
    for seed in range(60):
        pair = draw_pair(face, seed, size=96, patch=40, lq_size=24)
        row, column = pair.corner
        regions = [whole[row:row + 40, column:column + 40] for whole in (face, face[:, ::-1])]
        [flip] = [number for number, region in enumerate(regions) if (region == pair.target).all()]
        flips.append(flip)
        corners.append(pair.corner)
    assert 15 < sum(flips) < 45
    assert np.min(corners) >= 0
    assert np.max(corners) <= 56
    assert np.abs(np.mean(corners, axis=0) - 28).max() < 6
    assert pair.corner.dtype == np.int32


def test_a_part_of_a_varied_face_is_that_of_the_whole(area_only):
    """Position and colours are drawn last, so equal generators vary the face equally."""
    face, jitter = picture(2, 512, 512), replace(JitterConfig(), gamma=0.0, gain=0.0, saturation_range=(1.0, 1.0),
                                                 gray_prob=0.0)
    for seed in range(3):
        whole, part = (draw_pair(face, seed, patch=patch, jitter=jitter, lq_size=48) for patch in (512, 128))
        row, column = part.corner
        differences = [np.abs(image[row:row + 128, column:column + 128].astype(int) - part.target).max()
                       for image in (whole.target, whole.target[:, ::-1])]
        assert min(differences) <= 6  # OpenCV rounds coordinates to 1/32 pixel
        assert max(differences) > 40
        unvaried = face[row:row + 128, column:column + 128]
        assert np.abs(unvaried.astype(int) - part.target).mean() > 5


def test_the_photo_holds_the_whole_tilted_patch(area_only, monkeypatch):
    """Where it did not, the degraded patch would be a mirror image of its inside."""
    sides, warp = [], face_samples._warp

    def spy(image, matrix, side, **options):
        if options:
            edges = matrix @ np.array([[0, side, side, 0], [0, 0, side, side], [1, 1, 1, 1]])
            sides.append((edges[:2].min(), image.shape[0] - edges[:2].max()))
        return warp(image, matrix, side, **options)

    monkeypatch.setattr(face_samples, "_warp", spy)
    for seed in range(100):
        draw_pair(picture(3, 64, 64), seed, size=64, patch=32, jitter=replace(JitterConfig(lq_size_range=(16, 80)),
                                                                              tilt=45.0))
    assert len(sides) == 100
    assert np.min(sides) >= 0
    assert np.max(sides) < 2.1  # and hardly more


def test_without_jitter_the_target_is_the_face(area_only):
    face = skimage.data.astronaut()
    target = draw_pair(face, 0, lq_size=32).target
    assert any((target == whole).all() for whole in (face, face[:, ::-1]))


def test_gray_faces_have_equal_channels_which_are_the_luma(area_only):
    face = picture(5, 64, 64)
    pair = draw_pair(face, 0, size=64, lq_size=64, jitter=replace(STILL, gray_prob=1.0))
    for image in (pair.degraded, pair.target):
        np.testing.assert_array_equal(image, np.repeat(image[:, :, :1], 3, axis=2))
    luma = np.rint(face @ np.array([0.299, 0.587, 0.114]))
    assert min(np.abs(pair.target[:, :, 0] - whole).max() for whole in (luma, luma[:, ::-1])) <= 1


@pytest.mark.parametrize(("change", "apply"), [
    ({"saturation_range": (0.5, 0.5)}, lambda x: 0.5 * x + 0.5 * (x @ [0.299, 0.587, 0.114])[:, :, None]),
    ({"saturation_range": (2.0, 2.0)}, lambda x: 2 * x - (x @ [0.299, 0.587, 0.114])[:, :, None])],
    ids=["paler", "stronger"])
def test_saturation_moves_colours_from_the_luma_or_towards_it(area_only, change, apply):
    face = picture(6, 64, 64)
    target = draw_pair(face, 0, size=64, lq_size=64, jitter=replace(STILL, **change)).target
    expected = np.rint(np.clip(apply(face / 255), 0, 1) * 255)
    assert min(np.abs(target - whole).max() for whole in (expected, expected[:, ::-1])) <= 1


def test_black_outside_of_the_photo_stays_black_in_both(area_only):
    face = picture(8, 512, 512).clip(80)
    face[:, :200] = 0
    for seed in range(3):
        pair = draw_pair(face, seed, jitter=replace(JitterConfig(), rotation=3.0), lq_size=128)
        columns = [slice(0, 60), slice(-60, None)]
        assert sorted(pair.target[:, side].max() > 0 for side in columns) == [False, True]
        assert sorted(pair.degraded[:, side].max() > 1 for side in columns) == [False, True]


def test_equal_generators_give_equal_pairs_and_others_do_not():
    face, jitter = picture(9, 128, 128), JitterConfig(lq_size_range=(16.0, 40.0))
    one, same, other = (draw_pair(face, seed, size=128, patch=64, jitter=jitter) for seed in (0, 0, 1))
    for name in ("degraded", "target", "corner", "lq_size"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))


def test_pairs_are_degraded_as_the_configuration_says():
    """With sigmas of 80 the noise of the degradation is far above that of the picture itself."""
    face = np.full((128, 128, 3), 128, np.uint8)
    quiet, loud = ((s, s) for s in (0.0, 80.0))
    deviations = []
    for sigma in (quiet, loud):
        stages = [replace(stage, gaussian_noise_prob=1.0, noise_sigma_range=sigma, resize_probs=(0, 0, 1),
                          blur_prob=0.0) for stage in (DEGRADATION.first, DEGRADATION.second)]
        degradation = DegradationConfig(*stages, final_sinc_prob=0.0)
        pair = draw_face_sample(face, 128, 128, replace(STILL, lq_size_range=(64.0, 64.0)), degradation,
                              np.random.default_rng(0))
        deviations.append(pair.degraded.std())
        assert pair.target.std() == 0
    assert deviations[0] < 2
    assert deviations[1] > 15


def test_a_face_is_left_as_it_was():
    face = picture(10, 64, 64)
    before = face.copy()
    draw_pair(face, 0, size=64, jitter=JitterConfig(lq_size_range=(16.0, 16.0)))
    np.testing.assert_array_equal(face, before)
