"""Make a test set from clean photos: GT/<stem>.png and, degraded and a quarter of the size, LQ/<stem>.png.

What is drawn for a photo depends on --seed and its stem alone; degradations.json keeps it. Photos are cut at the right
and bottom so that 4 divides their sides. GT has 8 bits and three channels; transparency is dropped.
"""

import argparse
import json
import os
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from config import SCALE
from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli, shown_name
from utils.data.camera import Sharpen, Step, read_steps, steps_from_plain, steps_to_plain
from utils.data.presets import PRESETS
from utils.errors import FatalError, UserError, require
from utils.files import atomic_path, check_writable
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.listing import list_photos, photo_rng
from utils.plain_data import from_plain, to_plain
from utils.report import Report

RECORD = "degradations.json"
COLUMNS = ("file", "status", "width", "height", "lq_width", "lq_height", "reason")
SMALLEST_SIDE = 64  # of a photo in pixels: its low-quality version then holds a face patch


@dataclass(frozen=True)
class Settings:
    """How all photos of a test set are treated, but for what is drawn for each."""

    preset: str
    seed: int
    usm: bool
    crop: int | None

    def __post_init__(self):
        require(self.seed >= 0, "the seed must be at least 0", self.seed)
        require(self.crop is None or (self.crop >= SMALLEST_SIDE and self.crop % SCALE == 0),
                f"the side to crop must be divisible by {SCALE} and at least {SMALLEST_SIDE}", self.crop)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        UserError: a value is outside its range.
    """
    parser = ArgumentParser(__doc__)
    parser.add_argument("--input_dir", type=Path, help="folder of clean photos")
    parser.add_argument("--output_dir", type=Path, help="folder that gets GT/, LQ/, degradations.json and report.csv")
    parser.add_argument("--preset", choices=PRESETS, default="iid", help="kind of degradation; see --list_presets")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--crop", type=int, help="cut a square of this side from the middle of every photo")
    parser.add_argument("--usm", action="store_true",
                        help="degrade the sharpened photo, as training does; GT is never sharpened")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE",
                        help="apply exactly what this degradations.json says, in place of a preset; photos are found "
                             "in it by their stems")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument("--skip_existing", action="store_true", help="leave out photos whose results are there")
    parser.add_argument("--num_workers", type=int, default=0, help="photos at a time; 0: as many as there are cores")
    parser.add_argument("--list_presets", action="store_true", help="say what every preset does and stop")
    args = parser.parse_args(argv)
    if not args.list_presets:
        _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    require(args.input_dir and args.output_dir, "--input_dir and --output_dir are needed",
            "one of them, or neither")
    require(args.num_workers >= 0, "--num_workers must be at least 0", args.num_workers)
    require(not (args.overwrite and args.skip_existing), "--overwrite and --skip_existing exclude each other", "both")
    own = (args.preset, args.seed, args.crop, args.usm) != ("iid", 0, None, False)
    require(not (args.source and own), "--from says it all: leave out --preset, --seed, --crop and --usm", "both")


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    args = parse_args(argv)
    if args.list_presets:
        for name, preset in PRESETS.items():
            print(textwrap.fill(f"{name:12}{preset.description}", 100, subsequent_indent=" " * 12))
        return 0
    photos = list_photos(args.input_dir)
    folders = [args.output_dir / "GT", args.output_dir / "LQ"]
    if args.input_dir.resolve() in [folder.resolve() for folder in folders]:
        raise UserError(f"--output_dir must be a folder whose GT/ and LQ/ are not --input_dir: results would replace "
                        f"the photos. Received: {args.output_dir}.")
    there = [photo for photo in photos if all((folder / f"{photo.stem}.png").exists() for folder in folders)]
    if there and not (args.overwrite or args.skip_existing):
        raise UserError(f"{len(there)} of {len(photos)} results are already in {args.output_dir}. "
                        "Give --overwrite or --skip_existing.")
    check_writable(args.output_dir)
    there = there if args.skip_existing else []
    settings, entries = _plan(args, [photo for photo in photos if photo not in there])
    if there:
        entries = {**_earlier_entries(args.output_dir / RECORD, settings, there), **entries}
    _write_record(args.output_dir / RECORD, settings, entries)  # before the photos: an interrupted run leaves it too
    return _synthesize_all(args, settings, photos, there, entries)


def _plan(args: argparse.Namespace, photos: list[Path]) -> tuple[Settings, dict[str, object]]:
    """Find out how to treat every photo: the settings, and the steps by stem as JSON holds them."""
    if args.source:
        content = read_steps(args.source)
        listed = content.pop("photos")
        settings = from_plain(Settings, content, str(args.source))
        return settings, {photo.stem: listed[photo.stem] for photo in photos if photo.stem in listed}
    settings = Settings(args.preset, args.seed, args.usm, args.crop)
    return settings, {photo.stem: steps_to_plain(_draw(settings, photo.stem)) for photo in photos}


def _draw(settings: Settings, stem: str) -> list[Step]:
    steps = PRESETS[settings.preset].sample(photo_rng(settings.seed, stem))
    return [Sharpen(), *steps] if settings.usm else steps


def _earlier_entries(path: Path, settings: Settings, there: list[Path]) -> dict[str, object]:
    """Give the entries of photos that are done, having made sure that the others will be treated alike."""
    content = read_steps(path)
    listed = content.pop("photos")
    if content != to_plain(settings):
        raise UserError(f"{path} was made with other settings: {json.dumps(content)}. Give the same ones, --overwrite, "
                        "or another --output_dir.")
    return {photo.stem: listed[photo.stem] for photo in there if photo.stem in listed}


def _write_record(path: Path, settings: Settings, entries: dict[str, object]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**to_plain(settings), "photos": entries}, indent=1) + "\n", encoding="utf-8")


def _synthesize_all(args: argparse.Namespace, settings: Settings, photos: list[Path], there: list[Path],
                    entries: dict[str, object]) -> int:
    """Work through the photos; one that fails gets a row in the report and does not stop the others."""
    todo = [photo for photo in photos if photo not in there]
    report = Report(args.output_dir / "report.csv", COLUMNS, keep=("done",) if args.skip_existing else ())
    report.add_present(photo.name for photo in there)
    outcomes = Counter({"there already": len(there)})
    with (ThreadPoolExecutor(args.num_workers or os.cpu_count()) as pool,
          Progress(len(todo), description="photos", unit="photo") as progress):
        futures = [pool.submit(_report_row, photo, settings, entries.get(photo.stem), args) for photo in todo]
        try:
            for photo, future in zip(todo, futures, strict=True):
                row = future.result()
                if row["status"] == "error":
                    progress.write(f"error: {shown_name(photo)}: {' '.join(row['reason'].splitlines())}")
                    entries.pop(photo.stem, None)
                report.add(row)
                outcomes[row["status"]] += 1
                outcomes["cut"] += row.get("cut", False)
                progress.update(note=shown_name(photo))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # photos that wait are not begun
            raise
    cut = outcomes.pop("cut", 0)
    if outcomes["error"]:
        _write_record(args.output_dir / RECORD, settings, entries)
    if cut:
        print(f"{cut} photo{'s' * (cut != 1)} cut at the right or bottom so that {SCALE} divides the sides")
    summary = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
    print(f"{len(photos)} photo{'s' * (len(photos) != 1)}: {summary}. Report: {report.path}")
    return EXIT_USER_ERROR if outcomes["error"] else 0


def _report_row(photo: Path, settings: Settings, entry: object, args: argparse.Namespace) -> dict:
    """Write both versions of one photo; gives its row, whether it worked out or not."""
    try:
        return {"file": photo.name, "status": "done", **_synthesize(photo, settings, entry, args)}
    except FatalError:
        raise
    except UserError as error:
        return {"file": photo.name, "status": "error", "reason": str(error)}


def _synthesize(photo: Path, settings: Settings, entry: object, args: argparse.Namespace) -> dict:
    """Write both versions of one photo; gives sizes, and whether it was cut."""
    if entry is None:
        raise UserError(f"{args.source} has no photo {photo.stem}. Add an entry, or leave the photo out.")
    steps = steps_from_plain(entry, f"photo {photo.stem} of {args.source or RECORD}")
    picture = read_image(photo)
    samples = quantize(picture.pixels)
    ground_truth = _crop(photo, samples, settings.crop)
    image = to_float(ground_truth)
    for step in steps:
        image = step.apply(image)
    low_quality = quantize(image)
    profile = None if picture.gray else picture.icc_profile  # both files have three channels
    write_png(args.output_dir / "GT" / f"{photo.stem}.png", ground_truth, icc_profile=profile)
    write_png(args.output_dir / "LQ" / f"{photo.stem}.png", low_quality, icc_profile=profile)
    (height, width), (lq_height, lq_width) = ground_truth.shape[:2], low_quality.shape[:2]
    return {"width": width, "height": height, "lq_width": lq_width, "lq_height": lq_height,
            "cut": not settings.crop and ground_truth.shape != samples.shape}


def _crop(photo: Path, samples: np.ndarray, side: int | None) -> np.ndarray:
    """Cut a square from the middle, or at the right and bottom what exceeds a multiple of 4."""
    height, width = samples.shape[:2]
    smallest = side or SMALLEST_SIDE
    if min(height, width) < smallest:
        raise UserError(f"{photo} has {width}x{height} pixels, and {smallest} in each direction are needed. Remove it"
                        f"{' or give a smaller --crop' if side else ''}.")
    if side:
        top, left = (height - side) // 2, (width - side) // 2
        return samples[top:top + side, left:left + side]
    return samples[:height // SCALE * SCALE, :width // SCALE * SCALE]


if __name__ == "__main__":
    run_cli(main)
