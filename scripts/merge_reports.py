"""Make one report out of those that runs with --shard left: the report that a single run would have written.

python scripts/merge_reports.py --input_dir PHOTOS --output_dir RESULTS
"""

import argparse
import csv
import itertools
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import ArgumentParser, run_cli, shown_name
from utils.errors import UserError
from utils.files import atomic_path
from utils.image.listing import list_photos
from utils.report import report_name

KINDS = {"report": "test.py", "faces": "generate_test_faces.py"}
MAX_LISTED = 5  # photos in a message


class ShardReport(NamedTuple):
    """A report of one shard: its columns, and its rows by photo."""

    path: Path
    columns: list[str]
    rows: dict[str, list[list[str]]]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of photos that the shards were given")
    parser.add_argument("--output_dir", type=Path, required=True,
                        help="folder with report-I-of-N.csv of test.py or faces-I-of-N.csv of generate_test_faces.py")
    parser.add_argument("--overwrite", action="store_true", help="replace report.csv or faces.csv")
    return parser.parse_args(argv)


def find_shards(folder: Path, kind: str) -> list[Path]:
    """Give the reports of all shards, in order; none if there is not one.

    Raises:
        UserError: one is missing, or they are of two divisions.
    """
    found: dict[int, set[int]] = {}
    for path in folder.iterdir():
        match = re.fullmatch(rf"{kind}-(\d+)-of-(\d+)\.csv", path.name)
        if match and path.name == report_name(kind, (int(match[1]), int(match[2]))):
            found.setdefault(int(match[2]), set()).add(int(match[1]))
    if len(found) > 1:
        raise UserError(f"{folder} has reports of several divisions, of {' and of '.join(map(str, sorted(found)))} "
                        f"shards, so photos would count twice. Remove all {kind}-*.csv but those of one.")
    for count, indices in found.items():
        missing = [index for index in range(count) if index not in indices]
        if missing:
            raise UserError(f"{folder} lacks {len(missing)} of {count} reports, as "
                            f"{report_name(kind, (missing[0], count))}. Run {KINDS[kind]} with --shard "
                            f"{', '.join(f'{index}/{count}' for index in missing[:MAX_LISTED])}.")
        return [folder / report_name(kind, (index, count)) for index in range(count)]
    return []


def read_report(path: Path) -> ShardReport:
    """Read a shard's report.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            columns, *lines = list(csv.reader(file, strict=True)) or [[]]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check its permissions.") from error
    except csv.Error as error:
        raise UserError(f"{path} is no report: {error}. Run its shard again.") from error
    if columns[:1] != ["file"] or any(len(line) != len(columns) for line in lines):
        raise UserError(f"{path} is no report: its first column must be `file`, and all rows as long as the first. Run "
                        "its shard again.")
    groups = [(name, list(group)) for name, group in itertools.groupby(lines, key=lambda line: line[0])]
    rows = dict(groups)
    doubled = [name for name, count in Counter(name for name, _ in groups).items() if count > 1]
    if "index" not in columns:  # that of faces, of which a photo may have several
        doubled += [name for name, group in groups if len(group) > 1]
    if doubled:
        raise UserError(f"{path} has photos more than once: {_listed(doubled)}. Run its shard again.")
    return ShardReport(path, columns, rows)


def merge(paths: list[Path], photos: list[str]) -> list[list[str]]:
    """Give header and rows of the report of a single run.

    Args:
        paths: of all shards' reports, in order.
        photos: names of all photos, in order.

    Raises:
        UserError: a report cannot be read, is of other flags, lacks a photo or has one that is not its own.
    """
    reports = [read_report(path) for path in paths]
    for report in reports[1:]:
        if report.columns != reports[0].columns:
            raise UserError(f"{report.path} has other columns than {reports[0].path}: their shards were given other "
                            "flags. Run one of them again.")
    for index, report in enumerate(reports):
        own = photos[index::len(reports)]
        missing = [name for name in own if name not in report.rows]
        foreign = sorted(report.rows.keys() - set(own))
        if missing:
            raise UserError(f"{report.path} lacks {len(missing)} of {len(own)} photos: {_listed(missing)}. Finish its "
                            f"shard: --shard {index}/{len(reports)} --skip_existing.")
        if foreign:
            there = [name for name in foreign if name in photos]
            why = "belong to other shards and would count twice" if there else "are not in --input_dir"
            raise UserError(f"{report.path} has photos that {why}: {_listed(there or foreign)}. Were photos added or "
                            "removed? Then run all shards again.")
    return [reports[0].columns, *(row for number, name in enumerate(photos)
                                  for row in reports[number % len(reports)].rows[name])]


def _listed(names: list[str]) -> str:
    return ", ".join(shown_name(Path(name)) for name in names[:MAX_LISTED]) + ", ..." * (len(names) > MAX_LISTED)


def _check_single(folder: Path, photos: list[str]) -> int:
    """Say that there is nothing to merge, as the only shard's report is that of a single run.

    Raises:
        UserError: there is none, or it is not complete.
    """
    there = [folder / f"{kind}.csv" for kind in KINDS if (folder / f"{kind}.csv").exists()]
    if not there:
        raise UserError(f"no report of a shard in {folder}, as {report_name('report', (0, 2))}. Check --output_dir.")
    for path in there:
        merge([path], photos)
        print(f"{path} is of a single run: nothing to merge")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    args = parse_args(argv)
    photos = [photo.name for photo in list_photos(args.input_dir)]
    try:
        shards = {kind: find_shards(args.output_dir, kind) for kind in KINDS}
    except OSError as error:
        raise UserError(f"cannot list the folder {args.output_dir}: {error.strerror}. Check --output_dir.") from error
    if not any(shards.values()):
        return _check_single(args.output_dir, photos)
    merged = {args.output_dir / f"{kind}.csv": merge(paths, photos) for kind, paths in shards.items() if paths}
    there = [path for path in merged if path.exists()]
    if there and not args.overwrite:
        raise UserError(f"{there[0]} is there already. Give --overwrite.")
    for path, lines in merged.items():
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8",
                                                            errors="surrogateescape") as file:
            csv.writer(file).writerows(lines)
        print(f"{path}: {len(lines) - 1} rows of {len(photos)} photos")
    return 0


if __name__ == "__main__":
    run_cli(main)
