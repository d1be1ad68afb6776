"""Pasting restored faces: what changes, and what does not."""

import cv2
import numpy as np
import pytest

from utils.face.pairs import PhotoFace
from utils.face.patches import Patches
from utils.inference.pasting import can_be_pasted, feathered_mask, paste_faces

SIZE = (60, 70)  # of the photo
BOX = (10, 12, 32, 28)  # top, left, height, width


def noise(seed, height, width, channels=3):
    """Return smooth random pixels in [0.2, 0.8]."""
    image = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width, channels), np.float32), (0, 0), 2)
    return np.clip(0.5 + 3 * (image.reshape(height, width, channels) - 0.5), 0.2, 0.8)


def result(seed=0, dtype=np.uint8, channels=3):
    return (noise(seed, 4 * SIZE[0], 4 * SIZE[1], channels) * np.iinfo(dtype).max).astype(dtype)


def face(box=BOX, seed=1, region=None, matrix=None):
    region = noise(seed, 4 * box[2], 4 * box[3]) if region is None else region
    return PhotoFace("a_0", Patches(None, region[None]), box, matrix)


def inside(image, box=BOX):
    top, left, height, width = (4 * side for side in box)
    return image[top:top + height, left:left + width]


def pasted(samples, *faces, weight=1.0, trust=1.0):
    changed = samples.copy()
    paste_faces(changed, faces, [np.full([4 * side for side in face.box[2:]], trust, np.float32) for face in faces],
                weight=weight)
    return changed


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 3), (np.uint16, 1)])
def test_only_the_inside_of_the_box_changes_and_type_channels_and_means_are_kept(dtype, channels):
    before = result(dtype=dtype, channels=channels)
    after = pasted(before, face(region=0.3 * noise(1, 128, 112) + 0.1))  # much darker
    assert (after.dtype, after.shape) == (dtype, before.shape)
    levels = np.iinfo(dtype).max / 255
    change = (inside(after) - inside(before).astype(float)) / levels
    assert np.abs(change).max() > 20
    assert np.abs(change.mean(axis=(0, 1))).max() < 0.5
    assert np.abs(cv2.GaussianBlur(change, (0, 0), 14)).max() < 6  # no part of it is of another brightness
    inside(after)[:] = inside(before)
    np.testing.assert_array_equal(after, before)


def test_the_middle_shows_the_detail_of_the_restored_face():
    before = np.full((240, 280, 3), 128, np.uint8)
    region = 0.5 + 0.2 * np.sign(np.cos((np.arange(112) + 0.5) * np.pi / 4))[None, :, None] * np.ones((128, 1, 3))
    after = inside(pasted(before, face(region=region.astype(np.float32))))
    np.testing.assert_allclose(after[40:-40, 40:-40], np.rint(255 * region - 127.5 + 128)[40:-40, 40:-40], atol=2)


def test_the_region_of_the_result_itself_and_weights_of_zero_change_nothing():
    before = result()
    np.testing.assert_array_equal(pasted(before, face(region=inside(before) / np.float32(255))), before)
    np.testing.assert_array_equal(pasted(before, face(), weight=0), before)
    np.testing.assert_array_equal(pasted(before, face(), trust=0), before)


@pytest.mark.parametrize(("weight", "trust"), [(0.25, 1.0), (1.0, 0.25), (0.5, 0.5)])
def test_the_change_is_proportional_to_both_weights(weight, trust):
    before = result().astype(float)
    whole, part = (pasted(result(), face(), **given) - before for given in ({}, {"weight": weight, "trust": trust}))
    np.testing.assert_allclose(part, 0.25 * whole, atol=0.63)


def test_the_mask_is_one_in_the_middle_and_fades_to_zero_smoothly_before_every_edge():
    mask = feathered_mask(BOX, None, SIZE)
    assert mask.shape == (128, 112)
    assert mask[40:-40, 35:-35].min() == 1
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) < 0.005
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 0.1
    np.testing.assert_allclose(mask, mask[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize(("box", "kept", "faded"), [
    ((0, 10, 30, 24), np.s_[0], np.s_[-1]), ((30, 10, 30, 24), np.s_[-1], np.s_[0]),
    ((10, 0, 30, 24), np.s_[:, 0], np.s_[:, -1]), ((10, 46, 30, 24), np.s_[:, -1], np.s_[:, 0])])
def test_a_face_cut_by_the_border_of_the_photo_does_not_fade_there(box, kept, faded):
    mask = feathered_mask(box, None, SIZE)
    assert mask[kept].max() == 1
    assert mask[faded].max() < 0.005


def test_what_the_aligned_crop_does_not_cover_is_not_pasted():
    matrix = np.array([[16.0, 0, -16 * 12], [0, 16, -16 * 20]])  # 32 pixels, from column 12 and row 20, become 512
    before = result()
    after = pasted(before, face(matrix=matrix))
    np.testing.assert_array_equal(after[:81], before[:81])
    assert np.abs(inside(after)[60:-30].astype(int) - inside(before)[60:-30]).max() > 20
    mask = feathered_mask(BOX, matrix, SIZE)
    assert np.abs(np.diff(mask, axis=0)).max() < 0.1


def test_overlapping_faces_are_blended_in_any_order():
    one, other = face(), face((20, 20, 30, 30), seed=2)
    both = pasted(result(), one, other)
    np.testing.assert_allclose(both.astype(int), pasted(result(), other, one), atol=1)
    twice, once = (inside(pasted(result(), *faces)).astype(int)[40:-40, 35:-35] for faces in ((one, one), (one,)))
    np.testing.assert_allclose(twice, once, atol=1)
    apart = face((0, 50, 10, 20), seed=2)
    np.testing.assert_array_equal(pasted(result(), one, apart), pasted(pasted(result(), one), apart))


@pytest.mark.parametrize(("box", "expected"), [((0, 0, 16, 16), True), ((0, 0, 15, 40), False), (None, False)])
def test_small_faces_and_those_of_unknown_place_are_left_alone(box, expected):
    assert can_be_pasted(PhotoFace("a_0", None, box)) == expected
