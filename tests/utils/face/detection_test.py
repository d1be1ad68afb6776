"""Detectors behind one interface."""

import io
import json
import os
import sys

import numpy as np
import pytest
import skimage.data

import utils.weights.manifest
import utils.weights.torch_files
from tests.reference_detector import reference_detector_state
from utils.errors import FatalError, UserError
from utils.face import face_alignment_worker
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS, open_detector, read_boxes

POINTS = np.arange(10.0).reshape(5, 2)
CSV_HEADER = ",".join(["file", *BOX_COLUMNS, *LANDMARK_COLUMNS, "score"])
FACE = json.dumps([{"file": "a", "box": [1.5, 2, 30, 40], "landmarks": POINTS.tolist(), "score": 0.5}])
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


def test_faces_at_the_confidence_are_not_given(tmp_path, photo):
    entries = [{"file": "a", "box": [0, 0, 9, 9], "landmarks": POINTS.tolist(), "score": score}
               for score in (0.89, 0.9, 0.91)]
    (tmp_path / "b.json").write_text(json.dumps(entries))
    with open_detector("boxes", min_confidence=0.9, boxes=tmp_path / "b.json") as detect:
        assert [face.score for face in detect(photo, "a")] == [0.91]
        assert detect(photo, "other") == []


def test_retinaface_is_read_from_its_file_and_sees_the_photo_as_it_is(monkeypatch, tmp_path, photo):
    """With drawn weights it finds no faces but the same boxes at every call, and is given the photo by the wrapper."""
    from model.retinaface import compile_retinaface, detect, retinaface_params_from_torch

    state = reference_detector_state()
    monkeypatch.setattr(utils.weights.manifest, "find_weights",
                        lambda name, folder: {"RetinaFace-R50.pth": tmp_path / name})
    monkeypatch.setattr(utils.weights.torch_files, "load_state_dict", lambda path: state)
    crop = photo[:160, 100:292]
    expected = detect(compile_retinaface(retinaface_params_from_torch(state)), crop, min_confidence=0.9)
    with open_detector("retinaface", min_confidence=0.9) as run:
        faces = run(crop, "a.png")
    assert len(faces) == len(expected.scores) > 3
    np.testing.assert_allclose([face.box for face in faces], expected.boxes)
    np.testing.assert_allclose([face.landmarks for face in faces], expected.landmarks)
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


def test_weights_of_another_network_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(utils.weights.manifest, "find_weights",
                        lambda name, folder: {"RetinaFace-R50.pth": tmp_path / name})
    monkeypatch.setattr(utils.weights.torch_files, "load_state_dict", lambda path: {"other": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="does not fit") as error, open_detector("retinaface", min_confidence=0.9):
        pass
    assert "\n" not in str(error.value)


def test_csv_and_json_give_the_same_faces(tmp_path):
    numbers = [1.5, 2, 30, 40, *POINTS.ravel()]
    (tmp_path / "b.csv").write_text("\n".join([
        CSV_HEADER, ",".join(map(str, ["a b.png", *numbers, 0.75])), "empty.png" + "," * 15,
        ",".join(map(str, ["a b.png", *numbers, ""]))]), "utf-8-sig")
    (tmp_path / "b.JSON").write_text(json.dumps([
        {"file": "a b.png", "box": numbers[:4], "landmarks": POINTS.tolist(), "score": 0.75},
        {"file": "a b.png", "box": numbers[:4], "landmarks": POINTS.ravel().tolist()}]))
    for name in ("b.csv", "b.JSON"):
        first, second = read_boxes(tmp_path / name)["a b.png"]
        np.testing.assert_array_equal(first.box, numbers[:4])
        np.testing.assert_array_equal(second.landmarks, POINTS)
        assert (first.score, second.score) == (0.75, 1.0)
    assert read_boxes(tmp_path / "b.csv")["empty.png"] == []


def test_a_score_of_0_is_0(tmp_path):
    (tmp_path / "b.json").write_text(FACE.replace("0.5", "0"))
    (tmp_path / "b.csv").write_text(f"{CSV_HEADER}\na" + ",1" * 14 + ",0\n")
    assert [read_boxes(tmp_path / name)["a"][0].score for name in ("b.json", "b.csv")] == [0, 0]


@pytest.mark.parametrize(("name", "text", "message"), [
    ("b.json", "[", "is not a .json file"), ("b.json", '[{"file": "a", "box": [1, 2, 3]}]', "entry 1"),
    ("b.json", '[{"file": "a", "box": [1, 2, 3], "landmarks": []}]', "entry 1"), ("b.json", "[3]", "entry 1"),
    ("b.json", "7", "list"),
    pytest.param("b.json", "[" * 100000, "is not a .json file", id="nested without end"),
    pytest.param("b.json", "[" + "9" * 5000 + "]", "is not a .json file", id="a number that Python does not read"),
    pytest.param("b.json", FACE.replace("1.5", "9" * 400), "entry 1: OverflowError", id="a number beyond a float"),
    pytest.param("b.json", FACE.replace("1.5", "1e999"), "entry 1", id="an infinite number"),
    pytest.param("b.json", FACE.replace('"a"', "3"), "entry 1", id="a file that is no name"),
    ("b.csv", f"{CSV_HEADER}\na,1,2,3,x\n", "entry 1"), ("b.csv", "file,left\na,3\n", "x0"),
    ("b.csv", f"{CSV_HEADER}\n" + "a," + "1," * 14 + "1\n" + "a," + "nan," * 14 + "1\n", "entry 2")])
def test_a_faulty_file_is_one_line_that_names_it(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_boxes(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv"):
        read_boxes(tmp_path / "none.csv")


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "face_alignment.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


def test_face_alignment_answers_from_a_process_of_its_own(package):
    photo = np.full((20, 30, 3), 2 / 255, np.float32)
    with open_detector("face-alignment", min_confidence=0.9) as detect:
        for _ in range(2):
            [face] = detect(photo, "a.png")
            np.testing.assert_array_equal(face.box, [1, 2, 30, 20])
            x = [np.mean(range(36, 42)), np.mean(range(42, 48)), 30, 48, 54]
            np.testing.assert_allclose(face.landmarks, np.stack([x, np.array(x) + 6], axis=1))
            assert face.score == 0.95
        assert detect(np.zeros((5, 5, 3), np.float32), "b.png") == []
        with pytest.raises(UserError, match=r"failed on c.png: RuntimeError: unlucky") as error:
            detect(np.ones((13, 5, 3), np.float32), "c.png")
        assert "\n" not in str(error.value)
        assert len(detect(photo, "d.png")) == 1  # it goes on
    assert "torch" not in sys.modules


def test_a_missing_package_is_one_line_that_says_what_to_install():
    with pytest.raises(UserError, match=r"pip install -r requirements-face-alignment\.txt"), \
            open_detector("face-alignment", min_confidence=0.9):
        pass


@pytest.mark.parametrize(("code", "message"), [
    ("raise OSError('no network')", "cannot be used: OSError: no network"),
    ("import os; os._exit(3)", "without an answer")])
def test_a_package_that_cannot_start_ends_the_run_in_one_line(tmp_path, monkeypatch, code, message):
    (tmp_path / "face_alignment.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with open_detector("face-alignment", min_confidence=0.9) as detect, pytest.raises(FatalError, match=message):
        detect(np.zeros((5, 5, 3), np.float32), "a.png")


def test_the_worker_ends_with_its_input():
    answers = []
    face_alignment_worker.serve(lambda photo: ([], []), io.BytesIO(b'{"height": 1, "width": 2}\n' + bytes(6)),
                                answers.append)
    assert answers == [{"faces": []}]
