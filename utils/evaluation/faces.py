"""The faces of an evaluation's photos: restored as a user's, in the original's alignment, and the true ones."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import SCALE
from utils.console import Progress, shown_name
from utils.errors import FatalError, UserError
from utils.face.alignment import intersect_box
from utils.face.detection import BOX_COLUMNS, Detector
from utils.face.preparation import FACE_COLUMNS, FINISHED, FacePreparer, PreparationSettings
from utils.face.restorers import Restorer
from utils.image.io import quantize, read_image, write_png
from utils.image.listing import Source
from utils.report import Report

RESTORED, LEGACY, ORACLE = "restored", "legacy", "oracle"  # folders, each with Face_LQ and Face_HQ
PAIR_FOLDERS = ("Face_LQ", "Face_HQ")


class Prepared(NamedTuple):
    """`boxes`: of the faces, [n, 4] in pixels of the clean photo, by stem; `errors`: a line per photo that failed."""

    boxes: dict[str, np.ndarray]
    errors: list[str]


def prepare_faces(photos: Sequence[Path], truth_dir: Path, folder: Path, *, detect: Detector, restore: Restorer,
                  detector: str, restorer: str) -> Prepared:
    """Write the faces of all photos; those that faces.csv says are done stay, those that failed are tried again.

    `photos` are the degraded ones, `truth_dir` has those of the same names, four times the size. `folder` gets
    `restored/`, `legacy/`, `oracle/` with the same boxes, and faces.csv. `detector`, `restorer`: names for faces.csv.
    """
    for kind in (RESTORED, LEGACY, ORACLE):
        for name in PAIR_FOLDERS:
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
    prepared = Prepared({}, [])
    with (Report(folder / "faces.csv", FACE_COLUMNS, keep=FINISHED, digits=None) as report,
          Progress(len(photos), description="faces", unit="photo") as progress):
        for photo in photos:
            rows = report.earlier(photo.name)
            if not rows:
                try:
                    rows = _prepare(photo, truth_dir / photo.name, folder, detect, restore, detector, restorer)
                except FatalError:
                    raise
                except UserError as error:
                    rows = [{"file": photo.name, "status": "error", "reason": str(error)}]
                report.add(*rows)
            reasons = [row["reason"] for row in rows if row["status"] == "error"]
            if reasons:
                prepared.errors.append(f"{photo}: {' '.join(reasons[0].splitlines())}")
                progress.write(f"error: {prepared.errors[-1]}")
            else:
                prepared.boxes[photo.stem] = _boxes(rows)
            progress.update(1, shown_name(photo.name))
    return prepared


def _boxes(rows: Sequence[dict]) -> np.ndarray:
    """Return the boxes of a photo's faces in the clean photo: their first and last pixels."""
    boxes = []
    for row in rows:
        if row["status"] == "ok":
            left, top = (max(0, int(float(row[column]))) for column in BOX_COLUMNS[:2])
            right, bottom = left + int(row["width"]), top + int(row["height"])
            boxes.append([SCALE * left, SCALE * top, SCALE * right - 1, SCALE * bottom - 1])
    return np.array(boxes, np.float64).reshape(-1, 4)


def _prepare(photo: Path, truth: Path, folder: Path, detect: Detector, restore: Restorer, detector: str,
             restorer: str) -> list[dict]:
    """Write the faces of one photo; return its rows of the report."""
    faces = detect(read_image(photo).pixels, photo.name)
    rows = []
    for kind in (LEGACY, RESTORED):  # the rows of the latter are kept
        options = PreparationSettings(detector=detector, restorer=restorer, legacy_alignment=kind == LEGACY)
        preparer = FacePreparer(lambda *_: faces, restore, folder / kind, options)
        rows = preparer.prepare(Source(photo.name, photo))
    clean = quantize(read_image(truth).pixels)
    for row in rows:
        if row["status"] == "ok":
            box = np.array([row[column] for column in BOX_COLUMNS])
            top, left, height, width = (SCALE * side for side in intersect_box(
                box, clean.shape[0] // SCALE, clean.shape[1] // SCALE))
            name = f"{photo.stem}_{row['index']}.png"
            write_png(folder / ORACLE / "Face_HQ" / name, clean[top:top + height, left:left + width])
            shutil.copyfile(folder / RESTORED / "Face_LQ" / name, folder / ORACLE / "Face_LQ" / name)
    return rows
