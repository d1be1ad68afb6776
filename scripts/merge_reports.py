"""Merge the reports that runs with --shard left into the report that a single run would have written.

python scripts/merge_reports.py --input_dir PHOTOS --output_dir RESULTS
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import ArgumentParser, run_cli
from utils.errors import UserError
from utils.image.listing import add_recursive, list_photos
from utils.report import Report, read_rows, report_name

KINDS = ("report", "faces")  # of test.py, of generate_test_faces.py


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of photos that the shards were given")
    parser.add_argument("--output_dir", type=Path, required=True,
                        help="folder with report-I-of-N.csv of test.py or faces-I-of-N.csv of generate_test_faces.py")
    add_recursive(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace report.csv or faces.csv")
    return parser.parse_args(argv)


def merge(folder: Path, kind: str, photos: list[str]) -> tuple[list[str], dict[str, list[dict]]]:
    """Return the columns and the rows of each photo; nothing if there are no such reports."""
    counts = {int(path.stem.rpartition("-")[2]) for path in folder.glob(f"{kind}-*-of-*.csv")}
    if len(counts) > 1:
        raise UserError(f"{folder} has reports of {' and '.join(map(str, sorted(counts)))} shards. Remove the old.")
    columns, merged = [], {}
    for count in counts:
        for index in range(count):
            path = folder / report_name(kind, (index, count))
            columns, rows = read_rows(path)
            missing = [name for name in photos[index::count] if name not in rows]
            if missing:
                raise UserError(f"{path} lacks {len(missing)} photos, the first {missing[0]}. Finish it with --shard "
                                f"{index}/{count} --skip_existing.")
            merged.update(rows)
    return columns, merged


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    photos = [photo.name for photo in list_photos(args.input_dir, recursive=args.recursive,
                                                apart=[args.output_dir])]
    merged = {kind: merge(args.output_dir, kind, photos) for kind in KINDS}
    if not any(rows for _, rows in merged.values()):
        raise UserError(f"{args.output_dir} has no report of a shard, as {report_name('report', (0, 2))}. Check "
                        "--output_dir.")
    for kind, (columns, rows) in merged.items():
        path = args.output_dir / f"{kind}.csv"
        if rows and path.exists() and not args.overwrite:
            raise UserError(f"{path} exists. Give --overwrite.")
        if rows:
            with Report(path, columns, order=photos) as report:
                for name in photos:
                    report.add(*rows[name])
            print(f"{path}: {sum(map(len, rows.values()))} rows of {len(photos)} photos")
    return 0


if __name__ == "__main__":
    run_cli(main)
