"""Which images folders hold, which of them belong together, and what follows from their names."""

import argparse
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.console import note_once
from utils.errors import UserError, printable, require
from utils.image.io import is_image

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".heic",
                 ".heif", ".hif", ".avif")  # files of other endings are looked into
FACE_FOLDERS = ("Face_LQ", "Face_HQ", "Aligned", "Overlay")  # of generate_test_faces.py
COMPARISON = "comparison"  # folder of --save_comparison, in that of the results
RESULT_ENDINGS = {**dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ".jpg"), ".webp": ".webp"}  # others: .png
READABLE_FOLDER = "readable folder"
MAX_LISTED = 3  # names in a message


class Source(NamedTuple):
    """An image file; `name` is its path below the folder that was listed, with slashes."""

    name: str
    path: Path

    @property
    def key(self) -> str:
        """The name without its ending, by which results and faces belong to a photo."""
        return self.name.removesuffix(self.path.suffix)


def result_name(source: Source, suffix: str = "", image_format: str = "png") -> str:
    """Return the name of a result; `image_format` is `png`, `jpg`, `webp`, or `same` as the photo's if it is one."""
    ending = f".{image_format}"
    if image_format == "same":
        ending = RESULT_ENDINGS.get(source.path.suffix.lower(), ".png")
    return f"{source.key}{suffix}{ending}"


class Unused(NamedTuple):
    """An entry of a folder that is not used, and why."""

    reason: str
    name: str


def scan_folder(folder: Path, check: str, *, recursive: bool = False, apart: Collection[Path] = (),
                fits: Callable[[Path], bool] = lambda name: True) -> tuple[list[Source], list[Unused]]:
    """List the images of a folder whose names fit, and what else is in it, both sorted by name.

    With `recursive` subfolders are read, too, but for hidden ones, links, `apart` and, if that is given, folders of
    faces.
    Raises a UserError that says what to check if the folder cannot be listed.
    """
    images, unused, apart = [], [], {path.resolve() for path in apart}

    def scan(parent: Path) -> None:
        for path in parent.iterdir():
            name = path.relative_to(folder)
            reason = _why_unused(path, recursive, apart)
            if reason == READABLE_FOLDER:
                scan(path)
            elif reason is None and fits(name):
                images.append(Source(name.as_posix(), path))
            elif reason and fits(name):
                unused.append(Unused(reason, name.as_posix()))

    try:
        scan(folder)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}. Check {check}.") from error
    return sorted(images), sorted(unused, key=lambda entry: entry.name)


def _why_unused(path: Path, recursive: bool, apart: Collection[Path]) -> str | None:
    """Return why an entry is no image to be used; None for one that is, an empty text for what need not be said."""
    is_named_image = path.suffix.lower() in IMAGE_ENDINGS
    if path.name.startswith("."):
        return "hidden" if is_named_image else ""
    if path.is_dir():
        if not recursive:
            return "subfolder"
        if path.is_symlink():
            return "link to a folder"
        if not os.access(path, os.R_OK | os.X_OK):
            return "folder that cannot be listed"
        is_faces = apart and path.name in FACE_FOLDERS and (path.parent / FACE_FOLDERS[0]).is_dir()
        return "folder of results or faces" if is_faces or path.resolve() in apart else READABLE_FOLDER
    if not path.exists():
        return "dangling link"
    return None if path.is_file() and (is_named_image or is_image(path)) else "not an image"


def list_images(folder: Path, option: str, *, recursive: bool = False, apart: Collection[Path] = ()) -> list[Source]:
    """List the images of a folder as `scan_folder`; a note says what is not used.

    Raises a UserError that names `option` if the folder is missing or holds no image.
    """
    images, unused = scan_folder(folder, option, recursive=recursive, apart=apart)
    _check_found(images, unused, str(folder), option)
    return images


def list_photos(folder: Path, *, recursive: bool = False, apart: Collection[Path] = ()) -> list[Source]:
    """List the images of --input_dir as `list_images`, or the only one that it names.

    Raises a UserError also if two would have one result.
    """
    if folder.is_file():
        return [Source(folder.name, folder)]
    photos = list_images(folder, "--input_dir", recursive=recursive, apart=apart)
    _by_key(photos, folder)
    return photos


def add_recursive(parser: argparse.ArgumentParser) -> None:
    """Add --recursive to a parser or to a group of its options."""
    parser.add_argument("--recursive", action="store_true", help="also read subfolders; what is written keeps them")


def describe_unused(unused: Sequence[Unused], place: str) -> str:
    """Describe what is not used of a place; an empty text if there is nothing."""
    names: dict[str, list[str]] = {}
    for reason, name in unused:
        names.setdefault(reason, []).append(printable(name))
    reasons = ", ".join(f"{reason}: {len(found)} ({', '.join(found[:MAX_LISTED])}{', ...' * (len(found) > MAX_LISTED)})"
                        for reason, found in names.items())
    return f"not used of {place}: {len(unused)} ({reasons})" if unused else ""


def _check_found(images: list, unused: list[Unused], place: str, check: str) -> None:
    """Raise a UserError if there is no image; note what else there is."""
    text = describe_unused(unused, place)
    require(bool(images), f"no image in {place}. Check {check}", text or "an empty folder")
    if text:
        note_once(text)


def same_name(name: str) -> str:
    """Return what names that are one to a user have in common: systems write accents in two ways."""
    return unicodedata.normalize("NFC", name)


def _by_key(sources: Iterable[Source], folder: Path) -> dict[str, Source]:
    """Map keys, as of `same_name`, to images."""
    found: dict[str, Source] = {}
    for source in sources:
        other = found.setdefault(same_name(source.key), source)
        if other != source:
            raise UserError(f"{other.name} and {source.name} in {folder} have one name, but for the ending or the way "
                            "accents are written. Rename one.")
    return found


@dataclass(frozen=True)
class ImageGroup:
    """The images of one key; None where a folder has none, or there is no such folder."""

    key: str
    result: Source | None = None
    other: Source | None = None
    truth: Source | None = None


def group_images(result_dir: Path, *, truth_dir: Path | None = None, other_dir: Path | None = None,
                 allow_missing: bool = False, recursive: bool = False) -> list[ImageGroup]:
    """Group the images of --result_dir, --gt_dir and --compare by key, whatever their endings; sorted by key.

    Raises a UserError if a folder is missing or empty, has two images of one key, or, unless `allow_missing`, lacks
    an image another one has; or if no key is in all folders.
    """
    folders = {"result": (result_dir, "--result_dir"), "other": (other_dir, "--compare"),
               "truth": (truth_dir, "--gt_dir")}
    files = {role: _by_key(list_images(folder, option, recursive=recursive, apart=[folder / COMPARISON]), folder)
             for role, (folder, option) in folders.items() if folder is not None}
    keys = sorted(set().union(*files.values()))
    if not set.intersection(*(set(found) for found in files.values())):
        raise UserError(f"no image has the same name, without its ending, in "
                        f"{' and '.join(str(folders[role][0]) for role in files)}. Check the folders.")
    for role, found in files.items():
        missing = [key for key in keys if key not in found]
        if missing and not allow_missing:
            more = f" and {len(missing) - MAX_LISTED} more" * (len(missing) > MAX_LISTED)
            raise UserError(f"{folders[role][0]} has no image for {', '.join(missing[:MAX_LISTED])}{more}. Add what is "
                            "missing, or give --allow_missing.")
    return [ImageGroup(key, **{role: found.get(key) for role, found in files.items()}) for key in keys]


def list_sources(folders: Sequence[Path], *, match: Sequence[str] | None = None, exclude: Sequence[str] | None = None,
                 option: str = "--input_dir") -> list[Source]:
    """List the images of folders and their subfolders, folder by folder, sorted by path; a note counts other files.

    An image in two folders counts once; hidden files and folders do not count. `match` (None: all) and `exclude` are
    glob patterns of names or of paths below the folder. Raises a UserError that names `option` if a folder is missing
    or no image is left.
    """
    def fits(name: Path) -> bool:
        return _fits(name, match or ["*"]) and not _fits(name, exclude or [])

    sources: dict[Path, Source] = {}
    unused: list[Unused] = []
    for folder in folders:
        images, others = scan_folder(folder, option, recursive=True, fits=fits)
        unused += others
        for image in images:
            sources.setdefault(image.path.resolve(), image)
    _check_found(list(sources), unused, ", ".join(map(str, folders)), f"{option} and its patterns")
    return list(sources.values())


def add_source_options(parser: argparse.ArgumentParser, name: str, what: str, *, prefix: str | None = None,
                       required: bool = False) -> None:
    """Add --NAME (folders of `what`) and, with the prefix `NAME_` or another, --match and --exclude to a parser."""
    prefix = f"{name}_" if prefix is None else prefix
    parser.add_argument(f"--{name}", type=Path, nargs="+", metavar="DIR", required=required,
                        help=f"folders of {what}, with their subfolders")
    parser.add_argument(f"--{prefix}match", nargs="+", metavar="GLOB",
                        help="only files whose name, or path below the folder, fits one of these (default: all)")
    parser.add_argument(f"--{prefix}exclude", nargs="+", metavar="GLOB",
                        help="no file whose name, or path below the folder, fits one of these (default: none)")


def list_chosen(args: argparse.Namespace, name: str) -> list[Source]:
    """List the images that the options of `add_source_options` choose, as `list_sources`."""
    return list_sources(getattr(args, name), match=getattr(args, f"{name}_match"),
                        exclude=getattr(args, f"{name}_exclude"), option=f"--{name}")


def _fits(name: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in (name.as_posix(), name.name))


def parse_people(text: str) -> re.Pattern:
    """Parse --people, whose match in a file's name is the same for photos of one person; a UserError if it is wrong."""
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"--people must be a regular expression ({error}). Received: {text}.") from error


def person_of(name: str, people: re.Pattern) -> str:
    """Return the person a file shows; the file's own name where nothing matches."""
    match = people.search(name)
    return (match and match[0]) or name


def parse_shard(text: str) -> tuple[int, int]:
    """Parse --shard `i/n`, 0 <= i < n: the i-th of n equal parts; a UserError if it is something else."""
    match = re.fullmatch("([0-9]+)/([0-9]+)", text)
    require(match is not None and int(match[1]) < int(match[2]), "--shard is i/n with 0 <= i < n, as 0/4", text)
    return int(match[1]), int(match[2])


def photo_rng(seed: int, stem: str) -> np.random.Generator:
    """Return the random generator of one photo; it depends on the seed and the name, not on the other files."""
    return np.random.default_rng([seed, zlib.crc32(stem.encode("utf-8", "surrogateescape"))])
