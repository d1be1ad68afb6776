"""Compare a face restorer with bicubic upscaling and Real-ESRGAN, on faces of people who were not trained on.

python scripts/evaluate_face_restorer.py --input_dir HELD_OUT_PORTRAITS --output_dir results/face_restorer
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from config import SCALE
from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli
from utils.errors import UserError, printable, require
from utils.evaluation.face_restorer import (
    DEGRADATIONS,
    METHODS,
    FaceMeter,
    Result,
    draw_subject,
    restore_subject,
)
from utils.evaluation.results import markdown_table
from utils.face.detection import Detector, open_detector
from utils.face.restorers import FIDELITY, Restorer, check_restorer, open_restorer
from utils.files import check_writable, write_text
from utils.image.io import add_pixel_limit, quantize, read_image, write_png
from utils.image.listing import list_photos, parse_people, person_of
from utils.image.panels import compose_row
from utils.metrics.bootstrap import paired_difference
from utils.report import Report
from utils.tensorflow_setup import start_tensorflow

FACE_METRICS = {"psnr_y": ("PSNR-Y (dB)", 2), "ssim": ("SSIM", 4), "lpips": ("LPIPS (lower is better)", 3),
                "identity": ("identity", 4), "brightness": ("brightness error (of 255)", 2)}  # label, digits
SCORE_COLUMNS = ("file", "status", "person", "preset", "width", "height",
                 *(f"{metric}_{name}" for metric in FACE_METRICS for name in METHODS), "reason")
SMALLEST_FACE = 11  # high-quality pixels: SSIM's window


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of clean photos; of each, one face")
    add_pixel_limit(parser)
    parser.add_argument("--output_dir", type=Path, default="./results/face_restorer",
                        help="gets metrics.csv, table.md and faces.png, and the photos that were made")
    parser.add_argument("--restorer", default="rrdb-face", help="as of generate_test_faces.py")
    parser.add_argument("--codeformer_fidelity", type=float, default=FIDELITY,
                        help="of a .onnx with such an input: 0 for quality, 1 for likeness")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--presets", nargs="+", choices=list(DEGRADATIONS), default=["iid", "ood-noise", "ood-camera"],
                        help="degradations")
    parser.add_argument("--face_sizes", type=float, nargs=2, default=(24, 160), metavar=("LEAST", "LARGEST"),
                        help="width of the faces in the degraded photos, pixels, but at most a quarter of what it is "
                             "in the clean one; 0 0: photos are used in their own size")
    parser.add_argument("--upscale", action="store_true",
                        help="upscale photos whose faces are too small: their ground truth is smoother than a real one")
    parser.add_argument("--people", default="(.*)", metavar="REGEX", help="what of a file's name matches this "
                        "is the same for photos of one person, who counts once in the intervals, as '^[a-z]+_[0-9]+'")
    parser.add_argument("--seed", type=int, default=0, help="of sizes and degradations")
    parser.add_argument("--pictures", type=int, default=10, help="faces in the picture, from the worst to the best")
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


def make_table(rows: list[dict]) -> str:
    """Return the means and the differences to the two others, with 95 % intervals over people, as Markdown."""
    *others, own = METHODS
    lines = []
    for preset in dict.fromkeys(row["preset"] for row in rows):
        for metric, (label, digits) in FACE_METRICS.items():
            chosen = [row for row in rows if row["preset"] == preset and f"{metric}_{own}" in row]
            if not chosen:
                continue
            values = np.array([[row[f"{metric}_{name}"] for name in METHODS] for row in chosen])
            by_person = defaultdict(list)
            for row, scores in zip(chosen, values, strict=True):
                by_person[row["person"]].append(scores)
            of_people = np.array([np.mean(scores, axis=0) for scores in by_person.values()])
            means = values.mean(axis=0)
            cells = [preset, str(len(chosen)), label, *(f"{mean:.{digits}f}" for mean in means)]
            for index in range(len(others)):
                ratio = f" (x{means[-1] / means[index]:.2f})" if metric == "lpips" and means[index] else ""
                cells.append(paired_difference(of_people[:, -1], of_people[:, index]).text(digits) + ratio)
            lines.append(cells)
    header = ["degradation", "faces", "metric", *METHODS.values(), *(f"{METHODS[own]} - {METHODS[name]}"
                                                                     for name in others)]
    return markdown_table(header, lines) + "\n"


def gain(row: dict) -> float:
    """Return the gain over Real-ESRGAN in LPIPS, or in PSNR-Y where there is no LPIPS."""
    if "lpips_restored" in row:
        return row["lpips_realesrgan"] - row["lpips_restored"]
    return row["psnr_y_restored"] - row["psnr_y_realesrgan"]


def make_picture(scored: list[tuple[dict, Result]], count: int) -> np.ndarray:
    """Show faces below each other, evenly from the least to the largest gain, with their scores.

    Of each: low quality, bicubic, Real-ESRGAN, restored, and truth.
    """
    ordered, strips = sorted(scored, key=lambda pair: gain(pair[0])), []
    for place in np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int):
        row, result = ordered[place]
        versions = {f"{result.preset}, {row['width']} pixels wide": result.low_quality}
        for name, label in METHODS.items():
            scores = [f"{FACE_METRICS[metric][0].split()[0]} {row[f'{metric}_{name}']:.{FACE_METRICS[metric][1]}f}"
                      for metric in ("psnr_y", "lpips") if f"{metric}_{name}" in row]
            versions[f"{label}: {', '.join(scores)}"] = result.methods[name]
        strips.append(compose_row({**versions, "ground truth": result.truth}))
    return np.concatenate(strips)


def evaluate_photo(args: argparse.Namespace, path: Path, detect: Detector, restore: Restorer,
                   forward: Callable[[np.ndarray], np.ndarray], meter: FaceMeter) -> list[tuple[dict, Result | None]]:
    """Return a row of the report per degradation of a photo, and the result where the face was found again."""
    photo = read_image(path).pixels
    subject, faces = None, detect(photo, path.name)
    if faces:
        subject = draw_subject(path.stem, quantize(photo), faces[0], args.face_sizes, args.seed, upscale=args.upscale)
    if subject is None:
        return [({"file": path.name, "status": "no face", "reason": "none is large enough"}, None)]
    found = []
    for preset in args.presets:
        result = restore_subject(subject, preset, args.output_dir / preset, restore=restore, detect=detect,
                                 upscale=lambda part: forward(part[None])[0], seed=args.seed)
        row = {"file": path.name, "person": person_of(subject.name, args.people), "preset": preset}
        if result is None or min(result.truth.shape[:2]) < SMALLEST_FACE:
            row.update(status="not found", reason="the face was not found in the degraded photo")
            found.append((row, None))
        else:
            height, width = result.low_quality.shape[:2]
            found.append(({**row, "status": "ok", "width": width, "height": height, **meter.measure(result)}, result))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    photos = [photo.path for photo in list_photos(args.input_dir)]
    check_writable(args.output_dir)
    start_tensorflow(args.gpu)
    from model.super_resolver import SuperResolver
    from utils.metrics.lpips import load_lpips
    from utils.weights.checkpoints import REALESRGAN, load_super_resolver

    restore = open_restorer(args.restorer, args.weights_dir, fidelity=args.codeformer_fidelity)
    resolver = SuperResolver(load_super_resolver(REALESRGAN, weights_dir=args.weights_dir).generator)
    forward = resolver.upscaler(resolver.generator)
    meter = FaceMeter(load_lpips(args.weights_dir))
    counts, scored = Counter(), []
    with (Report(args.output_dir / "metrics.csv", SCORE_COLUMNS) as report,
          open_detector("mtcnn", min_confidence=0.9) as detect,
          Progress(len(photos), description="faces", unit="photo") as progress):
        for path in photos:
            try:
                found = evaluate_photo(args, path, detect, restore, forward, meter)
            except UserError as error:
                found = [({"file": path.name, "status": "error", "reason": str(error)}, None)]
                progress.write(f"error: {printable(path.name)}: {' '.join(str(error).splitlines())}")
            rows = [row for row, _ in found]
            report.add(*rows)
            counts.update(row["status"] for row in rows)
            scored += [(row, result) for row, result in found if result]
            progress.update(1, printable(path.name))
    if not scored:
        raise UserError(f"no photo in {args.input_dir} has a face that MTCNN finds, also once it is degraded, and that "
                        "is large enough. Give portraits, or --upscale.")
    table = make_table([row for row, _ in scored])
    write_text(args.output_dir / "table.md", table)
    write_png(args.output_dir / "faces.png", make_picture(scored, args.pictures))
    without, failed, degraded = counts["no face"], counts["error"], counts["ok"] + counts["not found"]
    darkest = max(abs(row["brightness_restored"]) for row, _ in scored)
    print(f"{table}\n{len(photos)} photos: {len(photos) - without - failed} with a face, {without} without, {failed} "
          f"errors. Once degraded, the face was found again in {len(scored)} of {degraded}. Largest error of the mean "
          f"brightness of a restored face: {darkest:.1f} of 255. Scale x{SCALE}; region: the face's box. All of it: "
          f"{args.output_dir}")
    return EXIT_USER_ERROR if failed else 0


if __name__ == "__main__":
    run_cli(main)
