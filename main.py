"""Meta-train the generator and MaskNet, so that one step on a photo's faces adapts the generator to the photo."""

import argparse
import contextlib
import sys
from pathlib import Path

from config import PRESETS, TrainingConfig
from utils.configuration import differences, parse_config, resolve_config
from utils.console import ArgumentParser, Progress, StopRequest, run_cli
from utils.errors import NotFiniteError, UserError, require
from utils.files import check_writable, exclusive, read_bytes
from utils.tensorflow_setup import start_tensorflow

# flags that are short for --set
SHORTHANDS = {
    "init": ("meta.init", "weights to start from: what test.py takes as --model_dir, or `random`"),
    "face_record": ("data.face_record", "tfrecord of faces"),
    "scene_record": ("data.scene_record", "tfrecord of scenes"),
    "restorer": ("data.restorer", "of the training faces; `ground-truth` learns from the faces themselves"),
    "iterations": ("meta.num_iterations", "where training ends"),
    "lpips_weight": ("loss.lpips", "of LPIPS; 0 needs no AlexNet"),
    "gan_weight": ("loss.gan", "of the adversarial term; 0 trains without a discriminator"),
    "second_order_from": ("inner.second_order_from", "iteration; inner gradients are constants before it"),
    "freeze_discriminator_until": ("discriminator.freeze_until", "iteration"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: a value is outside its range.
    """
    parser = ArgumentParser(__doc__)
    parser.add_argument("--trial", type=int, default=0, help="number of the run, whose folder is RUN_DIR/trial_N")
    parser.add_argument("--step", type=int, default=0, help="go on from the checkpoint of this iteration; "
                                                            "0: from the latest, or from the beginning")
    parser.add_argument("--gpu", help="the GPUs to use, as 0 or 0,1; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    parser.add_argument("--run_dir", type=Path, default="./experiments", help="folder of the runs")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--preset", choices=list(PRESETS), help="values to begin with "
                        "(default: those the run began with; published for a new run)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="change any value of config.py, as meta.learning_rate=1e-4; may be repeated")
    parser.add_argument("--cpu_devices", type=int, default=1,
                        help="divide the CPU into this many devices, to try several replicas without GPUs")
    for name, (key, text) in SHORTHANDS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{text}; short for --set {key}=VALUE")
    parser.add_argument("--skip_corrupt", action="store_true",
                        help="leave out damaged images of a record, and say how many, instead of stopping")
    args = parser.parse_args(argv)
    require(args.trial >= 0, "--trial must be at least 0", args.trial)
    require(args.step >= 0, "--step must be at least 0", args.step)
    require(args.cpu_devices > 0, "--cpu_devices must be at least 1", args.cpu_devices)
    short = [f"{key}={getattr(args, name)}" for name, (key, _) in SHORTHANDS.items() if getattr(args, name) is not None]
    args.settings = short + ["data.skip_corrupt=true"] * args.skip_corrupt + args.settings
    return args


def choose_config(args: argparse.Namespace, folder: Path) -> TrainingConfig:
    """Give the configuration: that of the run, if it has begun and no preset is asked for, with what is set.

    Raises:
        UserError: a setting does not exist or is outside its range, or the run's own file is broken.
    """
    file = folder / "config.json"
    stored = parse_config(read_bytes(file), str(file)) if file.exists() else None
    config = resolve_config(args.preset or "published", args.settings, base=None if args.preset else stored)
    for key, (before, now) in (differences(stored, config) if stored else {}).items():
        print(f"changed since the last start: {key} was {before}, is {now}")
    return config


def choose_start(step: int, checkpoints) -> int:
    """Give the iteration to go on from.

    Raises:
        UserError: the checkpoint that was asked for does not exist.
    """
    there = checkpoints.iterations()
    if not step:
        return checkpoints.latest() or 0
    if step not in there:
        listed = ", ".join(map(str, there)) or "none"
        raise UserError(f"no checkpoint of iteration {step} in {checkpoints.folder}. There are: {listed}.")
    return step


def train(run, stop: StopRequest, progress: Progress) -> None:
    """Train until the last iteration or until it is asked to stop, and save.

    Raises:
        KeyboardInterrupt: it was asked to stop while there was nothing to save.
        UserError: an iteration failed, or something could not be written.
    """
    trainer, every, end = run.trainer, run.config.run, run.config.meta.num_iterations
    if run.chief and not run.validated:
        progress.update(0, "validating")
        run.report(run.validate(), progress.write)
    if run.chief and trainer.iteration < end:
        progress.write("tracing the networks, which takes a minute or two when they are of the published size")
    stop.at_once, stopping = run.alone, False
    try:
        while trainer.iteration < end and not stopping:
            update = run.step(stop=stop.requested)
            stop.at_once = False
            # several machines stop after the same iteration: the one in which all of them got to know
            stopping = stop.requested if run.alone else update.stop
            if not run.chief:
                continue
            progress.update(1, f"outer loss {update.summary()['outer_loss']:.4f}")
            if trainer.iteration % every.log_every == 0 or trainer.iteration == end:
                run.log(update)
            if trainer.iteration % every.save_every == 0:
                run.save()
            if trainer.iteration % every.validate_every == 0 and not stopping:
                run.report(run.validate(), progress.write)
    except NotFiniteError:
        raise  # the step before may have spoilt the weights: the checkpoint before is the better one
    except UserError:
        with contextlib.suppress(UserError):  # a disk may be full; the weights are sound
            run.save_once()
        raise
    run.save_once()
    if run.chief and trainer.iteration == end and not run.validated:
        run.report(run.validate(), progress.write)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    args = parse_args(argv)
    folder = args.run_dir / f"trial_{args.trial}"
    check_writable(folder)
    config = choose_config(args, folder)
    gpus = start_tensorflow(args.gpu, deterministic=config.run.deterministic)
    from utils.training_run import describe
    from utils.training_setup import assemble, is_chief, make_strategy
    from utils.training_state import Checkpoints

    if args.gpu not in (None, "-1") and not gpus:
        print(f"note: no GPU for --gpu {args.gpu}: running on the CPU", file=sys.stderr)
    strategy = make_strategy(args.cpu_devices)
    checkpoints = Checkpoints(folder / "checkpoints", keep=config.run.keep_checkpoints,
                              keep_every=config.run.keep_every)
    start = choose_start(args.step, checkpoints)
    chief = is_chief(strategy)
    lock = exclusive(args.run_dir / f".trial_{args.trial}.lock", str(folder)) if chief else contextlib.nullcontext()
    with StopRequest() as stop, lock:
        try:
            stop.at_once = True
            run = assemble(folder, config, start=start, checkpoints=checkpoints, weights_dir=args.weights_dir,
                           strategy=strategy)
            with contextlib.closing(run), Progress(config.meta.num_iterations, description="meta-training", unit="it",
                                                   initial=start) as progress:
                if chief:
                    print(describe(run), flush=True)
                train(run, stop, progress)
        except KeyboardInterrupt:
            if not stop.at_once:
                raise
            print("stopped before the first iteration: there is nothing to save", flush=True)
            return 0
    if chief:
        if run.num_skipped:
            print(f"{run.num_skipped} damaged images were left out")
        iteration = run.trainer.iteration
        how = "trained" if iteration >= config.meta.num_iterations else "stopped"
        use = f" Adapt photos with: python test.py --model_dir {checkpoints.prefix(iteration)}" * bool(iteration)
        print(f"{how} at iteration {iteration}.{use}", flush=True)
    return 0


if __name__ == "__main__":
    run_cli(main)
