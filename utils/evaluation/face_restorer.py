"""Held-out faces: degraded, found again, restored as generate_test_faces.py does or upscaled otherwise, and scored."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config import MILD_DEGRADATION, SCALE
from utils.data.camera import Shrink
from utils.data.presets import TESTSET_PRESETS, Preset, two_stage
from utils.face.alignment import SAME_FACE_IOU, box_overlap, intersect_box
from utils.face.detection import Detector, Face
from utils.face.preparation import FacePreparer, PreparationSettings
from utils.face.restorers import Restorer
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.listing import Source, photo_rng
from utils.image.resizing import resize_bicubic
from utils.metrics.fidelity import psnr_y, ssim

METHODS = {"bicubic": "bicubic", "realesrgan": "Real-ESRGAN", "restored": "restored"}  # and what they are called
VISIBLE_MARGIN = 24  # pixels around a face that Real-ESRGAN sees
DEGRADATIONS = {**TESTSET_PRESETS, "clean": Preset("shrunk by area means, nothing else", lambda _: [Shrink("area")]),
                "mild": Preset("slight two-stage degradation of good photos", lambda rng: [
                    two_stage(rng, MILD_DEGRADATION)])}


class Subject(NamedTuple):
    """A clean photo [4h, 4w, 3] uint8 RGB at the size it is used in, and its face in pixels of a quarter of it."""

    name: str
    photo: np.ndarray
    face: Face


class Result(NamedTuple):
    """One face, uint8 RGB: `low_quality` [h, w, 3], the others [4h, 4w, 3]; `methods` maps METHODS to images.

    `landmarks` [5, 2] are x and y in the truth.
    """

    name: str
    preset: str
    low_quality: np.ndarray
    truth: np.ndarray
    landmarks: np.ndarray
    methods: dict[str, np.ndarray]


def draw_subject(name: str, photo: np.ndarray, face: Face, sizes: Sequence[float], seed: int, *,
                 upscale: bool = False) -> Subject | None:
    """Resize a clean photo, uint8 RGB [h, w, 3], so that its face has a size that is drawn, even in its logarithm.

    `sizes`: least and largest width of a face in pixels of the degraded photo; 0, 0: the photo's own size. `upscale`:
    whether the photo may be upscaled; otherwise the largest size is what it has itself. Returns None when the face is
    too small.
    """
    photo, ratio = photo[:photo.shape[0] // SCALE * SCALE, :photo.shape[1] // SCALE * SCALE], 1.0
    if any(sizes):
        own = float(face.box[2] - face.box[0]) / SCALE
        least, largest = sizes if upscale else (sizes[0], min(sizes[1], own))
        if largest < least:
            return None
        # a stream of its own: otherwise large faces would go with strong degradations
        rng = photo_rng(seed, f"{name}: size")
        ratio = math.exp(rng.uniform(math.log(least), math.log(largest))) / own
    height, width = (max(SCALE, round(side * ratio) // SCALE * SCALE) for side in photo.shape[:2])
    scales = np.array([width / photo.shape[1], height / photo.shape[0]]) / SCALE

    def moved(points: np.ndarray) -> np.ndarray:  # pixels are counted from their centres
        return (points + 0.5) * scales - 0.5

    interpolation = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    return Subject(name, cv2.resize(photo, (width, height), interpolation=interpolation),
                   Face(moved(face.box.reshape(2, 2)).ravel(), moved(face.landmarks), face.score))


def restore_subject(subject: Subject, preset: str, folder: Path, *, restore: Restorer, detect: Detector,
                    upscale: Callable[[np.ndarray], np.ndarray], seed: int) -> Result | None:
    """Degrade a photo by a preset, find its face again, and restore that as generate_test_faces.py does.

    `folder` gets the degraded photo and its face. `upscale`: Real-ESRGAN, float32 [h, w, 3] -> [4h, 4w, 3]. Returns
    None when the face is not found again.
    """
    image = to_float(subject.photo)
    for step in DEGRADATIONS[preset].sample(photo_rng(seed, subject.name)):
        image = step(image)
    low_quality = quantize(image)
    path = folder / "LQ" / f"{subject.name}.png"
    write_png(path, low_quality)
    found = [face for face in detect(image, path.name) if box_overlap(face.box, subject.face.box) > SAME_FACE_IOU]
    if not found:
        return None
    FacePreparer(lambda *_: [found[0]], restore, folder,
                 PreparationSettings(detector="boxes", restorer="restored")).prepare(Source(path.name, path))
    top, left, height, width = intersect_box(found[0].box, *low_quality.shape[:2])
    above, before = min(top, VISIBLE_MARGIN), min(left, VISIBLE_MARGIN)
    part = to_float(low_quality[top - above:top + height + VISIBLE_MARGIN, left - before:left + width + VISIBLE_MARGIN])

    def face(photo: np.ndarray, top: int, left: int) -> np.ndarray:
        return photo[SCALE * top:SCALE * (top + height), SCALE * left:SCALE * (left + width)].copy()

    methods = {"bicubic": face(resize_bicubic(to_float(low_quality), *subject.photo.shape[:2]), top, left),
               "realesrgan": face(upscale(part), above, before),
               "restored": read_image(folder / "Face_HQ" / f"{subject.name}_0.png").pixels}
    landmarks = (subject.face.landmarks - (left, top) + 0.5) * SCALE - 0.5
    return Result(subject.name, preset, low_quality[top:top + height, left:left + width].copy(),
                  face(subject.photo, top, left), landmarks,
                  {name: quantize(image) for name, image in methods.items()})


class FaceMeter:
    """Scores faces against their truth by PSNR-Y, SSIM, brightness, and, with AlexNet, LPIPS and identity.

    Brightness is the error of the mean, in units of 1/255. Identity is the cosine similarity of AlexNet's features at
    the five landmarks, averaged over these and the layers.
    """

    def __init__(self, lpips_params: dict | None):
        """Take LPIPS's parameters; None: do without."""
        import tensorflow as tf  # not before the command line is checked

        from model.lpips import lpips_features

        self._params = lpips_params
        self._features = tf.function(partial(lpips_features, lpips_params),
                                     input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])

    def measure(self, result: Result) -> dict[str, float]:
        """Return `METRIC_METHOD` -> value; metrics for which the face is too small are left out."""
        from model.lpips import SMALLEST_SIDE, lpips_from_features

        truth, scores = result.truth, {}
        large_enough = self._params is not None and min(truth.shape[:2]) >= SMALLEST_SIDE
        truth_features = self._features(to_float(truth)[None]) if large_enough else None
        for method, image in result.methods.items():
            values = {"psnr_y": psnr_y(image, truth), "ssim": ssim(image, truth),
                      "brightness": float(image.mean()) - float(truth.mean())}
            if large_enough:
                features = self._features(to_float(image)[None])
                values["lpips"] = float(lpips_from_features(self._params, features, truth_features)[0])
                values["identity"] = landmark_similarity(features, truth_features, result.landmarks, truth.shape[:2])
            scores |= {f"{metric}_{method}": value for metric, value in values.items()}
        return scores


def landmark_similarity(features: Sequence, others: Sequence, landmarks: np.ndarray, size: tuple[int, int]) -> float:
    """Return the mean cosine similarity of features, maps [1, h, w, c] of unit length and any sizes, at landmarks.

    `landmarks` [n, 2] are x and y in pixels of images of `size` (height, width); those outside count as at the border.
    """
    import tensorflow as tf

    similarities = []
    for one, other in zip(features, others, strict=True):
        cells = np.array(one.shape[1:3])
        places = ((landmarks[:, ::-1] + 0.5) / size * cells).astype(int).clip(0, cells - 1)
        similarities += [float(tf.reduce_sum(one[0, row, column] * other[0, row, column])) for row, column in places]
    return float(np.mean(similarities))
