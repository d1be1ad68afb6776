"""Detectors behind one interface."""

import json
import os
import sys

import numpy as np
import pytest
import skimage.data

import utils.weights.state_dicts
from tests.helpers.reference_detector import reference_detector_state
from utils.errors import FatalError, UserError
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS, open_detector, read_boxes

POINTS = np.arange(10.0).reshape(5, 2)
CSV_HEADER = ",".join(["file", *BOX_COLUMNS, *LANDMARK_COLUMNS, "score"])
FACE = json.dumps([{"file": "a", "box": [1.5, 2, 30, 40], "landmarks": POINTS.tolist()}])
PACKAGE = '''
import numpy as np
class LandmarksType:
    TWO_D = "2D"
class FaceAlignment:
    def __init__(self, kind, device, flip_input, compile):
        print("this package prints")
        assert (kind, device, flip_input, compile) == ("2D", "cpu", False, False)
    def get_landmarks_from_image(self, photo, return_bboxes):
        if photo.shape[0] == 13:
            raise RuntimeError("unlucky")
        if photo.max() == 0:
            return None, None, None
        points = np.stack([np.arange(68.0), np.arange(68.0) + photo[0, 0].astype(float).sum()], axis=1)
        box = np.array([1, 2, photo.shape[1], photo.shape[0], 0.95])
        return [points, points + 1], None, [box, box * [1, 1, 1, 1, 0.5]]
'''


@pytest.fixture(scope="module")
def photo():
    return skimage.data.astronaut().astype(np.float32) / 255


def test_mtcnn_finds_the_eyes_nose_and_mouth_of_a_portrait(photo):
    with open_detector("mtcnn", min_confidence=0.9) as detect:
        [face] = detect(photo, "astronaut.png")
        assert detect(np.zeros((40, 50, 3), np.float32), "black.png") == []
    np.testing.assert_allclose(face.landmarks, [[203, 100], [245, 102], [224, 126], [202, 139], [244, 140]], atol=1.5)
    np.testing.assert_allclose(face.box, [181, 64, 264, 170], atol=2)
    assert 0.99 < face.score <= 1


def test_faces_at_the_confidence_are_not_returned(tmp_path, photo):
    entries = [{"file": "a", "box": [0, 0, 9, 9], "landmarks": POINTS.tolist(), "score": score}
               for score in (0.89, 0.9, 0.91)]
    (tmp_path / "b.json").write_text(json.dumps(entries))
    with open_detector("boxes", min_confidence=0.9, boxes=tmp_path / "b.json") as detect:
        assert [face.score for face in detect(photo, "a")] == [0.91]
        assert detect(photo, "other") == []


def test_retinaface_is_read_from_its_file_and_sees_the_photo_as_it_is(monkeypatch, tmp_path, photo):
    """With drawn weights it finds no faces, but the same boxes at every call."""
    from model.retinaface import compile_retinaface, detect, retinaface_params_from_torch

    state = reference_detector_state()
    monkeypatch.setattr(utils.weights.state_dicts, "find_weights",
                        lambda name, folder: {"RetinaFace-R50.pth": tmp_path / name})
    monkeypatch.setattr(utils.weights.state_dicts, "load_state_dict", lambda path: state)
    crop = photo[:160, 100:292]
    expected = detect(compile_retinaface(retinaface_params_from_torch(state)), crop, min_confidence=0.9)
    with open_detector("retinaface", min_confidence=0.9) as run:
        faces = run(crop, "a.png")
    assert len(faces) == len(expected.scores) > 3
    np.testing.assert_allclose([face.box for face in faces], expected.boxes)
    np.testing.assert_allclose([face.landmarks for face in faces], expected.landmarks)
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


def test_csv_and_json_hold_the_same_faces(tmp_path):
    numbers = [1.5, 2, 30, 40, *POINTS.ravel()]
    (tmp_path / "b.csv").write_text("\n".join([
        CSV_HEADER, ",".join(map(str, ["a b.png", *numbers, 0])), "empty.png" + "," * 15,
        ",".join(map(str, ["a b.png", *numbers, ""]))]), "utf-8-sig")
    (tmp_path / "b.JSON").write_text(json.dumps([
        {"file": "a b.png", "box": numbers[:4], "landmarks": POINTS.tolist(), "score": 0},
        {"file": "a b.png", "box": numbers[:4], "landmarks": POINTS.ravel().tolist()}]))
    for name in ("b.csv", "b.JSON"):
        first, second = read_boxes(tmp_path / name)["a b.png"]
        np.testing.assert_array_equal(first.box, numbers[:4])
        np.testing.assert_array_equal(second.landmarks, POINTS)
        assert (first.score, second.score) == (0, 1)
    assert read_boxes(tmp_path / "b.csv")["empty.png"] == []


@pytest.mark.parametrize(("name", "text", "entry"), [
    ("b.json", "7", None), ("b.json", "[3]", 1), ("b.json", '[{"file": "a", "box": [1, 2, 3], "landmarks": []}]', 1),
    pytest.param("b.json", "[" * 100000, None, id="nested without end"),
    pytest.param("b.json", "[" + "9" * 5000 + "]", None, id="a number that Python does not read"),
    pytest.param("b.json", FACE.replace("1.5", "9" * 400), 1, id="a number beyond a float"),
    pytest.param("b.json", FACE.replace("1.5", "31"), 1, id="swapped corners"),
    pytest.param("b.json", FACE.replace('"a"', "3"), 1, id="a file that is no name"),
    ("b.csv", "file,left\na,3\n", 1),
    ("b.csv", f"{CSV_HEADER}\n" + "a," + "1," * 14 + "1\n" + "a," + "nan," * 14 + "1\n", 2)])
def test_a_faulty_file_is_one_line_that_names_it_and_the_entry(tmp_path, name, text, entry):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_boxes(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name) + (f", entry {entry}:" if entry else " "))
    assert "\n" not in str(error.value)


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path / "face_alignment.py"


def test_face_alignment_answers_from_a_process_of_its_own(package):
    package.write_text(PACKAGE)
    photo = np.full((20, 30, 3), 2 / 255, np.float32)
    with open_detector("face-alignment", min_confidence=0.9) as detect:
        for _ in range(2):
            [face] = detect(photo, "a.png")
            np.testing.assert_array_equal(face.box, [1, 2, 30, 20])
            x = [np.mean(range(36, 42)), np.mean(range(42, 48)), 30, 48, 54]
            np.testing.assert_allclose(face.landmarks, np.stack([x, np.array(x) + 6], axis=1))
            assert face.score == 0.95
        assert detect(np.zeros((5, 5, 3), np.float32), "b.png") == []
        with pytest.raises(UserError, match=r"c\.png: RuntimeError: unlucky"):
            detect(np.ones((13, 5, 3), np.float32), "c.png")
        assert len(detect(photo, "d.png")) == 1  # it goes on
    assert "torch" not in sys.modules


def test_a_missing_package_is_one_line_that_names_what_to_install():
    with pytest.raises(UserError, match=r"requirements-face-alignment\.txt"), \
            open_detector("face-alignment", min_confidence=0.9):
        pass


@pytest.mark.parametrize(("code", "message"), [
    ("raise OSError('no network')", "OSError: no network"), ("import os; os._exit(3)", "without an answer")])
def test_a_package_that_cannot_start_ends_the_run(package, code, message):
    package.write_text(code)
    with open_detector("face-alignment", min_confidence=0.9) as detect, pytest.raises(FatalError, match=message):
        detect(np.zeros((5, 5, 3), np.float32), "a.png")
