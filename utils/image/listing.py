"""Which photos a folder holds, and what follows from their names."""

import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from utils.console import note_once, shown_name
from utils.errors import UserError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
UNSUPPORTED_ENDINGS = (".heic", ".heif", ".hif", ".avif")  # of pictures that phones and cameras write beside these


def list_images(folder: Path, option: str) -> list[Path]:
    """List the images of a folder, without its subfolders, sorted by name.

    Endings in upper case count, hidden files do not. HEIC and AVIF pictures are left out, which a note says.

    Args:
        folder: the folder.
        option: the command-line option that named it, for messages.

    Raises:
        UserError: the folder is missing or holds no image.
    """
    try:
        images, unsupported = (sorted(path for path in folder.iterdir()
                                      if path.suffix.lower() in endings and path.is_file()
                                      and not path.name.startswith("."))
                               for endings in (IMAGE_ENDINGS, UNSUPPORTED_ENDINGS))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"the folder {folder} does not exist or is not a folder. Check {option}.") from error
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}. Check its permissions.") from error
    if not images:
        raise no_image_error(str(folder), unsupported, f"Check {option}. ")
    note_unsupported(str(folder), unsupported)
    return images


def note_unsupported(place: str, pictures: list[Path]) -> None:
    """Say, once, which `pictures` of a place, if any, have an unsupported ending and are left out."""
    if pictures:
        note_once(f"left out of {place}: {_count_unsupported(pictures)}")


def no_image_error(place: str, unsupported: list[Path], advice: str = "") -> UserError:
    """Give the error that a place holds no image, or only `unsupported` ones; `advice` is a sentence and a space."""
    if unsupported:
        return UserError(f"no image in {place}, but {_count_unsupported(unsupported)}")
    return UserError(f"no image in {place}. {advice}Known endings: {', '.join(IMAGE_ENDINGS)}.")


def _count_unsupported(pictures: list[Path]) -> str:
    first = shown_name(pictures[0])
    if len(pictures) == 1:
        return f"1 HEIC or AVIF picture, {first}. Convert it to PNG or JPEG."
    return f"{len(pictures)} HEIC or AVIF pictures, the first {first}. Convert them to PNG or JPEG."


def list_photos(folder: Path) -> list[Path]:
    """List the images of --input_dir as `list_images`.

    Raises:
        UserError: the folder is missing or holds no image, or two images have one stem, so that their results would
            have one name.
    """
    photos = list_images(folder, "--input_dir")
    by_stem = defaultdict(list)
    for photo in photos:
        by_stem[photo.stem].append(photo.name)
    for stem, names in by_stem.items():
        if len(names) > 1:
            raise UserError(f"{' and '.join(names)} in {folder} would both be written as {stem}.png. Rename one.")
    return photos


def parse_shard(text: str) -> tuple[int, int]:
    """Parse `i/n`, 0 <= i < n: the i-th of n equal parts.

    Raises:
        UserError: the text is something else.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard is i/n with 0 <= i < n, as 0/4. Received: {text}.")
    return int(index), int(count)


def photo_rng(seed: int, stem: str) -> np.random.Generator:
    """Give the random generator of one photo; it depends on the seed and the name, not on order or company."""
    return np.random.default_rng([seed, zlib.crc32(stem.encode("utf-8", "surrogateescape"))])
