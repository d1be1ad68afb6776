"""Training samples of the face restorer: parts of portraits, degraded at the size that faces have in bad photos.

Every sample is a function of the seed, its number and the photos, so a resumed run gets the same data bit for bit.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config import SCALE, FaceVariationConfig, RestorerTrainingConfig
from utils.data.degradations import compress_jpeg, degrade, sample_degradation, sample_noise
from utils.data.meta_tasks import PREFETCHED, prefetch, stack_items
from utils.errors import require
from utils.face.alignment import ALIGNED_SIZE, estimate_alignment
from utils.face.detection import Face, read_boxes
from utils.face.positions import maps_of
from utils.image.io import LUMA, quantize, read_image, to_float
from utils.image.listing import list_images

ORDER, DRAWS, VALIDATION = range(3)  # independent random streams of one seed
MARGIN = 8  # low-quality pixels around a patch that are degraded with it
FACE_MARGIN = 0.15  # of the face box: what a patch may show beside the face
BLUR_PROB, BLUR_RANGE = 0.8, (0.3, 2.0)  # before two JPEGs; sigma in pixels
JPEG_BLOCK = 8  # pixels
FACE_CENTRE = (256, 280)  # of the aligned crop, around which the alignment is varied
HALF_PIXEL = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # from pixel centres to pixel edges at whole numbers


class Portrait(NamedTuple):
    """A photo, and the face in it."""

    path: Path
    face: Face


class FaceSample(NamedTuple):
    """`lq` uint8 RGB [s, s, 3], `target` float32 [4s, 4s, 3] in [0, 1], `positions` float32 [s, s, 8].

    In a batch all have one more axis in front.
    """

    lq: np.ndarray
    target: np.ndarray
    positions: np.ndarray


def list_portraits(folder: Path, faces: Path, *, match: str = "", exclude: str = "") -> list[Portrait]:
    """List the photos of a folder in which a face was found, sorted by name; of several faces the first counts.

    `faces`: a file for `utils.face.detection.read_boxes`. Only photos in whose names the regular expression `match` is
    found, and `exclude` (unless it is empty) is not. A UserError says so if none is left.
    """
    found = read_boxes(faces)
    portraits = [Portrait(photo.path, found[photo.name][0]) for photo in list_images(folder, "data.photo_dir")
                 if found.get(photo.name) and re.search(match, photo.name)
                 and not (exclude and re.search(exclude, photo.name))]
    require(bool(portraits), f"{faces} must have faces of photos in {folder}, and data.held_out and data.validation "
            "must leave some for training and some for validation", "none")
    return portraits


def face_batches(portraits: Sequence[Portrait], config: RestorerTrainingConfig, start: int) -> Iterator[FaceSample]:
    """Return an endless iterator of batches from iteration `start` on, prefetched in other threads."""
    size = config.optimization.batch_size
    samples = prefetch(partial(draw_training_sample, portraits, config), start * size,
                       num_workers=config.data.num_workers)
    return prefetch(lambda _: FaceSample(*stack_items(islice(samples, size))), start, num_workers=1,
                    num_ahead=PREFETCHED)


def draw_training_sample(portraits: Sequence[Portrait], config: RestorerTrainingConfig, number: int) -> FaceSample:
    """Draw a sample of an endless sequence of epochs, each of which has every portrait once."""
    seed = config.optimization.seed
    epoch, place = divmod(number, len(portraits))
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(len(portraits))
    return draw_face_sample(portraits[order[place]], config, config.data.patch_size,
                            np.random.default_rng([seed, DRAWS, number]))


def draw_validation_samples(portraits: Sequence[Portrait], config: RestorerTrainingConfig) -> list[FaceSample]:
    """Draw the validation samples, evenly from the portraits: the same for every run with the same settings."""
    run, step = config.run, max(1.0, len(portraits) / config.run.validation_faces)
    return [draw_face_sample(portraits[int(number * step) % len(portraits)], config, run.validation_patch_size,
                             np.random.default_rng([config.optimization.seed, VALIDATION, number]))
            for number in range(run.validation_faces)]


def draw_face_sample(portrait: Portrait, config: RestorerTrainingConfig, patch_size: int,
                     rng: np.random.Generator) -> FaceSample:
    """Resize and turn a portrait, vary its colours, degrade the surroundings of a part of the face, and cut that out.

    `patch_size`: side of the part in low-quality pixels. Where the face is smaller, all of it is in the part.
    """
    photo, variation, side = quantize(read_image(portrait.path).pixels), config.variation, patch_size + MARGIN
    box = portrait.face.box
    width = math.exp(rng.uniform(*map(math.log, variation.face_width_range)))
    scale = min(SCALE * width / (box[2] - box[0]), variation.max_upscale)
    centre = np.array([_draw_centre(box[axis], box[axis + 2], SCALE * patch_size / scale, rng) for axis in (0, 1)])
    tilt = math.radians(np.clip(rng.normal(0, variation.tilt), -3 * variation.tilt, 3 * variation.tilt))
    to_target = _similarity(tilt, scale, centre + 0.5, 2 * side + rng.uniform(-SCALE / 2, SCALE / 2, 2))
    target = _vary_colours(_render(photo, to_target, SCALE * side), variation, rng)
    lq = _degrade(target, config, rng)
    points = _aligned_points(to_target, portrait.face, side, variation, rng)
    top, left = rng.integers(0, MARGIN + 1, 2)
    rows, columns = slice(top, top + patch_size), slice(left, left + patch_size)
    lq, points = lq[rows, columns], points[rows, columns]
    target = target[SCALE * top:SCALE * (top + patch_size), SCALE * left:SCALE * (left + patch_size)]
    if rng.random() < 0.5:
        lq, target = lq[:, ::-1], target[:, ::-1]
        points = points[:, ::-1] * (-1, 1) + (ALIGNED_SIZE, 0)
    return FaceSample(np.ascontiguousarray(lq), np.ascontiguousarray(target), maps_of(points))


def _draw_centre(low: float, high: float, patch: float, rng: np.random.Generator) -> float:
    """Draw the centre of a patch in one direction: inside the face with a margin, or around all of it."""
    margin = FACE_MARGIN * (high - low)
    ends = sorted((low - margin + patch / 2, high + margin - patch / 2))
    return rng.uniform(*ends)


def _similarity(angle: float, scale: float, centre: Sequence[float], moved_to: Sequence[float]) -> np.ndarray:
    """Return the matrix [3, 3] that rotates and scales around `centre` and moves that to `moved_to`."""
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0, 0, 1]])
    matrix[:2, 2] = np.asarray(moved_to) - matrix[:2, :2] @ np.asarray(centre)
    return matrix


def _render(photo: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Warp a photo by a matrix between pixel edges, averaging areas where it shrinks: float32 [side, side, 3]."""
    scale = math.sqrt(np.linalg.det(matrix[:2, :2]))
    inverse = np.linalg.inv(matrix)
    if scale < 1:
        height, width = (max(1, round(length * scale)) for length in photo.shape[:2])
        inverse = np.diag([width / photo.shape[1], height / photo.shape[0], 1.0]) @ inverse
        photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    centred = np.linalg.inv(HALF_PIXEL) @ inverse @ HALF_PIXEL
    warped = cv2.warpAffine(to_float(photo), centred[:2], (side, side), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                            borderMode=cv2.BORDER_REFLECT_101)
    return np.clip(warped, 0, 1, out=warped)


def _aligned_points(to_target: np.ndarray, face: Face, side: int, variation: FaceVariationConfig,
                    rng: np.random.Generator) -> np.ndarray:
    """Return where in the aligned crop the low-quality pixels lie, as a detector would say: [side, side, 2]."""
    error = _similarity(math.radians(rng.normal(0, variation.alignment_rotation)),
                        math.exp(rng.normal(0, variation.alignment_scale)), FACE_CENTRE,
                        FACE_CENTRE + rng.normal(0, variation.alignment_shift * ALIGNED_SIZE, 2))
    align = error @ np.vstack([estimate_alignment(face.landmarks), [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    pixels = np.stack([SCALE * columns, SCALE * rows, np.ones_like(rows)], axis=-1)
    return (pixels @ (align @ np.linalg.inv(HALF_PIXEL) @ np.linalg.inv(to_target)).T)[:, :, :2]


def _vary_colours(image: np.ndarray, variation: FaceVariationConfig, rng: np.random.Generator) -> np.ndarray:
    gamma = math.exp(rng.uniform(-variation.gamma, variation.gamma))
    gains = rng.uniform(1 - variation.gain, 1 + variation.gain, 3).astype(np.float32)
    saturation = 0.0 if rng.random() < variation.gray_prob else rng.uniform(*variation.saturation_range)
    varied = cv2.pow(image, gamma) * gains
    gray = varied @ LUMA
    varied = np.clip(gray[:, :, None] + np.float32(saturation) * (varied - gray[:, :, None]), 0, 1)
    return to_float(quantize(varied))


def _degrade(image: np.ndarray, config: RestorerTrainingConfig, rng: np.random.Generator) -> np.ndarray:
    """Shrink an image [4h, 4w, 3] to uint8 [h, w, 3]: clean, by two JPEGs, mildly, or by the two-stage degradation."""
    data, kind = config.data, rng.random()
    if kind < data.clean_prob:
        return _shrink(image)
    kind -= data.clean_prob
    if kind < data.jpeg_prob:
        return _compress_twice(image, data.jpeg_range, rng)
    mild = kind - data.jpeg_prob < data.mild_prob
    settings = config.mild_degradation if mild else config.degradation
    drawn = sample_degradation(rng, settings)
    return degrade(image, drawn, sample_noise(rng, drawn, settings))


def _shrink(image: np.ndarray) -> np.ndarray:
    return quantize(cv2.resize(image, (image.shape[1] // SCALE, image.shape[0] // SCALE), interpolation=cv2.INTER_AREA))


def _compress_twice(image: np.ndarray, qualities: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Blur perhaps, shrink, and store as JPEG twice; the blocks of the two do not coincide."""
    if rng.random() < BLUR_PROB:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*BLUR_RANGE))
    first, second = (round(rng.uniform(*qualities)) for _ in range(2))
    top, left = rng.integers(0, JPEG_BLOCK, 2).tolist()
    once = compress_jpeg(to_float(_shrink(image)), first)
    padded = cv2.copyMakeBorder(once, top, 0, left, 0, cv2.BORDER_REFLECT_101)
    return compress_jpeg(to_float(padded), second)[top:, left:]
