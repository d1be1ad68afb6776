"""Which photos of which folders a tool works on, and whom they show, by their names."""

import argparse
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError, require
from utils.image.listing import IMAGE_ENDINGS, UNSUPPORTED_ENDINGS, no_image_error, note_unsupported


class Source(NamedTuple):
    """An image file; `name` is its path below the input folder, with slashes."""

    name: str
    path: Path
    num_bytes: int


def list_sources(folders: Sequence[Path], *, match: Sequence[str] | None = None, exclude: Sequence[str] | None = None,
                 option: str = "--input_dir", match_option: str = "--match",
                 exclude_option: str = "--exclude") -> list[Source]:
    """List the images of folders and the folders inside them in a fixed order: folder by folder, sorted by their paths.

    HEIC and AVIF pictures are left out; a note counts those among them that the patterns choose.

    Args:
        folders: a file that two of them hold counts once. Hidden files and folders do not count.
        match: only files whose name, or path below the folder, fits one of these glob patterns; None: all.
        exclude: no file whose name, or path below the folder, fits one of these.
        option: the command-line option that named the folders, for messages.
        match_option: likewise.
        exclude_option: likewise.

    Raises:
        UserError: a folder is missing, or no image is left.
    """
    sources: dict[Path, Source] = {}
    for folder in folders:
        require(folder.is_dir(), f"{option} must name folders", folder)
        found = [(path.relative_to(folder), path) for path in folder.rglob("*")
                 if path.suffix.lower() in (*IMAGE_ENDINGS, *UNSUPPORTED_ENDINGS) and path.is_file()]
        for name, path in sorted((relative.as_posix(), path) for relative, path in found
                                 if not any(part.startswith(".") for part in relative.parts)):
            sources.setdefault(path.resolve(), Source(name, path, path.stat().st_size))
    named = ", ".join(map(str, folders))
    images, unsupported = ([source for source in sources.values() if source.path.suffix.lower() in endings]
                           for endings in (IMAGE_ENDINGS, UNSUPPORTED_ENDINGS))
    if not images:
        raise no_image_error(named, [source.path for source in unsupported])
    chosen, left_out = ([source for source in group
                         if _fits(source, match or ["*"]) and not _fits(source, exclude or [])]
                        for group in (images, unsupported))
    note_unsupported(named, [source.path for source in left_out])
    if not chosen:
        raise UserError(f"{match_option} and {exclude_option} leave none of the {len(images)} images in {named}. "
                        "Check them.")
    return chosen


def add_source_options(parser: argparse.ArgumentParser, name: str, what: str, *, required: bool = False) -> None:
    """Add --NAME, --NAME_match and --NAME_exclude to a parser or to a group of its options.

    Args:
        parser: gets them.
        name: of the first option.
        what: the folders hold, for the help.
        required: whether --NAME must be given.
    """
    parser.add_argument(f"--{name}", type=Path, nargs="+", required=required, metavar="DIR",
                        help=f"folders of {what}; folders inside them count")
    parser.add_argument(f"--{name}_match", nargs="+", metavar="GLOB",
                        help="only files whose name, or path below the folder, fits one of these (default: all)")
    parser.add_argument(f"--{name}_exclude", nargs="+", metavar="GLOB",
                        help="no file whose name, or path below the folder, fits one of these (default: none)")


def list_chosen(args: argparse.Namespace, name: str) -> list[Source]:
    """List what the options that `add_source_options` added choose.

    Raises:
        UserError: as `list_sources`.
    """
    return list_sources(
        getattr(args, name), match=getattr(args, f"{name}_match"), exclude=getattr(args, f"{name}_exclude"),
        option=f"--{name}", match_option=f"--{name}_match", exclude_option=f"--{name}_exclude")


def _fits(source: Source, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in (source.name, source.path.name))


def parse_people(text: str) -> re.Pattern:
    """Parse --people: what of a file's name matches it is the same for photos of one person.

    Raises:
        UserError: it is no regular expression.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"--people must be a regular expression ({error}). Received: {text}.") from error


def person_of(name: str, people: re.Pattern) -> str:
    """Give the person a file shows; the file's own name where nothing matches."""
    match = people.search(name)
    return (match and match[0]) or name
