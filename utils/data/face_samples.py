"""Training samples of a face restorer: aligned faces, varied, degraded as part of a photo, and aligned again.

A sample is a function of the seed, its index and the record, so that resumed training sees the same data.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np

from config import SCALE, DegradationConfig, JitterConfig, RestorerTrainingConfig
from model.face_restorer import FACE_SIZE
from utils.data.degradations import degrade, sample_degradation, sample_noise
from utils.data.meta_tasks import PREFETCHED, prefetch, stack_items
from utils.data.tfrecords import Images
from utils.image.io import LUMA, quantize, to_float

ORDER, DRAWS, VALIDATION = range(3)  # separate streams of random numbers under one seed
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)  # of the alignment: face preparation's, and training's


class FaceSample(NamedTuple):
    """A part of an aligned face as a photo shows it and as it should look: uint8 RGB [s, s, 3].

    `corner`: row and column of its first pixel in the whole face, [2] int32. `lq_size`: see `JitterConfig`.
    """

    degraded: np.ndarray
    target: np.ndarray
    corner: np.ndarray
    lq_size: float


def draw_face_sample(face: np.ndarray, size: int, patch_size: int, jitter: JitterConfig, degradation: DegradationConfig,
                     rng: np.random.Generator) -> FaceSample:
    """Vary an aligned face, put a part of it into a photo, degrade that, and cut the part out again.

    Args:
        face: [h, h, 3] uint8 RGB, aligned; black where the photo it is from ended.
        size: of the whole aligned face, of which the pair is a part.
        patch_size: side s of the pair, at most `size`. Its position is drawn; those in the middle are likelier.
        jitter: how the face is varied.
        degradation: what is drawn from.
        rng: of everything that is drawn.
    """
    if face.shape[0] > size:
        face = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
    lq_size = math.exp(rng.uniform(*map(math.log, jitter.lq_size_range)))
    vary = _jitter_matrix(face.shape[0] / size, size, jitter, rng)
    corner = rng.integers(0, (size - patch_size) // 2 + 1, (2, 2)).sum(axis=0)
    vary[:2, 2] += vary[:2, :2] @ corner[::-1]
    face = _vary_colours(to_float(face), jitter, rng)
    target = _warp(face, vary, patch_size)
    # the photo: large enough for the tilted patch, in whole pixels of its degraded version
    tilt, scale = math.radians(rng.uniform(-jitter.tilt, jitter.tilt)), lq_size / size
    side = math.ceil(patch_size * scale * (abs(math.cos(tilt)) + abs(math.sin(tilt)))) + 1
    to_lq = _similarity(tilt, scale, (patch_size / 2, patch_size / 2), side / 2 + rng.uniform(-0.5, 0.5, 2))
    photo = _render(face, vary, to_lq, side * SCALE)
    drawn = sample_degradation(rng, degradation)
    lq = degrade(photo, drawn, sample_noise(rng, drawn, degradation))
    interpolation = INTERPOLATIONS[int(rng.integers(len(INTERPOLATIONS)))]
    degraded = _warp(lq, to_lq, patch_size, interpolation=interpolation)
    if rng.random() < 0.5:
        degraded, target = degraded[:, ::-1], target[:, ::-1]
        corner[1] = size - patch_size - corner[1]
    return FaceSample(np.ascontiguousarray(degraded), quantize(np.ascontiguousarray(target)), corner.astype(np.int32),
                    lq_size)


def _similarity(angle: float, scale: float, centre: tuple[float, float], moved_to: np.ndarray) -> np.ndarray:
    """Return the matrix [3, 3] that turns and scales around `centre` and moves that; pixel edges are whole numbers."""
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0, 0, 1]])
    matrix[:2, 2] = np.asarray(moved_to) - matrix[:2, :2] @ centre
    return matrix


def _jitter_matrix(ratio: float, size: int, jitter: JitterConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw the map from the pair's crop to the given face, `ratio` times as large."""
    angle = math.radians(rng.uniform(-jitter.rotation, jitter.rotation))
    scale = 1 / rng.uniform(*jitter.scale_range)
    centre = size / 2 + rng.uniform(-jitter.shift, jitter.shift, 2) * size
    return _similarity(angle, ratio * scale, (size / 2, size / 2), ratio * centre)


def _render(face: np.ndarray, vary: np.ndarray, to_lq: np.ndarray, side: int) -> np.ndarray:
    """Draw the photo [side, side, 3] in which the varied face lies; where that shrinks it, by area means first."""
    to_x4 = np.diag([SCALE, SCALE, 1.0])
    to_face = vary @ np.linalg.inv(to_x4 @ to_lq)
    ratio = math.sqrt(np.linalg.det(to_face[:2, :2]))
    if ratio > 1:
        small = max(1, round(face.shape[0] / ratio))
        to_face = np.diag([small / face.shape[0]] * 2 + [1.0]) @ to_face
        face = cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA)
    return _warp(face, to_face, side)


def _warp(image: np.ndarray, matrix: np.ndarray, side: int, *, interpolation: int = cv2.INTER_CUBIC) -> np.ndarray:
    """Sample an image at `matrix` @ each pixel of the result [side, side, 3]; beyond its edge it is mirrored.

    In the matrix the corner of the first pixel is (0, 0); in OpenCV's its centre is.
    """
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    centred = np.linalg.inv(half) @ matrix @ half
    warped = cv2.warpAffine(image, centred[:2], (side, side), flags=interpolation | cv2.WARP_INVERSE_MAP,
                            borderMode=cv2.BORDER_REFLECT_101)
    return np.clip(warped, 0, 1, out=warped) if warped.dtype == np.float32 else warped


def _vary_colours(face: np.ndarray, jitter: JitterConfig, rng: np.random.Generator) -> np.ndarray:
    gamma = math.exp(rng.uniform(-jitter.gamma, jitter.gamma))
    gains = rng.uniform(1 - jitter.gain, 1 + jitter.gain, 3).astype(np.float32)
    saturation = 0.0 if rng.random() < jitter.gray_prob else rng.uniform(*jitter.saturation_range)
    varied = cv2.pow(face, gamma) * gains
    gray = varied @ LUMA
    return np.clip(gray[:, :, None] + np.float32(saturation) * (varied - gray[:, :, None]), 0, 1)


class FaceBatch(NamedTuple):
    """Parts of aligned faces: `degraded` and `target` uint8 RGB [n, s, s, 3], `corners` [n, 2] int32."""

    degraded: np.ndarray
    target: np.ndarray
    corners: np.ndarray


class FaceSource:
    """Draws batches from a record of aligned faces."""

    def __init__(self, faces: Images, config: RestorerTrainingConfig):
        """Set up."""
        self.faces, self.config = faces, config

    def batches(self, start: int) -> Iterator[FaceBatch]:
        """Return batches without end, from iteration `start` on, prepared ahead in other threads."""
        size = self.config.optimization.batch_size
        samples = prefetch(lambda number: self.sample(number)[:3], start * size,
                           num_workers=self.config.data.num_workers)
        return prefetch(lambda _: FaceBatch(*stack_items(islice(samples, size))), start, num_workers=1,
                        num_ahead=PREFETCHED)

    def sample(self, number: int) -> FaceSample:
        """Return sample `number` of an endless sequence that goes through all faces, each time in another order."""
        config, seed = self.config, self.config.optimization.seed
        rng = np.random.default_rng([seed, DRAWS, number])
        degradation = config.mild_degradation if rng.random() < config.data.mild_share else config.degradation
        return draw_face_sample(self.faces.shuffled(number, (seed, ORDER)), FACE_SIZE, config.data.patch_size,
                                config.jitter, degradation, rng)


def draw_validation_faces(faces: Images, config: RestorerTrainingConfig) -> list[FaceSample]:
    """Draw the validation set, of whole faces: the same for every run with this record, seed and settings.

    None is degraded mildly. If there are more faces than are wanted, they are taken evenly: those of one person are
    next to each other.
    """
    step = max(1.0, faces.count / config.run.validation_faces)
    streams = [np.random.default_rng([config.optimization.seed, VALIDATION, number])
               for number in range(config.run.validation_faces)]
    return [draw_face_sample(faces.read(int(number * step) % faces.count), FACE_SIZE, FACE_SIZE, config.jitter,
                             config.degradation, rng) for number, rng in enumerate(streams)]
