"""Build the demo data set from a photograph inside scikit-image, or (--summary) compare the results on it.

The photograph is NASA's portrait of Eileen Collins, which is in the public domain. Its face is found and restored by
generate_test_faces.py then, as that of any photo.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from config import SCALE
from utils.console import ArgumentParser, run_cli
from utils.errors import UserError
from utils.image.io import quantize, read_image, resize_bicubic, to_float, write_png
from utils.image.panels import compose_comparison, compose_row, locate_face
from utils.metrics.fidelity import psnr_rgb, psnr_y, ssim

STEM = "astronaut"
BLUR_SIGMA = 1.6  # HQ pixels: a slightly unsharp lens
NOISE_SIGMA = 3.0  # of 255, on the small photo: a camera at medium sensitivity
JPEG_QUALITY = 80
NOISE_SEED = 0
RUNS = {  # what the results are called, and the folder `make demo` writes them to
    "Real-ESRGAN": "realesrgan",
    "un-adapted": "unadapted",
    "adapted": "adapted",
    "adapted, safeguard": "safeguarded",
}


def degrade(photo: np.ndarray) -> np.ndarray:
    """Blur, shrink four times, add noise and compress a photo, always in the same way.

    Args:
        photo: [4h, 4w, 3] uint8 RGB.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    blurred = cv2.GaussianBlur(to_float(photo), (0, 0), BLUR_SIGMA)
    height, width = photo.shape[0] // SCALE, photo.shape[1] // SCALE
    small = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(NOISE_SEED).normal(0, NOISE_SIGMA / 255, small.shape).astype(np.float32)
    _, jpeg = cv2.imencode(".jpg", quantize(small + noise)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[:, :, ::-1]


def build(folder: Path) -> None:
    """Write GT and LQ below `folder`."""
    import skimage.data

    ground_truth = skimage.data.astronaut()
    write_png(folder / "GT" / f"{STEM}.png", ground_truth)
    write_png(folder / "LQ" / f"{STEM}.png", degrade(ground_truth))
    print(f"demo data: {folder}")


def summarize(folder: Path, results: Path) -> None:
    """Print PSNR and SSIM of all results and of bicubic enlargement, and write a picture of them."""
    from skimage.metrics import structural_similarity

    ground_truth = quantize(read_image(folder / "GT" / f"{STEM}.png").pixels)
    low_quality = read_image(folder / "LQ" / f"{STEM}.png").pixels
    versions = {"bicubic": quantize(resize_bicubic(low_quality, *ground_truth.shape[:2]))}
    for label, name in RUNS.items():
        versions[label] = quantize(read_image(results / name / f"{STEM}.png").pixels)
    print(f"\n{'against the ground truth':32} {'PSNR-Y':>9} {'SSIM':>7} {'PSNR RGB':>10} {'SSIM RGB':>9}")
    for label, image in versions.items():
        ssim_rgb = structural_similarity(ground_truth, image, channel_axis=2, gaussian_weights=True, sigma=1.5,
                                         use_sample_covariance=False)
        print(f"{label:32} {psnr_y(image, ground_truth):9.2f} {ssim(image, ground_truth):7.4f} "
              f"{psnr_rgb(image, ground_truth):10.2f} {ssim_rgb:9.4f}")
    face = locate_face(low_quality, read_image(folder / "Face_LQ" / f"{STEM}_0.png").pixels)
    if face is None:
        raise UserError(f"the face in {folder / 'Face_LQ'} is not from {folder / 'LQ'}. Run: make demo.")
    picture = results / "comparison.png"
    write_png(picture, compose_comparison({**versions, "ground truth": ground_truth}, face=face))
    _show_face(folder, results / "face.png", versions["bicubic"], ground_truth, face)
    print("un-adapted, adapted: metaf2n-x4plus, which was trained so that a step on a photo's faces helps.\n"
          "What that gains, on which photos, and what it does not: pretrained_models/metaf2n-x4plus.md")
    print(f"comparison: {picture}")


def _show_face(folder: Path, path: Path, bicubic: np.ndarray, ground_truth: np.ndarray,
               place: tuple[int, int, int, int]) -> None:
    """Print how well the face was restored that the photo was adapted to, and write a picture of it."""
    top, left, height, width = place
    versions = {"bicubic": bicubic[top:top + height, left:left + width],
                "restored": quantize(read_image(folder / "Face_HQ" / f"{STEM}_0.png").pixels)}
    truth = ground_truth[top:top + height, left:left + width]
    print(f"\n{'the face that was adapted to':32} {'PSNR-Y':>9} {'SSIM':>7}     (luma)")
    for label, image in versions.items():
        print(f"{label:32} {psnr_y(image, truth):9.2f} {ssim(image, truth):7.4f}")
    write_png(path, compose_row({**versions, "ground truth": truth}))
    print(f"face: {path}\n")


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default="./datasets/demo", help="folder of the data set")
    parser.add_argument("--results_dir", type=Path, default="./results/demo",
                        help="folder with the results, for --summary")
    parser.add_argument("--summary", action="store_true", help="compare the results instead of building the data set")
    args = parser.parse_args(argv)
    if args.summary:
        summarize(args.output_dir, args.results_dir)
    else:
        build(args.output_dir)


if __name__ == "__main__":
    run_cli(main)
