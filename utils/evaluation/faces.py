"""The faces of an evaluation's photos: restored as a user's, in the original's alignment, and the true ones."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import SCALE
from utils.console import Progress, shown_name
from utils.errors import FatalError, UserError
from utils.face.detection import Detector
from utils.face.pairs import BOX_PIXELS
from utils.face.preparation import FACE_COLUMNS, FINISHED, FacePreparer, PreparationSettings
from utils.face.restorers import Restorer
from utils.image.io import quantize, read_image, write_png
from utils.image.listing import Source
from utils.report import Report

KINDS = RESTORED, LEGACY, ORACLE = "restored", "legacy", "oracle"  # folders, each with Face_LQ and Face_HQ


class Prepared(NamedTuple):
    """`boxes`: of the faces, [n, 4] in pixels of the clean photo, by stem; `errors`: a line per photo that failed."""

    boxes: dict[str, np.ndarray]
    errors: list[str]


def prepare_faces(photos: Sequence[Path], truth_dir: Path, folder: Path, *, detect: Detector, restore: Restorer,
                  settings: PreparationSettings) -> Prepared:
    """Write the faces of all photos; those that faces.csv says are done stay, those that failed are tried again.

    `photos` are the degraded ones, `truth_dir` has those of the same names, four times the size. `folder` gets
    `restored/`, `legacy/`, `oracle/` with the same boxes, and faces.csv.
    """
    for kind in KINDS:
        for name in ("Face_LQ", "Face_HQ"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
    prepared = Prepared({}, [])
    with (Report(folder / "faces.csv", FACE_COLUMNS, keep=FINISHED, digits=None) as report,
          Progress(len(photos), description="faces", unit="photo") as progress):
        for photo in photos:
            rows = report.earlier(photo.name)
            if not rows:
                try:
                    rows = _prepare(photo, truth_dir / photo.name, folder, detect, restore, settings)
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
                boxes = [_box(row) for row in rows if row["status"] == "ok"]
                prepared.boxes[photo.stem] = np.array([[left, top, left + width - 1, top + height - 1]
                                                       for top, left, height, width in boxes]).reshape(-1, 4)
            progress.update(1, shown_name(photo.name))
    return prepared


def _box(row: dict) -> list[int]:
    """Return top, left, height and width of a face in the clean photo, by its row of the report."""
    return [SCALE * int(row[column]) for column in BOX_PIXELS]


def _prepare(photo: Path, truth: Path, folder: Path, detect: Detector, restore: Restorer,
             settings: PreparationSettings) -> list[dict]:
    """Write the faces of one photo; return its rows of the report."""
    faces = detect(read_image(photo).pixels, photo.name)
    rows = []
    for kind in (LEGACY, RESTORED):  # the rows of the latter are kept
        preparer = FacePreparer(lambda *_: faces, restore, folder / kind,
                                replace(settings, legacy_alignment=kind == LEGACY))
        rows = preparer.prepare(Source(photo.name, photo))
    clean = quantize(read_image(truth).pixels)
    for row in rows:
        if row["status"] == "ok":
            top, left, height, width = _box(row)
            name = f"{photo.stem}_{row['index']}.png"
            write_png(folder / ORACLE / "Face_HQ" / name, clean[top:top + height, left:left + width])
            shutil.copyfile(folder / RESTORED / "Face_LQ" / name, folder / ORACLE / "Face_LQ" / name)
    return rows
