"""Enlarges the photos of an evaluation in the ways of its rows, by what runs in `test.py`."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from config import SCALE, UpscalingConfig
from model.super_resolver import SuperResolver
from utils.adaptation_rows import BICUBIC, MODEL, ROWS
from utils.errors import FatalError, UserError
from utils.evaluation_faces import LEGACY, ORACLE, RESTORED
from utils.faces import FaceFolder, FacePair
from utils.images import quantize, read_image, resize_bicubic, write_png
from utils.report import Report
from utils.restoration import Options, PhotoRestorer

COLUMNS = ("file", "row", "status", "faces", "patches", "mask_mean", "mask_min", "mask_max",
           *(f"loss_{step}" for step in range(6)), "learning_rates", "reason")
STATUSES = ("done", "base", "adapted", "error")  # of a result


class OtherFaces:
    """A folder of faces in which every photo finds those of another one."""

    def __init__(self, faces: FaceFolder, partners: Mapping[str, str]):
        """Take the faces, and whose each photo gets, by stem."""
        self.folder = faces.folder
        self._faces, self._partners = faces, partners

    def pairs(self, stem: str) -> list[FacePair]:
        """Give the faces of the photo's partner; none if it has no partner."""
        return self._faces.pairs(self._partners[stem]) if stem in self._partners else []


def find_partners(faces: FaceFolder, stems: Iterable[str]) -> dict[str, str]:
    """Give, for every photo that has faces, the next one that has some; none if there is but one."""
    there = [stem for stem in stems if faces.pairs(stem)]
    return dict(zip(there, there[1:] + there[:1], strict=True)) if len(there) > 1 else {}


class RowRunner:
    """Restores the photos of one set in the ways of some rows."""

    def __init__(self, names: Sequence[str], folder: Path, networks: Mapping[str, SuperResolver], *,
                 photos: Sequence[Path], seed: int, learning_rate: float):
        """Set up.

        Args:
            names: keys of `ROWS`.
            folder: of the set; has `faces/`, and gets `<row>/<stem>.png` and rows.csv.
            networks: the compiled `BASE` and `MODEL`; each is traced once for all rows.
            photos: the degraded photos, sorted.
            seed: of the patches.
            learning_rate: of the steps.
        """
        self._folder = folder
        kinds = {kind: FaceFolder(folder / "faces" / kind) for kind in (RESTORED, LEGACY, ORACLE)}
        self.partners = find_partners(kinds[RESTORED], [photo.stem for photo in photos])
        self.num_faces = {photo.stem: len(kinds[RESTORED].pairs(photo.stem)) for photo in photos}
        unmasked = copy.copy(networks[MODEL])  # shares what is traced
        unmasked.mask = None
        self._restorers = {}
        for name in names:
            row = ROWS[name]
            if row.network != BICUBIC:
                resolver = networks[row.network] if row.masked else unmasked
                faces = kinds.get(row.faces)
                adaptation = replace(row.adaptation, seed=seed, learning_rate=learning_rate)
                self._restorers[name] = PhotoRestorer(
                    resolver, OtherFaces(faces, self.partners) if row.other else faces, folder / name,
                    Options(adaptation, UpscalingConfig(), backtrack=row.backtrack))
        self.photos, self._names = photos, names
        self._report = Report(folder / "rows.csv", COLUMNS, keep=STATUSES)

    def path(self, name: str, stem: str) -> Path:
        """Where a result is written."""
        return self._folder / name / f"{stem}.png"

    def applies(self, name: str, stem: str) -> bool:
        """Whether a photo has such a result: the faces of another photo are missing if no other one has faces."""
        return not ROWS[name].other or not self.num_faces[stem] or stem in self.partners

    def run(self, photo: Path, on_row: Callable[[str], None]) -> list[str]:
        """Make the results of a photo that are not there; gives a line for each that failed.

        Args:
            photo: one of the degraded photos.
            on_row: called with the name of each row when its result is there, failed or does not apply.
        """
        rows = {row["row"]: row for row in self._report.earlier(photo.name)}
        errors = []
        for name in self._names:
            if self.applies(name, photo.stem) and not self.path(name, photo.stem).exists():
                rows[name] = {"file": photo.name, "row": name}
                try:
                    self._restore(name, photo, rows[name])
                except FatalError:
                    raise
                except UserError as error:
                    rows[name].update(status="error", reason=str(error))
                    errors.append(f"{photo} {name}: {' '.join(str(error).splitlines())}")
            on_row(name)
        if rows:
            self._report.add(*rows.values())
        return errors

    def _restore(self, name: str, photo: Path, row: dict) -> None:
        if ROWS[name].network != BICUBIC:
            self._restorers[name].restore(photo, row, lambda *_: None)
            return
        pixels = read_image(photo).pixels
        height, width = (SCALE * side for side in pixels.shape[:2])
        write_png(self.path(name, photo.stem), quantize(resize_bicubic(pixels, height, width)))
        row["status"] = "done"
