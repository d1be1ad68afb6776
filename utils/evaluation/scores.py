"""Scores of upscaled photos outside of the faces. Images are uint8 RGB [h, w, 3]."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.face.alignment import intersect_box
from utils.image.io import quantize, read_image, to_float
from utils.metrics.fidelity import psnr_y, ssim
from utils.metrics.niqe import NIQE_LUMAS, load_niqe, niqe
from utils.metrics.suite import choose_metrics

FACE_MARGIN = 0.1  # of a face's box, on each side: left out as well


@dataclass(frozen=True)
class RegionMeter:
    """Computes metrics outside of the faces.

    `niqe` takes uint8 RGB, `lpips` two float32 RGB images in [0, 1]; None: not computed.
    """

    niqe: Callable[[np.ndarray], float] | None = None
    lpips: Callable[[np.ndarray, np.ndarray], float] | None = None

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the tables."""
        return ["psnr_y", "ssim"] + ["niqe"] * (self.niqe is not None) + ["lpips"] * (self.lpips is not None)

    def measure(self, image: np.ndarray, truth: np.ndarray, faces: np.ndarray) -> dict[str, float]:
        """Compute the metrics of one result, without those that are not finite.

        PSNR and SSIM exclude the pixels of the faces. NIQE and LPIPS need whole images, so the faces are replaced by
        those of the ground truth.

        Args:
            image: the result.
            truth: the ground truth, of the same size.
            faces: their boxes [n, 4], x0, y0, x1, y1.
        """
        keep = outside(faces, *truth.shape[:2])
        values = {"psnr_y": psnr_y(image, truth, keep=keep), "ssim": ssim(image, truth, keep=keep)}
        filled = np.where(keep[:, :, None], image, truth)
        if self.niqe is not None:
            try:
                values["niqe"] = self.niqe(filled)
            except ValueError:  # too small or too flat
                values["niqe"] = math.nan
        if self.lpips is not None:
            values["lpips"] = self.lpips(to_float(filled), to_float(truth))
        return {name: value for name, value in values.items() if math.isfinite(value)}


def open_meter(weights_dir: Path | None) -> tuple[RegionMeter, list[str]]:
    """Return a meter, and a line if the weights of LPIPS are missing.

    Raises:
        UserError: a weight file is damaged.
    """
    names, obstacles = choose_metrics(None, has_truth=True, num_images=1, num_reference=0, weights_dir=weights_dir)
    model, measure_lpips = load_niqe(weights_dir), None
    if "lpips" in names:
        from utils.metrics.lpips import load_lpips, make_lpips_distance

        measure_lpips = make_lpips_distance(load_lpips(weights_dir))
    meter = RegionMeter(lambda image: niqe(NIQE_LUMAS["pyiqa"](image), model), measure_lpips)
    return meter, [f"LPIPS is left out: {obstacles['lpips']}"] if "lpips" in obstacles else []


def outside(faces: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a mask of the pixels outside of all faces and the margin around them: bool [height, width]."""
    keep = np.ones((height, width), bool)
    for face in faces:
        box = intersect_box(face, height, width, margin=FACE_MARGIN)
        if box is not None:
            top, left, rows, columns = box
            keep[top:top + rows, left:left + columns] = False
    return keep


def score_photo(truth: Path, results: Iterable[tuple[str, Path]], faces: np.ndarray,
                meter: RegionMeter) -> tuple[list[dict], list[str]]:
    """Score the existing results of a photo; returns a dict per result, and a line per result that failed.

    Args:
        truth: the clean photo.
        results: names of variants and files.
        faces: as for `RegionMeter.measure`.
        meter: computes the metrics.
    """
    try:
        clean = quantize(read_image(truth).pixels)
        ssim(clean, clean, keep=outside(faces, *clean.shape[:2]))
    except UserError as error:
        return [], [_line(error)]
    except ValueError:
        return [], [f"{truth} has no scores: its faces leave nothing of it"]
    scores, errors = [], []
    for name, path in results:
        if path.exists():
            try:
                values = meter.measure(quantize(read_image(path).pixels), clean, faces)
                scores.append({"photo": truth.stem, "variant": name, **values})
            except UserError as error:
                errors.append(_line(error))
            except ValueError as error:  # of another size
                errors.append(f"{path} has no score: {_line(error)}")
    return scores, errors


def _line(error: Exception) -> str:
    return " ".join(str(error).splitlines())
