"""Restore photos of people: find and restore their faces, adapt to them, upscale, and paste the faces back.

python scripts/restore.py photo.jpg -o restored
"""

import argparse
import contextlib
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import SCALE, AdaptationConfig, UpscalingConfig
from utils.console import EXIT_USER_ERROR, ArgumentParser, counted, note_once, run_cli
from utils.errors import UserError, require
from utils.face.detection import open_detector
from utils.face.preparation import FacePreparer, PreparationSettings
from utils.face.restorers import check_restorer, open_restorer
from utils.files import check_writable, remove_leftovers
from utils.image.io import add_pixel_limit
from utils.image.listing import Source, add_recursive, list_images, result_name, same_name
from utils.tensorflow_setup import cpu_has_bfloat16, free_memory_gib, start_tensorflow
from utils.weights.download import load_or_fetch

FORMATS = ("png", "jpg", "webp", "same")
DEVICES = {"auto": None, "cpu": "-1"}
SUMMARY = {"adapted": "adapted", "loss rose": "adapted, but with a higher loss", "not adapted": "not adapted",
           "without faces": "without a face", "error": "failed", "there already": "there already"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="photos, and folders of photos")
    files.add_argument("-i", "--input", nargs="+", type=Path, default=[], metavar="INPUT", help="the same")
    files.add_argument("-o", "--output_dir", type=Path, required=True, metavar="OUT", help="folder of the results")
    add_recursive(files)
    files.add_argument("--format", choices=FORMATS, default="png",
                       help="same: as the photo, if that is JPEG or WebP, otherwise PNG")
    files.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1 to 100")
    files.add_argument("--suffix", default="", help="added to the names of the results, as _x4")
    files.add_argument("--strip_metadata", action="store_true", help="leave date, place and camera out of the results")
    files.add_argument("--compare", action="store_true", help="also write OUT/comparison/: before and after")
    files.add_argument("--overwrite", action="store_true", help="replace results that are there")
    files.add_argument("--skip_existing", action="store_true", help="leave out photos whose result is there")
    add_pixel_limit(files)
    restoring = parser.add_argument_group("restoration")
    restoring.add_argument("--outscale", type=float, default=SCALE, help="size of the result over the photo's, 1 to 4")
    restoring.add_argument("--face_weight", type=float, default=1.0, help="of the pasted faces, from 0 to 1")
    restoring.add_argument("--no_paste", action="store_true", help="leave the faces as the network upscales them")
    add_networks(restoring)
    args = parser.parse_args(argv)
    require(args.inputs or args.input, "name photos or folders, as: restore.py photo.jpg -o OUT", "no INPUT")
    require(1 <= args.outscale <= SCALE, "--outscale must lie between 1 and 4", args.outscale)
    require(1 <= args.quality <= 100, "--quality must lie between 1 and 100", args.quality)
    require(0 <= args.face_weight <= 1, "--face_weight must lie between 0 and 1", args.face_weight)
    require(Path(args.suffix).name == args.suffix, "--suffix must not hold folders", args.suffix)
    require(not (args.overwrite and args.skip_existing), "--overwrite and --skip_existing exclude each other", "both")
    check_networks(args)
    return args


def add_networks(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `build` and `load_resolver` to a parser or to a group of its options."""
    parser.add_argument("--model_dir", default="metaf2n-x4plus", help="the super-resolver, as of test.py")
    parser.add_argument("--restorer", default="rrdb-face", help="of the faces, as of generate_test_faces.py")
    parser.add_argument("--detector", choices=("mtcnn", "retinaface", "face-alignment"), default="mtcnn",
                        help="of the faces")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--device", default="auto", help="auto, cpu, or the number of a GPU")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                        help="auto: bfloat16 on CPUs that have it, otherwise float32")
    parser.add_argument("--memory_gib", type=float,
                        help="above which photos are upscaled in tiles (default: half of what is free)")


def check_networks(args: argparse.Namespace) -> None:
    """Check the flags that `add_networks` added, and choose a memory where none is given."""
    require(args.memory_gib is None or args.memory_gib > 0, "--memory_gib must be positive", args.memory_gib)
    require(args.device in DEVICES or args.device.isdecimal(), "--device is auto, cpu or a number", args.device)
    check_restorer(args.restorer)
    args.memory_gib = args.memory_gib or free_memory_gib() / 2


def list_inputs(args: argparse.Namespace) -> list[Source]:
    """List the photos; the name of each is that of its result, but for suffix and ending.

    Raises a UserError if there is none, two would have one result, or a result would replace a photo.
    """
    sources: list[Source] = []
    inputs = args.inputs + args.input
    for path in inputs:
        if path.is_dir():
            try:
                sources += list_images(path, "INPUT or --recursive", recursive=args.recursive, apart=[args.output_dir])
            except UserError as error:
                if path == inputs[-1] and not sources:
                    raise
                note_once(str(error))
        else:
            require(path.exists(), "INPUT must be a photo or a folder of photos", path)
            sources.append(Source(path.name, path))
    photos: dict[Path, Source] = {}
    names: dict[str, Source] = {}
    for source in sources:
        if photos.setdefault(source.path.resolve(), source) is source:  # otherwise named twice
            other = names.setdefault(same_name(source.key).casefold(), source)
            require(other is source, "two photos must not have one result: rename one, or give them another -o",
                    f"{other.path} and {source.path}")
    for source in photos.values():
        result = args.output_dir / result_name(source, args.suffix, args.format)
        require(result.resolve() not in photos, "results must not replace photos: give another -o, or --suffix", result)
    return list(photos.values())


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    photos = list_inputs(args)
    check_writable(args.output_dir)
    results = {photo: args.output_dir / result_name(photo, args.suffix, args.format) for photo in photos}
    todo = [photo for photo, result in results.items() if args.overwrite or not result.exists()]
    there = len(photos) - len(todo)
    require(not there or args.skip_existing, "results must not be there: give --overwrite or --skip_existing",
            f"{there} of {len(photos)} in {args.output_dir}")
    for folder in {result.parent for result in results.values()}:
        remove_leftovers(folder, *(result.name for result in results.values()))  # of a killed run
    outcomes = Counter({"there already": there})
    if todo:
        with contextlib.ExitStack() as stack:
            pipeline = build(args, stack)
            from utils.inference.batch import restore_all

            outcomes += restore_all(pipeline, todo)
    summary = ", ".join(f"{outcomes[key]} {text}" for key, text in SUMMARY.items() if outcomes[key])
    print(f"{counted(len(photos), 'photo')}: {summary}. Results: {args.output_dir}")
    return EXIT_USER_ERROR if outcomes["error"] else 0


def build(args: argparse.Namespace, stack: contextlib.ExitStack):
    """Load all networks, fetching weights that are missing; returns a PhotoPipeline. `stack` ends the detector."""
    resolver, adaptation = load_resolver(args.model_dir, args)
    from utils.inference.restoration import PhotoPipeline, PipelineSettings

    folder = args.weights_dir
    face_weight, preparer = 0.0 if args.no_paste else args.face_weight, None
    if adaptation.num_steps or face_weight:
        detector = load_or_fetch(lambda: stack.enter_context(open_detector(args.detector, weights_dir=folder)), folder)
        restorer = load_or_fetch(lambda: open_restorer(args.restorer, folder), folder)
        preparer = FacePreparer(detector, restorer, args.output_dir, PreparationSettings(args.detector, args.restorer))
    return PhotoPipeline(
        resolver, preparer, args.output_dir,
        PipelineSettings(adaptation, UpscalingConfig(memory_gib=args.memory_gib), backtrack=True,
                         face_weight=face_weight, save_comparison=args.compare,
                         compare_unadapted=False, outscale=args.outscale, image_format=args.format,
                         name_suffix=args.suffix, quality=args.quality, strip_metadata=args.strip_metadata))


def load_resolver(name: str, args: argparse.Namespace):
    """Load a super-resolver, fetching weights that are missing; returns it and its AdaptationConfig.

    Weights that are not meta-trained are not adapted.
    """
    gpus = start_tensorflow(DEVICES.get(args.device, args.device))
    from model.super_resolver import SuperResolver
    from utils.weights.checkpoints import load_super_resolver

    weights = load_or_fetch(lambda: load_super_resolver(name, weights_dir=args.weights_dir), args.weights_dir)
    has_bfloat16 = not gpus and cpu_has_bfloat16()
    precision = args.precision if args.precision != "auto" else "bfloat16" if has_bfloat16 else "float32"
    return (SuperResolver(weights.generator, weights.mask, precision=precision),
            AdaptationConfig(num_steps=int(weights.meta_trained)))


if __name__ == "__main__":
    run_cli(main)
