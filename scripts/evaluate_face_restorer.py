"""Compare a face restorer with bicubic enlargement and Real-ESRGAN, on faces it has not learnt from.

python scripts/evaluate_face_restorer.py --input_dir HELD_OUT_PORTRAITS --output_dir results/face_restorer
"""

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from config import SCALE
from utils.bootstrap import paired_difference
from utils.console import ArgumentParser, Progress, run_cli
from utils.errors import UserError, require
from utils.face_detection import open_detector
from utils.face_restorers import check_restorer, open_restorer
from utils.files import atomic_path, check_writable
from utils.images import read_image, write_png
from utils.metrics import psnr_y, ssim
from utils.niqe import load_niqe, niqe, yiq_luma
from utils.photos import list_photos
from utils.restorer_evaluation import ALIGNED, FOUND, METHODS, Result, draw_subject, restore_subject
from utils.tensorflow_setup import start_tensorflow
from utils.testset_presets import PRESETS

METRICS = {"psnr_y": "PSNR-Y (dB)", "ssim": "SSIM", "niqe": "NIQE"}
LABELS = {"bicubic": "bicubic", "realesrgan": "Real-ESRGAN", "restored": "restored"}
KINDS = {ALIGNED: "landmarks of the clean photo", FOUND: "landmarks found in the degraded photo"}
PICTURE_SIDE = 256  # of a face in the picture, pixels
SMALLEST_FACE = 11  # high-quality pixels: SSIM's window


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
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["iid", "ood-motion", "ood-noise"],
                        help="degradations (default: iid ood-motion ood-noise)")
    parser.add_argument("--face_sizes", type=float, nargs=2, default=(24, 160), metavar=("LEAST", "LARGEST"),
                        help="width of the faces in the degraded photos, pixels (default: 24 160); 0 0: photos are "
                             "used in their own size")
    parser.add_argument("--seed", type=int, default=0, help="of sizes and degradations")
    parser.add_argument("--pictures", type=int, default=10, help="faces in the picture, the worst ones first")
    parser.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    args = parser.parse_args(argv)
    check_restorer(args.restorer)
    least, largest = args.face_sizes
    require(0 < least <= largest or least == largest == 0, "--face_sizes are two numbers, the lower first",
            args.face_sizes)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    return args


def measure(result: Result, niqe_model) -> dict[str, float | str]:
    """Give the row of one face; NIQE is left out where it has no value."""
    row = {"photo": result.name, "preset": result.preset, "kind": result.kind,
           "width": result.low_quality.shape[1], "height": result.low_quality.shape[0]}
    for name in METHODS:
        image = result.methods[name]
        row[f"psnr_y_{name}"], row[f"ssim_{name}"] = psnr_y(image, result.truth), ssim(image, result.truth)
        if niqe_model is not None:
            try:
                row[f"niqe_{name}"] = niqe(yiq_luma(image), niqe_model)
            except ValueError:  # too small or too flat
                row[f"niqe_{name}"] = float("nan")
    return row


def make_table(rows: list[dict]) -> str:
    """Give the means and, against the two others, the differences with their 95 % intervals, as Markdown."""
    metrics = [name for name in METRICS if f"{name}_restored" in rows[0]]
    lines = ["| degradation | face by | faces | metric | " + " | ".join(LABELS.values())
             + " | restored - bicubic | restored - Real-ESRGAN |", "|" + "---|" * 9]
    for preset in dict.fromkeys(row["preset"] for row in rows):
        for kind in KINDS:
            for metric in metrics:
                chosen = [row for row in rows if (row["preset"], row["kind"]) == (preset, kind)
                          and all(np.isfinite(row[f"{metric}_{name}"]) for name in METHODS)]
                if chosen:
                    values = {name: [row[f"{metric}_{name}"] for row in chosen] for name in METHODS}
                    lines.append(f"| {preset} | {KINDS[kind]} | {len(chosen)} | {METRICS[metric]} | "
                                 + " | ".join(_cells(values)) + " |")
    return "\n".join(lines) + "\n"


def _cells(values: dict[str, list[float]]) -> list[str]:
    digits = 4 if max(values["bicubic"]) <= 1 else 2
    cells = [f"{np.mean(values[name]):.{digits}f}" for name in METHODS]
    for other in METHODS[:2]:
        gain = paired_difference(values["restored"], values[other])
        cells.append(f"{gain.mean:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]")
    return cells


def make_picture(results: list[Result], rows: list[dict], count: int) -> np.ndarray:
    """Show faces in rows of LQ, bicubic, Real-ESRGAN, restored, truth: the worst ones first, then others evenly.

    The worst are those with the least gain in PSNR over the better one of the two others.
    """
    gains = np.array([row["psnr_y_restored"] - max(row["psnr_y_bicubic"], row["psnr_y_realesrgan"]) for row in rows])
    order = np.argsort(gains)
    worst = order[:(count + 2) // 3].tolist()
    others = order[len(worst):]
    places = np.linspace(0, len(others) - 1, min(count - len(worst), len(others))).round().astype(int)
    shown = worst + others[places].tolist()
    lines = []
    for index in shown:
        result = results[index]
        images = [result.low_quality, *(result.methods[name] for name in METHODS), result.truth]
        row = [cv2.resize(image, (PICTURE_SIDE, PICTURE_SIDE * image.shape[0] // image.shape[1]),
                          interpolation=cv2.INTER_NEAREST if place == 0 else cv2.INTER_AREA
                          if image.shape[1] > PICTURE_SIDE else cv2.INTER_CUBIC) for place, image in enumerate(images)]
        height = min(image.shape[0] for image in row)
        line = np.concatenate([image[:height] for image in row], axis=1)
        text = (f"{result.preset}, {result.low_quality.shape[1]} pixels wide: PSNR-Y "
                + ", ".join(f"{LABELS[name]} {rows[index][f'psnr_y_{name}']:.2f}" for name in METHODS))
        strip = np.full((24, line.shape[1], 3), 255, np.uint8)
        cv2.putText(strip, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        lines += [strip, line]
    return np.concatenate(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    photos = list_photos(args.input_dir)
    check_writable(args.output_dir)
    start_tensorflow(args.gpu)
    from model.super_resolver import SuperResolver
    from utils.checkpoints import REALESRGAN, load_super_resolver

    restore = open_restorer(args.restorer, args.weights_dir)
    resolver = SuperResolver(load_super_resolver(REALESRGAN, weights_dir=args.weights_dir).generator)
    forward = resolver.upscaler(resolver.generator)
    try:
        niqe_model = load_niqe(args.weights_dir)
    except UserError as error:
        niqe_model = None
        print(f"NIQE is left out: {error}")
    sizes = tuple(args.face_sizes) if args.face_sizes[1] else None
    results, rows, without, unfound = [], [], 0, 0
    with (open_detector("mtcnn", min_confidence=0.9) as detect,
          Progress(len(photos), description="faces", unit="photo") as progress):
        for path in photos:
            subject = draw_subject(path, detect(read_image(path).pixels, path.name), sizes, args.seed)
            without += subject is None
            for preset in args.presets if subject else ():
                there = [result for result in restore_subject(
                    subject, preset, args.output_dir / preset, restore=restore, detect=detect,
                    upscale=lambda part: np.clip(forward(part[None])[0], 0, 1), seed=args.seed)
                    if min(result.truth.shape[:2]) >= SMALLEST_FACE]
                unfound += len(there) < 2
                results += there
                rows += [measure(result, niqe_model) for result in there]
            progress.update(1, path.name)
    if not rows:
        raise UserError(f"MTCNN found no face in the photos of {args.input_dir}. Give portraits.")
    with atomic_path(args.output_dir / "metrics.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = make_table(rows)
    with atomic_path(args.output_dir / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    found = [index for index, row in enumerate(rows) if row["kind"] == FOUND] or list(range(len(rows)))
    picture = make_picture([results[index] for index in found], [rows[index] for index in found], args.pictures)
    write_png(args.output_dir / "faces.png", picture)
    print(f"{table}\n{len(photos) - without} of {len(photos)} photos have a face; {unfound} of "
          f"{(len(photos) - without) * len(args.presets)} were not found again once degraded. "
          f"Scale x{SCALE}; region: the face's box. All of it: {args.output_dir}")


if __name__ == "__main__":
    run_cli(main)
