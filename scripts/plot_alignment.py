"""Draw where a face lands that is aligned and pasted back, here and in the original code: docs/alignment.jpg."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np

from config import SCALE
from utils.console import ArgumentParser, run_cli
from utils.errors import require
from utils.face.alignment import align_face, estimate_alignment, intersect_box, paste_region
from utils.face.detection import open_detector
from utils.files import atomic_path
from utils.image.io import to_float
from utils.tensorflow_setup import start_tensorflow

AMPLIFICATION = 6
PANEL = 332, 432  # width and height, pixels
QUALITY = 85  # a PNG of these differences is five times as large


def add_label(image: np.ndarray, text: str) -> np.ndarray:
    """Put a strip with a text above an image."""
    strip = np.full((30, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "alignment.jpg", help="a .jpg")
    args = parser.parse_args(argv)
    require(args.output.suffix.lower() in (".jpg", ".jpeg"), "--output must end in .jpg", args.output)
    start_tensorflow("-1")
    import skimage.data

    photo = skimage.data.astronaut()
    with open_detector("mtcnn", min_confidence=0.9) as detect:
        [face] = detect(to_float(photo), "astronaut")
    box, matrix = intersect_box(face.box, *photo.shape[:2]), estimate_alignment(face.landmarks)
    top, left, height, width = (SCALE * number for number in box)
    upscaled = cv2.resize(photo, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    target = upscaled[top:top + height, left:left + width]
    panels = [add_label(cv2.resize(target, PANEL), "the photo, bicubic x4")]
    for legacy, name in ((False, "here"), (True, "--legacy_alignment")):
        pasted = paste_region(align_face(photo, matrix), matrix, box, legacy=legacy)
        difference = np.clip(128 + AMPLIFICATION * (pasted.astype(int) - target), 0, 255).astype(np.uint8)
        panels.append(add_label(cv2.resize(difference, PANEL), f"difference x{AMPLIFICATION}: {name}"))
    _, encoded = cv2.imencode(".jpg", np.concatenate(panels, axis=1)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    with atomic_path(args.output) as temporary:
        temporary.write_bytes(encoded)


if __name__ == "__main__":
    run_cli(main)
