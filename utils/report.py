"""The table of what happened to each photo."""

import csv
from collections.abc import Iterable
from pathlib import Path

from utils.files import atomic_path

BEFORE_LOSSES = ("file", "status", "width", "height", "faces", "patches", "mask_mean", "mask_min", "mask_max")
AFTER_LOSSES = ("learning_rates", "seconds_adaptation", "seconds_upscaling", "seconds_total", "tiles", "reason")
FINISHED = ("adapted", "base")


class Report:
    """A CSV with one row per photo, on disk after every photo.

    The columns `loss_0` ... `loss_N` are the inner loss before the first and after each of N steps.
    """

    def __init__(self, path: Path, *, num_steps: int, keep: bool = False):
        """Begin a report.

        Args:
            path: the CSV.
            num_steps: of adaptation.
            keep: take over the rows of the report that is there, for photos that an earlier run finished. They stay
                in the file even while this run has not come to them, so that interrupting it loses nothing.
        """
        self.path = path
        losses = [f"loss_{step}" for step in range(num_steps + 1)] if num_steps else []
        self._columns = [*BEFORE_LOSSES, *losses, *AFTER_LOSSES]
        self._rows: dict[str, dict] = {}
        self._earlier = _read_rows(path) if keep else {}
        self._write()

    def add(self, row: dict) -> None:
        """Add the row of one photo; floats are written with 6 significant digits, missing values stay empty."""
        row = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        self._rows[row["file"]] = row
        self._write()

    def add_present(self, files: Iterable[str]) -> None:
        """Add photos whose results were there already: with their earlier rows if these are known."""
        for file in files:
            self._rows[file] = self._earlier.get(file) or {"file": file, "status": "skipped",
                                                           "reason": "the result was there"}
        self._write()

    def _write(self) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8",
                                                                 errors="surrogateescape") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self._rows.values())
            writer.writerows(row for file_name, row in self._earlier.items() if file_name not in self._rows)


def _read_rows(path: Path) -> dict[str, dict]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:  # Excel adds a mark
            rows = csv.DictReader(file)
            return {row["file"]: row for row in rows if row.get("file") and row.get("status") in FINISHED}
    except (OSError, csv.Error):
        return {}
