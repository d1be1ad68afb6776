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
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.panels import compose_row
from utils.image.resizing import resize_bicubic
from utils.metrics.fidelity import psnr_y, ssim
from utils.tensorflow_setup import start_tensorflow

STEM, HEAD_STEM = "astronaut", "astronaut_head"
BLUR_SIGMA = 1.6  # HQ pixels: a slightly unsharp lens
NOISE_SIGMA = 3.0  # of 255, on the small photo: a camera at medium sensitivity
JPEG_QUALITY = 80
NOISE_SEED = 0
HEAD = np.s_[32:176, 144:288]  # in the ground truth; it is shown, and is the photo that is not degraded
FACE = np.s_[64:164, 176:256]  # is scored, too
RESULTS = {"Real-ESRGAN": "realesrgan", "ours": "ours"}  # label -> folder


def degrade(photo: np.ndarray) -> np.ndarray:
    """Blur a photo, uint8 RGB [4h, 4w, 3], downscale it by 4, add noise and compress it, always in the same way."""
    blurred = cv2.GaussianBlur(to_float(photo), (0, 0), BLUR_SIGMA)
    height, width = photo.shape[0] // SCALE, photo.shape[1] // SCALE
    small = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(NOISE_SEED).normal(0, NOISE_SIGMA / 255, small.shape).astype(np.float32)
    return compress_jpeg(small + noise, JPEG_QUALITY)


def build(folder: Path) -> None:
    """Write the portrait to GT, degraded to LQ, and its head as it is to photos, below `folder`."""
    import skimage.data

    ground_truth = skimage.data.astronaut()
    write_png(folder / "GT" / f"{STEM}.png", ground_truth)
    write_png(folder / "LQ" / f"{STEM}.png", degrade(ground_truth))
    write_png(folder / "photos" / f"{HEAD_STEM}.png", ground_truth[HEAD])
    print(f"demo data: {folder}")


def summarize(folder: Path, results: Path, lpips: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Print the scores of all results on the degraded portrait and of its face, and write pictures.

    `folder` has the demo's data, `results` the folders in RESULTS.
    """
    truth = _read(folder / "GT" / f"{STEM}.png")
    versions = _versions(folder / "LQ" / f"{STEM}.png", results)
    for title, region in (("degraded portrait", np.s_[:]), ("its face", FACE)):
        print(f"\n{title:32} {'PSNR-Y (dB)':>11} {'SSIM':>7} {'LPIPS (lower is better)':>24}")
        for label, version in versions.items():
            image, reference = version[region], truth[region]
            print(f"{label:32} {psnr_y(image, reference):11.2f} {ssim(image, reference):7.4f} "
                  f"{lpips(to_float(image), to_float(reference)):24.4f}")
    heads = {label: image[HEAD] for label, image in {**versions, "ground truth": truth}.items()}
    for name, shown in (("comparison", heads), ("photo", _versions(folder / "photos" / f"{HEAD_STEM}.png", results))):
        write_png(results / f"{name}.png", compose_row(shown))
    print(f"\npictures: {results / 'comparison.png'}, {results / 'photo.png'}")


def _read(path: Path) -> np.ndarray:
    return quantize(read_image(path).pixels)


def _versions(photo: Path, results: Path) -> dict[str, np.ndarray]:
    """Return a photo upscaled bicubically, and its results, by label."""
    pixels = read_image(photo).pixels
    upscaled = quantize(resize_bicubic(pixels, *(SCALE * side for side in pixels.shape[:2])))
    return {"photo (bicubic)": upscaled,
            **{label: _read(results / name / photo.name) for label, name in RESULTS.items()}}


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
