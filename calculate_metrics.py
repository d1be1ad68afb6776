"""Compute PSNR, SSIM, LPIPS, NIQE, FID and KID of a folder of restored photos."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, counted, run_cli
from utils.errors import printable, require
from utils.files import check_writable
from utils.image.io import add_pixel_limit
from utils.image.listing import ImageGroup, add_recursive, group_images, list_images
from utils.metrics.niqe import NIQE_LUMAS
from utils.metrics.suite import (
    FAILED,
    METRICS,
    OTHER,
    PARTIAL,
    STATUSES,
    UNMEASURED,
    choose_metrics,
    load_functions,
    measure_all,
    measure_group,
)
from utils.metrics.summary import format_table, not_measured, of_other, plot_images, summarize, write_json
from utils.report import Report
from utils.tensorflow_setup import start_tensorflow

DEFAULT_CACHE = Path("~/.cache/metaf2n-tf")
CSV_NAME, JSON_NAME = "metrics.csv", "metrics.json"  # in --output_dir
FEWEST_FOR_FID = 2048  # images: with fewer than features, covariances are singular


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(f"{__doc__} Files belong together by name, whatever their ending. Alpha is left out, gray "
                            "counts as RGB, 16 bits are rounded to 8 (not for FID and KID).")
    files = parser.add_argument_group("files")
    files.add_argument("--result_dir", type=Path, required=True, help="folder of the results")
    files.add_argument("--gt_dir", type=Path, help="folder of the ground truth; without it only NIQE, FID and KID")
    files.add_argument("--fid_ref_dir", type=Path, help="folder of good photographs that FID and KID compare with")
    files.add_argument("--compare", type=Path, metavar="OTHER_DIR",
                       help="another folder of results for the same photos: also measure it and the difference")
    add_recursive(files)
    add_pixel_limit(files)
    files.add_argument("--output_dir", type=Path,
                       help="where metrics.json and metrics.csv are written (default: --result_dir)")
    files.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw every image's values")
    files.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    files.add_argument("--cache_dir", type=Path, default=DEFAULT_CACHE,
                       help="where features of --fid_ref_dir are kept, by the content of its files")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--metrics", help=f"of {','.join(METRICS)} (default: all whose weights are there)")
    measuring.add_argument("--niqe_luma", choices=list(NIQE_LUMAS), default="pyiqa",
                           help="pyiqa: full range, as the paper's; basicsr: BT.601 limited range")
    measuring.add_argument("--crop_to_common", action="store_true",
                           help="compare images of different sizes in their common upper left part")
    measuring.add_argument("--allow_missing", action="store_true",
                           help="continue when a folder lacks an image that another one has")
    measuring.add_argument("--seed", type=int, default=0, help="of the bootstrap and of KID's subsets")
    measuring.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    args = parser.parse_args(argv)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    require(args.plot is None or args.plot.suffix.lower() == ".png", "--plot must end in .png", args.plot)
    args.output_dir = args.output_dir or args.result_dir
    args.cache_dir = args.cache_dir.expanduser()
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    args = parse_args(argv)
    groups = group_images(args.result_dir, truth_dir=args.gt_dir, other_dir=args.compare,
                          allow_missing=args.allow_missing, recursive=args.recursive)
    reference = [image.path for image in list_images(args.fid_ref_dir, "--fid_ref_dir", recursive=args.recursive)
                 ] if args.fid_ref_dir else []
    names, obstacles = choose_metrics(args.metrics, has_truth=args.gt_dir is not None,
                                      num_images=sum(group.result is not None for group in groups),
                                      num_reference=len(reference), weights_dir=args.weights_dir)
    _check_outputs(args, names)
    if any(METRICS[name].weights for name in names):
        start_tensorflow(args.gpu)  # takes seconds: only now that the command line is known to be good
    functions = load_functions(names, args.weights_dir, niqe_luma=args.niqe_luma)
    set_names = [name for name in names if METRICS[name].of_sets]
    if set_names:
        from utils.metrics.fid import SetMeter

        # a damaged reference ends it before the work
        set_meter = SetMeter(reference, args.cache_dir, weights_dir=args.weights_dir, seed=args.seed)
    compare = args.compare is not None
    columns = [*functions, *(name + OTHER for name in functions if compare)]
    rows = _measure_images(groups, partial(measure_group, functions=functions, crop_to_common=args.crop_to_common),
                           args.output_dir / CSV_NAME, columns)
    summaries = {name: summarize(name, rows, compare=compare, seed=args.seed) for name in functions}
    if set_names:
        unreadable = {path for row in rows for path in row["unreadable"]}
        results, others = ([image.path for image in images if image and image.path not in unreadable] for images in zip(
            *((group.result, group.other) for group in groups), strict=True))
        summaries |= _measure_sets(set_meter, results, others if compare else None, set_names, len(reference))
    summaries |= {name: not_measured(reason) for name, reason in obstacles.items()}
    _report(args, rows, {name: summaries[name] for name in METRICS if name in summaries}, len(reference))
    if args.plot is not None:
        plot_images(args.plot, rows, list(functions), compare=compare)
    lacking = args.metrics is not None and any(summaries[name]["mean"] is None for name in names)
    return EXIT_USER_ERROR if lacking or any(row["status"] == FAILED for row in rows) else 0


def _check_outputs(args: argparse.Namespace, names: list[str]) -> None:
    """Refuse, before the work, outputs that cannot be written or would be taken for images of an input folder."""
    check_writable(args.output_dir)
    if args.plot is None:
        return
    check_writable(args.plot.parent)
    inputs = [folder.resolve() for folder in (args.result_dir, args.gt_dir, args.fid_ref_dir, args.compare) if folder]
    require(args.plot.parent.resolve() not in inputs, "--plot must not lie in a folder of images, where it would count "
            "as one", args.plot)
    require(not all(METRICS[name].of_sets for name in names), "--plot draws metrics of single images",
            f"--metrics {args.metrics}")


def _measure_images(groups: list[ImageGroup], measure: Callable[[ImageGroup], dict], report: Path,
                    columns: list[str]) -> list[dict]:
    """Measure the images and write their `report`; one that fails gets a row and does not stop the others."""
    rows = []
    with (Report(report, ["file", "gt", "status", "width", "height", *columns, "reason"], digits=None) as written,
          Progress(len(groups), description="images", unit="image") as progress):
        for row in measure_all(groups, measure):
            rows.append(row)
            written.add(row)
            if row["status"] == FAILED:
                progress.write(f"error: {printable(row['file'])}: {' '.join(row['reason'].splitlines())}")
            progress.update()
    incomplete = [row for row in rows if row["status"] in (PARTIAL, UNMEASURED)]
    if incomplete:  # they may be all, and their reasons alike
        print(f"note: {len(incomplete)} of {len(rows)} images lack values, see metrics.csv. The first is "
              f"{printable(incomplete[0]['file'])}: {incomplete[0]['reason']}", file=sys.stderr)
    return rows


def _measure_sets(meter, results: list[Path], others: list[Path] | None, names: list[str],
                  num_reference: int) -> dict[str, dict]:
    """Compare the results, and the other results if there are any, with the reference; one does not need the other."""
    summaries = meter.measure(results, names)
    if others is not None:
        summaries = {name: summaries[name] | of_other(other) for name, other in meter.measure(others, names).items()}
    fewest = min(len(results), len(others or results), num_reference)
    if "fid" in names and summaries["fid"]["mean"] is not None and fewest < FEWEST_FOR_FID:
        print(f"note: FID of {fewest} images depends strongly on their number: compare it only between folders of "
              f"equally many, or look at KID. From {FEWEST_FOR_FID} on it is comparable.", file=sys.stderr)
    return summaries


def _report(args: argparse.Namespace, rows: list[dict], summaries: dict[str, dict], num_reference: int) -> None:
    """Write metrics.json and print the table."""
    outcomes = dict.fromkeys(STATUSES, 0) | Counter(row["status"] for row in rows)
    settings = {name: value if isinstance(value, (bool, int, str, type(None))) else str(value)
                for name, value in vars(args).items()}
    write_json(args.output_dir / JSON_NAME, summaries, settings=settings,
               counts={**outcomes, "images": len(rows), "reference": num_reference})
    print(format_table(summaries, num_reference=num_reference, compare=args.compare is not None))
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
    print(f"{counted(len(rows), 'image')}: {counts}. Written: {args.output_dir / CSV_NAME}, {JSON_NAME}")


if __name__ == "__main__":
    run_cli(main)
