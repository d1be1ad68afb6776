"""Face pairs: `Face_LQ/<key>_<index>.png` is a face as it is in the photo `<key>`, `Face_HQ/<key>_<index>.png`
the same face restored at four times the size.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from config import SCALE
from utils.errors import UserError
from utils.face.patches import Patches
from utils.image.io import image_size, read_image
from utils.image.listing import Unused, same_name, scan_folder

FACE_NAME = re.compile(r"(?P<key>.+)_(?P<index>\d+)", re.DOTALL)
NO_INDEX = -1  # of a face that is named as its photo
NO_PHOTO = "of no photo"


class FacePair(NamedTuple):
    """The files of one face."""

    lq: Path
    hq: Path


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
