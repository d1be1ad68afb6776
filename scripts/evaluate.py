"""Measure what adaptation gains on degraded photos of people, outside of the faces, and what it does not.

python scripts/evaluate.py --portraits PORTRAITS --scenes SCENES --output_dir results/evaluation

People are cut out of portraits and put in front of scenes; every photo is degraded in several ways, its faces are found
and restored as a user's would be, and it is enlarged in the ways of every row of a table. Without --portraits and
--scenes the only photo is the one inside scikit-image, degraded several times by each preset.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from scripts import synthesize_testset
from utils.adaptation_rows import BASE, MODEL, PUBLISHED, ROWS
from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli
from utils.errors import require
from utils.evaluation_faces import prepare_faces
from utils.evaluation_photos import OWN_PHOTO, Photos, make_photos
from utils.evaluation_plots import plot_gains, plot_own_and_other, write_pictures
from utils.evaluation_scores import RegionMeter, open_meter, score_photo
from utils.evaluation_settings import SETTINGS, check_settings, digest_params, digest_sources
from utils.evaluation_table import format_tables, summarize_set, write_json, write_scores
from utils.face_detection import open_detector
from utils.face_restorers import check_restorer, open_restorer, restorer_label
from utils.files import atomic_path, check_writable
from utils.photo_sources import Source, list_sources, parse_people
from utils.photos import list_photos
from utils.tensorflow_setup import start_tensorflow
from utils.testset_presets import PRESETS

DETECTOR, MIN_CONFIDENCE = "mtcnn", 0.9  # needs no download; as generate_test_faces.py has it
DRAWS = 4  # of scikit-image's photo when it is the only one


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        UserError: a value is outside its range, or two do not go together.
    """
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    photos = parser.add_argument_group("photos")
    for name, what in (("portraits", "portraits, one person each, in front of an even background"),
                       ("scenes", "photos that people are put in front of")):
        photos.add_argument(f"--{name}", type=Path, nargs="+", metavar="DIR",
                            help=f"folders of {what}; folders inside them count")
        photos.add_argument(f"--{name}_match", nargs="+", metavar="GLOB",
                            help="only files whose name, or path below the folder, fits one of these (default: all)")
        photos.add_argument(f"--{name}_exclude", nargs="+", metavar="GLOB",
                            help="no file whose name, or path below the folder, fits one of these (default: none)")
    photos.add_argument("--people", default="(.*)", metavar="REGEX", help="what of a portrait's name matches this is "
                        "the same for portraits of one person, who is not put into a photo twice, as '^[a-z]+_[0-9]+'")
    photos.add_argument("--photos", type=int, help="only so many scenes, the first ones (default: all); without "
                                                   f"--scenes, draws of scikit-image's photo (default: {DRAWS})")
    photos.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["iid", "ood-noise", "ood-tone"],
                        help="degradations, a set of photos each; synthesize_testset.py --list_presets says more")
    photos.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    networks = parser.add_argument_group("networks")
    networks.add_argument("--model", default="metaf2n-small", help="what is evaluated, as --model_dir of test.py")
    networks.add_argument("--base", default="realesrgan", help="what it is compared with, likewise")
    networks.add_argument("--restorer", default="rrdb-face", help="of the faces, as of generate_test_faces.py")
    networks.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW",
                          help=f"of {', '.join(ROWS)} (default: all)")
    networks.add_argument("--learning_rate", type=float, default=PUBLISHED.learning_rate, help="of the steps")
    networks.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    networks.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    parser.add_argument("--output_dir", type=Path, default="./results/evaluation",
                        help="gets table.md, scores.csv, summary.json, the plots and all that was made. Results that "
                             "are there and were made with the same settings are kept")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, removing what an evaluation left there")
    args = parser.parse_args(argv)
    require((args.portraits is None) == (args.scenes is None), "--portraits and --scenes go together", "one of them")
    require(args.scenes or not any(getattr(args, name) for name in (
        "portraits_match", "portraits_exclude", "scenes_match", "scenes_exclude")),
        "patterns choose from --portraits and --scenes", "patterns alone")
    require(args.photos is None or args.photos >= 1, "--photos must be at least 1", args.photos)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    require(args.learning_rate > 0 and math.isfinite(args.learning_rate), "--learning_rate must be positive",
            args.learning_rate)
    check_restorer(args.restorer)
    args.people = parse_people(args.people)
    args.presets, args.rows = list(dict.fromkeys(args.presets)), [name for name in ROWS if name in args.rows]
    return args


def list_inputs(args: argparse.Namespace) -> tuple[list[Source], list[Source]]:
    """List scenes and portraits; none of either when scikit-image's photo is the only one.

    Raises:
        UserError: there are none in the folders, or two scenes would have results of one name.
    """
    if not args.scenes:
        return [], []
    scenes, portraits = (list_sources(
        getattr(args, name), match=getattr(args, f"{name}_match"), exclude=getattr(args, f"{name}_exclude"),
        option=f"--{name}", match_option=f"--{name}_match", exclude_option=f"--{name}_exclude")
        for name in ("scenes", "portraits"))
    scenes = scenes[:args.photos]
    for stem, count in Counter([OWN_PHOTO, *(source.path.stem for source in scenes)]).items():
        require(count == 1, f"scenes must differ in their names, endings apart, and from {OWN_PHOTO}: their results "
                "would have one name", f"{count} photos {stem}")
    return scenes, portraits


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    started = time.perf_counter()
    args = parse_args(argv)
    scenes, portraits = list_inputs(args)
    check_writable(args.output_dir)
    gpus = start_tensorflow(args.gpu)  # takes seconds: only now that the command line is known to be good
    if args.gpu not in (None, "-1") and not gpus:
        print(f"note: no GPU for --gpu {args.gpu}: running on the CPU", file=sys.stderr)
    networks, digests = open_networks(args)
    restore = open_restorer(args.restorer, args.weights_dir)
    meter, missing = open_meter(args.weights_dir)
    for line in missing:
        print(line)
    num_draws = 1 if scenes else args.photos or DRAWS
    begin(args, {**digests, "draws": num_draws, "scenes": digest_sources(scenes),
                 "portraits": digest_sources(portraits)})
    with open_detector(DETECTOR, min_confidence=MIN_CONFIDENCE) as detect:
        photos = make_photos(args.output_dir / "photos", scenes, portraits, detect, seed=args.seed,
                             num_draws=num_draws, people=args.people)
        errors = list(photos.errors)
        runners = {preset: make_set(args, preset, networks, detect, restore, errors) for preset in args.presets}
    print(f"The clean photos have {sum(map(len, photos.faces.values()))} faces.")
    run_rows(args, runners, errors)
    report(args, runners, photos, meter)
    if photos.left_out:
        print(f"{len(photos.left_out)} of {len(portraits)} portraits were left out, as {photos.left_out[0]}")
    if not scenes:
        print(f"The only photo is the one inside scikit-image, degraded {num_draws} times by each preset: give "
              "--portraits and --scenes for more.")
    minutes = (time.perf_counter() - started) / 60
    print(f"{len(errors)} error{'s' * (len(errors) != 1)}. {minutes:.1f} minutes. All of it: {args.output_dir}")
    return EXIT_USER_ERROR if errors else 0


def open_networks(args: argparse.Namespace) -> tuple[dict, dict[str, str]]:
    """Load the two networks and compile them; gives them and the digests of their weights."""
    from model.super_resolver import SuperResolver
    from utils.checkpoints import load_super_resolver

    networks, digests = {}, {}
    for role, name in ((MODEL, args.model), (BASE, args.base)):
        if role == BASE and name == args.model:
            return {**networks, BASE: networks[MODEL]}, {**digests, BASE: digests[MODEL]}
        weights = load_super_resolver(name, weights_dir=args.weights_dir)
        digests[role] = digest_params({**weights.generator, **(weights.mask or {})})
        networks[role] = SuperResolver(weights.generator, weights.mask)
        if role == MODEL and not weights.meta_trained:
            print("note: the weights of --model are not meta-trained: adapting them usually makes a photo worse",
                  file=sys.stderr)
        if role == MODEL and weights.mask is None:
            print("note: --model has no MaskNet: the row no-masknet is the same as adapted", file=sys.stderr)
    return networks, digests


def begin(args: argparse.Namespace, inputs: dict) -> None:
    """Make sure that what is in the output folder was made with the same settings and inputs, or remove it."""
    settings = {"seed": args.seed, "learning_rate": args.learning_rate, "people": args.people.pattern,
                "restorer": restorer_label(args.restorer), **inputs}
    made = [args.output_dir / "photos", *(args.output_dir / preset for preset in PRESETS)]
    check_settings(args.output_dir / SETTINGS, settings, [path for path in made if path.exists()],
                   overwrite=args.overwrite)


def make_set(args: argparse.Namespace, preset: str, networks: Mapping, detect, restore, errors: list[str]):
    """Degrade all photos by one preset and prepare their faces; gives a RowRunner."""
    from utils.row_runner import RowRunner

    folder = args.output_dir / preset
    print(f"{preset}:")
    failed = synthesize_testset.main(["--input_dir", str(args.output_dir / "photos"), "--output_dir", str(folder),
                                      "--preset", preset, "--seed", str(args.seed), "--skip_existing"])
    if failed:
        errors.append(f"{folder / 'report.csv'} names photos that could not be degraded")
    photos = list_photos(folder / "LQ")
    errors += prepare_faces(photos, folder / "GT", folder / "faces", detect=detect, restore=restore,
                            detector=DETECTOR, restorer=restorer_label(args.restorer))
    runner = RowRunner(args.rows, folder, networks, photos=photos, seed=args.seed,
                       learning_rate=args.learning_rate)
    without = [stem for stem, count in runner.num_faces.items() if not count]
    print(f"{sum(runner.num_faces.values())} faces in {len(photos) - len(without)} of {len(photos)} photos"
          + f"; none found, and so un-adapted in every row: {', '.join(without)}" * bool(without))
    return runner


def run_rows(args: argparse.Namespace, runners: Mapping, errors: list[str]) -> None:
    """Make the results that are not there yet."""
    total = sum(len(runner.photos) * len(args.rows) for runner in runners.values())
    with Progress(total, description="results", unit="result") as progress:
        for preset, runner in runners.items():
            for photo in runner.photos:
                failed = runner.run(photo, lambda name, note=f"{preset}/{photo.stem}": progress.update(
                    1, f"{note} {name}"))
                for line in failed:
                    progress.write(f"error: {line}")
                errors += failed


def report(args: argparse.Namespace, runners: Mapping, photos: Photos, meter: RegionMeter) -> None:
    """Measure all results, and write and print what was found."""
    scores, summaries, pictures = [], {}, {}
    with Progress(sum(len(runner.photos) for runner in runners.values()), description="scores",
                  unit="photo") as progress:
        for preset, runner in runners.items():
            own = []
            for photo in runner.photos:
                files = [(name, runner.path(name, photo.stem)) for name in args.rows]
                own += score_photo(args.output_dir / preset / "GT" / photo.name, files,
                                   photos.faces.get(photo.stem, np.zeros((0, 4))), meter)
                progress.update(1, f"{preset}/{photo.stem}")
            with_faces = [stem for stem, count in runner.num_faces.items() if count]
            summaries[preset] = summarize_set(own, meter.metrics, with_faces=with_faces, paired=list(runner.partners))
            scores += [{"set": preset, "num_faces": runner.num_faces[score["photo"]], **score} for score in own]
            if runner.photos:
                pictures[preset] = args.output_dir / preset, [*with_faces, runner.photos[0].stem][0]
    write_scores(args.output_dir / "scores.csv", scores, meter.metrics)
    write_json(args.output_dir / "summary.json", summaries)
    table = format_tables(summaries, meter.metrics)
    with atomic_path(args.output_dir / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    plot_gains(args.output_dir / "gains.png", summaries)
    plot_own_and_other(args.output_dir / "own_and_other.png", scores, summaries,
                       {preset: list(runner.partners) for preset, runner in runners.items()})
    write_pictures(args.output_dir / "pictures.png", pictures)
    print(table)


if __name__ == "__main__":
    run_cli(main)
