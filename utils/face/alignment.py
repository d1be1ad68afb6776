"""Align faces to 512x512, and paste restored ones back (inverse warp) into the four times larger photo: `Face_HQ`.

Pixel (x, y) has its centre at (x, y), so pixel X of the four times larger photo lies at (X - 1.5) / 4 of the photo, on
the grid of the generator's output and of a bicubic upscale. The original code multiplies the whole inverse matrix by
four instead, which puts a restored face 1.5 pixels too far up and left: `legacy=True`.
"""

import cv2
import numpy as np
from skimage.transform import SimilarityTransform

from config import SCALE
from utils.errors import UserError

ALIGNED_SIZE = 512
# eyes, nose, corners of the mouth (left is left in the picture) of a face in a 96x112 crop: x and y
REFERENCE_POINTS_96X112 = np.array([[30.29459953, 51.69630051], [65.53179932, 51.50139999], [48.02519989, 71.73660278],
                                    [33.54930115, 92.36550140], [62.72990036, 92.20410156]])
INNER_PADDING = 0.25  # of the squared crop, on each side
# over the spread of the reference points: 0 to 0.4 for faces turned by up to 60 degrees, 0.7 in profile, 1 if mirrored
MAX_RESIDUAL = 0.72
SAME_FACE_IOU = 0.3  # above this, two boxes are of the same face
BOX_MARGIN = 0.5  # of the box's side: how far outside of it landmarks may lie
MIN_CROP = 8  # pixels of the photo that an aligned crop covers, at least


def reference_points(size: int = ALIGNED_SIZE) -> np.ndarray:
    """Return the five points of an aligned crop of `size` pixels: [5, 2], x and y."""
    square = 112  # the 96x112 crop is widened to a square, padded by a quarter on each side and scaled
    padded = REFERENCE_POINTS_96X112 + np.array([(square - 96) / 2, 0]) + square * INNER_PADDING
    return padded * size / (square * (1 + 2 * INNER_PADDING))


def estimate_alignment(landmarks: np.ndarray, size: int = ALIGNED_SIZE) -> np.ndarray:
    """Fit the similarity transform (least squares) that maps five landmarks [5, 2] to `reference_points(size)`.

    Returns [2, 3] float64: aligned = matrix @ (x, y, 1). UserError if the points coincide.
    """
    landmarks, transform = np.asarray(landmarks, np.float64), SimilarityTransform()
    fitted = np.isfinite(landmarks).all() and transform.estimate(landmarks, reference_points(size))
    if not fitted or not np.isfinite(transform.params).all() or transform.scale == 0:
        raise UserError(f"the five landmarks of a face must not coincide. Received: {landmarks.tolist()}.")
    return transform.params[:2]


def check_landmarks(landmarks: np.ndarray, matrix: np.ndarray, box: np.ndarray, height: int, width: int) -> None:
    """Raise UserError unless five landmarks [5, 2], aligned by `matrix`, may be of the face in a box (x0, y0, x1, y1).

    `height` and `width` are the photo's.
    """
    reference, margin = reference_points(), BOX_MARGIN * (box[2:] - box[:2] + 1)
    residual = np.linalg.norm(landmarks @ matrix[:, :2].T + matrix[:, 2] - reference)
    spread = np.linalg.norm(reference - reference.mean(axis=0))
    faults = {
        "they are mirrored or in another order": residual > MAX_RESIDUAL * spread,
        "they lie outside of its box": ((landmarks < box[:2] - margin) | (landmarks > box[2:] + margin)).any(),
        "they lie outside of the photo": ((landmarks < 0) | (landmarks > [width - 1, height - 1])).any(axis=1).all(),
        "they are within a few pixels": MIN_CROP * np.sqrt(np.linalg.det(matrix[:, :2])) > ALIGNED_SIZE}
    for fault, holds in faults.items():
        if holds:
            raise UserError(f"the landmarks cannot be a face's: {fault}. Expected: x, y in pixels of the photo, "
                            "of eyes, nose, corners of the mouth, each left one in the picture first. Received: "
                            f"{np.round(landmarks, 1).tolist()}.")


def align_face(photo: np.ndarray, matrix: np.ndarray, size: int = ALIGNED_SIZE) -> np.ndarray:
    """Warp a face of a photo [h, w, 3] to [size, size, 3], bilinearly; black outside the photo, as in training."""
    # only the part that the crop shows: OpenCV warps no image of more than 32767 pixels in a direction
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]]) @ inverse[:, :2].T + inverse[:, 2]
    limits = np.array(photo.shape[1::-1])
    start = np.clip(np.floor(corners.min(axis=0)) - 2, 0, limits - 1).astype(int)
    end = np.clip(np.ceil(corners.max(axis=0)) + 3, start + 1, limits).astype(int)
    shifted = np.column_stack([matrix[:, :2], matrix[:, :2] @ start + matrix[:, 2]])
    part = np.ascontiguousarray(photo[start[1]:end[1], start[0]:end[0]])
    return cv2.warpAffine(part, shifted, (size, size), flags=cv2.INTER_LINEAR)


def inverse_matrix(matrix: np.ndarray, *, legacy: bool = False) -> np.ndarray:
    """Return the transform [2, 3] from the aligned crop to the four times larger photo."""
    inverse = cv2.invertAffineTransform(matrix) * SCALE
    if not legacy:
        inverse[:, 2] += (SCALE - 1) / 2
    return inverse


def paste_region(face: np.ndarray, matrix: np.ndarray, box: tuple[int, int, int, int], *,
                 legacy: bool = False) -> np.ndarray:
    """Inverse-warp a restored face [size, size, 3] into the region `box` of the photo: top, left, height, width.

    Returns [4 * height, 4 * width, 3] in the type of the face; black where the aligned crop does not reach.
    """
    top, left, height, width = box
    shifted = inverse_matrix(matrix, legacy=legacy)
    shifted[:, 2] -= (SCALE * left, SCALE * top)
    return cv2.warpAffine(face, shifted, (SCALE * width, SCALE * height), flags=cv2.INTER_LINEAR)


def coverage(matrix: np.ndarray, box: tuple[int, int, int, int], size: int = ALIGNED_SIZE) -> np.ndarray:
    """Return how much the aligned crop covers each pixel of a region: [4 * height, 4 * width, 1] float32 in [0, 1]."""
    return paste_region(np.ones((size, size), np.float32), matrix, box)[:, :, None]


def intersect_box(corners: np.ndarray, height: int, width: int, *,
                  margin: float = 0.0) -> tuple[int, int, int, int] | None:
    """Return the pixels of a photo that a detector's box covers: (top, left, height, width); None if there are none.

    As published, corners (x0, y0, x1, y1) are truncated towards zero and the last row and column belong to the box.
    `margin`, a share of the box's side, is added on each side.
    """
    x0, y0, x1, y1 = (float(corner) for corner in corners[:4])
    grow_x, grow_y = margin * (x1 - x0), margin * (y1 - y0)
    left, top = max(0, int(x0 - grow_x)), max(0, int(y0 - grow_y))
    right, bottom = min(width - 1, int(x1 + grow_x)), min(height - 1, int(y1 + grow_y))
    if x1 < 0 or y1 < 0 or right < left or bottom < top:
        return None
    return top, left, bottom - top + 1, right - left + 1


def box_overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two boxes, x0, y0, x1, y1 each."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared))
