"""Which faces belong to a photo."""

from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.face.pairs import FaceFolder, FacePair, read_face
from utils.image.io import write_png


def make_folder(root, *names, lq=(), hq=(), stems=None):
    for sub, more in (("Face_LQ", lq), ("Face_HQ", hq)):
        (root / sub).mkdir(parents=True)
        for name in (*names, *more):
            (root / sub / name).touch()
    return FaceFolder(root, stems)


def names(folder, stem):
    pairs = folder.pairs(stem)
    assert all(pair.lq.parent.name == "Face_LQ" and pair.hq.parent.name == "Face_HQ" for pair in pairs)
    assert [pair.lq.name for pair in pairs] == [pair.hq.name for pair in pairs]
    return [pair.lq.name for pair in pairs]


@pytest.mark.parametrize("stems", [None, {"1", "10", "1_2", "01", "2"}])
def test_photo_gets_its_own_faces_alone(tmp_path, stems):
    folder = make_folder(tmp_path, "1_0.png", "1_1.png", "10_0.png", "1_2_0.png", "11_0.png", "01_0.png", "x1_0.png",
                         "1_.png", "1_a.png", "_0.png", "1_-1.png", stems=stems)
    assert names(folder, "1") == ["1_0.png", "1_1.png"]
    assert names(folder, "10") == ["10_0.png"]
    assert names(folder, "1_2") == ["1_2_0.png"]
    assert names(folder, "01") == ["01_0.png"]
    assert names(folder, "2") == []


@pytest.mark.parametrize("stem", ["a_b_c", "a_", "_a", "__", "写真_1", "a.b", "two  spaces", "[x]*?", "a\nb"])
def test_any_stem_finds_its_faces(tmp_path, stem):
    folder = make_folder(tmp_path, f"{stem}_0.png", f"{stem}_12.PNG", "other_0.png", stems={stem, "other"})
    assert names(folder, stem) == [f"{stem}_0.png", f"{stem}_12.PNG"]


def test_faces_are_in_order_of_their_numbers_and_other_files_are_none(tmp_path):
    folder = make_folder(tmp_path, *(f"a_{index}.png" for index in (10, 2, 0, 100)), "a_1.txt", ".a_2.png", "a_3")
    assert names(folder, "a") == [f"a_{index}.png" for index in (0, 2, 10, 100)]


def test_a_face_named_as_its_photo_is_one_of_its_faces(tmp_path):
    """As the original's pattern has it; `b_1` is the second face of `b` only where there is such a photo."""
    folder = make_folder(tmp_path, "a.png", "a_0.png", "b_1.png", stems={"a", "b_1"})
    assert names(folder, "a") == ["a.png", "a_0.png"]
    assert names(folder, "b_1") == ["b_1.png"]
    folder = FaceFolder(tmp_path, {"b", "b_1"})
    assert names(folder, "b") == ["b_1.png"]
    assert names(folder, "b_1") == []


def test_faces_of_no_photo_are_listed(tmp_path):
    folder = make_folder(tmp_path, "a_0.png", "x_0.png", lq=["y.png"], stems={"a"})
    assert folder.unused == [tmp_path / "Face_LQ" / "x_0.png", tmp_path / "Face_LQ" / "y.png",
                             tmp_path / "Face_HQ" / "x_0.png"]


def test_partners_may_be_stored_in_different_formats(tmp_path):
    pairs = make_folder(tmp_path, lq=["a_0.jpg"], hq=["a_0.png"]).pairs("a")
    assert pairs == [FacePair(tmp_path / "Face_LQ" / "a_0.jpg", tmp_path / "Face_HQ" / "a_0.png")]


@pytest.mark.parametrize(("lq", "hq", "lonely", "searched"), [
    (["a_1.png"], [], "Face_LQ/a_1.png", "Face_HQ"), ([], ["a_1.png"], "Face_HQ/a_1.png", "Face_LQ")])
def test_face_without_partner_is_named(tmp_path, lq, hq, lonely, searched):
    folder = make_folder(tmp_path, "a_0.png", "b_0.png", lq=lq, hq=hq)
    with pytest.raises(UserError) as caught:
        folder.pairs("a")
    assert str(tmp_path / lonely) in str(caught.value)
    assert str(tmp_path / searched) in str(caught.value)
    assert names(folder, "b") == ["b_0.png"]  # other photos do not suffer


@pytest.mark.parametrize("twin", ["a_01.png", "a_1.jpg"])
@pytest.mark.parametrize("where", ["lq", "hq"])
def test_two_files_of_one_face_are_both_named(tmp_path, where, twin):
    folder = make_folder(tmp_path, "a_1.png", "b_0.png", **{where: [twin]})
    with pytest.raises(UserError) as caught:
        folder.pairs("a")
    assert all(part in str(caught.value) for part in ("a_1.png", twin, f"Face_{where.upper()}"))
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


def test_pair_is_read_in_order_and_as_it_is(tmp_path):
    lq = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    write_png(tmp_path / "lq.png", lq)
    write_png(tmp_path / "hq.png", lq.repeat(4, axis=0).repeat(4, axis=1)[::-1])
    face = read_face(FacePair(tmp_path / "lq.png", tmp_path / "hq.png"))
    np.testing.assert_allclose(face.lq[0], lq / 255, atol=1e-7)
    np.testing.assert_allclose(face.hq[0, ::4, ::4], lq[::-1] / 255, atol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(12, 16), (11, 20), (13, 20), (3, 5), (20, 12)])
def test_partner_of_another_size_is_named(tmp_path, height, width):
    write_png(tmp_path / "lq.png", np.zeros((3, 5, 3), np.uint8))
    write_png(tmp_path / "hq.png", np.zeros((height, width, 3), np.uint8))
    with pytest.raises(UserError) as caught:
        read_face(FacePair(tmp_path / "lq.png", tmp_path / "hq.png"))
    for part in (tmp_path / "lq.png", tmp_path / "hq.png", "20x12", f"{width}x{height}"):
        assert str(part) in str(caught.value)
