"""What the command lines of all training programs share. TensorFlow is imported by what runs, not by this module."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.console import Progress, StopRequest
from utils.errors import NotFiniteError, UserError, require
from utils.files import check_writable, exclusive, read_bytes
from utils.tensorflow_setup import start_tensorflow
from utils.training.configuration import Kind, differences, parse_config, resolve_config


def add_run_arguments(parser: argparse.ArgumentParser, kind: Kind, *, run_dir: str = "./experiments") -> None:
    """Add the flags that every training program has."""
    parser.add_argument("--trial", type=int, default=0, help="number of the run, whose folder is RUN_DIR/trial_N")
    parser.add_argument("--step", type=int, default=0, help="go on from the checkpoint of this iteration; "
                                                            "0: from the latest, or from the beginning")
    parser.add_argument("--gpu", help="the GPUs to use, as 0 or 0,1; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    parser.add_argument("--run_dir", type=Path, default=run_dir, help="folder of the runs")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--preset", choices=list(kind.presets), help="values to begin with "
                        f"(default: those the run began with; {_first_preset(kind)} for a new run)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help=f"change any value of config.py, as {kind.example}; may be repeated")


def add_shorthands(parser: argparse.ArgumentParser, shorthands: Mapping[str, tuple[str, str]]) -> None:
    """Add flags that are short for --set: name -> (setting, help)."""
    for name, (key, text) in shorthands.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{text}; short for --set {key}=VALUE")


def settings_of(args: argparse.Namespace, shorthands: Mapping[str, tuple[str, str]]) -> list[str]:
    """Give what `add_shorthands` took, as texts for --set."""
    return [f"{key}={getattr(args, name)}" for name, (key, _) in shorthands.items() if getattr(args, name) is not None]


def _first_preset(kind: Kind) -> str:
    return next(iter(kind.presets))


def check_run_arguments(args: argparse.Namespace) -> None:
    """Check what `add_run_arguments` added.

    Raises:
        UserError: a value is outside its range.
    """
    require(args.trial >= 0, "--trial must be at least 0", args.trial)
    require(args.step >= 0, "--step must be at least 0", args.step)


def run_folder(args: argparse.Namespace) -> Path:
    """Give the folder of the run."""
    return args.run_dir / f"trial_{args.trial}"


def choose_config(kind: Kind, args: argparse.Namespace, folder: Path) -> Any:
    """Give the configuration: that of the run, if it has begun and no preset is asked for, with what is set.

    Raises:
        UserError: a setting does not exist or is outside its range, or the run's own file is broken.
    """
    file = folder / "config.json"
    stored = parse_config(kind, read_bytes(file), str(file)) if file.exists() else None
    config = resolve_config(kind, args.preset or _first_preset(kind), args.settings,
                            base=None if args.preset else stored)
    for key, (before, now) in (differences(stored, config) if stored else {}).items():
        print(f"changed since the last start: {key} was {before}, is {now}")
    return config


def prepare(kind: Kind, args: argparse.Namespace) -> tuple[Path, Any]:
    """Find out what to run, and start TensorFlow.

    Returns:
        The run's folder, which need not exist, and its configuration.

    Raises:
        UserError: the folder cannot be written, or as `choose_config`.
    """
    folder = run_folder(args)
    check_writable(folder)
    config = choose_config(kind, args, folder)
    gpus = start_tensorflow(args.gpu, deterministic=config.run.deterministic)
    if args.gpu not in (None, "-1") and not gpus:
        print(f"note: no GPU for --gpu {args.gpu}: running on the CPU", file=sys.stderr)
    return folder, config


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


def run_session(args: argparse.Namespace, config: Any, layout, assemble: Callable[[int, Any], Any], *,
                chief: bool = True):
    """Put a run together and train, alone in the run's folder, until the end or until it is asked to stop.

    Args:
        args: what `add_run_arguments` added.
        config: as `prepare` gives.
        layout: the `utils.training.state.StateLayout` of the program.
        assemble: gives the `utils.training.run.Run`, for the iteration to go on from (0: begin) and the `Checkpoints`.
        chief: whether this process, of those of several machines, is the one that writes.

    Returns:
        The run, closed; None if it was stopped when there was nothing to save.

    Raises:
        KeyboardInterrupt: it was interrupted while it was stopping.
        UserError: something is missing, does not fit or cannot be written, or an iteration failed.
    """
    from utils.training.state import Checkpoints

    folder = run_folder(args)
    checkpoints = Checkpoints(folder / "checkpoints", layout, keep=config.run.keep_checkpoints,
                              keep_every=config.run.keep_every)
    start = choose_start(args.step, checkpoints)
    lock = exclusive(args.run_dir / f".{folder.name}.lock", str(folder)) if chief else contextlib.nullcontext()
    with StopRequest() as stop, lock:
        try:
            stop.at_once = True
            run = assemble(start, checkpoints)
            with contextlib.closing(run), Progress(run.num_iterations, description=run.title, unit="it",
                                                   initial=start) as progress:
                if chief:
                    print(run.describe(), flush=True)
                train(run, stop, progress)
        except KeyboardInterrupt:
            if not stop.at_once:
                raise
            print("stopped before the first iteration: there is nothing to save", flush=True)
            return None
    return run


def train(run, stop: StopRequest, progress: Progress) -> None:
    """Train until the last iteration or until it is asked to stop, and save.

    Raises:
        KeyboardInterrupt: it was asked to stop while there was nothing to save.
        UserError: an iteration failed, or something could not be written.
    """
    trainer, every, end = run.trainer, run.config.run, run.num_iterations
    if run.chief and not run.validated:
        progress.update(0, "validating")
        run.report(run.validate(), progress.write)
    if run.chief and trainer.iteration < end:
        progress.write(run.while_tracing)
    stop.at_once, stopping = run.alone, False
    try:
        while trainer.iteration < end and not stopping:
            update = run.step(stop=stop.requested)
            stop.at_once = False
            # several machines stop after the same iteration: the one in which all of them got to know
            stopping = stop.requested if run.alone else update.stop
            if not run.chief:
                continue
            progress.update(1, f"{run.main_loss.replace('_', ' ')} {update.summary()[run.main_loss]:.4f}")
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


def print_outcome(run, use: str) -> None:
    """Say how far a run came and what was left out; `use`: what to do with its checkpoint, if there is one."""
    if run.num_skipped:
        print(f"{run.num_skipped} damaged images were left out")
    iteration = run.trainer.iteration
    how = "trained" if iteration >= run.num_iterations else "stopped"
    print(f"{how} at iteration {iteration}.{f' {use}' * bool(iteration)}", flush=True)
