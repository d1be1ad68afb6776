"""Fetch the weights of other projects that this one needs, verify them and put them in place.

python scripts/download_weights.py --list
python scripts/download_weights.py realesrgan lpips
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import EXIT_USER_ERROR, ArgumentParser, run_cli
from utils.weights.download import fetch_entry, say
from utils.weights.manifest import Entry, file_states, get_entry, how_to_get, is_complete, is_there, load_manifest

ROW = "{:17} {:38} {:23} {:>7}  {}"  # of the table


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
    chosen = [get_entry(name) for name in dict.fromkeys(args.names)]
    entries = list(load_manifest().values()) if args.all or not chosen else chosen
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
        alternatives = list(zip(entry.file_sets, file_states(entry, weights_dir), strict=True))
        complete = [found for found in alternatives if is_complete(found[1])][:1]
        for number, (file_set, states) in enumerate(complete or alternatives):
            title = "  or" if number else entry.name
            for file in file_set.files:
                path = entry.directory(weights_dir) / file.name
                size = path.stat().st_size if path.exists() else file.bytes
                source = ", ".join(item.label for item in file_set.sources if item.provides(file.name))
                source += " (no known hash)" * (not file.sha256)
                if entry.name in sources:
                    source = sources[entry.name] or "none worked"
                if not file_set.sources:
                    source = "this repository" if entry.in_repository else "by hand"
                say(ROW.format(title, file.name, states[file.name].value, f"{size / 1e6:.2f}" if size else "?", source))
                title = ""


if __name__ == "__main__":
    run_cli(main)
