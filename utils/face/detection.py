"""Face detectors: functions (photo [h, w, 3] float32 RGB in [0, 1], file name) -> faces with five landmarks.

`open_detector` opens one by its name; another detector is another branch there.
"""

import contextlib
import csv
import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import FatalError, UserError, printable
from utils.files import read_bytes
from utils.image.io import quantize
from utils.image.listing import same_name

WORKER = Path(__file__).resolve().parent / "face_alignment_worker.py"
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
LANDMARK_COLUMNS = tuple(f"{point}_{axis}" for point in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
                         for axis in "xy")
MIN_CONFIDENCE = 0.9
LARGEST_COORDINATE = 1e6  # pixels


class Face(NamedTuple):
    """A detected face, in pixels of the photo; it may reach beyond the border."""

    box: np.ndarray  # [4]: x0, y0, x1, y1
    landmarks: np.ndarray  # [5, 2]: x and y of eyes, nose and corners of the mouth, left in the picture first
    score: float  # in [0, 1]


Detector = Callable[[np.ndarray, str], list[Face]]


@contextlib.contextmanager
def open_detector(name: str, *, min_confidence: float = MIN_CONFIDENCE, weights_dir: Path | None = None,
                  boxes: Path | None = None) -> Iterator[Detector]:
    """Open a detector; it returns faces above `min_confidence` in [0, 1], by falling score, then by position.

    `name` is `retinaface` (its weights are looked up in `weights_dir`), `mtcnn`, `face-alignment` or `boxes` (a CSV or
    JSON file). UserError if weights, file or package are missing or faulty.
    """
    with contextlib.ExitStack() as stack:
        if name == "retinaface":
            detect = _retinaface(weights_dir, min_confidence)
        elif name == "mtcnn":
            detect = _mtcnn()
        elif name == "face-alignment":
            detect = stack.enter_context(_face_alignment())
        else:
            faces = read_boxes(boxes)
            detect = lambda _, file: faces.get(same_name(file), [])  # noqa: E731
        yield lambda photo, file: sorted((face for face in detect(photo, file) if face.score > min_confidence),
                                         key=lambda face: (-face.score, *face.box.tolist()))


def _retinaface(weights_dir: Path | None, min_confidence: float) -> Detector:
    from model.retinaface import compile_retinaface, detect, retinaface_params_from_torch
    from utils.weights.state_dicts import load_params

    forward = compile_retinaface(load_params("retinaface", retinaface_params_from_torch, weights_dir=weights_dir))

    def run(photo: np.ndarray, _: str) -> list[Face]:
        found = detect(forward, photo, min_confidence=min_confidence)
        return [Face(*face) for face in zip(found.boxes, found.landmarks, found.scores.tolist(), strict=True)]

    return run


def _mtcnn() -> Detector:
    """MTCNN (Zhang et al., 2016), whose weights are inside the `mtcnn` package."""
    # on Python 3.13 lz4 closes the files of the weights twice, which Python reports without harm
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        from mtcnn import MTCNN  # imports TensorFlow: not before the command line is checked

        network = MTCNN(device="CPU:0")
    finally:
        sys.unraisablehook = hook

    def run(photo: np.ndarray, _: str) -> list[Face]:
        # columns: image, x0, y0, x1, y1 (one pixel beyond the box), score, x of five landmarks, y of five landmarks
        rows = np.asarray(network.detect_faces(quantize(photo), fit_to_image=False, box_format="xyxy",
                                               output_type="numpy"), np.float64)
        return [Face(row[1:5] - [0, 0, 1, 1], row[6:16].reshape(2, 5).T, float(row[5])) for row in rows]

    return run


@contextlib.contextmanager
def _face_alignment() -> Iterator[Detector]:
    """The `face-alignment` package, in a process of its own: PyTorch and TensorFlow do not share one."""
    if importlib.util.find_spec("face_alignment") is None:
        raise UserError("--detector face-alignment needs its package: pip install -r requirements-face-alignment.txt")
    process = subprocess.Popen([sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(photo: np.ndarray, file: str) -> list[Face]:
        samples = quantize(photo)
        header = json.dumps({"height": samples.shape[0], "width": samples.shape[1]}).encode()
        with contextlib.suppress(BrokenPipeError):  # its last answer says why it ended
            process.stdin.write(header + b"\n" + samples.tobytes())
            process.stdin.flush()
        try:
            answer = json.loads(process.stdout.readline())
        except json.JSONDecodeError as error:
            raise FatalError(f"the face-alignment process ended without an answer. Try it with: python {WORKER} "
                             "< /dev/null") from error
        if "unavailable" in answer:
            raise FatalError(f"face-alignment cannot be used: {printable(answer['unavailable'])}. Its networks are "
                             "downloaded when it is used for the first time: check the connection, and the package.")
        if "error" in answer:
            raise UserError(f"face-alignment failed on {file}: {printable(answer['error'])}. Try another --detector.")
        return [Face(np.array(face["box"]), np.array(face["landmarks"]), face["score"]) for face in answer["faces"]]

    try:
        yield run
    finally:
        process.kill()
        process.communicate()


def read_boxes(path: Path) -> dict[str, list[Face]]:
    """Read faces from a CSV or JSON file of any other tool: the photo's name, as of `same_name` -> its faces.

    The CSV has the columns `file`, `x0`, `y0`, `x1`, `y1`, `left_eye_x` ... `mouth_right_y` and optionally `score`
    (default 1), as the faces.csv of generate_test_faces.py; rows without a box are photos without a face. The JSON is
    a list of objects {"file", "box": [x0, y0, x1, y1], "landmarks": [[x, y], ...], "score"}. UserErrors name the entry.
    """
    text = read_bytes(path).decode("utf-8-sig", "surrogateescape")
    faces: dict[str, list[Face]] = {}
    try:
        is_json = path.suffix.lower() == ".json"
        rows = json.loads(text) if is_json else list(csv.DictReader(io.StringIO(text, newline="")))
        if not isinstance(rows, list):
            raise TypeError(f"it must hold a list of faces, not {type(rows).__name__}")
    except (TypeError, ValueError, csv.Error, RecursionError) as error:  # ValueError: also numbers of 5000 digits
        raise UserError(f"{path} is no {path.suffix} file of faces: {error}. The documentation shows its form."
                        ) from error
    for number, row in enumerate(rows, 1):
        try:
            if type(row["file"]) is not str:
                raise TypeError("the file must be a name")
            found = faces.setdefault(same_name(row["file"]), [])
            if "box" in row or row["x0"]:
                found.append(_face(row))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path}, entry {number}: {type(error).__name__} {printable(str(error))}. It needs a file, "
                            "a box of four numbers and five landmarks of two.") from error
    return faces


def _face(row: dict) -> Face:
    """Convert an entry of a file of faces; ValueError, TypeError, KeyError or OverflowError where it is faulty."""
    box, landmarks = (row["box"], row["landmarks"]) if "box" in row else (
        [row[column] for column in columns] for columns in (BOX_COLUMNS, LANDMARK_COLUMNS))
    face = Face(np.array(box, np.float64).reshape(4), np.array(landmarks, np.float64).reshape(5, 2),
                1.0 if row.get("score") in (None, "") else float(row["score"]))
    numbers = np.array([*face.box, *face.landmarks.ravel(), face.score])
    if not (np.abs(numbers) < LARGEST_COORDINATE).all():  # or not finite
        raise ValueError("a number is out of range")
    if face.box[2] < face.box[0] or face.box[3] < face.box[1]:
        raise ValueError("the corners of a box are swapped")
    return face
