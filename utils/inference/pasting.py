"""Paste restored faces into an upscaled photo: their detail, but the photo's own brightness and colours."""

from collections.abc import Sequence

import cv2
import numpy as np

from config import SCALE
from utils.face.alignment import coverage
from utils.face.pairs import PhotoFace
from utils.image.io import LUMA

SMALLEST_FACE = 16  # shorter side of the box in low-quality pixels; smaller faces stay as they are
LOW_PASS = 1 / 8  # of the box's shorter side: sigma of the Gaussian below which the photo is kept
ROUNDNESS = 3  # exponent of the superellipse within the box: 2 for an ellipse
FEATHER = 0.3  # of the superellipse's radius, over which a face fades out


def can_be_pasted(face: PhotoFace) -> bool:
    """Whether a face is large enough, and its place known."""
    return face.box is not None and min(face.box[2:]) >= SMALLEST_FACE


def paste_faces(samples: np.ndarray, faces: Sequence[PhotoFace], trust: Sequence[np.ndarray], *,
                weight: float = 1.0) -> None:
    """Paste faces into an upscaled photo, in place; outside of their boxes nothing changes.

    Args:
        samples: integers [4h, 4w, 1 or 3], gray or RGB.
        faces: with boxes; where they overlap, their weights are divided by the sum, if that is more than 1.
        trust: of each face, the weights of its pixels [4h, 4w], in [0, 1].
        weight: of all faces, in [0, 1].
    """
    size = (samples.shape[0] // SCALE, samples.shape[1] // SCALE)
    masks = [weight * pixels * feathered_mask(face.box, face.matrix, size)
             for face, pixels in zip(faces, trust, strict=True)]
    details = [_added_detail(samples[_slices(face.box, SCALE)], face.patches.hq[0], mask)
               for face, mask in zip(faces, masks, strict=True)]
    total = np.zeros(size, np.float32)  # of the masks, at the photo's size: of the result's it may not fit the memory
    for face, mask in zip(faces, masks, strict=True):
        total[_slices(face.box)] += cv2.resize(mask, face.box[3:1:-1], interpolation=cv2.INTER_AREA)
    for face, mask, detail in zip(faces, masks, details, strict=True):
        where = _slices(face.box, SCALE)
        share = mask / cv2.resize(np.maximum(total[_slices(face.box)], 1), mask.shape[::-1])
        changed = samples[where] + detail * share[:, :, None]
        samples[where] = np.clip(np.rint(changed), 0, np.iinfo(samples.dtype).max)


def feathered_mask(box: tuple[int, int, int, int], matrix: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Return a mask [4h, 4w] of a box: 1 in the middle, 0 at its edges but for those on the photo's border.

    It is 0, too, where the crop that `matrix` aligns does not reach. `size` is (height, width) of the photo.
    """
    top, left, height, width = box
    rows = _axis(height, top == 0, top + height == size[0])
    columns = _axis(width, left == 0, left + width == size[1])
    radius = (rows[:, None]**ROUNDNESS + columns**ROUNDNESS)**(1 / ROUNDNESS)
    mask = np.clip((1 - radius) / FEATHER, 0, 1)
    mask = (mask * mask * (3 - 2 * mask)).astype(np.float32)
    if matrix is not None and (covered := coverage(matrix, box)).min() < 1:
        width = 2 * int(FEATHER / 4 * min(mask.shape)) + 1  # of the fading, inside of what is covered
        mask *= cv2.blur(cv2.erode(np.floor(covered), np.ones((width, width))), (width, width))
    return mask


def _axis(length: int, starts_at_border: bool, ends_at_border: bool) -> np.ndarray:
    """Return the distance of high-quality pixels from the middle of a side, as a share of its half.

    A side on the photo's border counts as the face's middle, from which nothing fades.
    """
    position = (np.arange(SCALE * length) + 0.5) / (SCALE * length)
    low, high = -(not starts_at_border), int(not ends_at_border)
    return np.abs(low + (high - low) * position)


def _slices(box: tuple[int, int, int, int], scale: int = 1) -> tuple[slice, slice]:
    top, left, height, width = (scale * side for side in box)
    return slice(top, top + height), slice(left, left + width)


def _added_detail(samples: np.ndarray, region: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the high frequencies of the difference to a restored region; their mean under the mask is zero."""
    if samples.shape[2] == 1:
        region = (region @ LUMA)[:, :, None]
    difference = region * np.float32(np.iinfo(samples.dtype).max) - samples
    sigma = LOW_PASS * min(difference.shape[:2])
    difference -= cv2.GaussianBlur(difference, (0, 0), sigma).reshape(difference.shape)
    mean = np.tensordot(mask, difference, axes=2) / max(mask.sum(), np.finfo(np.float32).tiny)
    return difference - mean
