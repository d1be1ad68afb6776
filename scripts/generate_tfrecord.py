"""Make the records that training needs from folders of photos, or verify records.

python scripts/generate_tfrecord.py faces --input_dir FFHQ --output datasets/whole_face.tfrecord
python scripts/generate_tfrecord.py scenes --input_dir DIV2K Flickr2K --output datasets/back400.tfrecord
python scripts/generate_tfrecord.py verify datasets/whole_face.tfrecord
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from config import SCALE
from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli
from utils.data.tfrecords import ImageRecords, write_image_records
from utils.errors import UserError, require
from utils.face.patches import log_gradient
from utils.files import check_writable, exclusive, remove_leftovers
from utils.image.io import add_pixel_limit, quantize, read_image
from utils.image.listing import Source, add_source_options, list_sources
from utils.tensorflow_setup import start_tensorflow

FACE_SIZE, SCENE_SIZE = 256, 400  # pixels
READ_AHEAD = 4  # photos per thread that are in memory
NOTES = {"unreadable": "unreadable", "too_small": "too small", "flat_crops": "crops too flat",
         "cut_to_square": "cut to a square"}


class Crops(NamedTuple):
    """The images of a photo, uint8 RGB [size, size, 3], and counts by the keys of `NOTES`."""

    images: list[np.ndarray]
    notes: Counter


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="{faces,scenes,verify}")
    faces = commands.add_parser("faces", description="Shrink whole portraits to squares; of those that are not square, "
                                "the middle.", help="whole portraits, shrunk")
    scenes = commands.add_parser("scenes", description="Cut photos into overlapping crops.", help="crops of photos")
    _add_common(faces, FACE_SIZE)
    _add_common(scenes, SCENE_SIZE)
    scenes.add_argument("--stride", type=int, default=200, help="pixels from crop to crop")
    scenes.add_argument("--scales", type=float, nargs="+", default=[1.0], metavar="S",
                        help="crop every photo at these sizes, as 1 0.75 0.5; at most 1")
    scenes.add_argument("--min_log_gradient", type=float, metavar="G", help="leave out crops whose log(mean squared "
                        "gradient) is lower, as -6 (default: none)")
    verify = commands.add_parser("verify", description="Read every image of records.", help="read records fully")
    verify.add_argument("records", type=Path, nargs="+", metavar="RECORD")
    verify.add_argument("--size", type=int, help="of the images (default: that of the first one)")
    args = parser.parse_args(argv)
    require(args.size is None or (args.size > 0 and args.size % SCALE == 0),
            f"--size must be a positive multiple of {SCALE}", args.size)
    if args.command != "verify":
        require(args.threads >= 1, "--threads must be at least 1", args.threads)
        require(args.shuffle is None or args.shuffle >= 0, "--shuffle must be at least 0", args.shuffle)
    if args.command == "scenes":
        require(args.stride >= 1, "--stride must be at least 1", args.stride)
        require(all(0 < scale <= 1 for scale in args.scales), "--scales must be above 0 and at most 1", args.scales)
    return args


def _add_common(parser: ArgumentParser, size: int) -> None:
    add_pixel_limit(parser)
    add_source_options(parser, "input_dir", "photos", prefix="", required=True)
    parser.add_argument("--output", type=Path, required=True, help="the record")
    parser.add_argument("--size", type=int, default=size, help="side of the images in pixels")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="of the order (default: not shuffled)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that read photos")
    parser.add_argument("--overwrite", action="store_true", help="replace the record")


def shrink(samples: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [h, w, 3] with Pillow's Lanczos filter, which does not alias."""
    return np.asarray(Image.fromarray(samples).resize((width, height), Image.Resampling.LANCZOS))


def crop_face(samples: np.ndarray, size: int) -> Crops:
    """Shrink a portrait, uint8 [h, w, 3], or the square in its middle, to `size`."""
    height, width = samples.shape[:2]
    side = min(height, width)
    if side < size:
        return Crops([], Counter(too_small=1))
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(samples[top:top + side, left:left + side])
    return Crops([shrink(square, size, size)], Counter(cut_to_square=int(height != width)))


def crop_scene(samples: np.ndarray, size: int, *, stride: int, scales: list[float],
               min_log_gradient: float | None) -> Crops:
    """Cut a photo, uint8 [h, w, 3], into crops, row by row at each scale."""
    crops = []
    for scale in scales:
        height, width = (round(scale * length) for length in samples.shape[:2])
        if min(height, width) >= size:
            scaled = samples if scale == 1 else shrink(samples, height, width)
            crops += [scaled[top:top + size, left:left + size] for top in range(0, height - size + 1, stride)
                      for left in range(0, width - size + 1, stride)]
    kept = [crop for crop in crops if min_log_gradient is None or log_gradient(crop) >= min_log_gradient]
    return Crops(kept, Counter(too_small=int(not crops), flat_crops=len(crops) - len(kept)))


def read_crops(sources: list[Source], crop: Callable[[np.ndarray], Crops], threads: int, notes: Counter
               ) -> Iterator[np.ndarray]:
    """Yield the crops of photos in their order, read in several threads; count in `notes` what is left out."""
    def work(source: Source) -> Crops:
        try:
            return crop(quantize(read_image(source.path).pixels))
        except UserError as error:
            progress.write(f"error: {' '.join(str(error).split())}")
            return Crops([], Counter(unreadable=1))

    chunk, count = READ_AHEAD * threads, 0
    with (ThreadPoolExecutor(threads) as pool,
          Progress(len(sources), description="reading", unit="photo") as progress):
        for start in range(0, len(sources), chunk):
            for crops in pool.map(work, sources[start:start + chunk]):
                notes.update(crops.notes)
                yield from crops.images
                count += len(crops.images)
                progress.update(1, f"{count} images")
    if not count:
        raise UserError(f"none of the {len(sources)} photos gave an image: {_describe(notes)}. Choose others or lower "
                        "--size.")


def _describe(notes: Counter) -> str:
    return ", ".join(f"{notes[name]} {text}" for name, text in NOTES.items() if notes[name])


def generate(args: argparse.Namespace) -> int:
    """Write a record; return the exit status."""
    sources = list_sources(args.input_dir, match=args.match, exclude=args.exclude)
    require(not args.output.is_dir(), "--output must be a file", args.output)
    check_writable(args.output.parent)
    begin, notes = time.monotonic(), Counter()
    crop = partial(crop_face, size=args.size) if args.command == "faces" else partial(
        crop_scene, size=args.size, stride=args.stride, scales=args.scales, min_log_gradient=args.min_log_gradient)
    with exclusive(args.output.with_name(f".{args.output.name}.lock"), str(args.output)):
        if args.output.exists() and not args.overwrite:
            raise UserError(f"{args.output} exists. Give --overwrite or another --output.")
        remove_leftovers(args.output.parent, args.output.name)
        start_tensorflow()
        count = write_image_records(args.output, read_crops(sources, crop, args.threads, notes), args.size,
                                    shuffle_seed=args.shuffle)
    print(f"{args.output}: {count} images of {args.size}x{args.size} from {len(sources)} photos"
          + f" ({_describe(notes)})" * bool(+notes)
          + f", {args.output.stat().st_size / 1e6:.1f} MB, {time.monotonic() - begin:.1f} s")
    return EXIT_USER_ERROR if notes["unreadable"] else 0


def verify(args: argparse.Namespace) -> int:
    """Read records fully and print a line for each, then the problems; return the exit status."""
    start_tensorflow()
    problems = [problem for path in args.records for problem in verify_record(path, args.size)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_USER_ERROR if problems else 0


def verify_record(path: Path, size: int | None) -> list[str]:
    """Read a record fully and print a summary; return what is wrong with it."""
    try:
        records, problems = ImageRecords(path, size, skip_corrupt=True), []
    except UserError as error:
        return [str(error)]
    with Progress(len(records), description=path.name, unit="image") as progress:
        for index in range(len(records)):
            try:
                records.read(index)
            except UserError as error:
                problems.append(str(error))
            progress.update()
    print(f"{path}: {len(records) - len(problems)} intact images of {records.size}x{records.size}, "
          f"{path.stat().st_size / 1e6:.1f} MB", flush=True)
    return [*records.faults, *problems]


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    args = parse_args(argv)
    return verify(args) if args.command == "verify" else generate(args)


if __name__ == "__main__":
    run_cli(main)
