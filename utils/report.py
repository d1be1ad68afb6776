"""CSV reports with the outcome of each photo, written while a tool works."""

import contextlib
import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from utils.files import atomic_path, exclusive, read_errors, remove_leftovers, write_errors

TEXT = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}  # file names may be undecodable


class Report(contextlib.AbstractContextManager):
    """A CSV with one or more consecutive rows per photo, and the columns `file` and `status`.

    Rows are on disk after each photo; `close`, or the end of a `with` block, orders them.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, keep: Collection[str] = (), order: Sequence[str] = (),
                 digits: int | None = 6):
        """Create the file with those rows of an earlier run whose photos have statuses of `keep` alone.

        `close` puts the photos of `order` first. Floats get `digits` significant digits, with None all.
        """
        self.path = path
        self._columns, self._order, self._digits = list(columns), order, digits
        earlier = read_rows(path)[1] if keep else {}
        self._earlier = {file: rows for file, rows in earlier.items() if all(row["status"] in keep for row in rows)}
        self._rewrite(self._earlier)

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Rewrite the file in the order of the photos, with the last rows of each."""
        self._rewrite(read_rows(self.path)[1])

    def add(self, *rows: dict) -> None:
        """Append the rows of one photo, which replace earlier ones; missing values stay empty."""
        with write_errors(self.path), self.path.open("a", **TEXT) as file:
            file.write("\r\n")  # an empty line ends earlier rows, which may be of the same photo
            self._writer(file).writerows({key: self._text(value) for key, value in row.items()} for row in rows)

    def _text(self, value: object) -> object:
        return f"{value:.{self._digits}g}" if self._digits and isinstance(value, float) else value

    def add_present(self, files: Iterable[str]) -> None:
        """Append a row `skipped` for each of these photos, whose results exist, unless an earlier run's is known."""
        for file in files:
            if file not in self._earlier:
                self.add({"file": file, "status": "skipped", "reason": "the result was there"})

    def earlier(self, file: str) -> list[dict]:
        """Return the rows of a photo that an earlier run finished; none otherwise."""
        return self._earlier.get(file, [])

    def _writer(self, file) -> csv.DictWriter:
        return csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")

    def _rewrite(self, rows: dict[str, list[dict]]) -> None:
        rank = {file: number for number, file in enumerate(self._order)}
        with atomic_path(self.path) as temporary, temporary.open("w", **TEXT) as stream:
            writer = self._writer(stream)
            writer.writeheader()
            for file in sorted(rows, key=lambda file: rank.get(file, len(rank))):
                writer.writerows(rows[file])


def read_rows(path: Path) -> tuple[list[str], dict[str, list[dict]]]:
    """Return the columns of a report and the last rows of each photo; nothing if it is missing or no report."""
    if not path.exists():
        return [], {}
    with read_errors(path), path.open(**{**TEXT, "encoding": "utf-8-sig"}) as file:  # spreadsheets add a mark
        try:
            columns, *lines = [*csv.reader(file)] or [[]]
        except csv.Error:
            return [], {}
    if not {"file", "status"} <= set(columns):
        return [], {}
    rows: dict[str, list[dict]] = {}
    previous = None
    for cells in lines:
        if not cells:
            previous = None
        elif len(cells) == len(columns):  # otherwise torn when a process was killed
            row = dict(zip(columns, cells, strict=True))
            if row["file"] != previous:
                rows[row["file"]] = []
            rows[row["file"]].append(row)
            previous = row["file"]
    return columns, rows


def report_name(kind: str, shard: tuple[int, int]) -> str:
    """Return the name of a shard's report: `report-0-of-4.csv`, or `report.csv` without shards."""
    return f"{kind}.csv" if shard == (0, 1) else f"{kind}-{shard[0]}-of-{shard[1]}.csv"


@contextlib.contextmanager
def claim_report(path: Path, folders: Iterable[Path]) -> Iterator[None]:
    """Lock a report, as `exclusive`; without shards at work, first remove what killed processes left in the folders."""
    with exclusive(path.with_name(f".{path.name}.lock"), f"{path} (several at once: each with its --shard)"):
        if "-of-" not in path.name and not any(path.parent.glob(f".{path.stem}-*-of-*.csv.lock")):
            for folder in folders:
                remove_leftovers(folder)
        yield
