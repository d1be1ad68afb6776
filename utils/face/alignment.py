"""Cut faces out upright at 512x512, and lay restored ones back onto the four times larger photo.

Pixel (x, y) of an image has its centre at (x, y), so that (X - 1.5) / 4 is the photo's coordinate of pixel X of the
four times larger photo: the grid on which the generator's output and a bicubic enlargement lie. The original code
multiplies the whole inverse matrix by four instead, which puts a restored face 1.5 pixels too far up and to the left.
"""

import cv2
import numpy as np
from skimage.transform import SimilarityTransform

from utils.errors import UserError

ALIGNED_SIZE = 512
SCALE = 4
# Five points (eyes, nose, corners of the mouth; left is left in the picture) of a face in a 96x112 crop, x and y
REFERENCE_POINTS_96X112 = np.array([[30.29459953, 51.69630051], [65.53179932, 51.50139999], [48.02519989, 71.73660278],
                                    [33.54930115, 92.36550140], [62.72990036, 92.20410156]])
INNER_PADDING = 0.25  # of the squared crop, on each side


def reference_points(size: int = ALIGNED_SIZE) -> np.ndarray:
    """Give where the five points lie in an aligned crop: [5, 2], x and y in pixels.

    The 96x112 crop is widened to a square of 112, padded by a quarter on each side and scaled to `size`.
    """
    square = 112
    widened = REFERENCE_POINTS_96X112 + np.array([(square - 96) / 2, 0])
    padded = widened + square * INNER_PADDING
    return padded * size / (square * (1 + 2 * INNER_PADDING))


def estimate_alignment(landmarks: np.ndarray, size: int = ALIGNED_SIZE) -> np.ndarray:
    """Fit the similarity (rotation, scale, translation; least squares) from photo to aligned crop.

    Args:
        landmarks: [5, 2], x and y in the photo.
        size: of the aligned crop.

    Returns:
        [2, 3] float64: aligned = matrix @ (x, y, 1).

    Raises:
        UserError: the points coincide, so that no similarity exists.
    """
    landmarks, transform = np.asarray(landmarks, np.float64), SimilarityTransform()
    fitted = np.isfinite(landmarks).all() and transform.estimate(landmarks, reference_points(size))
    if not fitted or not np.isfinite(transform.params).all() or transform.scale == 0:
        raise UserError(f"the five landmarks of a face must not coincide. Received: {landmarks.tolist()}.")
    return transform.params[:2]


def align_face(photo: np.ndarray, matrix: np.ndarray, size: int = ALIGNED_SIZE) -> np.ndarray:
    """Cut a face out, bilinearly; outside the photo it is black, as the restorers were trained.

    Args:
        photo: [h, w, 3].
        matrix: as `estimate_alignment` gives.
        size: of the crop.

    Returns:
        [size, size, 3] in the type of the photo.
    """
    # only the part the crop sees: OpenCV warps no image of more than 32767 pixels in a direction
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]]) @ inverse[:, :2].T + inverse[:, 2]
    limits = np.array(photo.shape[1::-1])
    start = np.clip(np.floor(corners.min(axis=0)) - 2, 0, limits - 1).astype(int)
    end = np.clip(np.ceil(corners.max(axis=0)) + 3, start + 1, limits).astype(int)
    shifted = np.column_stack([matrix[:, :2], matrix[:, :2] @ start + matrix[:, 2]])
    part = np.ascontiguousarray(photo[start[1]:end[1], start[0]:end[0]])
    return cv2.warpAffine(part, shifted, (size, size), flags=cv2.INTER_LINEAR)


def enlarged_matrix(matrix: np.ndarray, *, legacy: bool = False) -> np.ndarray:
    """Invert an alignment and scale it to the four times larger photo: [2, 3], enlarged = matrix @ (x, y, 1).

    `legacy` gives the original code's, which lies 1.5 pixels off.
    """
    inverse = cv2.invertAffineTransform(matrix) * SCALE
    if not legacy:
        inverse[:, 2] += (SCALE - 1) / 2
    return inverse


def paste_region(face: np.ndarray, matrix: np.ndarray, box: tuple[int, int, int, int], *,
                 legacy: bool = False) -> np.ndarray:
    """Lay a restored face onto one region of the four times larger photo; only this region is computed.

    Args:
        face: [size, size, 3], restored and aligned.
        matrix: the alignment it was cut with.
        box: (top, left, height, width) of the region in the photo.
        legacy: as the original code places it.

    Returns:
        [4 * height, 4 * width, 3] in the type of the face; black where the aligned crop does not reach.
    """
    top, left, height, width = box
    shifted = enlarged_matrix(matrix, legacy=legacy)
    shifted[:, 2] -= (SCALE * left, SCALE * top)
    return cv2.warpAffine(face, shifted, (SCALE * width, SCALE * height), flags=cv2.INTER_LINEAR)


def coverage(matrix: np.ndarray, box: tuple[int, int, int, int], size: int = ALIGNED_SIZE, *,
             legacy: bool = False) -> np.ndarray:
    """Give how far the aligned crop reaches each pixel of a region: [4 * height, 4 * width, 1] float32 in [0, 1]."""
    return paste_region(np.ones((size, size), np.float32), matrix, box, legacy=legacy)[:, :, None]


def intersect_box(corners: np.ndarray, height: int, width: int, *,
                  margin: float = 0.0) -> tuple[int, int, int, int] | None:
    """Turn a detector's box into the pixels of the photo it covers.

    As published, corners are truncated towards zero and the last row and column belong to the box.

    Args:
        corners: (x0, y0, x1, y1), in pixels.
        height: of the photo.
        width: of the photo.
        margin: what is added on each side, as a share of the box's side.

    Returns:
        (top, left, height, width) inside the photo, or None where the box covers none of it.
    """
    x0, y0, x1, y1 = (float(corner) for corner in corners[:4])
    grow_x, grow_y = margin * (x1 - x0), margin * (y1 - y0)
    left, top = max(0, int(x0 - grow_x)), max(0, int(y0 - grow_y))
    right, bottom = min(width - 1, int(x1 + grow_x)), min(height - 1, int(y1 + grow_y))
    if x1 < 0 or y1 < 0 or right < left or bottom < top:
        return None
    return top, left, bottom - top + 1, right - left + 1


def box_overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Give the intersection of two boxes, x0, y0, x1, y1 each, over their union."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared))
