"""Fetch the weights of other projects that this one needs, verify them and put them in place.

python scripts/download_weights.py --list
python scripts/download_weights.py realesrgan lpips
"""

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import EXIT_USER_ERROR, ArgumentParser, run_cli
from utils.weights.download import DownloadError, fetch
from utils.weights.manifest import Entry, State, Variant, get_entry, how_to_get, load_manifest, status

HEADER = ("name", "file", "state", "MB", "source")
MB = 1_000_000
ALREADY_THERE = "already there"
say = functools.partial(print, flush=True)  # in step with the progress bars on standard error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser("Fetch third-party weights: verifies them, and tries the next source when one fails.")
    parser.formatter_class = argparse.HelpFormatter  # every default is off
    parser.epilog = ("Exit status: 0 when everything that was asked for is there (with --force: fetched again), 2 "
                     "otherwise. What can only be downloaded by hand counts when it is asked for by name.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; --list shows the names")
    parser.add_argument("--all", action="store_true", help="fetch everything that can be fetched")
    parser.add_argument("--list", action="store_true", help="show what is present, verified, missing; fetch nothing")
    parser.add_argument("--weights_dir", type=Path, metavar="DIR", help="default: the repository's weights/")
    parser.add_argument("--force", action="store_true", help="fetch again what is already there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Fetch or list; return the exit status."""
    args = parse_args(argv)
    manifest = load_manifest()
    chosen = [get_entry(manifest, name) for name in dict.fromkeys(args.names)]
    entries = list(manifest.values()) if args.all or not chosen else chosen
    if args.list or not (args.all or chosen):
        return show(entries, args.weights_dir, asked=chosen if args.list else None)

    sources = {entry.name: fetch_entry(entry, args.weights_dir, force=args.force) for entry in entries}
    say()
    print_table(row for entry in entries for row in rows(entry, args.weights_dir, sources[entry.name] or "none worked"))
    failed = [entry for entry in entries if not sources[entry.name]]
    for entry in failed:
        if entry.by_hand:
            places = (str(entry.directory(args.weights_dir) / file.name) for file in entry.variants[0].files)
            say(f"{entry.name} by hand: {' or '.join(entry.by_hand)} -> {', '.join(places)}")
    return EXIT_USER_ERROR if any(entry in chosen or not entry.manual for entry in failed) else 0


def show(entries: list[Entry], weights_dir: Path | None, *, asked: list[Entry] | None) -> int:
    """Print what is there and what needs it; `asked` is None when the user said nothing at all."""
    print_table(row for entry in entries for row in rows(entry, weights_dir))
    say()
    for entry in entries:
        say(f"{entry.name}: {entry.description}; needed by {', '.join(entry.needed_by)}; licence: {entry.licence}")
    if asked is None:
        say("\nSay what to fetch, for example: python scripts/download_weights.py realesrgan lpips, or --all")
        return EXIT_USER_ERROR
    missing = [entry for entry in asked if not is_there(entry, weights_dir)]
    for entry in missing:
        say(f"{entry.name} is not there. {how_to_get(entry, weights_dir)}")
    return EXIT_USER_ERROR if missing else 0


def is_there(entry: Entry, weights_dir: Path | None) -> bool:
    """Return whether a variant of an entry is complete."""
    return any(found.complete for found in status(entry, weights_dir))


def fetch_entry(entry: Entry, weights_dir: Path | None, *, force: bool) -> str:
    """Fetch the first variant of an entry that can be had; return where from, empty when that failed."""
    fetchable = not (entry.manual or entry.in_repository)
    if is_there(entry, weights_dir) and not (force and fetchable):
        return ALREADY_THERE
    if not fetchable:
        say(f"{entry.name}: {how_to_get(entry, weights_dir)}")
        return ""
    folder = entry.directory(weights_dir)
    for name, state in (item for found in status(entry, weights_dir) for item in found.states.items()):
        if not state.usable and state is not State.MISSING:
            say(f"{entry.name}: {folder / name}: {state.value}")
    for variant in entry.variants:
        if labels := fetch_variant(entry.name, variant, folder):
            say(f"{entry.name}: done. Licence: {entry.licence}")
            return ", ".join(dict.fromkeys(labels))
    return ""


def fetch_variant(entry_name: str, variant: Variant, folder: Path) -> list[str]:
    """Fetch every file of a variant from the first source that works; return the sources, none when a file failed."""
    labels = []
    remaining = list(variant.files)
    while remaining:
        for source in variant.sources:
            files = tuple(file for file in remaining if source.provides(file.name))
            if remaining[0] not in files:
                continue
            names = " + ".join(file.name for file in files)
            say(f"{entry_name}: {names} ({variant.description}) from {source.label}")
            try:
                fetch(source, files, folder)
            except DownloadError as error:
                say(f"{source.label} failed: {' '.join(str(error).split())}")
                continue
            labels.append(source.label)
            remaining = [file for file in remaining if file not in files]
            break
        else:
            return []
    return labels


def rows(entry: Entry, weights_dir: Path | None, source: str = "") -> Iterator[tuple[str, ...]]:
    """Return the table's rows for an entry: the variant that is there, or every alternative.

    `source` fills the last column; when empty, the possible sources do.
    """
    statuses = status(entry, weights_dir)
    complete = next((found for found in statuses if found.complete), None)
    for found in [complete] if complete else statuses:
        title = entry.name if complete or found is statuses[0] else "  or"
        for file in found.variant.files:
            state = found.states[file.name]
            on_disk = state not in (State.MISSING, State.UNREADABLE)
            size = (entry.directory(weights_dir) / file.name).stat().st_size if on_disk else file.bytes
            labels = ", ".join(item.label for item in found.variant.sources if item.provides(file.name))
            labels += " (no known hash)" * (not file.sha256)
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
