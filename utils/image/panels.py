"""A labelled picture of several versions of one photo, side by side."""

import cv2
import numpy as np

from config import SCALE

PANEL = 480  # width of a panel, pixels
LABEL_HEIGHT = 36
MARGIN = 6
EDGE_LIMIT = 240.0  # Sobel gradient: an edge of 60 of 255 levels
CROP_RANGE = (64, 240)  # side of the upscaled crops, high-quality pixels
BACKGROUND = 255


def compose_comparison(versions: dict[str, np.ndarray], *, face: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Lay versions out in columns: the whole photo, its face and its most detailed other part, both upscaled.

    `versions` are label -> uint8 RGB [h, w, 3], all of one size; the first one chooses the detailed part. `face` is
    (top, left, height, width) of a face in these images; without one the middle is shown.
    """
    first = next(iter(versions.values()))
    height, width = first.shape[:2]
    side = min(height, width, int(np.clip(min(height, width) // 3, *CROP_RANGE)))
    top, left, face_height, face_width = face or (height // 2, width // 2, 0, 0)
    face_crop = _clip_crop(top + face_height // 2 - side // 2, left + face_width // 2 - side // 2, side, height, width)
    crops = [face_crop, _most_detailed(first, side, avoid=face_crop)]
    columns = []
    for label, image in versions.items():
        rows = [_label(label), _fit(image)]
        rows += [cv2.resize(image[y:y + side, x:x + side], (PANEL, PANEL), interpolation=cv2.INTER_NEAREST)
                 for y, x in crops]
        columns.append(_stack(rows, axis=0))
    return _stack(columns, axis=1)


def compose_row(versions: dict[str, np.ndarray]) -> np.ndarray:
    """Lay versions of one image, label -> uint8 RGB [h, w, 3], out beside each other, each under its label."""
    return _stack([_stack([_label(label), _fit(image)], axis=0) for label, image in versions.items()], axis=1)


def compose_exact(versions: dict[str, np.ndarray], *, columns: int) -> np.ndarray:
    """Lay versions of one size, label -> uint8 RGB [h, w, 3], out in rows of so many, pixel for pixel."""
    panels = [_stack([_label(label, image.shape[1]), image], axis=0) for label, image in versions.items()]
    panels += [np.full_like(panels[0], BACKGROUND)] * (-len(panels) % columns)
    rows = [_stack(panels[start:start + columns], axis=1) for start in range(0, len(panels), columns)]
    return _stack(rows, axis=0)


def _clip_crop(top: int, left: int, side: int, height: int, width: int) -> tuple[int, int]:
    return int(np.clip(top, 0, height - side)), int(np.clip(left, 0, width - side))


def _most_detailed(image: np.ndarray, side: int, *, avoid: tuple[int, int]) -> tuple[int, int]:
    """Find the crop with the most texture that does not overlap another crop, if there is one; looks at a quarter."""
    small = cv2.resize(image, (max(1, image.shape[1] // SCALE), max(1, image.shape[0] // SCALE)),
                       interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    # limited, so that much texture counts for more than one bold edge
    energy = np.minimum(np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)), EDGE_LIMIT)
    window = max(1, side // SCALE)
    sums = cv2.boxFilter(energy, -1, (window, window), anchor=(0, 0), normalize=False)
    sums = sums[:energy.shape[0] - window + 1, :energy.shape[1] - window + 1].copy()
    top, left = (corner // SCALE for corner in avoid)
    sums[max(0, top - window):top + window + 1, max(0, left - window):left + window + 1] -= sums.max() + 1
    row, column = np.unravel_index(np.argmax(sums), sums.shape)
    return _clip_crop(int(row) * SCALE, int(column) * SCALE, side, *image.shape[:2])


def _fit(image: np.ndarray) -> np.ndarray:
    """Scale to the width of a panel, or to one and a half times that in height, and centre."""
    scale = min(PANEL / image.shape[1], 1.5 * PANEL / image.shape[0])
    height, width = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    panel = np.full((height, PANEL, 3), BACKGROUND, np.uint8)
    left = (PANEL - width) // 2
    panel[:, left:left + width] = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    return panel


def _label(text: str, width: int = PANEL) -> np.ndarray:
    strip = np.full((LABEL_HEIGHT, width, 3), BACKGROUND, np.uint8)
    scale = 0.7
    (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (width - 2 * MARGIN) / max(text_width, 1))
    cv2.putText(strip, text, (MARGIN, 25), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _stack(images: list[np.ndarray], *, axis: int) -> np.ndarray:
    shape = list(images[0].shape)
    shape[axis] = MARGIN
    gap = np.full(shape, BACKGROUND, np.uint8)
    parts = [part for image in images for part in (image, gap)]
    return np.concatenate(parts[:-1], axis=axis)
