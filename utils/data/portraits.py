"""Photos of one person each, whom the tools cut out of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.composites import CUT_FACE_WIDTH, Person, cut_out
from utils.face.detection import Detector
from utils.image.io import quantize, read_image

DETECTOR, MIN_CONFIDENCE = "mtcnn", 0.9  # needs no download; as generate_test_faces.py has it


class Portrait(NamedTuple):
    """Somebody cut out, and the landmarks [5, 2] of the face in that image."""

    person: Person
    landmarks: np.ndarray


def cut_portrait(path: Path, detect: Detector, *, face_width: float = CUT_FACE_WIDTH) -> Portrait:
    """Find the surest face of a portrait and cut the person out.

    Args:
        path: the portrait.
        detect: finds faces.
        face_width: as for `cut_out`.

    Raises:
        UserError: the file cannot be read.
        ValueError: it shows nobody who can be cut out.
    """
    photo = read_image(path)
    found = detect(photo.pixels, path.name)
    if not found:
        raise ValueError("no face is found in it")
    face = found[0]
    person = cut_out(quantize(photo.pixels), face.box, face_width=face_width)
    ratio = (person.face[2] - person.face[0]) / (face.box[2] - face.box[0])
    return Portrait(person, (face.landmarks - face.box[:2]) * ratio + person.face[:2])
