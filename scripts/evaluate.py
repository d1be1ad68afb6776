"""Measure what adaptation gains on degraded photos of people, outside of the faces.

python scripts/evaluate.py --portraits PORTRAITS --scenes SCENES --output_dir results/evaluation

People are cut out of portraits and put in front of scenes, or photos of people are used as they are (--input_dir).
Every photo is degraded by each preset, its faces are found and restored, and every variant upscales it. Without these
options scikit-image's photo is degraded several times.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, counted, run_cli
from utils.data.composites import DETECTOR, MIN_CONFIDENCE
from utils.data.presets import TESTSET_PRESETS
from utils.data.testset import SynthesisSettings, synthesize_testset
from utils.errors import require
from utils.evaluation.photos import OWN_PHOTO, Photos, make_photos, prepare_faces
from utils.evaluation.results import (
    format_tables,
    plot_gains,
    score_photo,
    summarize_set,
    write_pictures,
    write_scores,
)
from utils.evaluation.settings import check_settings, digest_params, digest_sources
from utils.evaluation.variants import BASE, MODEL, PUBLISHED_STEP, VARIANTS
from utils.face.detection import open_detector
from utils.face.preparation import PreparationSettings
from utils.face.restorers import FIDELITY, check_restorer, open_restorer, restorer_label
from utils.files import check_writable, exclusive, write_text
from utils.image.io import add_pixel_limit
from utils.image.listing import Source, add_source_options, list_chosen, list_photos, parse_people
from utils.metrics.suite import choose_metrics, load_functions
from utils.tensorflow_setup import start_tensorflow

DEFAULT_PRESETS = ("iid", "ood-noise", "ood-camera", "ood-tone")
SETTINGS = "settings.json"
REPORTS = ("table.md", "scores.csv", "summary.json", "gains.png", "pictures.png")
DRAWS = 4  # of scikit-image's photo when it is the only one


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    photos = parser.add_argument_group("photos")
    add_source_options(photos, "portraits", "portraits, one person each, in front of an even background")
    add_source_options(photos, "scenes", "photos that people are put in front of")
    add_source_options(photos, "input_dir", "photos of people, taken as they are, instead of portraits and scenes")
    photos.add_argument("--people", default="(.*)", metavar="REGEX",
                        help="what of a file's name matches is the same for photos of one person, as '^[a-z]+_[0-9]+': "
                             "nobody is twice in a photo, and the control takes the faces of other people")
    photos.add_argument("--photos", type=int, help="number of scenes, or of photos in --input_dir, the first ones "
                        f"(default: all); without either, of draws of scikit-image's photo (default: {DRAWS})")
    photos.add_argument("--presets", nargs="+", choices=list(TESTSET_PRESETS), default=list(DEFAULT_PRESETS),
                        help="degradations, a set of photos each; see synthesize_testset.py --list_presets")
    photos.add_argument("--seed", type=int, default=0, help="of degradations, composites and patches")
    networks = parser.add_argument_group("networks")
    networks.add_argument("--model", default="metaf2n-small", help="what is evaluated, as --model_dir of test.py")
    networks.add_argument("--base", default="realesrgan", help="what it is compared with, likewise")
    networks.add_argument("--restorer", default="rrdb-face", help="of the faces, as of generate_test_faces.py")
    networks.add_argument("--codeformer_fidelity", type=float, default=FIDELITY,
                          help="of a .onnx with such an input: 0 for quality, 1 for likeness")
    networks.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS),
                          metavar="VARIANT", help=f"of {', '.join(VARIANTS)} (default: all)")
    networks.add_argument("--learning_rate", type=float, default=PUBLISHED_STEP.learning_rate, help="of gradient steps")
    networks.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    networks.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    add_pixel_limit(parser)
    parser.add_argument("--output_dir", type=Path, default="./results/evaluation",
                        help="gets reports and pictures; results made with the same settings are kept")
    parser.add_argument("--overwrite", action="store_true", help="first remove an evaluation's results there")
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


def list_inputs(args: argparse.Namespace) -> dict[str, list[Source]]:
    """List the files that photos are made of, by flag; a UserError if two would have results of one name."""
    inputs = {name: list_chosen(args, name) if getattr(args, name) else []
              for name in ("scenes", "portraits", "input_dir")}
    for name in ("scenes", "input_dir"):
        inputs[name] = inputs[name][:args.photos]
    stems = Counter(source.path.stem for name in ("scenes", "input_dir") for source in inputs[name])
    stems[OWN_PHOTO] += bool(inputs["scenes"])
    for stem, count in stems.items():
        require(count <= 1, "photos must differ in their names, endings apart" + f", and scenes from {OWN_PHOTO}"
                * bool(inputs["scenes"]) + ": their results would have one name", f"{count} photos {stem}")
    return inputs


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    inputs = list_inputs(args)
    check_writable(args.output_dir)
    start_tensorflow(args.gpu)  # takes seconds: only now that the command line is known to be good
    with exclusive(args.output_dir / ".evaluation.lock", str(args.output_dir)):
        errors = evaluate(args, inputs, shlex.join(["python", "scripts/evaluate.py", *argv]))
    print(f"{counted(len(errors), 'error')}. All of it: {args.output_dir}")
    return EXIT_USER_ERROR if errors else 0


def evaluate(args: argparse.Namespace, inputs: Mapping[str, list[Source]], command: str) -> list[str]:
    """Make and score all results, and write the reports; returns a line for everything that failed."""
    names, obstacles = choose_metrics(None, has_truth=True, num_images=1, num_reference=0, weights_dir=args.weights_dir)
    functions = load_functions([name for name in ("niqe", "lpips") if name in names], args.weights_dir)
    if "lpips" in obstacles:
        print(f"LPIPS is left out: {obstacles['lpips']}")
    networks, digests = open_networks(args)
    restore = open_restorer(args.restorer, args.weights_dir, fidelity=args.codeformer_fidelity)
    only_own = not any(inputs.values())  # then there is no sample of photos, and no interval
    num_draws = (args.photos or DRAWS) if only_own else 1
    label = restorer_label(args.restorer, args.codeformer_fidelity)
    settings = {"seed": args.seed, "learning_rate": args.learning_rate, "people": args.people.pattern,
                "detector": DETECTOR, "min_confidence": MIN_CONFIDENCE, "restorer": label,
                "adaptation": asdict(PUBLISHED_STEP), **digests, "draws": num_draws,
                "scenes": digest_sources(inputs["scenes"]), "portraits": digest_sources(inputs["portraits"]),
                "input": digest_sources(inputs["input_dir"]),
                "variants": {name: asdict(variant) for name, variant in VARIANTS.items()}}
    check_settings(args.output_dir / SETTINGS, settings, ["photos", *TESTSET_PRESETS, *REPORTS],
                   overwrite=args.overwrite)
    with open_detector(DETECTOR, min_confidence=MIN_CONFIDENCE) as detect:
        photos = make_photos(args.output_dir / "photos", inputs["scenes"], inputs["portraits"], detect, seed=args.seed,
                             num_draws=num_draws, people=args.people, ready=inputs["input_dir"])
        errors = list(photos.errors)
        prepare = partial(prepare_faces, detect=detect, restore=restore, settings=PreparationSettings(DETECTOR, label))
        sets = {preset: make_set(args, preset, networks, prepare, photos, errors) for preset in args.presets}
    scores = run_and_score(args, sets, functions, errors)
    made = {"command": command, "model": args.model, **({"base": args.base} if BASE in networks else {}),
            "restorer": label, "detector": f"{DETECTOR}, at least {MIN_CONFIDENCE:g} sure",
            "learning rate": args.learning_rate, "seed": args.seed, "scenes": len(inputs["scenes"]),
            "portraits": len(inputs["portraits"]), "photos": len(photos.faces),
            "date": time.strftime("%Y-%m-%d %H:%M"), "errors": len(errors)}
    report(args, sets, scores, ["psnr_y", "ssim", *functions], made, intervals=not only_own)
    if photos.left_out:
        print(f"{len(photos.left_out)} of {len(inputs['portraits'])} portraits were left out, as {photos.left_out[0]}")
    if only_own:
        print(f"The only photo is scikit-image's, degraded {counted(num_draws, 'time')} by each preset: no intervals. "
              "Use --input_dir, or --portraits and --scenes, for more.")
    return errors


def open_networks(args: argparse.Namespace) -> tuple[dict, dict[str, str]]:
    """Load and compile the networks that the variants need; returns them and the digests of their weights, by role."""
    from model.super_resolver import SuperResolver
    from utils.weights.checkpoints import load_super_resolver

    needs_base = any(VARIANTS[name].network == BASE for name in args.variants)
    networks, digests = {}, {}
    for role, name in [(MODEL, args.model), (BASE, args.base)][:1 + needs_base]:
        weights = load_super_resolver(name, weights_dir=args.weights_dir)
        networks[role] = SuperResolver(weights.generator, weights.mask)
        digests[role] = digest_params({**weights.generator, **(weights.mask or {})})
        if role == MODEL and not weights.meta_trained:
            print("note: the weights of --model are not meta-trained: adapting them usually makes a photo worse",
                  file=sys.stderr)
        if role == MODEL and weights.mask is None:
            print("note: --model has no MaskNet: no-masknet is the same as adapted", file=sys.stderr)
    return networks, digests


PhotoSet = tuple  # a VariantRunner, and boxes [n, 4] that scores leave out, by stem


def make_set(args: argparse.Namespace, preset: str, networks: Mapping, prepare: Callable[..., tuple[dict, list]],
             photos: Photos, errors: list[str]) -> PhotoSet:
    """Degrade all photos by one preset and `prepare` their faces; those that fail are left out."""
    from utils.evaluation.runner import VariantRunner

    folder = args.output_dir / preset
    print(f"{preset}:")
    if synthesize_testset(args.output_dir / "photos", folder, SynthesisSettings(preset, args.seed),
                          skip_existing=True)["error"]:
        errors.append(f"{folder / 'report.csv'} names photos that could not be degraded")
    degraded = [photo.path for photo in list_photos(folder / "LQ") if photo.key in photos.faces]
    boxes, failed = prepare(degraded, folder / "GT", folder / "faces")
    errors += failed
    runner = VariantRunner(args.variants, folder, networks, people=photos.people, seed=args.seed,
                           photos=[photo for photo in degraded if photo.stem in boxes],
                           learning_rate=args.learning_rate)
    without = [stem for stem, count in runner.num_faces.items() if not count]
    print(f"{sum(runner.num_faces.values())} faces in {len(runner.photos) - len(without)} of {len(degraded)} photos"
          + f"; none found, and so un-adapted in every variant: {', '.join(without)}" * bool(without))
    return runner, {stem: [*photos.faces[stem], *found] for stem, found in boxes.items()}


def run_and_score(args: argparse.Namespace, sets: Mapping[str, PhotoSet],
                  functions: Mapping[str, Callable[..., float]], errors: list[str]) -> dict[str, list[dict]]:
    """Make the missing results and score all; returns a dict per photo and variant, by preset."""
    scores = {preset: [] for preset in sets}
    total = sum(len(runner.photos) * len(runner.names) for runner, _ in sets.values())
    with Progress(total, description="results", unit="result") as progress:
        for preset, (runner, unscored) in sets.items():
            for photo in runner.photos:
                note = f"{preset}/{photo.stem}"
                failed = runner.run(photo, lambda name, note=note: progress.update(1, f"{note} {name}"))
                found, not_scored = score_photo(args.output_dir / preset / "GT" / photo.name,
                                                {name: runner.path(name, photo.stem) for name in runner.names},
                                                unscored[photo.stem], functions)
                for line in failed + not_scored:
                    progress.write(f"error: {line}")
                errors += failed + not_scored
                partner = runner.partners.get(photo.stem, "")
                scores[preset] += [{"set": preset, "num_faces": runner.num_faces[photo.stem], "partner": partner,
                                    "partner_faces": runner.num_faces.get(partner, ""), **score} for score in found]
            runner.report.close()
    return scores


def report(args: argparse.Namespace, sets: Mapping[str, PhotoSet], scores: Mapping[str, Sequence[dict]],
           metrics: Sequence[str], made: Mapping[str, object], *, intervals: bool) -> None:
    """Write and print what was found, and what it was made with."""
    base, folder = Path(args.base).name, args.output_dir
    summaries, pictures = {}, {}
    for preset, own in scores.items():
        runner, _ = sets[preset]
        with_faces = [stem for stem, count in runner.num_faces.items() if count]
        summaries[preset] = summarize_set(own, metrics, with_faces=with_faces, paired=list(runner.partners),
                                          intervals=intervals)
        scored = [score["photo"] for score in own]
        for stem in [stem for stem in scored if stem in with_faces][:1] or scored[:1]:
            pictures[preset] = folder / preset, stem
    write_scores(folder / "scores.csv", [score for own in scores.values() for score in own], metrics)
    write_text(folder / "summary.json", json.dumps({"made": made, "sets": summaries}, indent=1) + "\n")
    listed = "\n".join(f"* {name}: {value}" for name, value in made.items())
    table = f"# Evaluation\n\n{listed}\n\n{format_tables(summaries, metrics, base)}"
    write_text(folder / "table.md", table)
    plot_gains(folder / "gains.png", summaries, base)
    write_pictures(folder / "pictures.png", pictures, base)
    print(table)


if __name__ == "__main__":
    run_cli(main)
