"""Make the demo's data from a photo in scikit-image, or compare the results on it (--summary).

The photo is NASA's portrait of Eileen Collins (public domain).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from config import SCALE
from utils.console import ArgumentParser, run_cli
from utils.data.degradations import compress_jpeg
from utils.errors import UserError
from utils.face.pairs import locate_face
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.panels import compose_comparison, compose_row
from utils.image.resizing import resize_bicubic
from utils.metrics.fidelity import psnr_y, ssim
from utils.tensorflow_setup import start_tensorflow

STEM = "astronaut"
BLUR_SIGMA = 1.6  # HQ pixels: a slightly unsharp lens
NOISE_SIGMA = 3.0  # of 255, on the small photo: a camera at medium sensitivity
JPEG_QUALITY = 80
NOISE_SEED = 0
RUNS = {"Real-ESRGAN": "realesrgan", "un-adapted": "unadapted", "adapted": "adapted"}  # label -> folder of the results


def degrade(photo: np.ndarray) -> np.ndarray:
    """Blur a photo, uint8 RGB [4h, 4w, 3], downscale it by 4, add noise and compress it, always in the same way."""
    blurred = cv2.GaussianBlur(to_float(photo), (0, 0), BLUR_SIGMA)
    height, width = photo.shape[0] // SCALE, photo.shape[1] // SCALE
    small = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(NOISE_SEED).normal(0, NOISE_SIGMA / 255, small.shape).astype(np.float32)
    return compress_jpeg(small + noise, JPEG_QUALITY)


def build(folder: Path) -> None:
    """Write GT and LQ below `folder`."""
    import skimage.data

    ground_truth = skimage.data.astronaut()
    write_png(folder / "GT" / f"{STEM}.png", ground_truth)
    write_png(folder / "LQ" / f"{STEM}.png", degrade(ground_truth))
    print(f"demo data: {folder}")


def summarize(folder: Path, results: Path, lpips: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Print the scores of all results and of their face, and write pictures of both.

    `folder` has the demo's data and the faces that `generate_test_faces.py` wrote, `results` the folders in RUNS.
    """
    low_quality = read_image(folder / "LQ" / f"{STEM}.png").pixels
    place = locate_face(low_quality, read_image(folder / "Face_LQ" / f"{STEM}_0.png").pixels)
    if place is None:
        raise UserError(f"the face in {folder / 'Face_LQ'} is not from {folder / 'LQ'}. Run: make demo.")

    truth = _read(folder / "GT")
    photos = {"bicubic": quantize(resize_bicubic(low_quality, *truth.shape[:2]))}
    photos |= {label: _read(results / name) for label, name in RUNS.items()}
    _print_scores("photo", photos, truth, lpips)
    top, left, height, width = place = tuple(SCALE * side for side in place)
    box = np.s_[top:top + height, left:left + width]
    restored = quantize(read_image(folder / "Face_HQ" / f"{STEM}_0.png").pixels)
    faces = {"bicubic": photos["bicubic"][box], "restored face": restored}
    _print_scores("face the network was adapted to", faces, truth[box], lpips)

    write_png(results / "comparison.png", compose_comparison(photos | {"ground truth": truth}, face=place))
    write_png(results / "face.png", compose_row(faces | {"ground truth": truth[box]}))
    print(f"\npictures: {results / 'comparison.png'}, {results / 'face.png'}\n"
          "un-adapted, adapted: metaf2n-x4plus; its results on other photos: pretrained_models/metaf2n-x4plus.md")


def _read(folder: Path) -> np.ndarray:
    return quantize(read_image(folder / f"{STEM}.png").pixels)


def _print_scores(title: str, versions: dict[str, np.ndarray], truth: np.ndarray,
                  lpips: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Print one line per version: label -> uint8 RGB, all of the size of `truth`."""
    print(f"\n{title:32} {'PSNR-Y (dB)':>11} {'SSIM':>7} {'LPIPS (lower is better)':>24}")
    for label, image in versions.items():
        distance = lpips(to_float(image), to_float(truth))
        print(f"{label:32} {psnr_y(image, truth):11.2f} {ssim(image, truth):7.4f} {distance:24.4f}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default="./datasets/demo", help="folder of the data")
    parser.add_argument("--results_dir", type=Path, default="./results/demo", help="folder of the results")
    parser.add_argument("--summary", action="store_true", help="compare the results instead of making the data")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    if not args.summary:
        build(args.output_dir)
        return
    start_tensorflow()
    from utils.metrics.lpips import load_lpips, make_lpips_distance

    summarize(args.output_dir, args.results_dir, make_lpips_distance(load_lpips()))


if __name__ == "__main__":
    run_cli(main)
