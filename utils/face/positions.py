"""Position maps: where in the face each pixel of a photo lies, for `model.face_restorer`."""

import numpy as np

from utils.face.alignment import ALIGNED_SIZE, reference_points

LANDMARK_SIGMA = 0.12  # of half the aligned crop's side
SCALE_GAIN = 25.0  # brings the map of the scale near to 0 for faces of about 25 pixels


def position_maps(matrix: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Return the position maps of a region, an input of the face restorer.

    Args:
        matrix: [2, 3], from the photo to the aligned crop, as `estimate_alignment` returns.
        top: first row of the region in the photo; it may lie outside of it, as the next three may.
        left: first column.
        height: of the region.
        width: of the region.

    Returns:
        [height, width, 8] float32: a Gaussian around each of the five landmarks of the aligned crop; x and y there,
        from -1 to 1; and the logarithm of the step between pixels.
    """
    columns, rows = np.meshgrid(np.arange(left, left + width), np.arange(top, top + height))
    return maps_of(np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.asarray(matrix).T)


def maps_of(points: np.ndarray) -> np.ndarray:
    """Return the maps of pixels [h, w, 2] that are given by x and y in the aligned crop; at least 2 columns."""
    points = np.asarray(points) * (2 / ALIGNED_SIZE) - 1
    landmarks = reference_points() * (2 / ALIGNED_SIZE) - 1
    distances = np.square(points[:, :, None] - landmarks).sum(axis=-1)
    step = np.linalg.norm(points[0, 1] - points[0, 0])
    scale = np.full((*points.shape[:2], 1), np.log(step * SCALE_GAIN))
    return np.concatenate([np.exp(-distances / (2 * LANDMARK_SIGMA**2)), points, scale], axis=-1).astype(np.float32)
