"""Make a test set from clean photos: GT/<stem>.png and, degraded and a quarter of the size, LQ/<stem>.png.

What is drawn for a photo depends on --seed and its stem only; degradations.json keeps it. Photos are cut at the right
and bottom so that 4 divides their sides. GT has 8 bits and three channels; transparency is dropped.
"""

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import EXIT_USER_ERROR, ArgumentParser, run_cli
from utils.data.presets import TESTSET_PRESETS
from utils.data.testset import REPORT, SynthesisSettings, synthesize_testset
from utils.errors import require
from utils.image.io import add_pixel_limit


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line; `settings` are the `SynthesisSettings`."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--input_dir", type=Path, help="folder of clean photos")
    add_pixel_limit(parser)
    parser.add_argument("--output_dir", type=Path, help="folder that gets GT/, LQ/, degradations.json and report.csv")
    parser.add_argument("--preset", choices=TESTSET_PRESETS, default="iid", help="degradation; see --list_presets")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--crop", type=int, help="cut a square of this side from the middle of every photo")
    parser.add_argument("--usm", action="store_true",
                        help="degrade the sharpened photo, as training does; GT is never sharpened")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE",
                        help="apply exactly the steps of this degradations.json, instead of a preset; photos are found "
                             "in it by their stems")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--skip_existing", action="store_true", help="leave out photos whose results exist")
    parser.add_argument("--num_workers", type=int, default=0, help="photos at a time; 0: as many as there are cores")
    parser.add_argument("--list_presets", action="store_true", help="describe every preset and stop")
    args = parser.parse_args(argv)
    args.settings = SynthesisSettings(args.preset, args.seed, args.usm, args.crop)
    require(args.list_presets or (args.input_dir and args.output_dir), "--input_dir and --output_dir are needed",
            "one of them, or neither")
    require(args.num_workers >= 0, "--num_workers must be at least 0", args.num_workers)
    require(not (args.overwrite and args.skip_existing), "--overwrite and --skip_existing exclude each other", "both")
    require(not args.source or args.settings == SynthesisSettings("iid"),
            "--from excludes --preset, --seed, --crop and --usm", "both")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    args = parse_args(argv)
    if args.list_presets:
        for name, preset in TESTSET_PRESETS.items():
            print(textwrap.fill(f"{name:12}{preset.description}", 100, subsequent_indent=" " * 12))
        return 0
    counts = synthesize_testset(args.input_dir, args.output_dir, args.settings, source=args.source,
                                overwrite=args.overwrite, skip_existing=args.skip_existing,
                                num_workers=args.num_workers)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    total = sum(counts.values())
    print(f"{total} photo{'s' * (total != 1)}: {summary}. Report: {args.output_dir / REPORT}")
    return EXIT_USER_ERROR if counts["error"] else 0


if __name__ == "__main__":
    run_cli(main)
