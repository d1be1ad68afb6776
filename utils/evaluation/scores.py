"""Scores of results outside of the faces. Images are uint8 RGB [h, w, 3]."""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.face.alignment import intersect_box
from utils.image.io import quantize, read_image
from utils.metrics.fidelity import psnr_y, ssim
from utils.metrics.suite import METRICS

FACE_MARGIN = 0.1  # of a face's box, on each side: left out with it


def measure(image: np.ndarray, truth: np.ndarray, faces: np.ndarray,
            functions: Mapping[str, Callable[..., float]]) -> dict[str, float]:
    """Measure one result; what has no value is left out.

    PSNR and SSIM leave the pixels of `faces` (boxes [n, 4]: x0, y0, x1, y1) out. The `functions` of `load_functions`
    need whole images: there the faces are the truth's. Raises a ValueError if sizes differ, or faces leave nothing.
    """
    keep = outside(faces, *truth.shape[:2])
    values = {"psnr_y": psnr_y(image, truth, keep=keep), "ssim": ssim(image, truth, keep=keep)}
    filled = np.where(keep[:, :, None], image, truth)
    for name, function in functions.items():
        with contextlib.suppress(ValueError):  # too small or too flat
            values[name] = function(filled, truth) if METRICS[name].needs_truth else function(filled)
    return {name: value for name, value in values.items() if math.isfinite(value)}


def outside(faces: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return which pixels lie outside of all faces and of the margin around them: bool [height, width]."""
    keep = np.ones((height, width), bool)
    for face in faces:
        if box := intersect_box(face, height, width, margin=FACE_MARGIN):
            top, left, rows, columns = box
            keep[top:top + rows, left:left + columns] = False
    return keep


def score_photo(truth: Path, results: Mapping[str, Path], faces: np.ndarray,
                functions: Mapping[str, Callable[..., float]]) -> tuple[list[dict], list[str]]:
    """Return a dict of values for each existing result of a photo, and a line for each that has none.

    `results`: files by variant; `faces` and `functions` as for `measure`.
    """
    try:
        clean = quantize(read_image(truth).pixels)
        ssim(clean, clean, keep=outside(faces, *clean.shape[:2]))
    except UserError as error:
        return [], [str(error)]
    except ValueError:
        return [], [f"{truth} has no scores: its faces leave nothing of it"]
    scores, errors = [], []
    for name, path in results.items():
        try:
            if path.exists():
                values = measure(quantize(read_image(path).pixels), clean, faces, functions)
                scores.append({"photo": truth.stem, "variant": name, **values})
        except UserError as error:
            errors.append(str(error))
        except ValueError as error:  # of another size
            errors.append(f"{path} has no score: {error}")
    return scores, errors
