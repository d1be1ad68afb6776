"""Alignment against arrays made with the original code, and against geometry where the original is wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from skimage.registration import phase_cross_correlation

from utils.errors import UserError
from utils.face.alignment import (
    align_face,
    box_overlap,
    check_landmarks,
    coverage,
    estimate_alignment,
    intersect_box,
    inverse_matrix,
    paste_region,
    reference_points,
)

NAMES = ("frontal", "rot30", "tiny", "large", "border", "mirrored")


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parents[2] / "data" / "align.npz") as arrays:
        assert tuple(arrays["names"]) == NAMES
        return dict(arrays)


@pytest.fixture(scope="module")
def photo():
    return skimage.data.astronaut()


def test_reference_points_equal_the_original(reference):
    np.testing.assert_allclose(reference_points(), reference["ref5"], atol=1e-4)
    np.testing.assert_allclose(reference_points(256), reference["ref5"] / 2, atol=1e-4)


@pytest.mark.parametrize("index", range(6), ids=NAMES)
def test_alignment_crop_and_legacy_paste_equal_the_original(reference, photo, index):
    floats = estimate_alignment(reference["landmarks"][index].reshape(2, 5).T)
    np.testing.assert_allclose(floats, reference["tfm_from_float"][index], atol=1e-3)
    matrix = estimate_alignment(reference["landmarks_int"][index].T)  # the original truncates landmarks
    np.testing.assert_allclose(matrix, reference["tfm"][index], atol=1e-3)
    np.testing.assert_allclose(inverse_matrix(matrix, legacy=True) / 4, reference["tfm_inv"][index], atol=1e-3)
    face = align_face(photo, matrix)
    difference = np.abs(face[4::8, 4::8, ::-1].astype(int) - reference[f"crop_sub8_{NAMES[index]}"])
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3
    whole = paste_region(face, matrix, (0, 0, 512, 512), legacy=True)
    difference = np.abs(whole[8::32, 8::32, ::-1].astype(int) - reference[f"hr_sub16_{NAMES[index]}"])
    assert difference.max() <= 8
    assert difference.mean() <= 0.05
    sums = [*whole[:, :, ::-1].sum(axis=(0, 1), dtype=np.int64), (whole.any(axis=2)).sum()]
    np.testing.assert_allclose(sums, reference[f"hr_sum_{NAMES[index]}"], rtol=1e-3)


def displacement(image, target):
    """Return the (y, x) by which an image has to move to equal another, by the peak of their cross-correlation."""
    gray = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(float) for picture in (target, image)]
    window = cv2.createHanningWindow(gray[0].shape[::-1], cv2.CV_64F)
    gray = [(picture - picture.mean()) * window for picture in gray]
    return phase_cross_correlation(*gray, upsample_factor=100, normalization=None)[0]


def rotated(photo, landmarks, degrees):
    """Rotate a photo, and the landmarks in it, about the middle of the face."""
    matrix = cv2.getRotationMatrix2D(landmarks.mean(axis=0).tolist(), degrees, 1)
    turned = cv2.warpAffine(photo, matrix, photo.shape[1::-1], flags=cv2.INTER_LINEAR)
    return turned, landmarks @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("degrees", [0, 30, -75])
def test_face_that_goes_there_and_back_lands_on_itself(reference, photo, degrees):
    turned, landmarks = rotated(photo, reference["landmarks"][0].reshape(2, 5).T.astype(float), degrees)
    matrix = estimate_alignment(landmarks)
    x, y = landmarks.mean(axis=0).round().astype(int)
    box = (int(y) - 40, int(x) - 35, 80, 70)
    assert coverage(matrix, box).min() == 1
    upscaled = cv2.resize(turned, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    target = upscaled[4 * box[0]:4 * (box[0] + 80), 4 * box[1]:4 * (box[1] + 70)]
    face = align_face(turned, matrix)
    assert np.abs(displacement(paste_region(face, matrix, box), target)).max() < 0.1
    np.testing.assert_allclose(displacement(paste_region(face, matrix, box, legacy=True), target), 1.5, atol=0.1)


def test_a_face_of_a_very_wide_photo_is_cut_out_like_one_of_a_small_photo(reference, photo):
    landmarks = reference["landmarks"][0].reshape(2, 5).T.astype(float)
    wide = np.zeros((512, 40000, 3), np.uint8)
    wide[:, 35000:35512] = photo
    expected = cv2.warpAffine(photo, estimate_alignment(landmarks), (512, 512))
    crop = align_face(wide, estimate_alignment(landmarks + np.array([35000, 0])))
    difference = np.abs(crop.astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.02


@pytest.mark.parametrize("landmarks", [np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_landmarks_that_coincide_are_refused(landmarks):
    with pytest.raises(UserError, match="must not coincide"):
        estimate_alignment(landmarks)


def photographed(yaw=0, roll=0, size=100):
    """The landmarks of a face of that size, turned by degrees; the nose stands out by 0.45 of the eyes' distance."""
    points = (reference_points() - 256) / 256
    depth = np.array([0, 0, 0.45, 0.1, 0.1]) * np.linalg.norm(points[1] - points[0])
    yaw, roll = np.deg2rad([yaw, roll])
    x, y = points[:, 0] * np.cos(yaw) + depth * np.sin(yaw), points[:, 1]
    turned = np.stack([x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)], axis=1)
    return 150 + size * turned


def check(landmarks, box=(90, 90, 210, 210)):
    check_landmarks(landmarks, estimate_alignment(landmarks), np.array(box, float), 300, 300)


@pytest.mark.parametrize("yaw", [-85, -60, 0, 45])
@pytest.mark.parametrize("roll", [0, 40, 180])
def test_landmarks_of_any_face_pass_and_mirrored_ones_do_not(yaw, roll):
    landmarks = photographed(yaw, roll)
    check(landmarks)
    if abs(yaw) <= 60:
        with pytest.raises(UserError, match="mirrored"):
            check(landmarks[[1, 0, 2, 4, 3]])


@pytest.mark.parametrize(("landmarks", "box", "fault"), [
    (photographed() + 120, (90, 90, 210, 210), "its box"), (photographed() - 300, (-210, -210, 10, 10), "the photo"),
    (photographed(size=2), (90, 90, 210, 210), "few pixels"), (photographed()[:, ::-1], (90, 90, 210, 210), "order")])
def test_landmarks_elsewhere_or_in_another_unit_or_order_are_refused(landmarks, box, fault):
    with pytest.raises(UserError, match=fault):
        check(landmarks, box)


def test_boxes_are_the_originals_where_they_meet_the_photo(reference):
    outside = []
    for corners, rect, shapes in zip(reference["box_in"], reference["box_rect"], reference["box_shapes"], strict=True):
        box = intersect_box(corners, 512, 512)
        if box is None:
            outside.append(corners[:4].tolist())
            continue
        assert box == (rect[1], rect[0], shapes[0], shapes[1])
    np.testing.assert_allclose(outside, [[-30.5, -40.5, -5.5, -8.2], [513.5, 20, 560, 70]])


def test_margin_grows_a_box_by_its_own_size_and_stays_inside():
    assert intersect_box(np.array([10.0, 20.0, 20.0, 40.0]), 100, 100, margin=0.5) == (10, 5, 41, 21)
    assert intersect_box(np.array([0.0, 0.0, 90.0, 90.0]), 100, 95, margin=0.2) == (0, 0, 100, 95)


def test_overlap_of_boxes_is_that_worked_out_by_hand():
    box = np.array([0.0, 0, 10, 10])
    assert box_overlap(box, box) == 1
    assert box_overlap(box, np.array([5.0, 5, 15, 15])) == pytest.approx(25 / 175)
    assert box_overlap(box, np.array([2.0, 2, 4, 7])) == pytest.approx(0.1)
    assert box_overlap(box, np.array([10.0, 0, 20, 10])) == box_overlap(box, np.array([11.0, 20, 20, 30])) == 0
