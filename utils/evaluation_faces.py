"""The faces of the photos of an evaluation: restored as a user's, in the original's alignment, and perfect ones."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config import SCALE
from utils.console import Progress, shown_name
from utils.errors import FatalError, UserError
from utils.face_alignment import intersect_box
from utils.face_detection import BOX_COLUMNS, Detector
from utils.face_preparation import COLUMNS, FINISHED, FacePreparer, Options
from utils.face_restorers import Restorer
from utils.images import quantize, read_image, write_png
from utils.report import Report

RESTORED, LEGACY, ORACLE = "restored", "legacy", "oracle"  # folders, each with Face_LQ and Face_HQ
FOLDERS = ("Face_LQ", "Face_HQ")


def prepare_faces(photos: Sequence[Path], truth_dir: Path, folder: Path, *, detect: Detector, restore: Restorer,
                  detector: str, restorer: str) -> list[str]:
    """Write the faces of all photos; those that faces.csv says are done stay.

    Args:
        photos: degraded ones.
        truth_dir: has the photo of the same name, four times the size.
        folder: gets `restored/`, `legacy/`, `oracle/` and faces.csv. The three have the same boxes.
        detect: finds faces.
        restore: restores them.
        detector: what it is called.
        restorer: likewise.

    Returns:
        A line for each photo that failed.
    """
    for kind in (RESTORED, LEGACY, ORACLE):
        for name in FOLDERS:
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
    report = Report(folder / "faces.csv", COLUMNS, keep=FINISHED, digits=17)
    errors = []
    with Progress(len(photos), description="faces", unit="photo") as progress:
        for photo in photos:
            rows = report.earlier(photo.name)
            if not rows:
                try:
                    rows = _prepare(photo, truth_dir / photo.name, folder, detect, restore, detector, restorer)
                except FatalError:
                    raise
                except UserError as error:
                    rows = [{"file": photo.name, "status": "error", "reason": str(error)}]
                    errors.append(f"{photo}: {' '.join(str(error).splitlines())}")
                    progress.write(f"error: {errors[-1]}")
            report.add(*rows)
            progress.update(1, shown_name(photo))
    return errors


def _prepare(photo: Path, truth: Path, folder: Path, detect: Detector, restore: Restorer, detector: str,
             restorer: str) -> list[dict]:
    """Write the faces of one photo; gives its rows of the report."""
    faces = detect(read_image(photo).pixels, photo.name)
    rows = []
    for kind in (LEGACY, RESTORED):  # the rows of the latter are kept
        options = Options(detector=detector, restorer=restorer, legacy_alignment=kind == LEGACY)
        preparer = FacePreparer(lambda *_: faces, restore, folder / kind, options)
        rows = preparer.prepare(photo, lambda _: None)
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
