"""The patches drawn from faces."""

import numpy as np
import pytest

from utils.face.patches import MAX_BATCH_PIXELS, Patches, batch_patches, hold_out, log_gradient, sample_patches


def make_face(height, width):
    """A face whose low-quality pixels all differ, and its exact upscale."""
    lq = np.zeros((1, height, width, 3), np.float32)
    lq[0, :, :, 0], lq[0, :, :, 1] = np.mgrid[:height, :width]
    return Patches(lq, lq.repeat(4, axis=1).repeat(4, axis=2))


def numbered(count, height=2, width=2, first=0):
    """Patches whose pixels all hold the patch's number."""
    return Patches(*(np.broadcast_to(first + np.arange(count, dtype=np.float32)[:, None, None, None],
                                     (count, scale * height, scale * width, 3)).copy() for scale in (1, 4)))


def numbers(batches):
    """The numbers of patches, having checked that partners correspond."""
    found = []
    for batch in batches:
        assert (batch.lq == batch.lq[:, :1, :1, :1]).all()
        np.testing.assert_array_equal(batch.lq[:, 0, 0, 0], batch.hq[:, 0, 0, 0])
        found += batch.lq[:, 0, 0, 0].tolist()
    return found


def corners(patches):
    """Where patches of `make_face` come from, having checked that they are whole and their partners correspond."""
    np.testing.assert_array_equal(patches.lq.repeat(4, axis=1).repeat(4, axis=2), patches.hq)
    grid = np.stack(np.mgrid[:patches.lq.shape[1], :patches.lq.shape[2]], axis=2)
    np.testing.assert_array_equal(patches.lq[..., :2] - patches.lq[:, :1, :1, :2],
                                  np.broadcast_to(grid, (len(patches.lq), *grid.shape)))
    return [tuple(corner) for corner in patches.lq[:, 0, 0, :2].astype(int).tolist()]


def draw(height, width, side, count):
    return sample_patches(make_face(height, width), np.random.default_rng(1), lq_patch_size=side, count=count)


def test_every_crop_position_is_equally_likely_the_last_one_included():
    drawn = corners(draw(6, 7, 4, 12000))
    observed = np.bincount([4 * top + left for top, left in drawn], minlength=12)
    assert len(observed) == 12
    assert ((observed - 1000) ** 2 / 1000).sum() < 31.3  # chi-square, 11 degrees of freedom: once in a thousand seeds


@pytest.mark.parametrize(("height", "width"), [(7, 30), (30, 7), (8, 8)])
def test_small_face_is_taken_whole_once(height, width):
    face = make_face(height, width)
    for drawn, whole in zip(draw(height, width, 8, 16), face, strict=True):
        np.testing.assert_array_equal(drawn, whole)


@pytest.mark.parametrize(("height", "width"), [(8, 9), (9, 8)])
def test_face_that_fits_exactly_in_one_direction_is_still_sampled(height, width):
    drawn = corners(draw(height, width, 8, 40))
    assert len(drawn) == 40
    assert set(drawn) == {(0, 0), (height - 8, width - 8)}


@pytest.mark.parametrize(("faces", "learnt", "held"), [
    ([numbered(8), numbered(8, first=100)], [*range(6), *range(100, 106)], [6, 7, 106, 107]),
    ([numbered(1, 2), numbered(1, 3, first=1), numbered(1, 4, first=2)], [0, 1], [2]),
    ([numbered(1, 3), numbered(4, first=1)], [0, 1, 2, 3], [4]),
    ([numbered(1)], [0], [0]), ([numbered(3)], [0, 1], [2])])
def test_every_photo_has_patches_to_learn_from_and_to_hold_out(faces, learnt, held):
    learn, out = hold_out(faces, 0.25)
    assert (numbers(learn), numbers(out)) == (learnt, held)


def test_patches_of_one_size_are_joined_in_order():
    batches = list(batch_patches([numbered(3), numbered(2, 5, 3), numbered(2, first=3)]))
    assert [batch.lq.shape[:3] for batch in batches] == [(5, 2, 2), (2, 5, 3)]
    assert numbers(batches) == [0, 1, 2, 3, 4, 0, 1]
    assert list(batch_patches([])) == []


@pytest.mark.parametrize(("count", "height", "width"), [(33, 16, 16), (3, 90, 91), (7, 1, 8192)])
def test_batches_are_bounded_and_lose_nothing(count, height, width):
    batches = list(batch_patches([numbered(count, height, width)]))
    assert all(len(batch.lq) == 1 or len(batch.lq) * height * width <= MAX_BATCH_PIXELS for batch in batches)
    assert numbers(batches) == list(range(count))
    assert len(batches) == -(-count // max(1, MAX_BATCH_PIXELS // (height * width)))


def test_log_gradient_is_that_of_a_patch_computed_by_hand():
    patch = np.array([[0, 0.5, 9], [0.25, 9, 9]], np.float32)[:, :, None]
    # at (0, 0): 0.25 down, 0.5 to the right; at (0, 1): 8.5 and 8.5
    expected = np.log((0.25**2 + 0.5**2 + 2 * 8.5**2) / 2 + 1e-10)
    assert log_gradient(patch) == pytest.approx(expected, rel=1e-6)
    assert log_gradient(np.full((4, 4, 3), 200, np.uint8)) == pytest.approx(np.log(1e-10))
