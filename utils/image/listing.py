"""Which images folders hold, which of them belong together, and what follows from their names."""

import argparse
import re
import unicodedata
import zlib
from collections import defaultdict
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

    Args:
        folder: the folder.
        option: the command-line option that named it, for messages.

    Raises:
        UserError: the folder is missing or holds no image.
    """
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"the folder {folder} does not exist or is not a folder. Check {option}.") from error
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}. Check its permissions.") from error
    images, unused = _sort_out(entries)
    if not images:
        raise UserError(f"no image in {folder}{_count(unused, ': ')}. Check {option}.")
    _note_unused(str(folder), unused)
    return images


def stem_key(path: Path) -> str:
    """Return a file's stem for comparisons: systems write accents in two ways."""
    return unicodedata.normalize("NFC", path.stem)


def _sort_out(entries: Iterable[Path]) -> tuple[list[Path], dict[str, list[Path]]]:
    """Divide files into images and, by reason, those that are not used."""
    images, unused = [], defaultdict(list)
    for path in entries:
        reason = _reason_against(path)
        if reason:
            unused[reason].append(path)
        else:
            images.append(path)
    return images, unused


def _reason_against(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if not path.exists():
        return "a dangling link"
    if path.is_dir():
        return "a subfolder"
    return "" if path.suffix.lower() in IMAGE_ENDINGS or is_image(path) else "no image"


def _count(unused: dict[str, list[Path]], before: str = "") -> str:
    parts = [f"{len(paths)} {reason} ({shown_name(paths[0])}{', ...' * (len(paths) > 1)})"
             for reason, paths in sorted(unused.items())]
    return before * bool(parts) + ", ".join(parts)


def _note_unused(place: str, unused: dict[str, list[Path]]) -> None:
    if unused:
        note_once(f"not used of {place}: {_count(unused)}")


def list_photos(folder: Path) -> list[Path]:
    """List the images of --input_dir as `list_images`.

    Raises:
        UserError: the folder is missing or holds no image, or the results of two images would have one name.
    """
    photos = list_images(folder, "--input_dir")
    for paths in _by_stem(photos).values():
        if len(paths) > 1:
            raise UserError(f"{' and '.join(path.name for path in paths)} in {folder} would both be written as "
                            f"{paths[0].stem}.png. Rename one.")
    return photos


def _by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    groups = defaultdict(list)
    for path in paths:
        groups[stem_key(path)].append(path)
    return groups


@dataclass(frozen=True)
class ImageGroup:
    """The files of one stem; None where a folder has none, or there is no such folder."""

    stem: str
    result: Path | None = None
    other: Path | None = None
    truth: Path | None = None


def group_images(result_dir: Path, *, truth_dir: Path | None = None, other_dir: Path | None = None,
                 allow_missing: bool = False) -> list[ImageGroup]:
    """Group the images of result folders and their ground truth by stem, whatever their endings; sorted by stem.

    Args:
        result_dir: --result_dir.
        truth_dir: --gt_dir.
        other_dir: --compare.
        allow_missing: also return groups in which a folder has no file.

    Raises:
        UserError: a folder is missing or empty, has two images of one stem, or, unless `allow_missing`, lacks an image
            another one has; or no stem is in all folders.
    """
    folders = {"result": (result_dir, "--result_dir"), "other": (other_dir, "--compare"),
               "truth": (truth_dir, "--gt_dir")}
    files = {role: _only_of_stem(folder, option) for role, (folder, option) in folders.items() if folder is not None}
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


def _only_of_stem(folder: Path, option: str) -> dict[str, Path]:
    groups = _by_stem(list_images(folder, option))
    for paths in groups.values():
        if len(paths) > 1:
            raise UserError(f"{' and '.join(path.name for path in paths)} in {folder} have one name, so that it is "
                            "unclear which belongs to its partner. Rename or remove one.")
    return {stem: path for stem, [path] in groups.items()}


class Source(NamedTuple):
    """An image file; `name` is its path below the input folder, with slashes."""

    name: str
    path: Path
    num_bytes: int


def list_sources(folders: Sequence[Path], *, match: Sequence[str] | None = None, exclude: Sequence[str] | None = None,
                 option: str = "--input_dir", match_option: str = "--match",
                 exclude_option: str = "--exclude") -> list[Source]:
    """List the images of folders and their subfolders, folder by folder, sorted by path; a note counts other files.

    Args:
        folders: an image in two of them counts once. Hidden files and folders do not count.
        match: glob patterns; only files whose name, or path below the folder, fits one of them. None: all.
        exclude: glob patterns of files that are left out.
        option: the command-line option that named the folders, for messages.
        match_option: likewise.
        exclude_option: likewise.

    Raises:
        UserError: a folder is missing, or no image is left.
    """
    sources: dict[Path, Source] = {}
    num_images, unused = 0, defaultdict(list)
    for folder in folders:
        require(folder.is_dir(), f"{option} must name folders", folder)
        names = {path: path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
        seen = [path for path, name in names.items() if not any(part.startswith(".") for part in name.parts)]
        chosen = [path for path in seen
                  if _fits(names[path], match or ["*"]) and not _fits(names[path], exclude or [])]
        images, others = _sort_out(sorted(chosen, key=lambda path: names[path].as_posix()))
        num_images += len(seen) - len(others)
        for reason, paths in others.items():
            unused[reason] += paths
        for path in images:
            sources.setdefault(path.resolve(), Source(names[path].as_posix(), path, path.stat().st_size))
    named = ", ".join(map(str, folders))
    if not sources and num_images:
        raise UserError(f"{match_option} and {exclude_option} leave no image in {named}. Check them.")
    if not sources:
        raise UserError(f"no image in {named}{_count(unused, ': ')}. Check {option}.")
    _note_unused(named, unused)
    return list(sources.values())


def add_source_options(parser: argparse.ArgumentParser, name: str, what: str, *, required: bool = False) -> None:
    """Add --NAME, --NAME_match and --NAME_exclude to a parser or to a group of its options.

    Args:
        parser: gets them.
        name: of the first option.
        what: the folders hold, for the help.
        required: whether --NAME must be given.
    """
    parser.add_argument(f"--{name}", type=Path, nargs="+", required=required, metavar="DIR",
                        help=f"folders of {what}, with their subfolders")
    parser.add_argument(f"--{name}_match", nargs="+", metavar="GLOB",
                        help="only files whose name, or path below the folder, fits one of these (default: all)")
    parser.add_argument(f"--{name}_exclude", nargs="+", metavar="GLOB",
                        help="no file whose name, or path below the folder, fits one of these (default: none)")


def list_chosen(args: argparse.Namespace, name: str) -> list[Source]:
    """List the images that the options of `add_source_options` choose.

    Raises:
        UserError: as `list_sources`.
    """
    return list_sources(
        getattr(args, name), match=getattr(args, f"{name}_match"), exclude=getattr(args, f"{name}_exclude"),
        option=f"--{name}", match_option=f"--{name}_match", exclude_option=f"--{name}_exclude")


def _fits(name: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in (name.as_posix(), name.name))


def parse_people(text: str) -> re.Pattern:
    """Parse --people: the part of a file name that matches it is the same for photos of one person.

    Raises:
        UserError: it is no regular expression.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"--people must be a regular expression ({error}). Received: {text}.") from error


def person_of(name: str, people: re.Pattern) -> str:
    """Return the person a file shows; the file's own name where nothing matches."""
    match = people.search(name)
    return (match and match[0]) or name


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
    """Return the random generator of one photo; it depends on the seed and the name, not on the other files."""
    return np.random.default_rng([seed, zlib.crc32(stem.encode("utf-8", "surrogateescape"))])
