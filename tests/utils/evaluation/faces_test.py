"""The three kinds of faces of an evaluation's photos."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.workplace import picture
from utils.evaluation.photos import KINDS, LEGACY, ORACLE, RESTORED, prepare_faces
from utils.face.detection import Face
from utils.face.preparation import FacePreparer, PreparationSettings
from utils.image.io import quantize, read_image, write_png
from utils.image.listing import Source

# in a photo of 60x50; the box reaches beyond the border
FACES = [Face(np.array([8.0, 6, 38, 44]), np.array([[16.0, 20], [30, 20], [23, 28], [17, 36], [29, 36]]), 0.99),
         Face(np.array([35.5, 20, 70, 48]), np.array([[42.0, 28], [54, 29], [48, 35], [43, 41], [53, 41]]), 0.95)]

SETTINGS = PreparationSettings("mtcnn", "inverter")


@pytest.fixture
def photos(tmp_path):
    """Degraded photos and their truth, and a folder for their faces."""
    for seed, stem in enumerate(("a", "b", "nobody")):
        write_png(tmp_path / "LQ" / f"{stem}.png", picture(seed, 50, 60))
        write_png(tmp_path / "GT" / f"{stem}.png", picture(seed + 10, 200, 240))
    return tmp_path


class Detector:
    def __init__(self):
        self.seen = []

    def __call__(self, photo, name):
        self.seen.append(name)
        return [] if name.startswith("nobody") else FACES


def invert(faces):
    return 255 - faces


def prepare(photos, detect):
    return prepare_faces(sorted((photos / "LQ").iterdir()), photos / "GT", photos / "faces", detect=detect,
                         restore=invert, settings=SETTINGS)


def stored(photos, kind, quality, name):
    return quantize(read_image(photos / "faces" / kind / f"Face_{quality}" / name).pixels)


def names(photos, kind):
    return [[path.name for path in sorted((photos / "faces" / kind / folder).iterdir())]
            for folder in ("Face_LQ", "Face_HQ")]


def test_restored_faces_are_those_that_face_preparation_writes(photos):
    prepare(photos, Detector())
    for kind, legacy in ((RESTORED, False), (LEGACY, True)):
        FacePreparer(lambda *_: FACES, invert, photos / "expected" / kind, replace(SETTINGS, legacy_alignment=legacy)
                     ).prepare(Source("a.png", photos / "LQ" / "a.png"))
        for folder in ("Face_LQ", "Face_HQ"):
            for index in range(2):
                name = f"{folder}/a_{index}.png"
                assert (photos / "faces" / kind / name).read_bytes() == (photos / "expected" / kind / name).read_bytes()
    assert (stored(photos, RESTORED, "HQ", "a_0.png") != stored(photos, LEGACY, "HQ", "a_0.png")).any()


def test_all_kinds_have_the_same_faces_and_a_photo_without_a_face_has_a_row(photos):
    prepare(photos, Detector())
    for kind in KINDS:
        assert names(photos, kind) == [["a_0.png", "a_1.png", "b_0.png", "b_1.png"]] * 2
    with (photos / "faces" / "faces.csv").open(newline="") as file:
        rows = [(row["file"], row["status"], row["index"]) for row in csv.DictReader(file)]
    assert rows == [("a.png", "ok", "0"), ("a.png", "ok", "1"), ("b.png", "ok", "0"), ("b.png", "ok", "1"),
                    ("nobody.png", "no face", "")]


def test_faces_that_are_there_are_not_made_again(photos):
    prepare(photos, Detector())
    detect = Detector()
    before = (photos / "faces" / "faces.csv").read_bytes()
    write_png(photos / "LQ" / "c.png", picture(7, 50, 60))
    write_png(photos / "GT" / "c.png", picture(8, 200, 240))
    prepare(photos, detect)
    assert detect.seen == ["c.png"]
    assert set(before.splitlines()) < set((photos / "faces" / "faces.csv").read_bytes().splitlines())


def test_a_photo_that_fails_is_named_stops_nothing_and_is_tried_again(photos, capsys):
    (photos / "LQ" / "a.png").write_bytes(b"no picture")
    boxes, [line] = prepare(photos, Detector())
    assert set(boxes) == {"b", "nobody"}
    assert "a.png: cannot read the image" in line
    assert "a.png: cannot read the image" in capsys.readouterr().err
    assert names(photos, ORACLE) == [["b_0.png", "b_1.png"]] * 2
    write_png(photos / "LQ" / "a.png", picture(0, 50, 60))
    detect = Detector()
    boxes, errors = prepare(photos, detect)
    assert errors == []
    assert set(boxes) == {"a", "b", "nobody"}
    assert detect.seen == ["a.png"]


@pytest.mark.parametrize("again", [False, True])
def test_oracle_faces_are_the_truth_behind_the_boxes_that_are_adapted_to(photos, again):
    for _ in range(1 + again):  # from the report the second time
        boxes, _ = prepare(photos, Detector())
    truth, degraded = (quantize(read_image(photos / folder / "a.png").pixels) for folder in ("GT", "LQ"))
    for index, (left, top, right, bottom) in enumerate(boxes["a"]):
        np.testing.assert_array_equal(stored(photos, ORACLE, "HQ", f"a_{index}.png"),
                                      truth[top:bottom + 1, left:right + 1])
        np.testing.assert_array_equal(stored(photos, ORACLE, "LQ", f"a_{index}.png"),
                                      degraded[top // 4:bottom // 4 + 1, left // 4:right // 4 + 1])
    assert boxes["a"] == [[32, 24, 155, 179], [140, 80, 239, 195]]
    assert boxes["nobody"] == []
