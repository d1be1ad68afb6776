"""Compare a face restorer with bicubic enlargement and Real-ESRGAN, on faces it has not learnt from.

python scripts/evaluate_face_restorer.py --input_dir HELD_OUT_PORTRAITS --output_dir results/face_restorer
"""

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from config import SCALE
from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli, shown_name
from utils.data.presets import PRESETS
from utils.errors import FatalError, UserError, require
from utils.evaluation.face_restorer import ALIGNED, FOUND, METHODS, Result, draw_subject, restore_subject
from utils.face.detection import open_detector
from utils.face.restorers import FIDELITY, check_restorer, open_restorer
from utils.files import atomic_path, check_writable
from utils.image.io import read_image, write_png
from utils.image.listing import list_photos, parse_people, person_of
from utils.metrics.bootstrap import paired_difference
from utils.metrics.fidelity import psnr_y, ssim
from utils.metrics.niqe import load_niqe, niqe, yiq_luma
from utils.report import Report
from utils.tensorflow_setup import start_tensorflow

METRICS = {"psnr_y": ("PSNR-Y (dB)", 2), "ssim": ("SSIM", 4), "niqe": ("NIQE (lower is better)", 2)}  # label, digits
COLUMNS = ("file", "status", "person", "preset", "kind", "width", "height",
           *(f"{metric}_{name}" for metric in METRICS for name in METHODS), "reason")
LABELS = {"bicubic": "bicubic", "realesrgan": "Real-ESRGAN", "restored": "restored"}
KINDS = {ALIGNED: "landmarks of the clean photo", FOUND: "landmarks found in the degraded photo"}
PICTURE_SIDE = 256  # of a face in the picture, pixels
CAPTION_HEIGHT = 24
SMALLEST_FACE = 11  # high-quality pixels: SSIM's window


class Strip(NamedTuple):
    """One face as the picture shows it: `gain` is in PSNR-Y over the better one of the two other methods."""

    gain: float
    image: np.ndarray


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: a value is outside its range.
    """
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of clean photos; of each, one face")
    parser.add_argument("--output_dir", type=Path, default="./results/face_restorer",
                        help="gets metrics.csv, table.md and faces.png, and the photos that were made")
    parser.add_argument("--restorer", default="rrdb-face", help="as of generate_test_faces.py")
    parser.add_argument("--codeformer_fidelity", type=float, default=FIDELITY,
                        help="of a .onnx with such an input: 0 for quality, 1 for likeness")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["iid", "ood-motion", "ood-noise"],
                        help="degradations")
    parser.add_argument("--face_sizes", type=float, nargs=2, default=(24, 160), metavar=("LEAST", "LARGEST"),
                        help="width of the faces in the degraded photos, pixels, but at most a quarter of what it is "
                             "in the clean one; 0 0: photos are used in their own size")
    parser.add_argument("--enlarge", action="store_true",
                        help="enlarge photos whose faces are too small: their truth is smoother than a real one")
    parser.add_argument("--people", default="(.*)", metavar="REGEX", help="what of a file's name matches this "
                        "is the same for photos of one person, who counts once in the intervals, as '^[a-z]+_[0-9]+'")
    parser.add_argument("--seed", type=int, default=0, help="of sizes and degradations")
    parser.add_argument("--pictures", type=int, default=10, help="faces in the picture, the worst ones first")
    parser.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    args = parser.parse_args(argv)
    check_restorer(args.restorer, fidelity=args.codeformer_fidelity)
    least, largest = args.face_sizes
    require(0 < least <= largest or least == largest == 0, "--face_sizes are two numbers, the lower first",
            args.face_sizes)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    require(args.pictures >= 1, "--pictures must be at least 1", args.pictures)
    args.people = parse_people(args.people)
    return args


def measure(result: Result, niqe_model, people: re.Pattern) -> dict[str, float | str]:
    """Give the row of one face; NIQE is left out where it has no value."""
    row = {"status": "ok", "person": person_of(result.name, people), "preset": result.preset, "kind": result.kind,
           "width": result.low_quality.shape[1], "height": result.low_quality.shape[0]}
    for name in METHODS:
        image = result.methods[name]
        row[f"psnr_y_{name}"], row[f"ssim_{name}"] = psnr_y(image, result.truth), ssim(image, result.truth)
        if niqe_model is not None:
            try:
                row[f"niqe_{name}"] = niqe(yiq_luma(image), niqe_model)
            except ValueError:  # too small or too flat
                continue
    return row


def make_table(rows: list[dict]) -> str:
    """Give the means and the differences to the two others, with 95 % intervals over people, as Markdown."""
    lines = ["| degradation | face by | faces | metric | " + " | ".join(LABELS.values())
             + " | restored - bicubic | restored - Real-ESRGAN |", "|" + "---|" * 9]
    for preset in dict.fromkeys(row["preset"] for row in rows):
        for kind in KINDS:
            for metric, (label, digits) in METRICS.items():
                chosen = [row for row in rows if (row["preset"], row["kind"]) == (preset, kind)
                          and all(np.isfinite(row.get(f"{metric}_{name}", np.nan)) for name in METHODS)]
                if chosen:
                    lines.append(f"| {preset} | {KINDS[kind]} | {len(chosen)} | {label} | "
                                 + " | ".join(_cells(chosen, metric, digits)) + " |")
    return "\n".join(lines) + "\n"


def _cells(rows: list[dict], metric: str, digits: int) -> list[str]:
    cells = [f"{np.mean([row[f'{metric}_{name}'] for row in rows]):.{digits}f}" for name in METHODS]
    by_person = defaultdict(list)
    for row in rows:
        by_person[row["person"]].append(row)
    means = {name: [np.mean([row[f"{metric}_{name}"] for row in group]) for group in by_person.values()]
             for name in METHODS}
    for other in METHODS[:2]:
        gain = paired_difference(means["restored"], means[other])
        cells.append(f"{gain.mean:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]")
    return cells


def make_strip(result: Result, row: dict) -> Strip:
    """Show LQ, bicubic, Real-ESRGAN, restored and truth of a face beside each other."""
    shown = [_fit(result.low_quality, cv2.INTER_NEAREST)]
    shown += [_fit(image, cv2.INTER_AREA if image.shape[1] > PICTURE_SIDE else cv2.INTER_CUBIC)
              for image in (*(result.methods[name] for name in METHODS), result.truth)]
    caption = np.full((CAPTION_HEIGHT, PICTURE_SIDE * len(shown), 3), 255, np.uint8)
    text = f"{result.preset}, {row['width']} pixels wide: PSNR-Y " + ", ".join(
        f"{LABELS[name]} {row[f'psnr_y_{name}']:.2f}" for name in METHODS)
    cv2.putText(caption, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    gain = row["psnr_y_restored"] - max(row["psnr_y_bicubic"], row["psnr_y_realesrgan"])
    height = min(image.shape[0] for image in shown)
    return Strip(gain, np.concatenate([caption, np.concatenate([image[:height] for image in shown], axis=1)]))


def _fit(image: np.ndarray, interpolation: int) -> np.ndarray:
    height = PICTURE_SIDE * image.shape[0] // image.shape[1]
    return cv2.resize(image, (PICTURE_SIDE, height), interpolation=interpolation)


def make_picture(strips: list[Strip], count: int) -> np.ndarray:
    """Stack faces: first the third that gained least, then others, evenly from low to high gain."""
    ordered = sorted(strips, key=lambda strip: strip.gain)
    worst = ordered[:(count + 2) // 3]
    others = ordered[len(worst):]
    places = np.linspace(0, len(others) - 1, min(count - len(worst), len(others))).round().astype(int)
    return np.concatenate([strip.image for strip in (*worst, *(others[place] for place in places))])


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    args = parse_args(argv)
    photos = list_photos(args.input_dir)
    check_writable(args.output_dir)
    gpus = start_tensorflow(args.gpu)
    if args.gpu not in (None, "-1") and not gpus:
        print(f"note: no GPU for --gpu {args.gpu}: running on the CPU", file=sys.stderr)
    from model.super_resolver import SuperResolver
    from utils.weights.checkpoints import REALESRGAN, load_super_resolver

    restore = open_restorer(args.restorer, args.weights_dir, fidelity=args.codeformer_fidelity)
    resolver = SuperResolver(load_super_resolver(REALESRGAN, weights_dir=args.weights_dir).generator)
    forward = resolver.upscaler(resolver.generator)
    try:
        niqe_model = load_niqe(args.weights_dir)
    except UserError as error:
        niqe_model = None
        print(f"NIQE is left out: {error}")
    sizes = tuple(args.face_sizes) if args.face_sizes[1] else None
    rows, strips, failed, without = [], {ALIGNED: [], FOUND: []}, 0, 0

    def evaluate(path: Path) -> list[dict]:
        subject = draw_subject(path, detect(read_image(path).pixels, path.name), sizes, args.seed,
                               enlarge=args.enlarge)
        found = []
        for preset in args.presets if subject else ():
            for result in restore_subject(subject, preset, args.output_dir / preset, restore=restore, detect=detect,
                                          upscale=lambda part: forward(part[None])[0], seed=args.seed):
                if min(result.truth.shape[:2]) >= SMALLEST_FACE:
                    found.append({"file": path.name, **measure(result, niqe_model, args.people)})
                    strips[result.kind].append(make_strip(result, found[-1]))
        return found

    with (Report(args.output_dir / "metrics.csv", COLUMNS) as report,
          open_detector("mtcnn", min_confidence=0.9) as detect,
          Progress(len(photos), description="faces", unit="photo") as progress):
        for path in photos:
            try:
                there = evaluate(path)
                rows += there
                without += not there
                report.add(*(there or [{"file": path.name, "status": "no face", "reason": "none is large enough"}]))
            except FatalError:
                raise
            except UserError as error:
                failed += 1
                report.add({"file": path.name, "status": "error", "reason": str(error)})
                progress.write(f"error: {shown_name(path)}: {' '.join(str(error).splitlines())}")
            progress.update(1, shown_name(path))
    if not rows:
        raise UserError(f"no photo in {args.input_dir} has a face that MTCNN finds and that is large enough. Give "
                        "portraits, or --enlarge.")
    table = make_table(rows)
    with atomic_path(args.output_dir / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    write_png(args.output_dir / "faces.png", make_picture(strips[FOUND] or strips[ALIGNED], args.pictures))
    again = sum(row["kind"] == FOUND for row in rows)
    print(f"{table}\n{len(photos)} photos: {len(photos) - without - failed} with a face, {without} without, {failed} "
          f"errors. Once degraded, the face was found again in {again} of {len(rows) - again}. Scale x{SCALE}; region: "
          f"the face's box. All of it: {args.output_dir}")
    return EXIT_USER_ERROR if failed else 0


if __name__ == "__main__":
    run_cli(main)
