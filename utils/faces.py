"""Face pairs of a photo, and the patches that adaptation learns from.

`DIR/Face_LQ/<stem>_<index>.png` is a face as it is in the photo, `DIR/Face_HQ/<stem>_<index>.png` the same face
restored at four times the size.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.images import read_image
from utils.photos import IMAGE_ENDINGS

SCALE = 4
FACE_NAME = re.compile(r"(?P<stem>.+)_(?P<index>\d+)", re.DOTALL)
MAX_BATCH_PIXELS = 8192  # low-quality pixels per batch: its gradient takes about 2 GiB in the 23-block generator


class FacePair(NamedTuple):
    """The files of one face."""

    lq: Path
    hq: Path


class Patches(NamedTuple):
    """Patches of one size: `lq` [n, h, w, 3] and `hq` [n, 4h, 4w, 3], float32 RGB in [0, 1]."""

    lq: np.ndarray
    hq: np.ndarray


class FaceFolder:
    """The faces below one folder, listed once."""

    def __init__(self, folder: Path):
        """List `folder/Face_LQ` and `folder/Face_HQ`.

        Raises:
            UserError: one of the two folders does not exist.
        """
        self.folder = folder
        self._lq = _faces_by_stem(folder / "Face_LQ")
        self._hq = _faces_by_stem(folder / "Face_HQ")

    def pairs(self, stem: str) -> list[FacePair]:
        """Give the faces of the photo with this stem, in order of their index.

        Raises:
            UserError: a face has no partner, or two files are the same face.
        """
        lq, hq = _one_per_index(self._lq.get(stem, {})), _one_per_index(self._hq.get(stem, {}))
        for index in sorted(lq.keys() ^ hq.keys()):
            present = lq.get(index) or hq[index]
            absent = "Face_HQ" if index in lq else "Face_LQ"
            raise UserError(f"the face {present} has no partner in {self.folder / absent}. "
                            "Add it or delete this one.")
        return [FacePair(lq[index], hq[index]) for index in sorted(lq)]


def _faces_by_stem(folder: Path) -> dict[str, dict[int, list[Path]]]:
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise UserError(f"the folder {folder} does not exist. Check --face_dir, or make the faces with "
                        "generate_test_faces.py.") from error
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}. Check --face_dir.") from error
    faces: dict[str, dict[int, list[Path]]] = {}
    for path in paths:
        match = FACE_NAME.fullmatch(path.stem)
        if match and path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."):
            faces.setdefault(match["stem"], {}).setdefault(int(match["index"]), []).append(path)
    return faces


def _one_per_index(faces: dict[int, list[Path]]) -> dict[int, Path]:
    for index, paths in faces.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(f"{names} in {paths[0].parent} are both the face {index} of one photo. Delete or renumber "
                            "one.")
    return {index: path for index, (path,) in faces.items()}


def read_face(pair: FacePair) -> Patches:
    """Read one face: batches of one.

    Raises:
        UserError: a file cannot be read, or the high-quality one is not exactly four times the other.
    """
    lq, hq = read_image(pair.lq).pixels, read_image(pair.hq).pixels
    if hq.shape[0] != SCALE * lq.shape[0] or hq.shape[1] != SCALE * lq.shape[1]:
        raise UserError(f"{pair.hq} must be exactly {SCALE} times {pair.lq}: {lq.shape[1] * SCALE}x"
                        f"{lq.shape[0] * SCALE} pixels. Received: {hq.shape[1]}x{hq.shape[0]}.")
    return Patches(lq[None], hq[None])


def sample_patches(face: Patches, rng: np.random.Generator, *, patch_size: int, count: int) -> Patches:
    """Draw `count` patches at random positions, every position equally likely, the last one included.

    Args:
        face: one face, as `read_face` gives.
        rng: where the positions come from.
        patch_size: side of a low-quality patch. A face that is smaller in a direction is taken whole, once.
        count: how many patches.
    """
    height, width = face.lq.shape[1:3]
    if height < patch_size or width < patch_size or (height, width) == (patch_size, patch_size):
        return face
    tops = rng.integers(0, height - patch_size + 1, count)
    lefts = rng.integers(0, width - patch_size + 1, count)
    return Patches(*(np.concatenate([
        image[:, top * scale:(top + patch_size) * scale, left * scale:(left + patch_size) * scale]
        for top, left in zip(tops, lefts, strict=True)]) for image, scale in ((face.lq, 1), (face.hq, SCALE))))


def hold_out(patches: list[Patches], fraction: float) -> tuple[list[Patches], list[Patches]]:
    """Divide patches into those to learn from and those held out: the last `fraction` of each face, one at least.

    A face of one patch is learnt from, unless that leaves none to hold out: then the last face is held out.

    Returns:
        (learn, held out). A single patch serves as both, there being nothing else to judge by.
    """
    learn, held = [], []
    for batch in patches:
        count = min(max(1, int(len(batch.lq) * fraction)), len(batch.lq) - 1)
        learn.append(Patches(batch.lq[:len(batch.lq) - count], batch.hq[:len(batch.lq) - count]))
        held.append(Patches(batch.lq[len(batch.lq) - count:], batch.hq[len(batch.lq) - count:]))
    held = [batch for batch in held if len(batch.lq)]
    if not held:
        return (learn[:-1], learn[-1:]) if len(learn) > 1 else (learn, learn)
    return learn, held


def batch_patches(patches: list[Patches]) -> Iterator[Patches]:
    """Join patches of one size into batches of bounded memory, sizes in order of first appearance."""
    by_size: dict[tuple[int, ...], list[Patches]] = {}
    for batch in patches:
        by_size.setdefault(batch.lq.shape[1:3], []).append(batch)
    for (height, width), batches in by_size.items():
        lq, hq = (np.concatenate(images) for images in zip(*batches, strict=True))
        step = max(1, MAX_BATCH_PIXELS // (height * width))
        for start in range(0, len(lq), step):
            yield Patches(lq[start:start + step], hq[start:start + step])
