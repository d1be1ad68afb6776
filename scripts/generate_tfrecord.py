"""Make the records that training needs from folders of photos, or verify records.

python scripts/generate_tfrecord.py faces --input_dir FFHQ --output datasets/whole_face.tfrecord
python scripts/generate_tfrecord.py scenes --input_dir DIV2K Flickr2K --output datasets/back400.tfrecord
python scripts/generate_tfrecord.py verify datasets/whole_face.tfrecord
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from config import SCALE
from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli
from utils.data.tfrecords import ImageRecords, record_files, shard_path, stored_size, write_image_records
from utils.errors import UserError, require
from utils.face.patches import log_gradient
from utils.files import atomic_path, check_writable, exclusive, read_bytes, remove_leftovers
from utils.image.io import quantize, read_image
from utils.image.photo_sources import Source, list_sources

FORMAT_VERSION = 1  # of the file beside a record
FACE_SIZE, SCENE_SIZE = 256, 400
MAX_SHARDS = 99_999  # five digits
NOT_RECORDED = ("output", "overwrite", "threads")  # arguments that change nothing in the record
MAX_LISTED = 20  # unreadable images on the terminal; the file beside the record names all


class Cut(NamedTuple):
    """What became of an image: uint8 RGB crops, and what was left out or taken off."""

    images: list[np.ndarray]
    small: bool = False
    cropped: bool = False
    num_flat: int = 0
    error: str = ""


@dataclass
class Tally:
    """What happened to the images so far."""

    unreadable: list[str] = field(default_factory=list)  # a line each
    num_small: int = 0
    num_cropped: int = 0
    num_flat: int = 0  # crops

    def add(self, cut: Cut) -> None:
        """Count what became of an image."""
        if cut.error:
            self.unreadable.append(cut.error)
        self.num_small += cut.small
        self.num_cropped += cut.cropped
        self.num_flat += cut.num_flat

    def describe(self, size: int) -> str:
        """Say what was left out."""
        parts = [(len(self.unreadable), "unreadable"), (self.num_small, f"smaller than {size} pixels"),
                 (self.num_flat, "crops too flat"), (self.num_cropped, "not square and cut to their middle")]
        return ", ".join(f"{count} {what}" for count, what in parts if count)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        UserError: a value is outside its range.
    """
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="{faces,scenes,verify}",
                                     parser_class=_make_subparser)
    faces = commands.add_parser("faces", help="whole portraits, shrunk", description="Shrink whole portraits to "
                                "squares; of those that are not square, the middle.")
    scenes = commands.add_parser("scenes", help="crops of photos", description="Cut photos into overlapping crops.")
    _add_common(faces, FACE_SIZE)
    _add_common(scenes, SCENE_SIZE)
    scenes.add_argument("--stride", type=int, default=200, help="pixels from crop to crop")
    scenes.add_argument("--scales", type=float, nargs="+", default=[1.0], metavar="S",
                        help="crop every photo at these sizes, as 1 0.75 0.5; at most 1")
    scenes.add_argument("--min_log_gradient", type=float, metavar="G", help="leave out crops whose log(mean squared "
                        "gradient) is lower, as -6 (default: none)")
    verify = commands.add_parser("verify", help="read records fully", description="Read every image of records and "
                                 "compare them with the .json files beside them, if there are any.")
    verify.add_argument("records", type=Path, nargs="+", metavar="RECORD", help="file, or shards without their numbers")
    verify.add_argument("--size", type=int, help="of the images (default: what the record says)")
    args = parser.parse_args(argv)
    require(args.size is None or (args.size > 0 and args.size % SCALE == 0),
            f"--size must be a positive multiple of {SCALE}", args.size)
    if args.command != "verify":
        require(1 <= args.shards <= MAX_SHARDS, f"--shards must lie between 1 and {MAX_SHARDS}", args.shards)
        require(args.threads >= 1, "--threads must be at least 1", args.threads)
        require(args.shuffle is None or args.shuffle >= 0, "--shuffle must be at least 0", args.shuffle)
    if args.command == "scenes":
        require(args.stride >= 1, "--stride must be at least 1", args.stride)
        require(all(0 < scale <= 1 for scale in args.scales), "--scales must be above 0 and at most 1", args.scales)
    return args


def _make_subparser(*, prog: str, description: str, **_) -> ArgumentParser:
    parser = ArgumentParser(description)
    parser.prog = prog
    return parser


def _add_common(parser: ArgumentParser, size: int) -> None:
    parser.add_argument("--input_dir", type=Path, nargs="+", required=True, metavar="DIR",
                        help="folders of photos; folders inside them count")
    parser.add_argument("--output", type=Path, required=True, help="the record")
    parser.add_argument("--size", type=int, default=size, help="side of the images in pixels")
    parser.add_argument("--match", nargs="+", metavar="GLOB",
                        help="only files whose name, or path below the folder, fits one of these (default: all)")
    parser.add_argument("--exclude", nargs="+", metavar="GLOB",
                        help="no file whose name, or path below the folder, fits one of these (default: none)")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="of the order (default: not shuffled)")
    parser.add_argument("--shards", type=int, default=1, help="files OUTPUT-00000-of-0000N to divide the record into")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that read images")
    parser.add_argument("--overwrite", action="store_true", help="replace the record")


def shrink(samples: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [h, w, 3] by Lanczos filtering wide enough not to alias."""
    return np.asarray(Image.fromarray(samples).resize((width, height), Image.Resampling.LANCZOS))


def cut_face(samples: np.ndarray, size: int) -> Cut:
    """Shrink a portrait, uint8 [h, w, 3], or the square in its middle, to `size`."""
    height, width = samples.shape[:2]
    side = min(height, width)
    if side < size:
        return Cut([], small=True)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(samples[top:top + side, left:left + side])
    return Cut([shrink(square, size, size)], cropped=height != width)


def cut_scene(samples: np.ndarray, size: int, *, stride: int, scales: list[float],
              min_log_gradient: float | None) -> Cut:
    """Cut a photo, uint8 [h, w, 3], into crops, row by row at each scale; they are views."""
    crops = []
    for scale in scales:
        height, width = (round(scale * length) for length in samples.shape[:2])
        if min(height, width) >= size:
            scaled = samples if scale == 1 else shrink(samples, height, width)
            crops += [scaled[top:top + size, left:left + size] for top in range(0, height - size + 1, stride)
                      for left in range(0, width - size + 1, stride)]
    kept = [crop for crop in crops if min_log_gradient is None or log_gradient(crop) >= min_log_gradient]
    return Cut(kept, small=not crops, num_flat=len(crops) - len(kept))


def cut_all(sources: list[Source], cut: Callable[[np.ndarray], Cut], threads: int,
            tally: Tally) -> Iterator[np.ndarray]:
    """Read and cut images in several threads; gives the crops in the order of the sources, with a progress bar.

    At most twice as many images as there are threads are in memory.
    """
    def work(source: Source) -> Cut:
        try:
            return cut(quantize(read_image(source.path).pixels))
        except UserError as error:
            return Cut([], error=" ".join(str(error).split()))

    pool = ThreadPoolExecutor(threads)
    count = 0
    try:
        with Progress(len(sources), description="reading", unit="photo") as progress:
            coming = iter(sources)
            pending = deque(pool.submit(work, source) for source in islice(coming, 2 * threads))
            while pending:
                result = pending.popleft().result()
                tally.add(result)
                yield from result.images
                count += len(result.images)
                progress.update(1, f"{count} images")
                pending.extend(pool.submit(work, source) for source in islice(coming, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def chosen_sources(args: argparse.Namespace) -> list[Source]:
    """List the images that the command line chooses, as `list_sources`."""
    return list_sources(args.input_dir, match=args.match, exclude=args.exclude)


def generate(args: argparse.Namespace) -> int:
    """Write a record and the file beside it; gives the exit status.

    Raises:
        UserError: nothing can be made of the input, or the output is there already or cannot be written.
    """
    sources = chosen_sources(args)
    require(not args.output.is_dir(), "--output must be a file", args.output)
    check_writable(args.output.parent)
    with exclusive(args.output.with_name(f".{args.output.name}.lock"), str(args.output)):
        return _generate_alone(args, sources)


def _generate_alone(args: argparse.Namespace, sources: list[Source]) -> int:
    begin = time.monotonic()
    sidecar = sidecar_path(args.output)
    before = record_files(args.output)
    if before and not args.overwrite:
        raise UserError(f"{before[0]} is there already. Give --overwrite or another --output.")
    shards = (shard_path(args.output, index, args.shards).name for index in range(args.shards))
    remove_leftovers(args.output.parent, args.output.name, sidecar.name, *shards)
    cut = functools.partial(cut_face, size=args.size) if args.command == "faces" else functools.partial(
        cut_scene, size=args.size, stride=args.stride, scales=args.scales, min_log_gradient=args.min_log_gradient)
    tally = Tally()
    with contextlib.closing(cut_all(sources, cut, args.threads, tally)) as crops:
        count = write_image_records(args.output, _refuse_none(crops, len(sources), tally, args.size), args.size,
                                    num_shards=args.shards, shuffle_seed=args.shuffle)
    write_sidecar(sidecar, args, sources, tally, count)
    for line in tally.unreadable[:MAX_LISTED]:
        print(f"error: {line}", file=sys.stderr)
    if len(tally.unreadable) > MAX_LISTED:
        print(f"and {len(tally.unreadable) - MAX_LISTED} more: {sidecar} names all", file=sys.stderr)
    num_bytes = sum(file_bytes(args.output))
    seconds = time.monotonic() - begin
    remarks = tally.describe(args.size)
    print(f"{args.output}: {count} images of {args.size}x{args.size} from {len(sources)} photos"
          + f" ({remarks})" * bool(remarks) + f", {num_bytes / 1e6:.1f} MB, {seconds:.1f} s")
    return EXIT_USER_ERROR if tally.unreadable else 0


def _refuse_none(crops: Iterator[np.ndarray], num_sources: int, tally: Tally, size: int) -> Iterator[np.ndarray]:
    empty = True
    for crop in crops:
        empty = False
        yield crop
    if empty:
        first = f" The first error: {tally.unreadable[0]}" if tally.unreadable else ""
        raise UserError(f"not one image of {size}x{size} came of {num_sources} photo(s): {tally.describe(size)}. Give "
                        f"other photos, or lower --size.{first}")


def file_bytes(record: Path) -> list[int]:
    """Give the sizes of a record's files."""
    return [file.stat().st_size for file in record_files(record)]


def sidecar_path(record: Path) -> Path:
    """Give the path of the file beside a record that says how it was made."""
    return record.with_name(f"{record.name}.json")


def write_sidecar(path: Path, args: argparse.Namespace, sources: list[Source], tally: Tally, count: int) -> None:
    """Write the file that says how a record was made."""
    listed = "".join(f"{source.name}\t{source.num_bytes}\n" for source in sorted(sources))
    arguments = {name: value for name, value in vars(args).items() if name not in NOT_RECORDED}
    text = json.dumps({
        "format_version": FORMAT_VERSION, "count": count, "size": args.size,
        "file_bytes": file_bytes(args.output), "num_sources": len(sources),
        "sources_sha256": hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest(),
        "left_out": {"unreadable": len(tally.unreadable), "too_small": tally.num_small, "flat_crops": tally.num_flat},
        "cut_to_square": tally.num_cropped, "unreadable": tally.unreadable, "arguments": arguments,
    }, indent=2, default=str)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def verify(args: argparse.Namespace) -> int:
    """Read records fully and print a line for each; gives the exit status."""
    sound = True
    for path in args.records:
        try:
            summary, problems = verify_record(path, args.size)
            print(f"{path}: {summary}", flush=True)
        except UserError as error:
            problems = [str(error)]
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        sound = sound and not problems
    return 0 if sound else EXIT_USER_ERROR


def verify_record(path: Path, size: int | None) -> tuple[str, list[str]]:
    """Read a record fully; gives a summary and what is wrong with it.

    Raises:
        UserError: it cannot be opened, or the file beside it cannot be read.
    """
    sidecar = read_sidecar(sidecar_path(path))
    records = ImageRecords(path, size or (sidecar["size"] if sidecar else stored_size(path)), skip_corrupt=True)
    problems = list(records.faults)
    with Progress(len(records), description=path.name, unit="image") as progress:
        for index in range(len(records)):
            try:
                records.read(index)
            except UserError as error:
                problems.append(str(error))
            progress.update()
    num_bytes = file_bytes(path)
    num_intact = len(records) + len(records.faults) - len(problems)
    summary = (f"{num_intact} intact images of {records.size}x{records.size}, {sum(num_bytes) / 1e6:.1f} MB"
               + (f" in {len(num_bytes)} files" if len(num_bytes) > 1 else ""))
    if sidecar and (sidecar["count"], sidecar["file_bytes"]) != (len(records), num_bytes):
        problems.append(f"{path} has {len(records)} images in {num_bytes} bytes; {sidecar_path(path)} says "
                        f"{sidecar['count']} in {sidecar['file_bytes']}. Fetch or make both again.")
    return summary + ", as the file beside it says" * bool(sidecar and not problems), problems


def read_sidecar(path: Path) -> dict | None:
    """Read the file beside a record; None if there is none.

    Raises:
        UserError: it cannot be read, or is of another kind or version.
    """
    if not path.exists():
        return None
    try:
        sidecar = json.loads(read_bytes(path))
        known = sidecar["format_version"] == FORMAT_VERSION
        whole = not known or (sidecar["size"] > 0 and sidecar["count"] > 0 and isinstance(sidecar["file_bytes"], list))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} was not written by this tool, or is damaged. Remove it to verify the record alone."
                        ) from error
    require(known, f"{path} must be of format version {FORMAT_VERSION}", sidecar["format_version"])
    require(whole, f"{path} must give size, count and file_bytes", sidecar)
    return sidecar


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    args = parse_args(argv)
    return verify(args) if args.command == "verify" else generate(args)


if __name__ == "__main__":
    run_cli(main)
