"""Face pairs: `Face_LQ/<key>_<index>.png` is a face as it is in the photo `<key>`, `Face_HQ/<key>_<index>.png`
the same face restored at four times the size.
"""

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config import SCALE
from utils.errors import UserError
from utils.face.alignment import estimate_alignment
from utils.face.detection import LANDMARK_COLUMNS
from utils.face.patches import Patches
from utils.image.io import Photo, image_size, read_image
from utils.image.listing import Source, Unused, same_name, scan_folder
from utils.report import read_rows

BOX_PIXELS = ("top", "left", "height", "width")  # columns of faces.csv: the pixels of Face_LQ in the photo
# Mean squared difference of a face to the photo's own, over the face's variance, or in [0, 1]: recompression at quality
# 50 gives up to 0.2; other people in the same pose, of the same studio, differ by 0.24 and more.
MAX_RELATIVE_ERROR, MAX_ERROR = 0.2, 1e-3
FACE_NAME = re.compile(r"(?P<key>.+)_(?P<index>\d+)", re.DOTALL)
NO_INDEX = -1  # of a face that is named as its photo
NO_PHOTO = "of no photo"


class FacePair(NamedTuple):
    """The files of one face."""

    lq: Path
    hq: Path


class PhotoFace(NamedTuple):
    """A face of a photo.

    `patches` are its pixels, as batches of one; `box` (top, left, height, width) is its place in the photo, and
    `matrix` aligns it, as `estimate_alignment` returns; None where they are not known.
    """

    name: str
    patches: Patches
    box: tuple[int, int, int, int] | None = None
    matrix: np.ndarray | None = None

    def located(self, photo: np.ndarray) -> "PhotoFace":
        """Return this face with its box in a photo [h, w, 3], or with none if it is not this photo's."""
        lq = self.patches.lq[0]
        if self.box is not None:
            top, left, height, width = self.box
            crop = photo[top:top + height, left:left + width]
            if crop.shape == lq.shape and _is_same_face(float(np.square(crop - lq).mean()), lq):
                return self
        return self._replace(box=locate_face(photo, lq), matrix=None)


class FaceListing(NamedTuple):
    """The images in a folder of faces: (index, path) by the photo's key as of `same_name`; and what is not used."""

    faces: dict[str, list[tuple[int, Path]]]
    unused: list[Unused]


def list_faces(folder: Path, keys: Iterable[str] | None = None, *, recursive: bool = False) -> FaceListing:
    """List the faces in a folder `Face_LQ`, `Face_HQ` or `Aligned`, sorted by name.

    With the photos' `keys`, `<key>.png` is a face of the photo `<key>`, too, as in the original code, and others are
    not used; without, `<key>_<index>` is of `<key>`. UserError if the folder cannot be listed.
    """
    images, unused = scan_folder(folder, "--face_dir, or make the faces with generate_test_faces.py",
                                 recursive=recursive)
    known = None if keys is None else {same_name(key) for key in keys}
    listing = FaceListing({}, unused)
    for image in images:
        key, index = same_name(image.key), NO_INDEX
        match = FACE_NAME.fullmatch(key)
        if match and (known is None or match["key"] in known):
            key, index = match["key"], int(match["index"])
        if known is None or key in known:
            listing.faces.setdefault(key, []).append((index, image.path))
        else:
            unused.append(Unused(NO_PHOTO, image.name))
    return listing


class FaceFolder:
    """The faces below one folder, listed once; `unused` is what else is there."""

    def __init__(self, folder: Path, keys: Iterable[str] | None = None, *, recursive: bool = False):
        """List `folder/Face_LQ` and `folder/Face_HQ`, as `list_faces`."""
        self.folder = folder
        listings = {name: list_faces(folder / name, keys, recursive=recursive) for name in ("Face_LQ", "Face_HQ")}
        self._lq, self._hq = (listing.faces for listing in listings.values())
        self.unused = [Unused(reason, f"{name}/{entry}") for name, listing in listings.items()
                       for reason, entry in listing.unused]

    def pairs(self, key: str) -> list[FacePair]:
        """Return a photo's faces in order of their index; UserError if one has no partner, or two files are one."""
        lq, hq = (_one_per_index(faces.get(same_name(key), [])) for faces in (self._lq, self._hq))
        for index in sorted(lq.keys() ^ hq.keys()):
            absent = "Face_HQ" if index in lq else "Face_LQ"
            raise UserError(f"the face {lq.get(index) or hq[index]} has no partner in {self.folder / absent}. "
                            "Add it or delete this one.")
        return [FacePair(lq[index], hq[index]) for index in sorted(lq)]

    def faces_of(self, source: Source, _photo: Photo, _on_progress: Callable[[str], None]) -> list[PhotoFace]:
        """Read the faces of a photo, with the boxes in `faces.csv` if generate_test_faces.py wrote it."""
        key = same_name(source.key)
        return [PhotoFace(pair.lq.name, read_face(pair),
                          *self._places.get((key, pair.lq.stem.rpartition("_")[2]), (None, None)))
                for pair in self.pairs(source.key)]

    @functools.cached_property
    def _places(self) -> dict[tuple[str, str], tuple]:
        """Box and alignment by the photo's key and the face's index."""
        places = {}
        for report in sorted(self.folder.glob("faces*.csv")):
            for file, rows in read_rows(report)[1].items():
                for row in rows:
                    try:
                        landmarks = np.array([float(row[column]) for column in LANDMARK_COLUMNS]).reshape(5, 2)
                        places[same_name(file.removesuffix(Path(file).suffix)), row["index"]] = (
                            tuple(int(row[column]) for column in BOX_PIXELS), estimate_alignment(landmarks))
                    except (KeyError, ValueError):  # no such face; a file of other columns or of another tool
                        continue
        return places


def _one_per_index(faces: list[tuple[int, Path]]) -> dict[int, Path]:
    paths: dict[int, Path] = {}
    for index, path in faces:
        if index in paths:
            raise UserError(f"{paths[index].name} and {path.name} in {path.parent} are the same face of one photo. "
                            "Delete or renumber one.")
        paths[index] = path
    return paths


def read_face(pair: FacePair) -> Patches:
    """Read one face, as batches of one; UserError if a file is faulty, or one not exactly four times the other."""
    check_face(pair)
    return Patches(*(read_image(path).pixels[None] for path in pair))


def check_face(pair: FacePair) -> None:
    """Raise UserError as `read_face` does, as far as the headers of the files show."""
    lq, hq = image_size(pair.lq), image_size(pair.hq)
    if hq != (SCALE * lq[0], SCALE * lq[1]):
        raise UserError(f"{pair.hq} must be exactly {SCALE} times {pair.lq}: {SCALE * lq[1]}x{SCALE * lq[0]} pixels. "
                        f"Received: {hq[1]}x{hq[0]}.")


def locate_face(photo: np.ndarray, face_lq: np.ndarray) -> tuple[int, int, int, int] | None:
    """Find where a face [fh, fw, 3] was cut from a photo [h, w, 3], both float32 in [0, 1].

    One of them may have been recompressed. Returns (top, left, height, width), or None if the face is not from it.
    """
    height, width = face_lq.shape[:2]
    if height > photo.shape[0] or width > photo.shape[1]:
        return None
    smallest, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(photo, face_lq, cv2.TM_SQDIFF))
    return (top, left, height, width) if _is_same_face(smallest / face_lq.size, face_lq) else None


def _is_same_face(error: float, face_lq: np.ndarray) -> bool:
    return error <= max(MAX_ERROR, MAX_RELATIVE_ERROR * float(face_lq.var(axis=(0, 1)).mean()))
