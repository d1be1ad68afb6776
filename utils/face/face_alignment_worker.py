"""Runs the face-alignment package for utils/face/detection.py, in a process of its own.

Reads per photo a line of JSON {"height", "width"} and height * width * 3 bytes of RGB; answers with a line of JSON:
{"faces": [{"box", "landmarks", "score"}, ...]}, {"error": why}, or once, at the start, {"unavailable": why}. Imports
nothing of this project: PyTorch and TensorFlow do not share a process.
"""

import contextlib
import json
import sys

import numpy as np


def find_faces(aligner, photo: np.ndarray) -> dict:
    """Return the answer for one photo; whatever the package raises is an answer, not the end."""
    answers = []
    try:
        landmarks, _, boxes = aligner.get_landmarks_from_image(photo, return_bboxes=True)
        for points, box in [] if landmarks is None else zip(landmarks, boxes, strict=True):
            x_y = np.asarray(points)[:, :2]  # of 68; the eyes' centres, the nose's tip and the mouth's corners are sent
            five = [x_y[36:42].mean(axis=0).tolist(), x_y[42:48].mean(axis=0).tolist(), *x_y[[30, 48, 54]].tolist()]
            answers.append({"box": [float(value) for value in box[:4]], "score": float(box[4]), "landmarks": five})
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"faces": answers}


def main() -> None:
    """Serve standard input until it ends."""
    read, answers = sys.stdin.buffer, sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # the package prints, too
        try:
            import face_alignment

            aligner = face_alignment.FaceAlignment(face_alignment.LandmarksType.TWO_D, device="cpu", flip_input=False,
                                                   compile=False)  # compiling takes longer than a folder of photos
        except Exception as error:
            print(json.dumps({"unavailable": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
            return
        while header := read.readline():
            shape = (*(json.loads(header)[side] for side in ("height", "width")), 3)
            photo = np.frombuffer(read.read(int(np.prod(shape))), np.uint8).reshape(shape)
            print(json.dumps(find_faces(aligner, photo)), file=answers, flush=True)


if __name__ == "__main__":
    main()
