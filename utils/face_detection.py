"""Find faces in photographs."""

from typing import NamedTuple

import numpy as np

from utils.images import quantize


class Face(NamedTuple):
    """A detected face: `box` is (top, left, height, width) in pixels, inside the photo; `score` in [0, 1]."""

    box: tuple[int, int, int, int]
    score: float


def detect_faces_mtcnn(photo: np.ndarray, *, min_confidence: float = 0.9) -> list[Face]:
    """Detect faces with MTCNN (Zhang et al., 2016), whose weights are inside the `mtcnn` package.

    Args:
        photo: [h, w, 3] float32 RGB in [0, 1].
        min_confidence: faces below this score are left out.

    Returns:
        Faces by falling score, then by position.
    """
    from mtcnn import MTCNN  # imports TensorFlow: not before the command line is checked

    height, width = photo.shape[:2]
    faces = []
    for found in MTCNN(device="CPU:0").detect_faces(quantize(photo)) or []:
        left, top, box_width, box_height = (int(value) for value in found["box"])
        bottom, right = min(height, top + box_height), min(width, left + box_width)
        top, left = max(0, top), max(0, left)
        if found["confidence"] >= min_confidence and bottom > top and right > left:
            faces.append(Face((top, left, bottom - top, right - left), float(found["confidence"])))
    return sorted(faces, key=lambda face: (-face.score, face.box))
