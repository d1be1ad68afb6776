"""Which faces belong to a photo."""

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from utils.errors import UserError
from utils.face.alignment import reference_points
from utils.face.detection import LANDMARK_COLUMNS
from utils.face.pairs import FaceFolder, FacePair, locate_face, read_face
from utils.face.preparation import FACE_COLUMNS
from utils.image.io import to_float, write_png
from utils.image.listing import Source
from utils.report import Report


def make_folder(root, *names, lq=(), hq=(), stems=None):
    for sub, more in (("Face_LQ", lq), ("Face_HQ", hq)):
        (root / sub).mkdir(parents=True, exist_ok=True)
        for name in (*names, *more):
            (root / sub / name).touch()
    return FaceFolder(root, stems)


def names(folder, stem):
    pairs = folder.pairs(stem)
    assert all(pair.lq.parent.name == "Face_LQ" and pair.hq.parent.name == "Face_HQ" for pair in pairs)
    assert [pair.lq.name for pair in pairs] == [pair.hq.name for pair in pairs]
    return [pair.lq.name for pair in pairs]


@pytest.mark.parametrize("stems", [None, {"1", "10", "1_2", "01", "2", "[x]*\n_"}])
def test_photo_gets_its_own_faces_alone_in_order_of_their_numbers(tmp_path, stems):
    folder = make_folder(tmp_path, "1_10.png", "1_2.PNG", "10_0.png", "1_2_0.png", "11_0.png", "01_0.png", "x1_0.png",
                         "1_.png", "1_a.png", "_0.png", "1_-1.png", "1_3.txt", ".1_4.png", "1_5", "[x]*\n__0.png",
                         stems=stems)
    found = {"1": ["1_2.PNG", "1_10.png"], "10": ["10_0.png"], "1_2": ["1_2_0.png"], "01": ["01_0.png"], "2": [],
             "[x]*\n_": ["[x]*\n__0.png"]}
    assert {stem: names(folder, stem) for stem in found} == found


def test_a_face_named_as_its_photo_is_one_of_its_faces(tmp_path):
    """As the original's pattern has it; `b_1` is the second face of `b` only where there is such a photo."""
    folder = make_folder(tmp_path, "a.png", "a_0.png", "b_1.png", stems={"a", "b_1"})
    assert names(folder, "a") == ["a.png", "a_0.png"]
    assert names(folder, "b_1") == ["b_1.png"]
    folder = FaceFolder(tmp_path, {"b", "b_1"})
    assert names(folder, "b") == ["b_1.png"]
    assert names(folder, "b_1") == []


def test_faces_of_no_photo_are_listed_and_partners_may_be_of_different_formats(tmp_path):
    folder = make_folder(tmp_path, "x_0.png", lq=["a_0.jpg", "y.png"], hq=["a_0.png", "b.txt"], stems={"a"})
    assert folder.pairs("a") == [FacePair(tmp_path / "Face_LQ" / "a_0.jpg", tmp_path / "Face_HQ" / "a_0.png")]
    assert folder.unused == [("of no photo", "Face_LQ/x_0.png"), ("of no photo", "Face_LQ/y.png"),
                             ("not an image", "Face_HQ/b.txt"), ("of no photo", "Face_HQ/x_0.png")]


def test_faces_are_found_whatever_the_normalisation_of_their_names_and_in_subfolders_if_asked(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    (tmp_path / "Face_LQ" / "sub").mkdir(parents=True)
    (tmp_path / "Face_HQ" / "sub").mkdir(parents=True)
    make_folder(tmp_path, f"{composed}_0.png", "x_0.png", f"sub/{decomposed}_0.png")
    folder = FaceFolder(tmp_path, [decomposed, f"sub/{composed}"], recursive=True)
    assert names(folder, decomposed) == [f"{composed}_0.png"]
    assert [[path.name for path in pair] for pair in folder.pairs(f"sub/{composed}")] == [[f"{decomposed}_0.png"] * 2]
    assert [name for _, name in folder.unused] == ["Face_LQ/x_0.png", "Face_HQ/x_0.png"]
    assert FaceFolder(tmp_path).unused == [("subfolder", "Face_LQ/sub"), ("subfolder", "Face_HQ/sub")]


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


def test_pair_is_read_in_order_and_as_it_is(tmp_path):
    lq = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    write_png(tmp_path / "lq.png", lq)
    write_png(tmp_path / "hq.png", lq.repeat(4, axis=0).repeat(4, axis=1)[::-1])
    face = read_face(FacePair(tmp_path / "lq.png", tmp_path / "hq.png"))
    np.testing.assert_allclose(face.lq[0], lq / 255, atol=1e-7)
    np.testing.assert_allclose(face.hq[0, ::4, ::4], lq[::-1] / 255, atol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(11, 20), (20, 12)])
def test_partner_of_another_size_is_named(tmp_path, height, width):
    write_png(tmp_path / "lq.png", np.zeros((3, 5, 3), np.uint8))
    write_png(tmp_path / "hq.png", np.zeros((height, width, 3), np.uint8))
    with pytest.raises(UserError) as caught:
        read_face(FacePair(tmp_path / "lq.png", tmp_path / "hq.png"))
    for part in (tmp_path / "lq.png", tmp_path / "hq.png", "20x12", f"{width}x{height}"):
        assert str(part) in str(caught.value)


@pytest.mark.parametrize(("top", "left", "height", "width"), [
    (0, 0, 10, 12), (7, 31, 20, 9), (40, 55, 10, 5), (0, 0, 50, 60), (49, 59, 1, 1), (0, 0, 1, 60)])
def test_exact_crop_is_found(top, left, height, width):
    image = np.random.default_rng(0).random((50, 60, 3), dtype=np.float32)
    crop = image[top:top + height, left:left + width].copy()
    assert locate_face(image, crop) == (top, left, height, width)


@pytest.mark.parametrize("quality", [50, 95])
def test_face_is_found_in_a_photo_that_was_recompressed(quality):
    photo = cv2.resize(skimage.data.astronaut(), (160, 160), interpolation=cv2.INTER_AREA)
    recompressed = cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    face = to_float(photo[20:53, 57:82])
    assert locate_face(to_float(recompressed), face) == (20, 57, 33, 25)
    assert locate_face(to_float(photo[:, ::-1].copy()), face) is None


def test_stranger_is_not_found():
    rng = np.random.default_rng(0)
    image, stranger = rng.random((50, 60, 3), dtype=np.float32), rng.random((12, 10, 3), dtype=np.float32)
    assert locate_face(image, stranger) is None
    assert locate_face(image, image[10:30, 10:30, ::-1].copy()) is None
    assert locate_face(image, np.zeros((51, 10, 3), np.float32)) is None  # larger than the photo
    assert locate_face(image, np.zeros((10, 61, 3), np.float32)) is None


def test_box_of_the_report_counts_where_it_shows_the_face_and_the_face_is_searched_for_otherwise(tmp_path):
    photo = np.zeros((40, 50, 3), np.uint8)
    photo[::2] = 200  # the same at every other row: only the report tells which one it is
    for folder, scale in (("Face_LQ", 1), ("Face_HQ", 4)):
        write_png(tmp_path / folder / "a_0.png", np.repeat(photo[10:20, 5:20], scale, axis=0).repeat(scale, axis=1))
    landmarks = dict(zip(LANDMARK_COLUMNS, reference_points(64).ravel(), strict=True))
    with Report(tmp_path / "faces.csv", FACE_COLUMNS, digits=17) as report:
        report.add({"file": "a.jpg", "index": 0, "status": "ok", "top": 10, "left": 5, "height": 10, "width": 15,
                    **landmarks})

    def read(image):
        [face] = FaceFolder(tmp_path, {"a"}).faces_of(Source("a.jpg", Path("a.jpg")), None, None)
        return face.located(to_float(image))

    face = read(photo)
    assert face.box == (10, 5, 10, 15)
    np.testing.assert_allclose(face.matrix, [[8, 0, 0], [0, 8, 0]], atol=1e-9)  # from 64 to 512 pixels
    photo[10:20, 5:20] = 99
    face = read(photo)
    assert (face.box, face.matrix) == ((0, 0, 10, 15), None)
    assert read(photo[9:21, 4:21]).box is None
    (tmp_path / "faces.csv").write_text("file,status\r\na.jpg,ok\r\n")  # of another tool
    assert read(photo).box == (0, 0, 10, 15)
