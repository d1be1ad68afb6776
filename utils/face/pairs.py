"""The face pairs of photos.

`DIR/Face_LQ/<stem>_<index>.png` is a face as it is in the photo, `DIR/Face_HQ/<stem>_<index>.png` the same face
restored at four times the size.
"""

import re
from pathlib import Path
from typing import NamedTuple

from config import SCALE
from utils.errors import UserError
from utils.face.patches import Patches
from utils.image.io import image_size, read_image
from utils.image.listing import IMAGE_ENDINGS

FACE_NAME = re.compile(r"(?P<stem>.+)_(?P<index>\d+)", re.DOTALL)


def stem_of_face(path: Path) -> str | None:
    """Give the stem of the photo that `<stem>_<index>.png` is a face of, or None for another file's name."""
    match = FACE_NAME.fullmatch(path.stem)
    return match["stem"] if match else None


def faces_in(folder: Path) -> list[Path]:
    """List the images of a folder of faces, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."))


class FacePair(NamedTuple):
    """The files of one face."""

    lq: Path
    hq: Path


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
    _check_sizes(pair, lq.shape, hq.shape)
    return Patches(lq[None], hq[None])


def check_face(pair: FacePair) -> None:
    """Check the sizes in the headers of one face's files.

    Raises:
        UserError: as `read_face`, as far as headers tell.
    """
    _check_sizes(pair, image_size(pair.lq), image_size(pair.hq))


def _check_sizes(pair: FacePair, lq: tuple[int, ...], hq: tuple[int, ...]) -> None:
    if hq[:2] != (SCALE * lq[0], SCALE * lq[1]):
        raise UserError(f"{pair.hq} must be exactly {SCALE} times {pair.lq}: {SCALE * lq[1]}x{SCALE * lq[0]} pixels. "
                        f"Received: {hq[1]}x{hq[0]}.")
