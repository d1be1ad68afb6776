"""Merge the reports that runs with --shard left into the report that a single run would have written.

python scripts/merge_reports.py --input_dir PHOTOS --output_dir RESULTS
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import ArgumentParser, run_cli, shown_name
from utils.errors import UserError, require
from utils.image.listing import list_photos
from utils.report import Report, read_rows, report_name

KINDS = {"report": "test.py", "faces": "generate_test_faces.py"}
MAX_LISTED = 5  # photos in a message


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of photos that the shards were given")
    parser.add_argument("--output_dir", type=Path, required=True,
                        help="folder with report-I-of-N.csv of test.py or faces-I-of-N.csv of generate_test_faces.py")
    parser.add_argument("--overwrite", action="store_true", help="replace report.csv or faces.csv")
    return parser.parse_args(argv)


def find_shards(folder: Path, kind: str) -> list[Path]:
    """Return the reports of all shards in order; none if there are none.

    Raises:
        UserError: one is missing, or they are of different numbers of shards.
    """
    paths = list(folder.glob(f"{kind}-*-of-*.csv"))
    counts = {path.stem.rpartition("-")[2] for path in paths}
    if not paths:
        return []
    require(len(counts) == 1, f"{folder} must have the {kind}-*.csv of one number of shards; remove the others",
            " and ".join(sorted(counts)))
    [count] = counts
    shards = [folder / report_name(kind, (index, int(count))) for index in range(int(count))]
    missing = [index for index, path in enumerate(shards) if path not in paths]
    if missing:
        raise UserError(f"{shards[missing[0]]} is missing. Run {KINDS[kind]} with "
                        f"{', '.join(f'--shard {index}/{count}' for index in missing[:MAX_LISTED])}.")
    return shards


def merge(paths: list[Path], photos: list[str]) -> tuple[list[str], dict[str, list[dict]]]:
    """Return the columns and the rows of each photo of the report of a single run.

    Args:
        paths: the reports of all shards in order.
        photos: the names of all photos in order.

    Raises:
        UserError: a report cannot be read, has other columns, lacks a photo of its shard or has another one.
    """
    merged: dict[str, list[dict]] = {}
    first: list[str] = []
    for index, path in enumerate(paths):
        columns, rows = read_rows(path)
        first = first or columns
        require(bool(columns), f"{path} must be a report: run its shard again", "another file")
        require(columns == first, f"{path} must have the columns of {paths[0]}: run both with equal flags", columns)
        own = photos[index::len(paths)]
        missing, foreign = [name for name in own if name not in rows], sorted(rows.keys() - set(own))
        if missing:
            raise UserError(f"{path} lacks {len(missing)} of {len(own)} photos: {_listed(missing)}. Finish it with "
                            f"--shard {index}/{len(paths)} --skip_existing.")
        if foreign:
            raise UserError(f"{path} has photos that are not of shard {index}/{len(paths)} of --input_dir: "
                            f"{_listed(foreign)}. Run all shards again.")
        merged.update(rows)
    return first, merged


def _listed(names: list[str]) -> str:
    return ", ".join(shown_name(Path(name)) for name in names[:MAX_LISTED]) + ", ..." * (len(names) > MAX_LISTED)


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    photos = [photo.name for photo in list_photos(args.input_dir)]
    shards = {kind: find_shards(args.output_dir, kind) for kind in KINDS}
    if not any(shards.values()):
        raise UserError(f"{args.output_dir} has no report of a shard, as {report_name('report', (0, 2))}: nothing to "
                        "merge. Check --output_dir.")
    merged = {args.output_dir / f"{kind}.csv": merge(paths, photos) for kind, paths in shards.items() if paths}
    there = [path for path in merged if path.exists()]
    if there and not args.overwrite:
        raise UserError(f"{there[0]} exists already. Give --overwrite.")
    for path, (columns, rows) in merged.items():
        with Report(path, columns, order=photos) as report:
            for name in photos:
                report.add(*rows[name])
        print(f"{path}: {sum(map(len, rows.values()))} rows of {len(photos)} photos")
    return 0


if __name__ == "__main__":
    run_cli(main)
