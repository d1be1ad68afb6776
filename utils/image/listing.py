"""Which images folders hold, which of them belong together, and what follows from their names."""

import argparse
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.console import note_once, shown_name
from utils.errors import UserError, require
from utils.image.io import is_image

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".heic",
                 ".heif", ".hif", ".avif")  # files of other endings are looked into
MAX_LISTED = 3  # names in a message


def list_images(folder: Path, option: str) -> list[Path]:
    """List the images of a folder, without its subfolders, sorted by name; a note counts what else is in it.

    Raises a UserError that names `option` if the folder is missing or holds no image.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}. Check {option}.") from error
    images, others = _sort_out(entries)
    _check_found(images, others, str(folder), option)
    return images


def list_photos(folder: Path) -> list[Path]:
    """List the images of --input_dir as `list_images`; a UserError also if two would have one result."""
    photos = list_images(folder, "--input_dir")
    _by_stem(photos, folder)
    return photos


def _sort_out(entries: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Divide entries into images and others; hidden ones are neither."""
    images, others = [], []
    for path in entries:
        if not path.name.startswith("."):
            known = path.is_file() and (path.suffix.lower() in IMAGE_ENDINGS or is_image(path))
            (images if known else others).append(path)
    return images, others


def _check_found(images: list, others: list[Path], place: str, check: str) -> None:
    """Raise a UserError if there is no image; otherwise note what else there is."""
    names = ", ".join(map(shown_name, others[:MAX_LISTED])) + ", ..." * (len(others) > MAX_LISTED)
    unused = f"not used of {place}: {len(others)} of no image format, as {names}" if others else ""
    require(bool(images), f"no image in {place}. Check {check}", unused or "an empty folder")
    if unused:
        note_once(unused)


def _by_stem(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Map stems to files; systems write accents in two ways, which count as one."""
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(unicodedata.normalize("NFC", path.stem), path)
        if other != path:
            raise UserError(f"{other.name} and {path.name} in {folder} have one name, but for the ending. Rename one.")
    return found


@dataclass(frozen=True)
class ImageGroup:
    """The files of one stem; None where a folder has none, or there is no such folder."""

    stem: str
    result: Path | None = None
    other: Path | None = None
    truth: Path | None = None


def group_images(result_dir: Path, *, truth_dir: Path | None = None, other_dir: Path | None = None,
                 allow_missing: bool = False) -> list[ImageGroup]:
    """Group the images of --result_dir, --gt_dir and --compare by stem, whatever their endings; sorted by stem.

    Raises a UserError if a folder is missing or empty, has two images of one stem, or, unless `allow_missing`, lacks
    an image another one has; or if no stem is in all folders.
    """
    folders = {"result": (result_dir, "--result_dir"), "other": (other_dir, "--compare"),
               "truth": (truth_dir, "--gt_dir")}
    files = {role: _by_stem(list_images(folder, option), folder)
             for role, (folder, option) in folders.items() if folder is not None}
    stems = sorted(set().union(*files.values()))
    if not set.intersection(*(set(found) for found in files.values())):
        raise UserError(f"no image has the same name, without its ending, in "
                        f"{' and '.join(str(folders[role][0]) for role in files)}. Check the folders.")
    for role, found in files.items():
        missing = [stem for stem in stems if stem not in found]
        if missing and not allow_missing:
            more = f" and {len(missing) - MAX_LISTED} more" * (len(missing) > MAX_LISTED)
            raise UserError(f"{folders[role][0]} has no image for {', '.join(missing[:MAX_LISTED])}{more}. Add what is "
                            "missing, or give --allow_missing.")
    return [ImageGroup(stem, **{role: found.get(stem) for role, found in files.items()}) for stem in stems]


class Source(NamedTuple):
    """An image file; `name` is its path below the input folder, with slashes."""

    name: str
    path: Path
    num_bytes: int


def list_sources(folders: Sequence[Path], *, match: Sequence[str] | None = None, exclude: Sequence[str] | None = None,
                 option: str = "--input_dir") -> list[Source]:
    """List the images of folders and their subfolders, folder by folder, sorted by path; a note counts other files.

    An image in two folders counts once; hidden files and folders do not count. `match` (None: all) and `exclude` are
    glob patterns of names or of paths below the folder. Raises a UserError that names `option` if a folder is missing
    or no image is left.
    """
    sources: dict[Path, Source] = {}
    unused: list[Path] = []
    for folder in folders:
        require(folder.is_dir(), f"{option} must name folders", folder)
        names = {path: path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
        chosen = [path for path, name in names.items() if not any(part.startswith(".") for part in name.parts)
                  and _fits(name, match or ["*"]) and not _fits(name, exclude or [])]
        images, others = _sort_out(sorted(chosen, key=lambda path: names[path].as_posix()))
        unused += others
        for path in images:
            sources.setdefault(path.resolve(), Source(names[path].as_posix(), path, path.stat().st_size))
    _check_found(list(sources), unused, ", ".join(map(str, folders)), f"{option} and its patterns")
    return list(sources.values())


def add_source_options(parser: argparse.ArgumentParser, name: str, what: str, *, required: bool = False) -> None:
    """Add --NAME (folders of `what`), --NAME_match and --NAME_exclude to a parser or to a group of its options."""
    parser.add_argument(f"--{name}", type=Path, nargs="+", required=required, metavar="DIR",
                        help=f"folders of {what}, with their subfolders")
    parser.add_argument(f"--{name}_match", nargs="+", metavar="GLOB",
                        help="only files whose name, or path below the folder, fits one of these (default: all)")
    parser.add_argument(f"--{name}_exclude", nargs="+", metavar="GLOB",
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
