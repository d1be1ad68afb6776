"""Tables of what happened to each photo, kept on disk while a tool works."""

import contextlib
import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_path, exclusive, remove_leftovers


class Report:
    """A CSV with one or more rows per photo, on disk after every photo.

    Every row has the columns `file` and `status`.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, keep: Collection[str] = (), order: Sequence[str] = (),
                 digits: int = 6):
        """Begin a report.

        Args:
            path: the CSV.
            columns: in order.
            keep: statuses of photos that an earlier run finished; rows of the report that is there are taken over for
                photos all of whose rows have one of them. They stay in the file even while this run has not come to
                them, so that interrupting it loses nothing.
            order: of the files, by name; rows of others come behind them, as they were added.
            digits: significant ones that floats are written with; 17 are read back exactly.

        Raises:
            UserError: it cannot be written, or an earlier one not be read.
        """
        self.path = path
        self._digits = digits
        self._columns = columns
        self._rank = {file: number for number, file in enumerate(order)}
        self._rows: dict[str, list[dict]] = {}
        self._earlier = _read_rows(path, keep) if keep else {}
        self._write()

    def add(self, *rows: dict) -> None:
        """Add the rows of one photo; missing values stay empty."""
        self._rows[rows[0]["file"]] = [
            {key: f"{value:.{self._digits}g}" if isinstance(value, float) else value for key, value in row.items()}
            for row in rows]
        self._write()

    def add_present(self, files: Iterable[str]) -> None:
        """Add photos whose results were there already: with their earlier rows if these are known."""
        for file in files:
            self._rows[file] = self._earlier.get(file) or [{"file": file, "status": "skipped",
                                                            "reason": "the result was there"}]
        self._write()

    def earlier(self, file: str) -> list[dict]:
        """Give the rows an earlier run left of a photo it finished; none if it did not, or this is not known."""
        return self._earlier.get(file, [])

    def _write(self) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8",
                                                                 errors="surrogateescape") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            writer.writeheader()
            earlier = {name: rows for name, rows in self._earlier.items() if name not in self._rows}
            everything = {**self._rows, **earlier}
            for name in sorted(everything, key=lambda name: self._rank.get(name, len(self._rank))):
                writer.writerows(everything[name])


def report_name(kind: str, shard: tuple[int, int]) -> str:
    """Give the name of a shard's report, as `report-0-of-4.csv`; that of the only one is `report.csv`."""
    return f"{kind}.csv" if shard == (0, 1) else f"{kind}-{shard[0]}-of-{shard[1]}.csv"


@contextlib.contextmanager
def claim_report(path: Path, folders: Iterable[Path]) -> Iterator[None]:
    """Keep other processes from the work that a report is of, while the block runs.

    Processes with a shard each may work beside each other. One that has all the work, and finds no shard at work, first
    removes what killed ones left in the folders that it writes in.

    Raises:
        UserError: another process is at it, or the folder of the report cannot be written.
    """
    with exclusive(path.with_name(f".{path.name}.lock"), f"{path} (several at once: each with its --shard)"):
        if "-of-" not in path.name and not any(path.parent.glob(f".{path.stem}-*-of-*.csv.lock")):
            for folder in folders:
                remove_leftovers(folder)
        yield


def _read_rows(path: Path, statuses: Collection[str]) -> dict[str, list[dict]]:
    rows: dict[str, list[dict]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:  # Excel adds a mark
            for row in csv.DictReader(file):
                if row.get("file"):
                    rows.setdefault(row["file"], []).append(row)
    except (FileNotFoundError, csv.Error):
        return {}
    except OSError as error:  # it would be replaced by one without these rows
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check its permissions, or move it away."
                        ) from error
    return {file: found for file, found in rows.items() if all(row.get("status") in statuses for row in found)}
