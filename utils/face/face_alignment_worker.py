"""Find faces with the face-alignment package, for utils/face/detection.py, in a process of its own.

Reads from standard input, per photo, a line of JSON {"height", "width"} and then height * width * 3 bytes of RGB;
answers with a line of JSON: {"faces": [{"box", "landmarks", "score"}, ...]} or {"error": why}, or once, and then ends,
{"unavailable": why}. Nothing of this project is imported: PyTorch and TensorFlow must not meet in one process.
"""

import contextlib
import json
import sys

import numpy as np

# Of the 68 points: the corners and lids of each eye, the tip of the nose, the corners of the mouth
EYES = (slice(36, 42), slice(42, 48))
NOSE, MOUTH_LEFT, MOUTH_RIGHT = 30, 48, 54


def five_points(points: np.ndarray) -> np.ndarray:
    """Reduce 68 landmarks [68, 2] to eyes, nose and corners of the mouth [5, 2]."""
    return np.stack([*(points[eye].mean(axis=0) for eye in EYES), points[NOSE], points[MOUTH_LEFT],
                     points[MOUTH_RIGHT]])


def serve(find, read, answer) -> None:
    """Answer photo after photo until the input ends.

    Args:
        find: photo [h, w, 3] uint8 RGB -> (landmarks [k, 68, 2], boxes [k, 5] with the score last).
        read: a binary stream.
        answer: is given each answer.
    """
    while header := read.readline():
        size = json.loads(header)
        data = read.read(size["height"] * size["width"] * 3)
        photo = np.frombuffer(data, np.uint8).reshape(size["height"], size["width"], 3)
        try:
            landmarks, boxes = find(photo)
            answer({"faces": [{"box": [float(value) for value in box[:4]], "score": float(box[4]),
                               "landmarks": five_points(np.asarray(points)[:, :2]).tolist()}
                              for points, box in zip(landmarks, boxes, strict=True)]})
        except Exception as error:  # whatever the package raises is an answer, not the end
            answer({"error": f"{type(error).__name__}: {error}"})


def open_package():
    """Load the package's networks, which it downloads when it is used for the first time."""
    import face_alignment

    aligner = face_alignment.FaceAlignment(face_alignment.LandmarksType.TWO_D, device="cpu", flip_input=False,
                                           compile=False)  # compiling takes longer than a folder of photos

    def find(photo: np.ndarray):
        landmarks, _, boxes = aligner.get_landmarks_from_image(photo, return_bboxes=True)
        return ([], []) if landmarks is None else (landmarks, boxes)

    return find


def main() -> None:
    """Serve standard input."""
    out = sys.stdout.buffer

    def answer(content: dict) -> None:
        out.write(json.dumps(content).encode() + b"\n")
        out.flush()

    with contextlib.redirect_stdout(sys.stderr):  # what the package prints is no answer
        try:
            find = open_package()
        except Exception as error:
            answer({"unavailable": f"{type(error).__name__}: {error}"})
            return
        serve(find, sys.stdin.buffer, answer)


if __name__ == "__main__":
    main()
