"""Face pairs: `Face_LQ/<stem>_<index>.png` is a face as it is in the photo `<stem>`, `Face_HQ/<stem>_<index>.png`
the same face restored at four times the size.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from config import SCALE
from utils.errors import UserError
from utils.face.patches import Patches
from utils.image.io import image_size, read_image
from utils.image.listing import IMAGE_ENDINGS

FACE_NAME = re.compile(r"(?P<stem>.+)_(?P<index>\d+)", re.DOTALL)
NO_INDEX = -1  # of a face that is named as its photo


class FacePair(NamedTuple):
    """The files of one face."""

    lq: Path
    hq: Path


class FaceListing(NamedTuple):
    """The images in a folder of faces: (index, path) by the photo's stem, and those that belong to no photo."""

    faces: dict[str, list[tuple[int, Path]]]
    unused: list[Path]


def list_faces(folder: Path, stems: Collection[str] | None = None) -> FaceListing:
    """List the faces in a folder `Face_LQ`, `Face_HQ` or `Aligned`, sorted by name.

    With the photos' `stems`, `<stem>.png` is a face of the photo `<stem>`, too, as in the original code; without,
    whatever `<stem>_<index>` names. UserError if the folder cannot be listed.
    """
    listing = FaceListing({}, [])
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}. Check --face_dir, or make the faces with "
                        "generate_test_faces.py.") from error
    for path in paths:
        if path.suffix.lower() not in IMAGE_ENDINGS or path.name.startswith("."):
            continue
        match = FACE_NAME.fullmatch(path.stem)
        if match and (stems is None or match["stem"] in stems):
            listing.faces.setdefault(match["stem"], []).append((int(match["index"]), path))
        elif stems is not None and path.stem in stems:
            listing.faces.setdefault(path.stem, []).append((NO_INDEX, path))
        else:
            listing.unused.append(path)
    return listing


class FaceFolder:
    """The faces below one folder, listed once. `unused` are the images that belong to no photo."""

    def __init__(self, folder: Path, stems: Collection[str] | None = None):
        """List `folder/Face_LQ` and `folder/Face_HQ`, as `list_faces`."""
        self.folder = folder
        self._lq, lq_unused = list_faces(folder / "Face_LQ", stems)
        self._hq, hq_unused = list_faces(folder / "Face_HQ", stems)
        self.unused = lq_unused + hq_unused

    def pairs(self, stem: str) -> list[FacePair]:
        """Return a photo's faces in order of their index; UserError if one has no partner, or two files are one."""
        lq, hq = _one_per_index(self._lq.get(stem, [])), _one_per_index(self._hq.get(stem, []))
        for index in sorted(lq.keys() ^ hq.keys()):
            absent = "Face_HQ" if index in lq else "Face_LQ"
            raise UserError(f"the face {lq.get(index) or hq[index]} has no partner in {self.folder / absent}. "
                            "Add it or delete this one.")
        return [FacePair(lq[index], hq[index]) for index in sorted(lq)]


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
