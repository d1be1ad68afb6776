"""Adapt to every photo of a folder through its faces and write it at four times its size."""

import argparse
import math
import sys
from pathlib import Path

from config import Config
from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli
from utils.errors import SkipPhoto, UserError
from utils.faces import SCALE, FaceFolder
from utils.images import image_size
from utils.photos import list_photos, parse_shard
from utils.report import Report
from utils.tensorflow_setup import configure_tensorflow, cpu_has_bfloat16, quiet_tensorflow
from utils.tiling import choose_tile_size, count_tiles

DEFAULTS = Config()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        UserError: a value is outside its range.
    """
    parser = ArgumentParser(__doc__)
    adaptation, upscaling = DEFAULTS.adaptation, DEFAULTS.upscaling
    files = parser.add_argument_group("files")
    files.add_argument("--input_dir", type=Path, default="./datasets/RealFaces200/LQ", help="folder of photos")
    files.add_argument("--face_dir", type=Path, default="./datasets/RealFaces200",
                       help="folder that holds Face_LQ/ and Face_HQ/")
    files.add_argument("--output_dir", type=Path, default="./datasets/RealFaces200/Res", help="folder of the results")
    files.add_argument("--model_dir", default="./pretrained_models/model-new",
                       help="checkpoint: a TF1 name-based prefix, a folder with one, a .pth, an ncnn .bin, or "
                            "`realesrgan`")
    files.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    files.add_argument("--overwrite", action="store_true", help="replace results that are there")
    files.add_argument("--skip_existing", action="store_true", help="leave out photos whose result is there")
    files.add_argument("--shard", default="0/1", help="i/n: only the i-th of n parts of the folder")
    files.add_argument("--dry_run", action="store_true", help="list what would be done and stop")
    files.add_argument("--save_comparison", action="store_true",
                       help="also write comparison/<stem>.png: bicubic, un-adapted and adapted side by side")
    adapting = parser.add_argument_group("adaptation")
    adapting.add_argument("--patch_size", type=int, default=adaptation.patch_size,
                          help="side of a high-quality face patch, divisible by 4")
    adapting.add_argument("--patch_num_per_img", type=int, default=adaptation.patches_per_face,
                          help="random patches per face")
    adapting.add_argument("--fine_tune_num", type=int, default=adaptation.num_steps,
                          help="gradient steps; 0 upscales without adaptation")
    adapting.add_argument("--learning_rate", type=float, default=adaptation.learning_rate, help="of those steps")
    adapting.add_argument("--seed", type=int, default=upscaling.seed, help="of the patch positions")
    adapting.add_argument("--no_face", choices=("base", "skip", "error"), default="base",
                          help="photos without a face: upscale un-adapted, leave out, or count as failed")
    adapting.add_argument("--safeguard", choices=("off", "backtrack"), default="off",
                          help="backtrack: halve a step that makes the loss of held-out patches worse, up to five "
                               "times, then do not take it")
    computing = parser.add_argument_group("computation")
    computing.add_argument("--precision", choices=("float32", "bfloat16"), default="float32",
                           help="of the convolutions when upscaling; adaptation is always float32")
    computing.add_argument("--tile_size", default="auto",
                           help="side of a tile in LQ pixels; 0: never tile; auto: tile when --memory_gib demands it")
    computing.add_argument("--tile_overlap", type=int, default=upscaling.tile_overlap, help="in LQ pixels")
    computing.add_argument("--memory_gib", type=float, default=upscaling.memory_gib,
                           help="memory that automatic tiling keeps to")
    computing.add_argument("--gpu", help="GPUs to use, as 0 or 0,1; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    args = parser.parse_args(argv)
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    def require(holds: bool, rule: str, value: object) -> None:
        if not holds:
            raise UserError(f"{rule}. Received: {value}.")

    require(args.patch_size > 0 and args.patch_size % SCALE == 0,
            f"--patch_size must be positive and divisible by {SCALE}", args.patch_size)
    require(args.patch_num_per_img > 0, "--patch_num_per_img must be at least 1", args.patch_num_per_img)
    require(args.fine_tune_num >= 0, "--fine_tune_num must be at least 0", args.fine_tune_num)
    require(args.learning_rate > 0 and math.isfinite(args.learning_rate), "--learning_rate must be positive",
            args.learning_rate)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    require(args.memory_gib > 0, "--memory_gib must be positive", args.memory_gib)
    require(args.tile_overlap >= 0, "--tile_overlap must be at least 0", args.tile_overlap)
    require(args.tile_size == "auto" or args.tile_size.isdecimal(), "--tile_size must be a number or auto",
            args.tile_size)
    args.tile_size = None if args.tile_size == "auto" else int(args.tile_size)
    smallest = 128 if args.tile_size is None else args.tile_size
    require(not smallest or args.tile_overlap < smallest, "--tile_overlap must be smaller than the tile",
            f"overlap {args.tile_overlap}, tile {smallest}")
    require(not (args.overwrite and args.skip_existing), "--overwrite and --skip_existing exclude each other", "both")
    args.shard = parse_shard(args.shard)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    args = parse_args(argv)
    index, count = args.shard
    photos = list_photos(args.input_dir)[index::count]
    faces = FaceFolder(args.face_dir) if args.fine_tune_num else None
    if args.dry_run:
        return _list_plan(args, photos, faces)
    there = {photo for photo in photos if (args.output_dir / f"{photo.stem}.png").exists()}
    if there and not (args.overwrite or args.skip_existing):
        raise UserError(f"{len(there)} of {len(photos)} results are already in {args.output_dir}. "
                        "Give --overwrite or --skip_existing.")
    return _restore_photos(args, photos, there if args.skip_existing else set(), faces)


def _list_plan(args: argparse.Namespace, photos: list[Path], faces: FaceFolder | None) -> int:
    """Print what a run would do to each photo."""
    faulty = 0
    print(f"{'photo':40} {'size':>12} {'result':>12} {'faces':>5} {'tiles':>5}")
    for photo in photos:
        try:
            height, width = image_size(photo)
            pairs = len(faces.pairs(photo.stem)) if faces else 0
            tile = choose_tile_size(height, width, tile_size=args.tile_size, memory_gib=args.memory_gib)
            tiles = count_tiles(height, width, tile, args.tile_overlap)
            print(f"{photo.name:40} {f'{width}x{height}':>12} {f'{width * SCALE}x{height * SCALE}':>12} {pairs:5} "
                  f"{tiles:5}")
        except UserError as error:
            faulty += 1
            print(f"{photo.name:40} error: {error}")
    print(f"{len(photos)} in all, {faulty} faulty. Nothing was written.")
    return EXIT_USER_ERROR if faulty else 0


def _restore_photos(args: argparse.Namespace, photos: list[Path], done: set[Path], faces: FaceFolder | None) -> int:
    """Work through the photos; one that fails gets a row in the report and does not stop the others."""
    restorer = _build(args, faces) if len(done) < len(photos) else None
    name = "report.csv" if args.shard == (0, 1) else f"report-{args.shard[0]}-of-{args.shard[1]}.csv"
    report = Report(args.output_dir / name, num_steps=args.fine_tune_num, keep=args.skip_existing)
    planned = {photo: 0 if photo in done else _planned_tiles(args, photo) for photo in photos}
    with Progress(sum(planned.values()), description="photos", unit="tile") as progress:
        for photo in photos:
            if photo in done:
                report.add_skipped(photo.name)
                continue
            row, target = {"file": photo.name}, progress.count + planned[photo]
            try:
                row = restorer.restore(
                    photo, lambda what, tiles, name=photo.name: progress.update(tiles, f"{name}: {what}"))
            except SkipPhoto as reason:
                row.update(status="skipped", reason=str(reason))
            except UserError as error:
                row.update(status="error", reason=str(error))
                progress.write(f"error: {photo.name}: {error}")
            report.add(row)
            progress.update(target - progress.count)  # tiles of a photo that failed or needed fewer
    counts = {status: report.count(status) for status in ("adapted", "base", "skipped", "error")}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    print(f"{len(photos)} photo{'s' * (len(photos) != 1)}: {summary}. Report: {report.path}")
    return EXIT_USER_ERROR if counts["error"] else 0


def _planned_tiles(args: argparse.Namespace, photo: Path) -> int:
    """Count the tiles a photo will probably take."""
    try:
        height, width = image_size(photo)
    except UserError:
        return 1
    tile = choose_tile_size(height, width, tile_size=args.tile_size, memory_gib=args.memory_gib)
    passes = 2 if args.save_comparison and args.fine_tune_num else 1
    return passes * count_tiles(height, width, tile, args.tile_overlap)


def _build(args: argparse.Namespace, faces: FaceFolder | None):
    """Load the weights, once, and compile the networks; gives a PhotoRestorer."""
    # TensorFlow reads its environment at import, and takes seconds: only now that the command line is known to be good
    quiet_tensorflow(args.gpu)
    from model.super_resolver import SuperResolver
    from utils.checkpoints import load_super_resolver
    from utils.restoration import Options, PhotoRestorer

    gpus = configure_tensorflow()
    if args.gpu not in (None, "-1") and not gpus:
        print(f"note: no GPU for --gpu {args.gpu}: running on the CPU", file=sys.stderr)
    if args.precision == "bfloat16" and not gpus and cpu_has_bfloat16() is False:
        print("note: this CPU has no bfloat16 arithmetic: float32 is faster", file=sys.stderr)
    weights = load_super_resolver(args.model_dir, weights_dir=args.weights_dir)
    if args.fine_tune_num and weights.mask is None:
        print(f"note: {weights.source} has no MaskNet: all pixels of the faces count alike", file=sys.stderr)
    if args.fine_tune_num and not weights.meta_trained:
        print("note: these weights are not meta-trained: adapting them usually makes a photo worse; "
              "--fine_tune_num 0 leaves them as they are", file=sys.stderr)
    resolver = SuperResolver(weights.generator, weights.mask, precision=args.precision)
    adaptation = DEFAULTS.adaptation
    options = Options(
        patch_size=args.patch_size // SCALE, patches_per_face=args.patch_num_per_img, num_steps=args.fine_tune_num,
        learning_rate=args.learning_rate, seed=args.seed, tile_size=args.tile_size, tile_overlap=args.tile_overlap,
        memory_gib=args.memory_gib, no_face=args.no_face, backtrack=args.safeguard == "backtrack",
        holdout_fraction=adaptation.holdout_fraction, max_halvings=adaptation.max_halvings,
        save_comparison=args.save_comparison)
    return PhotoRestorer(resolver, faces, args.output_dir, options)


if __name__ == "__main__":
    run_cli(main)
