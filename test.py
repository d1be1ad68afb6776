"""Adapt to every photo of a folder through its faces and write it at four times its size."""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

from config import SCALE, AdaptationConfig, UpscalingConfig
from utils.console import EXIT_USER_ERROR, ArgumentParser, counted, note_once, run_cli
from utils.errors import UserError, printable, require
from utils.face.pairs import FaceFolder, check_face
from utils.files import check_writable
from utils.image.io import add_pixel_limit, image_size
from utils.image.listing import COMPARISON, Source, add_recursive, describe_unused, list_photos, parse_shard
from utils.inference.tiling import choose_tiling, estimate_seconds
from utils.report import Report, claim_report, report_name
from utils.tensorflow_setup import cpu_has_bfloat16, free_memory_gib, start_tensorflow

# columns of the report; between them loss_0 ... loss_N, the inner loss before the first and after each of N steps
BEFORE_LOSSES = ("file", "status", "width", "height", "faces", "patches", "mask_mean", "mask_min", "mask_max")
AFTER_LOSSES = ("learning_rates", "seconds_adaptation", "seconds_upscaling", "seconds_total", "tiles", "pasted",
                "reason")
FINISHED = ("adapted", "loss rose", "not adapted")  # statuses of photos with a result
ADAPTATION, UPSCALING = AdaptationConfig(), UpscalingConfig()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--input_dir", type=Path, default="./datasets/RealFaces200/LQ", help="photo or folder of photos")
    files.add_argument("--face_dir", type=Path, default="./datasets/RealFaces200", help="of Face_LQ/ and Face_HQ/")
    files.add_argument("--output_dir", type=Path, default="./datasets/RealFaces200/Res", help="folder of the results")
    files.add_argument("--model_dir", default="./pretrained_models/model-new",
                       help="checkpoint: a TF1 name-based prefix, a folder with one, a file of weights (.npz, .pth, "
                            ".safetensors, ncnn's .bin), or a name: `metaf2n-x4plus`, `metaf2n-small`, `realesrgan`")
    files.add_argument("--weights_key", metavar="NAME", help="entry of a PyTorch file that holds several weights")
    files.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    files.add_argument("--overwrite", action="store_true", help="replace results that are there")
    files.add_argument("--skip_existing", action="store_true", help="leave out photos whose result is there")
    files.add_argument("--strip_metadata", action="store_true", help="leave date, place and camera out of the results")
    add_recursive(files)
    add_pixel_limit(files)
    files.add_argument("--shard", default="0/1", help="i/n: only part i of n of the folder, i from 0")
    files.add_argument("--dry_run", action="store_true", help="list what would be done and stop")
    files.add_argument("--save_comparison", action="store_true",
                       help="also write comparison/<name>.png: bicubic, not adapted and adapted side by side")
    adapting = parser.add_argument_group("adaptation")
    adapting.add_argument("--patch_size", type=int, default=ADAPTATION.patch_size, help="HQ pixels, divisible by 4")
    adapting.add_argument("--patch_num_per_img", type=int, default=ADAPTATION.patches_per_face, help="per face")
    adapting.add_argument("--fine_tune_num", type=int, default=ADAPTATION.num_steps, help="gradient steps; 0: none")
    adapting.add_argument("--learning_rate", type=float, default=ADAPTATION.learning_rate, help="of the gradient steps")
    adapting.add_argument("--seed", type=int, default=ADAPTATION.seed, help="of the patch positions")
    adapting.add_argument("--no_face", choices=("base", "skip", "error"), default="base",
                          help="photos without a face: upscale without adaptation, leave out, or count as failed")
    adapting.add_argument("--safeguard", choices=("off", "backtrack"), default="off",
                          help="backtrack: halve a step that makes the loss of held-out patches worse, up to "
                               f"{ADAPTATION.max_halvings} times, then do not take it")
    adapting.add_argument("--check_faces", choices=("error", "warn", "off"), default="error",
                          help="where a face in Face_LQ is not cut from its photo: the photo fails, or is warned of")
    pasting = parser.add_argument_group("pasting")
    pasting.add_argument("--paste_faces", action="store_true", help="paste the faces of Face_HQ into the results")
    pasting.add_argument("--face_weight", type=float, default=1.0, help="of pasted faces, from 0 to 1")
    computing = parser.add_argument_group("computation")
    computing.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32",
                           help="of the convolutions when upscaling; adaptation is always float32")
    computing.add_argument("--xla", action="store_true", help="let XLA compile the networks: for GPUs, and for photos "
                                                              "of few sizes, as each size is compiled for itself")
    computing.add_argument("--tile_size", default="auto",
                           help="side of a tile in LQ pixels; 0: never tile; auto: tile when --memory_gib demands it")
    computing.add_argument("--tile_overlap", type=int, default=UPSCALING.tile_overlap, help="in LQ pixels")
    computing.add_argument("--memory_gib", type=float, help="limit for automatic tiling (default: half of the free)")
    computing.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES). For "
                                         "several, run one process per GPU, each with its --shard")
    args = parser.parse_args(argv)
    _check_and_convert(args)
    return args


def _check_and_convert(args: argparse.Namespace) -> None:
    require(args.patch_size > 0 and args.patch_size % SCALE == 0,
            f"--patch_size must be positive and divisible by {SCALE}", args.patch_size)
    require(args.patch_num_per_img > 0, "--patch_num_per_img must be at least 1", args.patch_num_per_img)
    require(args.fine_tune_num >= 0, "--fine_tune_num must be at least 0", args.fine_tune_num)
    require(args.learning_rate > 0 and math.isfinite(args.learning_rate), "--learning_rate must be positive",
            args.learning_rate)
    require(0 <= args.face_weight <= 1, "--face_weight must lie between 0 and 1", args.face_weight)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    require(args.memory_gib is None or args.memory_gib > 0, "--memory_gib must be positive", args.memory_gib)
    require(args.tile_overlap >= 0, "--tile_overlap must be at least 0", args.tile_overlap)
    require(args.tile_size == "auto" or args.tile_size.isdecimal(), "--tile_size must be a number or auto",
            args.tile_size)
    args.memory_gib = args.memory_gib or free_memory_gib() / 2
    args.tile_size = None if args.tile_size == "auto" else int(args.tile_size)
    smallest = UPSCALING.smallest_tile if args.tile_size is None else args.tile_size
    require(not smallest or args.tile_overlap < smallest, "--tile_overlap must be smaller than the tile",
            f"overlap {args.tile_overlap}, tile {smallest}")
    require(not (args.overwrite and args.skip_existing), "--overwrite and --skip_existing exclude each other", "both")
    args.upscaling = UpscalingConfig(tile_size=args.tile_size, tile_overlap=args.tile_overlap,
                                     memory_gib=args.memory_gib)
    args.shard = parse_shard(args.shard)


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    index, count = args.shard
    every_photo = list_photos(args.input_dir, recursive=args.recursive, apart=[args.output_dir])
    photos = every_photo[index::count]
    faces = None
    if args.fine_tune_num or args.paste_faces:
        faces = FaceFolder(args.face_dir, [photo.key for photo in every_photo], recursive=args.recursive)
        if faces.unused:
            note_once(describe_unused(faces.unused, str(args.face_dir)))
    if args.dry_run:
        return _list_plan(args, photos, faces)
    written = _check_outputs(args, every_photo)
    report = args.output_dir / report_name("report", args.shard)
    with claim_report(report, written):
        there = [photo for photo in photos if (args.output_dir / f"{photo.key}.png").exists()]
        if there and not (args.overwrite or args.skip_existing):
            raise UserError(f"{len(there)} of {len(photos)} results are already in {args.output_dir}. "
                            "Give --overwrite or --skip_existing.")
        if args.overwrite:
            there = []
        elif args.save_comparison:
            there = [photo for photo in there if (args.output_dir / COMPARISON / f"{photo.key}.png").exists()]
        return _restore_photos(args, photos, there, faces, report)


def _check_outputs(args: argparse.Namespace, photos: list[Source]) -> set[Path]:
    """Return the folders that are written to; a UserError if they cannot be, or hold photos or faces."""
    results = {(args.output_dir / photo.key).parent for photo in photos} | {args.output_dir}
    sources = {photo.path.parent for photo in photos} | {args.face_dir / "Face_LQ", args.face_dir / "Face_HQ"}
    if {folder.resolve() for folder in results} & {folder.resolve() for folder in sources}:
        raise UserError(f"--output_dir must be another folder than the photos' and the faces': results would replace "
                        f"them. Received: {args.output_dir}.")
    comparisons = {(args.output_dir / COMPARISON / photo.key).parent for photo in photos}
    require(not args.save_comparison or results.isdisjoint(comparisons), "a subfolder of photos must not have the name "
            "of that of --save_comparison", COMPARISON)
    check_writable(args.output_dir)
    return results | comparisons


def _list_plan(args: argparse.Namespace, photos: list[Source], faces: FaceFolder | None) -> int:
    """Print what a run would do to each photo, and return the exit status."""
    faulty, work = 0, 0.0
    print(f"{'photo':40} {'size':>12} {'result':>12} {'faces':>5} {'tiles':>5} {'overlap':>7} {'memory':>9}")
    for photo in photos:
        try:
            height, width = image_size(photo.path)
            pairs = faces.pairs(photo.key) if faces else []
            for pair in pairs:
                check_face(pair)
            tiling = choose_tiling(height, width, args.upscaling)
            work += height * width * (1 + tiling.extra_work)
            needed = tiling.memory_gib(8)
            excess = ": more than --memory_gib" if args.tile_size is None and needed > args.memory_gib else ""
            print(f"{printable(photo.name):40} {f'{width}x{height}':>12} {f'{width * SCALE}x{height * SCALE}':>12} "
                  f"{len(pairs):5} {tiling.num_tiles:5} {tiling.extra_work:7.0%} {needed:5.1f} GiB{excess}")
        except UserError as error:
            faulty += 1
            print(f"{printable(photo.name):40} error: {error}")
    print(f"{len(photos)} in all, {faulty} faulty as far as names and headers show. Upscaling takes about "
          f"{counted(math.ceil(estimate_seconds(work) / 60), 'minute')} on this CPU. Nothing was written.")
    return EXIT_USER_ERROR if faulty else 0


def _restore_photos(args: argparse.Namespace, photos: list[Source], there: list[Source], faces: FaceFolder | None,
                    report_path: Path) -> int:
    """Restore all photos but those whose results are there; one that fails does not stop the others."""
    todo = sorted(set(photos) - set(there))
    pipeline = _build(args, faces) if todo else None
    losses = [f"loss_{step}" for step in range(args.fine_tune_num + 1)] if args.fine_tune_num else []
    outcomes = Counter({"there already": len(there)})
    with Report(report_path, [*BEFORE_LOSSES, *losses, *AFTER_LOSSES], keep=FINISHED if args.skip_existing else (),
                order=[photo.name for photo in photos]) as report:
        report.add_present(photo.name for photo in there)
        if todo:
            from utils.inference.batch import restore_all

            outcomes += restore_all(pipeline, todo, report.add)
    if not photos:
        print("no photo falls into shard {}/{}".format(*args.shard))
        return 0
    without_faces = outcomes.pop("without faces", 0)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
    print(f"{counted(len(photos), 'photo')}: {summary}. Report: {report.path}")
    if without_faces and faces:
        question = ": were they made for these photos?" if without_faces == len(todo) else ""
        print(f"{without_faces} of {counted(len(todo), 'photo')} have no faces in {args.face_dir}{question}")
    return EXIT_USER_ERROR if outcomes["error"] else 0


def _build(args: argparse.Namespace, faces: FaceFolder | None):
    """Load the weights, once, and compile the networks; returns a PhotoPipeline."""
    # TensorFlow reads its environment at import, and takes seconds: only now that the command line is known to be good
    gpus = start_tensorflow(args.gpu)
    from model.super_resolver import SuperResolver
    from utils.inference.restoration import PhotoPipeline, PipelineSettings
    from utils.weights.checkpoints import load_super_resolver

    weights = load_super_resolver(args.model_dir, weights_dir=args.weights_dir, key=args.weights_key)
    notes = {
        "this CPU has no bfloat16 arithmetic: float32 is faster":
            args.precision == "bfloat16" and not gpus and cpu_has_bfloat16() is False,
        "float16 is for GPUs: on a CPU float32 is faster": args.precision == "float16" and not gpus,
        "XLA is for GPUs: on a CPU it compiles for a minute or more for every size of photos, and gains little":
            args.xla and not gpus,
        f"{weights.source} has no MaskNet: all pixels of the faces count alike":
            args.fine_tune_num and weights.mask is None,
        "these weights are not meta-trained: adapting them usually makes a photo worse; --fine_tune_num 0 leaves them "
        "as they are": args.fine_tune_num and not weights.meta_trained}
    for text, applies in notes.items():
        if applies:
            print(f"note: {text}", file=sys.stderr)
    resolver = SuperResolver(weights.generator, weights.mask, precision=args.precision, xla=args.xla)
    adaptation = AdaptationConfig(learning_rate=args.learning_rate, num_steps=args.fine_tune_num,
                                  patch_size=args.patch_size, patches_per_face=args.patch_num_per_img, seed=args.seed)
    return PhotoPipeline(resolver, faces, args.output_dir, PipelineSettings(
        adaptation, args.upscaling, no_face=args.no_face, backtrack=args.safeguard == "backtrack",
        check_faces=args.check_faces, face_weight=args.face_weight if args.paste_faces else 0.0,
        save_comparison=args.save_comparison, strip_metadata=args.strip_metadata))


if __name__ == "__main__":
    run_cli(main)
