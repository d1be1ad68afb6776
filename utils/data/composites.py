"""Photos of people in front of a scene, composed of scenes and of portraits with a plain background.

Images are uint8 RGB [h, w, 3]. A box is (x0, y0, x1, y1) in pixels.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config import SCALE
from utils.face.detection import Detector
from utils.image.io import quantize, read_image

DETECTOR, MIN_CONFIDENCE = "mtcnn", 0.9  # needs no download; the threshold of generate_test_faces.py
BACKGROUND_BORDER = 0.04  # of a portrait's width: strips at the left, right and top that show the background
BACKGROUND_DISTANCE = 10.0  # colour distance below which a pixel is background, in range 255
GRABCUT_ITERATIONS = 4
FACE_WIDTHS = (90.0, 160.0)  # pixels: 22 to 40 in the degraded photo
CUT_FACE_WIDTH = 200.0  # pixels: wider faces are downscaled to this before they are cut out
EDGE_SIGMA = 1.0  # pixels, of the soft edge
HAIR_BAND = 12.0  # pixels inside the edge in which background may show between hair
MAX_TOUCHING = 0.02  # of a portrait's width: a head that touches the upper edge on more of it is incomplete
MAX_PEOPLE = 3
SLOT = 1.45  # face widths that a person occupies, with ears and hair
MIN_HEIGHT = 64  # of a scene in pixels: its LQ version then holds a face patch
MAX_PERSON_HEIGHT = 0.85  # of the scene's height


class Person(NamedTuple):
    """A cut-out person: `image` [h, w, 3], `alpha` [h, w] float32 in [0, 1], and the box of the face in them."""

    image: np.ndarray
    alpha: np.ndarray
    face: np.ndarray

    @property
    def face_width(self) -> float:
        """Width of the face in pixels."""
        return float(self.face[2] - self.face[0])


class Composite(NamedTuple):
    """A composed photo, and the boxes of its faces [n, 4]."""

    image: np.ndarray
    faces: np.ndarray


def cut_out(portrait: np.ndarray, face: np.ndarray) -> Person:
    """Cut a person out of a portrait with a plain or smooth background (GrabCut, Rother et al., 2004).

    The shoulders reach the lower edge of the portrait. Raises a ValueError if the face is narrower than any in a
    composite, or the head is incomplete.
    """
    if face[2] - face[0] < FACE_WIDTHS[0]:
        raise ValueError(f"the face is narrower than {FACE_WIDTHS[0]:g} pixels")
    ratio = min(1.0, CUT_FACE_WIDTH / float(face[2] - face[0]))
    size = [round(side * ratio) for side in portrait.shape[1::-1]]
    portrait, face = cv2.resize(portrait, size, interpolation=cv2.INTER_AREA), face * ratio
    distance = np.linalg.norm(portrait - _background(portrait), axis=2)
    mask = _initial_labels(distance, face)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(portrait[:, :, ::-1]), mask, None, *models, GRABCUT_ITERATIONS,
                cv2.GC_INIT_WITH_MASK)
    inside = _largest_component(np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)))
    if inside[0].mean() > MAX_TOUCHING:
        raise ValueError("the head reaches the upper edge of the portrait")
    # the soft edge lies inside of the mask, so that no background shows at it
    alpha = np.clip(2 * cv2.GaussianBlur(inside.astype(np.float32), (0, 0), EDGE_SIGMA) - 1, 0, 1)
    seen_through = np.clip(2 - distance / BACKGROUND_DISTANCE, 0, 1).astype(np.float32)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    may_be_hair = (depth < HAIR_BAND) & (np.arange(len(inside))[:, None] < face[3])  # at the edge, above the chin
    alpha = np.where(may_be_hair, alpha * (1 - seen_through), alpha)
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    part = slice(rows[0], None), slice(columns[0], columns[-1] + 1)
    return Person(portrait[part].copy(), alpha[part].copy(), face - np.tile([columns[0], rows[0]], 2))


def cut_portrait(path: Path, detect: Detector) -> Person:
    """Cut the person with the most confident face out of a portrait, as `cut_out`; a ValueError if there is no face."""
    photo = read_image(path)
    found = detect(photo.pixels, path.name)
    if not found:
        raise ValueError("no face is found in it")
    return cut_out(quantize(photo.pixels), found[0].box)


def _initial_labels(distance: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Return the initial GrabCut labels: by colour distance from the background, and foreground inside the face."""
    height, width = distance.shape
    mask = np.where(distance < BACKGROUND_DISTANCE, cv2.GC_PR_BGD, cv2.GC_PR_FGD).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width]
    side = round(BACKGROUND_BORDER * width)
    border = (rows < side) | (columns < side) | (columns >= width - side)
    mask[border & (rows < face[3]) & (distance < 2 * BACKGROUND_DISTANCE)] = cv2.GC_BGD  # below, shoulders may reach it
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    across, down = 0.4 * (face[2] - face[0]), 0.45 * (face[3] - face[1])
    mask[((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 < 1] = cv2.GC_FGD
    mask[(rows > y) & (np.abs(columns - x) < across / 2)] = cv2.GC_FGD  # the neck
    return mask


def _background(portrait: np.ndarray) -> np.ndarray:
    """Estimate the background [h, w, 3]: a quadratic surface fitted to the border strips."""
    height, width = portrait.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    y, x = rows / height - 0.5, columns / width - 0.5
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=2)
    sides = round(BACKGROUND_BORDER * width)
    border = (rows < sides) | (((columns < sides) | (columns >= width - sides)) & (y < 0.3))
    used = border
    for _ in range(3):  # outliers, as hair or shoulders at the border, are left out of the next fit
        surface = terms @ np.linalg.lstsq(terms[used], portrait[used].astype(np.float64), rcond=None)[0]
        distance = np.linalg.norm(portrait - surface, axis=2)
        used = border & (distance <= max(BACKGROUND_DISTANCE, float(np.median(distance[border]))))
    return surface


def _largest_component(inside: np.ndarray) -> np.ndarray:
    """Keep the largest connected part of a mask, and fill its holes."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    part = labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(part.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled.astype(bool)


def draw_number(width: int, rng: np.random.Generator) -> int:
    """Draw the number of people for a scene of that width: 1 to 3, if it has room for them."""
    room = int(width // (SLOT * FACE_WIDTHS[0]))
    return int(rng.integers(1, min(max(room, 1), MAX_PEOPLE) + 1))


def compose(scene: np.ndarray, people: Sequence[Person], rng: np.random.Generator) -> Composite:
    """Place people side by side at the lower edge of a scene, with random sizes and positions.

    The scene is cropped at the right and bottom so that 4 divides its sides. Raises a ValueError if it is too narrow
    for one person, or too low.
    """
    if scene.shape[1] < SLOT * FACE_WIDTHS[0] or scene.shape[0] < MIN_HEIGHT:
        raise ValueError(f"a scene must be at least {math.ceil(SLOT * FACE_WIDTHS[0])} pixels wide and {MIN_HEIGHT} "
                         "pixels high")
    scene = scene[:scene.shape[0] // SCALE * SCALE, :scene.shape[1] // SCALE * SCALE]
    height, width = scene.shape[:2]
    least, largest = FACE_WIDTHS
    largest = max(least, min(largest, width / (SLOT * len(people))))
    image, faces, left = scene.astype(np.float32), [], 0.0
    widths = [min(rng.uniform(least, largest), MAX_PERSON_HEIGHT * height * person.face_width / person.image.shape[0])
              for person in people]
    free = max(0.0, width - SLOT * sum(widths)) * rng.dirichlet(np.ones(len(people) + 1))
    for person, face_width, gap in zip(people, widths, free, strict=False):
        left += gap
        ratio = face_width / person.face_width
        place = round(left + SLOT * face_width / 2 - ratio * (person.face[0] + person.face[2]) / 2)
        faces.append(_paste(image, person, ratio, place))
        left += SLOT * face_width
    return Composite(np.rint(image).astype(np.uint8), np.stack(faces))


def _paste(image: np.ndarray, person: Person, ratio: float, left: int) -> np.ndarray:
    """Paste a person, resized, at the lower edge of a float image, `left` pixels from the side; return the face box."""
    height, width = image.shape[:2]
    size = [max(1, round(side * ratio)) for side in person.alpha.shape[::-1]]
    weighted = person.image * person.alpha[:, :, None]  # or the background would bleed into the edge
    weighted, alpha = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (weighted, person.alpha))
    top = height - size[1]
    box = person.face * np.tile(np.array(size) / person.alpha.shape[::-1], 2) + np.tile([left, top], 2)
    rows, columns = slice(max(0, top), height), slice(max(0, left), min(width, left + size[0]))
    own = slice(rows.start - top, None), slice(columns.start - left, columns.stop - left)
    image[rows, columns] = image[rows, columns] * (1 - alpha[own][:, :, None]) + weighted[own]
    return np.clip(box, 0, [width, height, width, height])
