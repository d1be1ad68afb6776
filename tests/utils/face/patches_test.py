"""The patches drawn from faces."""

import numpy as np
import pytest

from utils.face import patches as patches_module
from utils.face.patches import Patches, batch_patches, hold_out, log_gradient, sample_patches
from utils.image.listing import photo_rng


def make_face(height, width):
    """A face whose every low-quality pixel is unlike all others, and its exact enlargement."""
    lq = np.zeros((1, height, width, 3), np.float32)
    lq[0, :, :, 0], lq[0, :, :, 1] = np.mgrid[:height, :width]
    return Patches(lq, lq.repeat(4, axis=1).repeat(4, axis=2))


def numbered(count, height=2, width=2):
    """Patches whose pixels all hold the patch's number."""
    return Patches(*(np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None],
                                     (count, scale * height, scale * width, 3)).copy() for scale in (1, 4)))


def numbers(batch):
    assert (batch.lq == batch.lq[:, :1, :1, :1]).all()
    np.testing.assert_array_equal(batch.lq[:, 0, 0, 0], batch.hq[:, 0, 0, 0])
    return batch.lq[:, 0, 0, 0].tolist()


def all_numbers(batches):
    return [number for batch in batches for number in numbers(batch)]


def corners(patches):
    """Where patches of `make_face` come from, having checked that they are whole and their partners correspond."""
    size = patches.lq.shape[1:3]
    np.testing.assert_array_equal(patches.lq.repeat(4, axis=1).repeat(4, axis=2), patches.hq)
    grid = np.stack(np.mgrid[:size[0], :size[1]], axis=2)
    np.testing.assert_array_equal(patches.lq[..., :2] - patches.lq[:, :1, :1, :2], np.broadcast_to(
        grid, (len(patches.lq), *grid.shape)))
    return patches.lq[:, 0, 0, :2].astype(int)


def test_every_patch_lies_in_both_images_at_the_same_place():
    patches = sample_patches(make_face(23, 31), np.random.default_rng(0), lq_patch_size=8, count=50)
    assert patches.lq.shape == (50, 8, 8, 3)
    assert patches.hq.shape == (50, 32, 32, 3)
    assert (corners(patches) <= [15, 23]).all()


def test_last_crop_position_is_drawn():
    drawn = corners(sample_patches(make_face(6, 7), np.random.default_rng(0), lq_patch_size=4, count=500))
    assert {tuple(corner) for corner in drawn.tolist()} == {(top, left) for top in range(3) for left in range(4)}


def test_crop_positions_are_equally_likely():
    drawn = corners(sample_patches(make_face(6, 7), np.random.default_rng(1), lq_patch_size=4, count=12000))
    observed = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=12)
    chi_square = ((observed - 1000) ** 2 / 1000).sum()
    assert chi_square < 31.3  # 11 degrees of freedom: exceeded once in a thousand seeds


def test_draws_are_repeatable_and_differ_between_photos():
    def draw(stem, seed=0):
        return corners(sample_patches(make_face(60, 60), photo_rng(seed, stem), lq_patch_size=8, count=16)).tolist()

    assert draw("a") == draw("a")
    assert draw("a") != draw("b")
    assert draw("a") != draw("a", seed=1)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (7, 30), (30, 7), (8, 8), (1, 1), (8, 7)])
def test_small_face_is_taken_whole_once(height, width):
    face = make_face(height, width)
    rng = np.random.default_rng(0)
    patches = sample_patches(face, rng, lq_patch_size=8, count=16)
    np.testing.assert_array_equal(patches.lq, face.lq)
    np.testing.assert_array_equal(patches.hq, face.hq)


@pytest.mark.parametrize(("height", "width"), [(8, 9), (9, 8)])
def test_face_that_fits_exactly_in_one_direction_is_still_sampled(height, width):
    drawn = corners(sample_patches(make_face(height, width), np.random.default_rng(0), lq_patch_size=8, count=40))
    assert len(drawn) == 40
    assert {tuple(corner) for corner in drawn.tolist()} == {(0, 0), (height - 8, width - 8)}


@pytest.mark.parametrize(("count", "fraction", "held"), [
    (16, 0.25, 4), (8, 0.25, 2), (5, 0.25, 1), (4, 0.25, 1), (3, 0.25, 1), (2, 0.25, 1), (16, 0.01, 1), (2, 0.99, 1),
    (16, 0.5, 8)])
def test_last_patches_are_held_out(count, fraction, held):
    [learn], [out] = hold_out([numbered(count)], fraction)
    assert numbers(learn) == list(range(count - held))
    assert numbers(out) == list(range(count - held, count))


def test_every_face_is_learnt_from_and_held_out():
    faces_ = [Patches(*(images + 100 * index for images in numbered(16))) for index in range(3)]
    learn, held = hold_out(faces_, 0.25)
    assert [len(batch.lq) for batch in learn] == [12] * 3
    assert [len(batch.lq) for batch in held] == [4] * 3
    learnt, judged = map(all_numbers, (learn, held))
    assert not set(learnt) & set(judged)
    assert sorted(learnt + judged) == sorted(all_numbers(faces_))


def test_faces_of_one_patch_are_divided_between_the_two():
    singles = [Patches(*(images + index for images in numbered(1, index + 2))) for index in range(3)]
    learn, held = hold_out(singles, 0.25)
    assert all_numbers(learn) == [0, 1]
    assert all_numbers(held) == [2]


def test_face_of_one_patch_is_learnt_from_beside_a_larger_one():
    learn, held = hold_out([numbered(1, 3), numbered(16)], 0.25)
    assert [len(batch.lq) for batch in learn] == [1, 12]
    assert [len(batch.lq) for batch in held] == [4]


def test_single_patch_serves_as_both():
    learn, held = hold_out([numbered(1)], 0.25)
    assert [numbers(batch) for batch in learn] == [numbers(batch) for batch in held] == [[0]]


def test_patches_of_one_size_are_joined_in_order():
    mixed = [numbered(3), numbered(2, 5, 3), Patches(*(images + 3 for images in numbered(2)))]
    batches = list(batch_patches(mixed))
    assert [batch.lq.shape[:3] for batch in batches] == [(5, 2, 2), (2, 5, 3)]
    assert [numbers(batch) for batch in batches] == [[0, 1, 2, 3, 4], [0, 1]]


@pytest.mark.parametrize(("count", "height", "width"), [(100, 16, 16), (32, 16, 16), (33, 16, 16), (3, 90, 91),
                                                        (5, 100, 100), (7, 1, 8192), (1, 300, 300)])
def test_batches_are_bounded_and_lose_nothing(count, height, width):
    batches = list(batch_patches([numbered(count, height, width)]))
    for batch in batches:
        assert len(batch.lq) == 1 or len(batch.lq) * height * width <= patches_module.MAX_BATCH_PIXELS
        assert batch.hq.shape == (len(batch.lq), 4 * height, 4 * width, 3)
    assert all_numbers(batches) == list(range(count))
    most = max(1, patches_module.MAX_BATCH_PIXELS // (height * width))
    assert len(batches) == -(-count // most)


def test_no_patches_make_no_batches():
    assert list(batch_patches([])) == []


def test_log_gradient_is_that_of_a_patch_worked_out_by_hand():
    patch = np.array([[0, 0.5, 9], [0.25, 9, 9]], np.float32)[:, :, None]
    # at (0, 0): 0.25 down, 0.5 to the right; at (0, 1): 8.5 and 8.5
    expected = np.log((0.25**2 + 0.5**2 + 2 * 8.5**2) / 2 + 1e-10)
    assert log_gradient(patch) == pytest.approx(expected, rel=1e-6)


def test_log_gradient_of_a_ramp_is_that_of_its_slope_in_either_direction():
    ramp = np.broadcast_to(np.arange(0, 250, 10, dtype=np.uint8)[:, None, None], (25, 7, 3))
    assert log_gradient(ramp) == pytest.approx(2 * np.log(10 / 255), rel=1e-6)
    assert log_gradient(ramp.swapaxes(0, 1)) == pytest.approx(2 * np.log(10 / 255), rel=1e-6)


def test_log_gradient_of_one_colour_is_finite():
    assert log_gradient(np.full((4, 4, 3), 200, np.uint8)) == pytest.approx(np.log(1e-10))


def test_log_gradient_is_the_same_for_every_type_of_samples():
    image = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    assert log_gradient(image) == pytest.approx(log_gradient(image.astype(np.float32) / 255), rel=1e-6)
    assert log_gradient(image) == pytest.approx(log_gradient(image / 255), rel=1e-6)
