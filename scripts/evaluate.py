"""Measure the gain of adaptation on degraded photos of people, outside of the faces.

python scripts/evaluate.py --portraits PORTRAITS --scenes SCENES --output_dir results/evaluation

People are cut out of portraits and put in front of scenes, or photos of people are used as they are (--input_dir).
Every photo is degraded in several ways, its faces are found and restored as a user's would be, and every variant
upscales it. Without these options the only photo is the one inside scikit-image, degraded several times per preset.
"""

import argparse
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli
from utils.data.composites import DETECTOR, MIN_CONFIDENCE
from utils.data.presets import PRESETS
from utils.data.testset import SynthesisSettings, synthesize_testset
from utils.errors import require
from utils.evaluation.faces import prepare_faces
from utils.evaluation.photos import OWN_PHOTO, Photos, make_photos
from utils.evaluation.plots import plot_gains, plot_own_and_other, write_pictures
from utils.evaluation.scores import RegionMeter, open_meter, score_photo
from utils.evaluation.settings import SETTINGS, check_settings, digest_params, digest_sources
from utils.evaluation.table import format_made, format_tables, summarize_set, write_json, write_scores
from utils.evaluation.variants import BASE, MODEL, PUBLISHED, VARIANTS
from utils.face.detection import Detector, open_detector
from utils.face.restorers import FIDELITY, Restorer, check_restorer, open_restorer, restorer_label
from utils.files import atomic_path, check_writable, exclusive
from utils.image.io import add_pixel_limit
from utils.image.listing import Source, add_source_options, list_chosen, list_photos, parse_people
from utils.tensorflow_setup import start_tensorflow

if TYPE_CHECKING:
    from utils.evaluation.runner import VariantRunner  # brings TensorFlow along

DEFAULT_PRESETS = ("iid", "ood-noise", "ood-camera", "ood-tone")
REPORTS = ("table.md", "scores.csv", "summary.json", "gains.png", "own_and_other.png", "pictures.png")
DRAWS = 4  # of scikit-image's photo when it is the only one


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        UserError: a value is outside its range, or two do not go together.
    """
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    photos = parser.add_argument_group("photos")
    add_source_options(photos, "portraits", "portraits, one person each, in front of an even background")
    add_source_options(photos, "scenes", "photos that people are put in front of")
    add_source_options(photos, "input_dir", "photos of people, taken as they are, instead of portraits and scenes")
    photos.add_argument("--people", default="(.*)", metavar="REGEX", help="what of the name of a portrait, or of a "
                        "photo in --input_dir, matches this is the same for those of one person, who is not put into a "
                        "photo twice; the control takes the faces of other people, as '^[a-z]+_[0-9]+'")
    photos.add_argument("--photos", type=int, help="only so many scenes, or photos of --input_dir, the first ones "
                        f"(default: all); without either, draws of scikit-image's photo (default: {DRAWS})")
    photos.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(DEFAULT_PRESETS),
                        help="degradations, a set of photos each; synthesize_testset.py --list_presets says more")
    photos.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    networks = parser.add_argument_group("networks")
    networks.add_argument("--model", default="metaf2n-small", help="the network to evaluate, as --model_dir of test.py")
    networks.add_argument("--base", default="realesrgan", help="the network of the variant base, likewise")
    networks.add_argument("--restorer", default="rrdb-face-tone", help="of the faces, as of generate_test_faces.py")
    networks.add_argument("--codeformer_fidelity", type=float, default=FIDELITY,
                          help="of a .onnx with such an input: 0 for quality, 1 for likeness")
    networks.add_argument("--variants", "--rows", nargs="+", choices=list(VARIANTS), default=list(VARIANTS),
                          metavar="VARIANT", help=f"of {', '.join(VARIANTS)} (default: all)")
    networks.add_argument("--learning_rate", type=float, default=PUBLISHED.learning_rate, help="of the steps")
    networks.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    networks.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    add_pixel_limit(parser)
    parser.add_argument("--output_dir", type=Path, default="./results/evaluation",
                        help="receives table.md, scores.csv, summary.json, plots and pictures; existing results of the "
                             "same settings are kept")
    parser.add_argument("--overwrite", action="store_true", help="remove the results of an earlier evaluation first")
    args = parser.parse_args(argv)
    require((args.portraits is None) == (args.scenes is None), "--portraits and --scenes go together", "one of them")
    require(not (args.input_dir and args.scenes), "--input_dir takes the place of --portraits and --scenes", "all")
    for name in ("portraits", "scenes", "input_dir"):
        require(getattr(args, name) or not (getattr(args, f"{name}_match") or getattr(args, f"{name}_exclude")),
                f"--{name}_match and --{name}_exclude choose from --{name}", "patterns alone")
    require(args.photos is None or args.photos >= 1, "--photos must be at least 1", args.photos)
    require(args.seed >= 0, "--seed must be at least 0", args.seed)
    require(args.learning_rate > 0 and math.isfinite(args.learning_rate),
            "--learning_rate must be positive and finite", args.learning_rate)
    check_restorer(args.restorer, fidelity=args.codeformer_fidelity)
    args.people = parse_people(args.people)
    args.presets = list(dict.fromkeys(args.presets))
    args.variants = [name for name in VARIANTS if name in args.variants]
    return args


class Inputs(NamedTuple):
    """Files that the clean photos are made of: scenes and portraits, or `ready` photos, or none."""

    scenes: list[Source]
    portraits: list[Source]
    ready: list[Source]

    @property
    def only_own(self) -> bool:
        """Whether scikit-image's astronaut is the only photo."""
        return not self.scenes and not self.ready


def list_inputs(args: argparse.Namespace) -> Inputs:
    """List the files that the clean photos are made of.

    Raises:
        UserError: a folder has no image, or the results of two photos would have the same name.
    """
    scenes, portraits, ready = (list_chosen(args, name) if getattr(args, name) else []
                                for name in ("scenes", "portraits", "input_dir"))
    scenes, ready = scenes[:args.photos], ready[:args.photos]
    for stem, count in Counter([*[OWN_PHOTO] * bool(scenes),
                                *(source.path.stem for source in (*scenes, *ready))]).items():
        require(count == 1, "photos must differ in their names, endings apart"
                + f", and scenes from {OWN_PHOTO}" * bool(scenes) + ": their results would have one name",
                f"{count} photos {stem}")
    return Inputs(scenes, portraits, ready)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    inputs = list_inputs(args)
    check_writable(args.output_dir)
    gpus = start_tensorflow(args.gpu)  # takes seconds, so after the checks
    if args.gpu not in (None, "-1") and not gpus:
        print(f"note: no GPU for --gpu {args.gpu}: running on the CPU", file=sys.stderr)
    with exclusive(args.output_dir / ".evaluation.lock", str(args.output_dir)):
        errors = evaluate(args, inputs, shlex.join(["python", "scripts/evaluate.py", *argv]))
    print(f"{len(errors)} error{'s' * (len(errors) != 1)}. All of it: {args.output_dir}")
    return EXIT_USER_ERROR if errors else 0


def evaluate(args: argparse.Namespace, inputs: Inputs, command: str) -> list[str]:
    """Compute and score all results, and write the reports; returns a line per failure."""
    networks, digests = open_networks(args)
    restore = open_restorer(args.restorer, args.weights_dir, fidelity=args.codeformer_fidelity)
    meter, missing = open_meter(args.weights_dir)
    for line in missing:
        print(line)
    num_draws = (args.photos or DRAWS) if inputs.only_own else 1
    begin(args, {**digests, "draws": num_draws, "scenes": digest_sources(inputs.scenes),
                 "portraits": digest_sources(inputs.portraits),
                 **({"input": digest_sources(inputs.ready)} if inputs.ready else {})})
    with open_detector(DETECTOR, min_confidence=MIN_CONFIDENCE) as detect:
        photos = make_photos(args.output_dir / "photos", inputs.scenes, inputs.portraits, detect, seed=args.seed,
                             num_draws=num_draws, people=args.people, ready=inputs.ready)
        errors = list(photos.errors)
        sets = {preset: make_set(args, preset, networks, detect, restore, photos, errors) for preset in args.presets}
    print(f"The clean photos have {sum(map(len, photos.faces.values()))} faces.")
    run_variants(args, sets, errors)
    scores = score_sets(args, sets, meter, errors)
    made = {"command": command, "model": args.model, **({"base": args.base} if BASE in networks else {}),
            "restorer": restorer_label(args.restorer, args.codeformer_fidelity),
            "detector": f"{DETECTOR}, at least {MIN_CONFIDENCE:g} sure",
            "learning rate": args.learning_rate, "seed": args.seed, "scenes": len(inputs.scenes),
            "portraits": len(inputs.portraits), "photos": len(photos.faces),
            "date": time.strftime("%Y-%m-%d %H:%M"), "errors": len(errors),
            "minutes of adapting and upscaling": round(sum(one.runner.seconds for one in sets.values()) / 60, 1)}
    report(args, sets, scores, meter.metrics, made, one_photo=inputs.only_own)
    if photos.left_out:
        print(f"{len(photos.left_out)} of {len(inputs.portraits)} portraits were left out, as {photos.left_out[0]}")
    if inputs.only_own:
        print(f"The only photo is the one inside scikit-image, degraded {num_draws} time{'s' * (num_draws != 1)} by "
              "each preset: give --input_dir, or --portraits and --scenes, for more.")
    return errors


def open_networks(args: argparse.Namespace) -> tuple[dict, dict[str, str | None]]:
    """Load the networks that the variants need; returns them and the digests of their weights, by role.

    The digest is None for a network that is not needed.
    """
    from model.super_resolver import SuperResolver
    from utils.weights.checkpoints import load_super_resolver

    needs_base = any(VARIANTS[name].network == BASE for name in args.variants)
    names = {MODEL: args.model, **({BASE: args.base} if needs_base else {})}
    weights = {name: load_super_resolver(name, weights_dir=args.weights_dir) for name in dict.fromkeys(names.values())}
    networks = {name: SuperResolver(found.generator, found.mask) for name, found in weights.items()}
    digests = {name: digest_params({**found.generator, **(found.mask or {})}) for name, found in weights.items()}
    if not weights[args.model].meta_trained:
        print("note: the weights of --model are not meta-trained: adapting them usually makes a photo worse",
              file=sys.stderr)
    if weights[args.model].mask is None:
        print("note: --model has no MaskNet: the variant no-masknet equals adapted", file=sys.stderr)
    return ({role: networks[name] for role, name in names.items()},
            {role: digests.get(names.get(role)) for role in (MODEL, BASE)})


def begin(args: argparse.Namespace, inputs: dict) -> None:
    """Check that results in the output folder have the same settings and inputs, or remove them with --overwrite."""
    settings = {"seed": args.seed, "learning_rate": args.learning_rate, "people": args.people.pattern,
                "detector": DETECTOR, "min_confidence": MIN_CONFIDENCE,
                "restorer": restorer_label(args.restorer, args.codeformer_fidelity),
                "adaptation": asdict(PUBLISHED), **inputs,
                "variants": {name: asdict(variant) for name, variant in VARIANTS.items()}}
    made = [args.output_dir / name for name in ("photos", *PRESETS, *REPORTS)]
    check_settings(args.output_dir / SETTINGS, settings, [path for path in made if path.exists()],
                   overwrite=args.overwrite)


class PhotoSet(NamedTuple):
    """The photos of one preset; `unscored`: boxes [n, 4] in the clean photo that scores exclude, by stem."""

    runner: "VariantRunner"
    unscored: dict[str, np.ndarray]


def make_set(args: argparse.Namespace, preset: str, networks: Mapping, detect: Detector, restore: Restorer,
             photos: Photos, errors: list[str]) -> PhotoSet:
    """Degrade all photos by one preset and prepare their faces; photos that fail are left out."""
    from utils.evaluation.runner import VariantRunner

    folder = args.output_dir / preset
    print(f"{preset}:")
    if synthesize_testset(args.output_dir / "photos", folder, SynthesisSettings(preset, args.seed),
                          skip_existing=True)["error"]:
        errors.append(f"{folder / 'report.csv'} names photos that could not be degraded")
    degraded = [path for path in list_photos(folder / "LQ") if path.stem in photos.faces]
    prepared = prepare_faces(degraded, folder / "GT", folder / "faces", detect=detect, restore=restore,
                             detector=DETECTOR, restorer=restorer_label(args.restorer, args.codeformer_fidelity))
    errors += prepared.errors
    usable = [photo for photo in degraded if photo.stem in prepared.boxes]
    runner = VariantRunner(args.variants, folder, networks, photos=usable, people=photos.people, seed=args.seed,
                           learning_rate=args.learning_rate)
    without = [stem for stem, count in runner.num_faces.items() if not count]
    print(f"{sum(runner.num_faces.values())} faces in {len(usable) - len(without)} of {len(degraded)} photos"
          + f"; none found, and so un-adapted in every variant: {', '.join(without)}" * bool(without))
    return PhotoSet(runner, {stem: np.concatenate([photos.faces[stem], boxes])
                             for stem, boxes in prepared.boxes.items()})


def run_variants(args: argparse.Namespace, sets: Mapping[str, PhotoSet], errors: list[str]) -> None:
    """Compute the missing results of all sets."""
    total = sum(len(made.runner.photos) * len(args.variants) for made in sets.values())
    with Progress(total, description="results", unit="result") as progress:
        for preset, made in sets.items():
            for photo in made.runner.photos:
                failed = made.runner.run(photo, lambda name, note=f"{preset}/{photo.stem}": progress.update(
                    1, f"{note} {name}"))
                for line in failed:
                    progress.write(f"error: {line}")
                errors += failed
            made.runner.report.close()


def score_sets(args: argparse.Namespace, sets: Mapping[str, PhotoSet], meter: RegionMeter,
               errors: list[str]) -> dict[str, list[dict]]:
    """Score all results; returns a dict per photo and variant, by preset."""
    scores = {preset: [] for preset in sets}
    with Progress(sum(len(made.runner.photos) for made in sets.values()), description="scores",
                  unit="photo") as progress:
        for preset, (runner, unscored) in sets.items():
            for photo in runner.photos:
                files = [(name, runner.path(name, photo.stem)) for name in args.variants if runner.applies(name)]
                found, failed = score_photo(args.output_dir / preset / "GT" / photo.name, files, unscored[photo.stem],
                                            meter)
                for line in failed:
                    progress.write(f"error: {line}")
                errors += failed
                partner = runner.partners.get(photo.stem, "")
                scores[preset] += [{"set": preset, "num_faces": runner.num_faces[photo.stem], "partner": partner,
                                    "partner_faces": runner.num_faces.get(partner, ""), **score} for score in found]
                progress.update(1, f"{preset}/{photo.stem}")
    return scores


def report(args: argparse.Namespace, sets: Mapping[str, PhotoSet], scores: Mapping[str, Sequence[dict]],
           metrics: Sequence[str], made: Mapping[str, object], *, one_photo: bool) -> None:
    """Write the reports and print the tables."""
    summaries, pictures = {}, {}
    for preset, own in scores.items():
        runner = sets[preset].runner
        with_faces = [stem for stem, count in runner.num_faces.items() if count]
        summaries[preset] = summarize_set(own, metrics, with_faces=with_faces, paired=list(runner.partners),
                                          intervals=not one_photo)
        if own:
            scored = [score["photo"] for score in own]
            shown = [stem for stem in scored if stem in with_faces] or scored
            pictures[preset] = args.output_dir / preset, shown[0]
    everything = [score for own in scores.values() for score in own]
    write_scores(args.output_dir / "scores.csv", everything, metrics)
    write_json(args.output_dir / "summary.json", {"made": made, "sets": summaries})
    table = f"{format_made(made)}\n{format_tables(summaries, metrics, one_photo=one_photo)}"
    with atomic_path(args.output_dir / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    plot_gains(args.output_dir / "gains.png", summaries)
    plot_own_and_other(args.output_dir / "own_and_other.png", everything, summaries,
                       {preset: list(found.runner.partners) for preset, found in sets.items()})
    write_pictures(args.output_dir / "pictures.png", pictures)
    print(table)


if __name__ == "__main__":
    run_cli(main)
