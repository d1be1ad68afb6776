"""Fetch the weights of other projects that this one needs, verify them and put them in place.

python scripts/download_weights.py --list
python scripts/download_weights.py realesrgan lpips
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import EXIT_USER_ERROR, ArgumentParser, run_cli
from utils.weights.download import fetch_entry, is_there, say
from utils.weights.manifest import Entry, get_entry, how_to_get, load_manifest, status

ROW = "{:17} {:38} {:23} {:>7}  {}"  # of the table
MB = 1_000_000


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
    print_table(entries, args.weights_dir, sources)
    failed = [entry for entry in entries if not sources[entry.name]]
    for entry in failed:
        if entry.by_hand:
            places = (str(entry.directory(args.weights_dir) / file.name) for file in entry.file_sets[0].files)
            say(f"{entry.name} by hand: {' or '.join(entry.by_hand)} -> {', '.join(places)}")
    return EXIT_USER_ERROR if any(entry in chosen or not entry.manual for entry in failed) else 0


def show(entries: list[Entry], weights_dir: Path | None, *, asked: list[Entry] | None) -> int:
    """Print what is there and what needs it; `asked`: the named entries, None when the command line is empty."""
    print_table(entries, weights_dir, {})
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


def print_table(entries: list[Entry], weights_dir: Path | None, sources: dict[str, str]) -> None:
    """Print a row per file of the file_set that is there, or of every alternative.

    The last column shows the entry's value in `sources` ("none worked" if empty), or else the possible sources.
    """
    say(ROW.format("name", "file", "state", "MB", "source"))
    for entry in entries:
        statuses = status(entry, weights_dir)
        for found in [found for found in statuses if found.complete][:1] or statuses:
            title = entry.name if found.complete or found is statuses[0] else "  or"
            for file in found.file_set.files:
                path = entry.directory(weights_dir) / file.name
                size = path.stat().st_size if path.exists() else file.bytes
                labels = ", ".join(item.label for item in found.file_set.sources if item.provides(file.name))
                labels += " (no known hash)" * (not file.sha256)
                source = sources[entry.name] or "none worked" if entry.name in sources else labels
                say(ROW.format(title, file.name, found.states[file.name].value, f"{size / MB:.2f}" if size else "?",
                               "by hand" if entry.manual else "this repository" if entry.in_repository else source))
                title = ""


if __name__ == "__main__":
    run_cli(main)
