"""Which faces belong to a photo, and the patches drawn from them."""

from pathlib import Path

import numpy as np
import pytest

from utils import faces
from utils.errors import UserError
from utils.faces import FaceFolder, FacePair, Patches, batch_patches, hold_out, read_face, sample_patches
from utils.images import write_png
from utils.photos import photo_rng


def make_folder(root, *names, lq=(), hq=()):
    for sub, more in (("Face_LQ", lq), ("Face_HQ", hq)):
        (root / sub).mkdir(parents=True)
        for name in (*names, *more):
            (root / sub / name).touch()
    return FaceFolder(root)


def names(folder, stem):
    pairs = folder.pairs(stem)
    assert all(pair.lq.parent.name == "Face_LQ" and pair.hq.parent.name == "Face_HQ" for pair in pairs)
    assert [pair.lq.name for pair in pairs] == [pair.hq.name for pair in pairs]
    return [pair.lq.name for pair in pairs]


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


# --- names ---

def test_photo_gets_its_own_faces_alone(tmp_path):
    folder = make_folder(tmp_path, "1_0.png", "1_1.png", "10_0.png", "1_2_0.png", "11_0.png", "01_0.png", "x1_0.png",
                         "1_.png", "1.png", "1_a.png", "_0.png", "1_-1.png")
    assert names(folder, "1") == ["1_0.png", "1_1.png"]
    assert names(folder, "10") == ["10_0.png"]
    assert names(folder, "1_2") == ["1_2_0.png"]
    assert names(folder, "01") == ["01_0.png"]
    assert names(folder, "2") == []


@pytest.mark.parametrize("stem", ["a_b_c", "a_", "_a", "__", "写真_1", "a.b", "two  spaces", "[x]*?", "a\nb"])
def test_any_stem_finds_its_faces(tmp_path, stem):
    folder = make_folder(tmp_path, f"{stem}_0.png", f"{stem}_12.PNG", "other_0.png")
    assert names(folder, stem) == [f"{stem}_0.png", f"{stem}_12.PNG"]


def test_faces_are_in_order_of_their_numbers(tmp_path):
    folder = make_folder(tmp_path, *(f"a_{index}.png" for index in (10, 2, 0, 1, 100, 20)))
    assert names(folder, "a") == [f"a_{index}.png" for index in (0, 1, 2, 10, 20, 100)]


def test_other_files_are_no_faces(tmp_path):
    assert names(make_folder(tmp_path, "a_0.png", "a_1.txt", ".a_2.png", "a_3"), "a") == ["a_0.png"]


def test_partners_may_be_stored_in_different_formats(tmp_path):
    pairs = make_folder(tmp_path, lq=["a_0.jpg"], hq=["a_0.png"]).pairs("a")
    assert pairs == [FacePair(tmp_path / "Face_LQ" / "a_0.jpg", tmp_path / "Face_HQ" / "a_0.png")]


@pytest.mark.parametrize(("lq", "hq", "lonely", "searched"), [
    (["a_1.png"], [], "Face_LQ/a_1.png", "Face_HQ"), ([], ["a_1.png"], "Face_HQ/a_1.png", "Face_LQ")])
def test_face_without_partner_is_named(tmp_path, lq, hq, lonely, searched):
    folder = make_folder(tmp_path, "a_0.png", "b_0.png", lq=lq, hq=hq)
    with pytest.raises(UserError) as caught:
        folder.pairs("a")
    assert f"{tmp_path / lonely} has no partner in {tmp_path / searched}" in str(caught.value)
    assert names(folder, "b") == ["b_0.png"]  # other photos do not suffer


@pytest.mark.parametrize("twin", ["a_01.png", "a_1.jpg"])
@pytest.mark.parametrize("where", ["lq", "hq"])
def test_two_files_of_one_face_are_both_named(tmp_path, where, twin):
    folder = make_folder(tmp_path, "a_1.png", "b_0.png", **{where: [twin]})
    with pytest.raises(UserError) as caught:
        folder.pairs("a")
    assert "a_1.png" in str(caught.value)
    assert twin in str(caught.value)
    assert f"Face_{where.upper()}" in str(caught.value)
    assert names(folder, "b") == ["b_0.png"]


@pytest.mark.parametrize("missing", ["Face_LQ", "Face_HQ"])
def test_missing_folder_is_named(tmp_path, missing):
    make_folder(tmp_path)
    (tmp_path / missing).rmdir()
    with pytest.raises(UserError, match=missing):
        FaceFolder(tmp_path)
    (tmp_path / missing).touch()
    with pytest.raises(UserError, match=missing):
        FaceFolder(tmp_path)


def test_folder_that_may_not_be_listed_is_an_error(tmp_path, monkeypatch):
    def iterdir(_):
        raise PermissionError(13, "Permission denied")

    make_folder(tmp_path)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(UserError, match="Permission denied"):
        FaceFolder(tmp_path)


# --- reading ---

def test_pair_is_read_in_order_and_as_it_is(tmp_path):
    lq = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    write_png(tmp_path / "lq.png", lq)
    write_png(tmp_path / "hq.png", lq.repeat(4, axis=0).repeat(4, axis=1)[::-1])
    face = read_face(FacePair(tmp_path / "lq.png", tmp_path / "hq.png"))
    np.testing.assert_allclose(face.lq[0], lq / 255, atol=1e-7)
    np.testing.assert_allclose(face.hq[0, ::4, ::4], lq[::-1] / 255, atol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(12, 16), (11, 20), (12, 21), (13, 20), (3, 5), (20, 12)])
def test_partner_of_another_size_is_named(tmp_path, height, width):
    write_png(tmp_path / "lq.png", np.zeros((3, 5, 3), np.uint8))
    write_png(tmp_path / "hq.png", np.zeros((height, width, 3), np.uint8))
    with pytest.raises(UserError) as caught:
        read_face(FacePair(tmp_path / "lq.png", tmp_path / "hq.png"))
    for part in (tmp_path / "lq.png", tmp_path / "hq.png", "20x12", f"{width}x{height}"):
        assert str(part) in str(caught.value)


# --- patches ---

def corners(patches):
    """Where patches of `make_face` come from, having checked that they are whole and their partners correspond."""
    size = patches.lq.shape[1:3]
    np.testing.assert_array_equal(patches.lq.repeat(4, axis=1).repeat(4, axis=2), patches.hq)
    grid = np.stack(np.mgrid[:size[0], :size[1]], axis=2)
    np.testing.assert_array_equal(patches.lq[..., :2] - patches.lq[:, :1, :1, :2], np.broadcast_to(
        grid, (len(patches.lq), *grid.shape)))
    return patches.lq[:, 0, 0, :2].astype(int)


def test_every_patch_lies_in_both_images_at_the_same_place():
    patches = sample_patches(make_face(23, 31), np.random.default_rng(0), patch_size=8, count=50)
    assert patches.lq.shape == (50, 8, 8, 3)
    assert patches.hq.shape == (50, 32, 32, 3)
    assert (corners(patches) <= [15, 23]).all()


def test_last_crop_position_is_drawn():
    drawn = corners(sample_patches(make_face(6, 7), np.random.default_rng(0), patch_size=4, count=500))
    assert {tuple(corner) for corner in drawn.tolist()} == {(top, left) for top in range(3) for left in range(4)}


def test_crop_positions_are_equally_likely():
    drawn = corners(sample_patches(make_face(6, 7), np.random.default_rng(1), patch_size=4, count=12000))
    observed = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=12)
    chi_square = ((observed - 1000) ** 2 / 1000).sum()
    assert chi_square < 31.3  # 11 degrees of freedom: exceeded once in a thousand seeds


def test_draws_are_repeatable_and_differ_between_photos():
    def draw(stem, seed=0):
        return corners(sample_patches(make_face(60, 60), photo_rng(seed, stem), patch_size=8, count=16)).tolist()

    assert draw("a") == draw("a")
    assert draw("a") != draw("b")
    assert draw("a") != draw("a", seed=1)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (7, 30), (30, 7), (8, 8), (1, 1), (8, 7)])
def test_small_face_is_taken_whole_once(height, width):
    face = make_face(height, width)
    rng = np.random.default_rng(0)
    patches = sample_patches(face, rng, patch_size=8, count=16)
    np.testing.assert_array_equal(patches.lq, face.lq)
    np.testing.assert_array_equal(patches.hq, face.hq)


@pytest.mark.parametrize(("height", "width"), [(8, 9), (9, 8)])
def test_face_that_fits_exactly_in_one_direction_is_still_sampled(height, width):
    drawn = corners(sample_patches(make_face(height, width), np.random.default_rng(0), patch_size=8, count=40))
    assert len(drawn) == 40
    assert {tuple(corner) for corner in drawn.tolist()} == {(0, 0), (height - 8, width - 8)}


# --- holding out ---

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


# --- batches ---

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
        assert len(batch.lq) == 1 or len(batch.lq) * height * width <= faces.MAX_BATCH_PIXELS
        assert batch.hq.shape == (len(batch.lq), 4 * height, 4 * width, 3)
    assert all_numbers(batches) == list(range(count))
    most = max(1, faces.MAX_BATCH_PIXELS // (height * width))
    assert len(batches) == -(-count // most)


def test_no_patches_make_no_batches():
    assert list(batch_patches([])) == []
