"""How well a state of the face restorer restores a fixed set of degraded faces."""

import math
from typing import NamedTuple

import numpy as np

from model.layers import Params
from utils.data.face_samples import FaceSample
from utils.face.restorers import compile_face_restorer
from utils.metrics.fidelity import psnr_y, ssim

# the part of an aligned face that detectors' boxes cover on average: rows, columns
FACE_REGION = (slice(100, 432), slice(136, 376))
SMALL = 96  # pixels: aligned crops of fewer in the degraded photo, faces of about 45, are scored apart


class RestorerValidation(NamedTuple):
    """`scores` maps names to means over the faces; `pictures` maps names to float32 RGB [h, w, 3] in [0, 1]."""

    scores: dict[str, float]
    pictures: dict[str, np.ndarray]


class RestorerValidator:
    """Scores states of the network on the same faces.

    `psnr_input` and `ssim_input` are of the degraded faces, `psnr` and `ssim` (Y) of the restored ones, on the face
    region; `psnr_small` is of small faces alone. `sharpness` is how much neighbours differ, relative to the truth.
    """

    columns = ("psnr_input", "psnr", "psnr_small", "ssim_input", "ssim", "sharpness")

    def __init__(self, faces: list[FaceSample], num_pictures: int):
        """Take whole faces, and how many of them are shown."""
        self._faces, self._num_pictures = faces, num_pictures
        self._restore = None  # compiled once, at the first use

    def evaluate(self, params: Params) -> RestorerValidation:
        """Score the network's parameters."""
        if self._restore is None:
            self._restore = compile_face_restorer(params)
        rows, pictures = [], {}
        for number, face in enumerate(self._faces):
            restored = self._restore(params, face.degraded[None])[0]
            rows.append(_score(face, restored))
            if number < self._num_pictures:
                shown = np.concatenate([face.degraded, restored, face.target], axis=1)
                pictures[f"face_{number}"] = shown.astype(np.float32) / 255
        return RestorerValidation({name: _mean([row[name] for row in rows]) for name in self.columns},
                                  pictures)


def _mean(values: list[float]) -> float:
    """Give the mean of those that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _score(face: FaceSample, restored: np.ndarray) -> dict[str, float]:
    degraded, restored, target = (image[FACE_REGION] for image in (face.degraded, restored, face.target))
    psnr, roughness = psnr_y(restored, target), _roughness(target)
    return {"psnr_input": psnr_y(degraded, target), "psnr": psnr,
            "psnr_small": psnr if face.lq_size < SMALL else np.nan,
            "ssim_input": ssim(degraded, target), "ssim": ssim(restored, target),
            "sharpness": _roughness(restored) / roughness if roughness else np.nan}


def _roughness(image: np.ndarray) -> float:
    gray = image.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())
