"""Make aligned faces of 512x512 with other backgrounds: people are cut out of portraits and put in front of scenes.

python scripts/replace_backgrounds.py --portraits PORTRAITS --scenes SCENES --output_dir FACES

A face restorer trained on plain backgrounds only infers colours from them, and smooths other ones. The faces,
FACES/<stem>_<number>.png, are for `generate_tfrecord.py faces`.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli, shown_name
from utils.data.composites import DETECTOR, MIN_CONFIDENCE, cut_portrait, put_before
from utils.errors import FatalError, UserError, require
from utils.face.alignment import ALIGNED_SIZE, align_face, estimate_alignment
from utils.face.detection import Detector, open_detector
from utils.files import check_writable
from utils.image.io import add_pixel_limit, quantize, read_image, write_png
from utils.image.listing import Source, add_source_options, list_chosen, photo_rng

FACE_WIDTH = 260.0  # pixels: slightly more than in an aligned face
MARGIN = 160  # pixels around a portrait that an aligned face of that width can show


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    for name in ("portraits", "scenes"):
        add_source_options(parser, name, name, required=True)
    add_pixel_limit(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="gets the faces")
    parser.add_argument("--count", type=int, default=3, help="backgrounds per portrait")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--overwrite", action="store_true", help="replace existing faces")
    args = parser.parse_args(argv)
    require(args.count >= 1, "--count must be at least 1", args.count)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    args = parse_args(argv)
    portraits, scenes = (list_chosen(args, name) for name in ("portraits", "scenes"))
    for stem, count in Counter(source.path.stem for source in portraits).items():
        require(count == 1, "portraits must have different stems, from which their faces are named",
                f"{count} portraits {stem}")
    existing = [path for source in portraits for path in args.output_dir.glob(f"{source.path.stem}_[0-9]*.png")]
    if existing and not args.overwrite:
        raise UserError(f"{len(existing)} faces of these portraits are already in {args.output_dir}. Give --overwrite "
                        "or another --output_dir.")
    check_writable(args.output_dir)
    errors = written = 0
    with open_detector(DETECTOR, min_confidence=MIN_CONFIDENCE) as detect, \
            Progress(len(portraits), description="faces", unit="portrait") as progress:
        for portrait in portraits:
            try:
                written += make_faces(portrait, scenes, detect, args)
            except FatalError:
                raise
            except UserError as error:
                errors += 1
                progress.write(f"error: {' '.join(str(error).splitlines())}")
            except ValueError as error:
                progress.write(f"note: {portrait.path} is left out: {error}")
            progress.update(1, shown_name(portrait.path))
    print(f"{written} faces of {len(portraits)} portraits in {args.output_dir}; {errors} error{'s' * (errors != 1)}")
    return EXIT_USER_ERROR if errors else 0


def make_faces(portrait: Source, scenes: list[Source], detect: Detector, args: argparse.Namespace) -> int:
    """Write the faces of one portrait; return their number.

    Raises:
        ValueError: no person can be cut out of the portrait.
    """
    person, landmarks = cut_portrait(portrait.path, detect, face_width=FACE_WIDTH)
    matrix = estimate_alignment(landmarks + MARGIN)
    rng = photo_rng(args.seed, portrait.path.stem)
    for number in range(args.count):
        scene = quantize(read_image(scenes[int(rng.integers(len(scenes)))].path).pixels)
        aligned = align_face(put_before(person, scene, MARGIN, rng), matrix, ALIGNED_SIZE)
        write_png(args.output_dir / f"{portrait.path.stem}_{number}.png", aligned)
    return args.count


if __name__ == "__main__":
    run_cli(main)
