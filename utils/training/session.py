"""The command line and the loop of all training programs. Importing this module does not import TensorFlow."""

import argparse
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.console import Progress, StopRequest
from utils.errors import FatalError, NotFiniteError, UserError, printable, require
from utils.files import check_writable, exclusive, is_utf8, read_bytes
from utils.tensorflow_setup import start_tensorflow
from utils.training.configuration import Kind, differences, parse_config, resolve_config


def add_run_arguments(parser: argparse.ArgumentParser, kind: Kind, shorthands: Mapping[str, tuple[str, str]], *,
                      run_dir: str = "./experiments") -> None:
    """Add the flags of every training program, and flags that are short for --set: name -> (setting, help)."""
    parser.add_argument("--trial", type=int, default=0, help="number of the run, whose folder is RUN_DIR/trial_N")
    parser.add_argument("--step", type=int, default=0, help="resume from the checkpoint of this iteration; 0: from the "
                        "latest, or begin")
    parser.add_argument("--gpu", help="the GPUs to use, as 0 or 0,1; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    parser.add_argument("--run_dir", type=Path, default=run_dir, help="folder of the runs")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--preset", choices=list(kind.presets), help="values to begin with "
                        f"(default: those the run began with; {next(iter(kind.presets))} for a new run)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="change any value of config.py, as run.save_every=100; may be repeated")
    for name, (key, text) in shorthands.items():
        parser.add_argument(f"--{name}", action="append", dest="settings", type=f"{key}={{}}".format, metavar="VALUE",
                            help=f"{text}; short for --set {key}=VALUE")


def run_folder(args: argparse.Namespace) -> Path:
    """Return the folder of the run."""
    return args.run_dir / f"trial_{args.trial}"


def prepare(kind: Kind, args: argparse.Namespace) -> tuple[Path, Any]:
    """Read the configuration and start TensorFlow.

    Returns the run's folder, which need not exist, and its configuration: the one it has begun with, unless a preset
    is given, changed by --set.
    """
    require(args.trial >= 0, "--trial must be at least 0", args.trial)
    require(args.step >= 0, "--step must be at least 0", args.step)
    folder = run_folder(args)
    require(is_utf8(folder), "TensorFlow writes in folders whose names are UTF-8: choose another --run_dir",
            printable(str(folder)))
    check_writable(folder)
    file = folder / "config.json"
    stored = parse_config(kind, read_bytes(file), str(file)) if file.exists() else None
    config = resolve_config(kind, args.preset or next(iter(kind.presets)), args.settings,
                            base=None if args.preset else stored)
    for key, (before, now) in (differences(stored, config) if stored else {}).items():
        print(f"changed since the last start: {key} was {before}, is {now}")
    start_tensorflow(args.gpu, deterministic=config.run.deterministic)
    return folder, config


def choose_start(step: int, checkpoints) -> int:
    """Return the iteration to resume from, `step` or the latest; 0 to begin."""
    if not step:
        return checkpoints.latest() or 0
    present = checkpoints.iterations()
    if step not in present:
        listed = ", ".join(map(str, present)) or "none"
        raise UserError(f"no checkpoint of iteration {step} in {checkpoints.folder}. There are: {listed}.")
    return step


def run_session(args: argparse.Namespace, config: Any, layout, assemble: Callable[[int, Any], Any], use: str):
    """Build a run, resume it from a checkpoint, train until the end or until it is asked to stop, and say how it ended.

    `layout` is the `StateLayout` of the program; `assemble` builds its `Run` from the iteration to resume from (0:
    begin) and `Checkpoints`; `use` says what to do with the `{checkpoint}`. Returns the run, closed; None if it was
    stopped when there was nothing to save.
    """
    from utils.training.state import Checkpoints

    folder = run_folder(args)
    checkpoints = Checkpoints(folder / "checkpoints", layout, keep=config.run.keep_checkpoints,
                              keep_every=config.run.keep_every)
    start = choose_start(args.step, checkpoints)
    with StopRequest() as stop, exclusive(args.run_dir / f".{folder.name}.lock", str(folder)):
        try:
            stop.at_once = True  # until the first iteration is done there is nothing to save
            run = assemble(start, checkpoints)
            with contextlib.closing(run), Progress(run.num_iterations, description=run.title, unit="it",
                                                   initial=start) as progress:
                print(run.describe(), flush=True)
                train(run, stop, progress)
        except KeyboardInterrupt:
            if not stop.at_once:
                raise
            print("stopped before the first iteration: there is nothing to save", flush=True)
            return None
    if run.num_skipped:
        print(f"{run.num_skipped} damaged images were left out")
    iteration = run.trainer.iteration
    advice = f" {use}".replace("{checkpoint}", str(run.checkpoint))
    how = "trained" if iteration >= run.num_iterations else "stopped"
    print(f"{how} at iteration {iteration}.{advice * bool(iteration)}", flush=True)
    return run


def train(run, stop: StopRequest, progress: Progress) -> None:
    """Train until the last iteration or until it is asked to stop, and save.

    Raises a KeyboardInterrupt if it was asked to stop while there was nothing to save.
    """
    trainer, every, end = run.trainer, run.config.run, run.num_iterations
    run.validate(progress.write)
    if trainer.iteration < end:
        progress.write(run.tracing_note)
    try:
        while trainer.iteration < end and not stop.requested:
            update = run.step()
            stop.at_once = False
            progress.update(1, f"{run.main_loss.replace('_', ' ')} {update.summary()[run.main_loss]:.4f}")
            if trainer.iteration % every.log_every == 0 or trainer.iteration == end:
                run.log(update)
            if trainer.iteration % every.save_every == 0:
                run.save()
            if trainer.iteration % every.validate_every == 0 and not stop.requested:
                run.validate(progress.write)
    except NotFiniteError:
        raise  # the step before may have spoilt the weights: the checkpoint before is the better one
    except (UserError, FatalError):
        with contextlib.suppress(UserError, FatalError):  # the disk may be full; the weights are sound
            run.save()
        raise
    run.save()
    if trainer.iteration == end:
        run.validate(progress.write)
