"""The training loop, driven by a program that fits a number to batches of numbers."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.training_runs import TrainingRuns
from utils.console import ArgumentParser
from utils.errors import UserError
from utils.plain_data import Range
from utils.training.configuration import Kind
from utils.training.log import Panel, losses_panel
from utils.training.run import Run
from utils.training.session import add_run_arguments, prepare, run_session
from utils.training.state import AVERAGE_SCOPE, StateLayout


@dataclass(frozen=True)
class FitConfig:
    num_iterations: int = 6
    learning_rate: float = 0.25
    ema_decay: float = 0.5
    start: float = 2.0
    num_values: Annotated[int, Range(1)] = 3


@dataclass(frozen=True)
class RunConfig:
    log_every: int = 1
    validate_every: int = 2
    save_every: int = 2
    keep_checkpoints: int = 2
    keep_every: int = 0
    deterministic: bool = True


@dataclass(frozen=True)
class Config:
    fit: FitConfig = FitConfig()
    run: RunConfig = RunConfig()


FITTING = Kind(Config(), {"quick": {"fit.learning_rate": 0.5}, "slow": {}}, architecture=("fit.num_values",),
               init_only=("fit.start",))


class Batch(NamedTuple):
    values: np.ndarray


class Update(NamedTuple):
    loss: float
    gradient: float

    def summary(self):
        return {"square_loss": self.loss}

    def not_finite(self):
        return [name for name, value in self.summary().items() if not np.isfinite(value)]


class Trainer:
    def __init__(self, config):
        self.config, self.iteration, self.scale = config, 0, 1
        self.variables = {name: tf.Variable(np.float32(config.fit.start)) for name in ("number", "average")}

    def compute(self, values):
        error = self.variables["number"].numpy() - values
        return Update(float(np.mean(error**2)), float(np.mean(error)))

    def apply(self, update):
        decay = self.config.fit.ema_decay
        self.variables["number"].assign_sub(self.config.fit.learning_rate * update.gradient)
        self.variables["average"].assign(decay * self.variables["average"] + (1 - decay) * self.variables["number"])
        self.iteration += 1
        self.scale *= 3


def restore_scale(tensors, trainer):
    trainer.scale = int(tensors["Fit/scale"])


LAYOUT = StateLayout(FITTING, lambda key: f"{AVERAGE_SCOPE}number" if key == "average" else key,
                     lambda trainer: {"Fit/scale": np.int64(trainer.scale)}, restore_scale)


class FitValidator:
    columns = ("distance",)

    def evaluate(self, number):
        return {"distance": abs(float(number) - 1)}, {"picture": np.full([4, 4, 3], 0.5, np.float32)}


class FitRun(Run):
    title = "fitting"
    main_loss = "square_loss"
    oom_hint = "Lower fit.num_values"
    not_finite_hint = "Lower fit.learning_rate"

    def score(self):
        return self._validator.evaluate(self.trainer.variables["number"])

    def panels(self):
        return [Panel("distance", {"number": self.validation.column("distance")}),
                losses_panel(self.training, ["square_loss", "other_loss"])]


def batches(start, count, *, signal_at=None):
    iteration = start
    while True:
        iteration += 1
        if iteration == signal_at:
            signal.raise_signal(signal.SIGTERM)
        values = np.random.default_rng(iteration).normal(1, 0.1, count).astype(np.float32)
        yield Batch(values)


class Program(TrainingRuns):
    def __call__(self, *argv, **faults):
        parser = ArgumentParser("Fit a number.")
        add_run_arguments(parser, FITTING, {"iterations": ("fit.num_iterations", "where it ends")}, run_dir=self.root)
        args = parser.parse_args(argv)
        folder, config = prepare(FITTING, args)

        def assemble(start, checkpoints):
            trainer = Trainer(config)
            checkpoints.resume(start, trainer)
            return FitRun(folder, trainer, batches(start, config.fit.num_values, **faults), FitValidator(), checkpoints,
                          num_iterations=config.fit.num_iterations, columns=["square_loss"], records=[])

        return run_session(args, config, LAYOUT, assemble, "See {checkpoint}.")

    def folder(self, trial=0):
        return self.root / f"trial_{trial}"

    def column(self, file, name):
        return [row[name] for row in self.rows(file)]


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.run.plot_curves", lambda *_: None)
    return Program(None, tmp_path)


def test_a_run_trains_saves_and_says_so(program, capsys):
    program()
    assert abs(program.checkpoint(6)["number"] - 1) < 0.1
    assert program.column("train.csv", "iteration") == ["1", "2", "3", "4", "5", "6"]
    assert program.column("metrics.csv", "iteration") == ["0", "2", "4", "6"]
    assert program.column("metrics.csv", "distance")[0] == "1"
    printed = capsys.readouterr()
    assert str(program.root / "trial_0" / "checkpoints" / "model-6") in printed.out
    assert "fitting: 100%" in printed.err
    assert "square loss 0.0" in printed.err


def test_the_first_preset_is_that_of_a_new_run_which_then_keeps_its_own_values(program, capsys):
    assert program().config.fit.learning_rate == 0.5
    assert program("--trial", "1", "--preset", "slow").config.fit.learning_rate == 0.25
    assert program("--trial", "1").config.fit.learning_rate == 0.25
    assert "changed since" not in capsys.readouterr().out
    program("--trial", "1", "--set", "fit.ema_decay=0")
    assert "changed since the last start: fit.ema_decay was 0.5, is 0.0" in capsys.readouterr().out


def test_too_little_memory_is_one_line_with_what_to_do_and_the_run_is_saved(program, monkeypatch):
    compute = Trainer.compute

    def without_memory(trainer, values):
        if trainer.iteration == 3:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        return compute(trainer, values)

    monkeypatch.setattr(Trainer, "compute", without_memory)
    with pytest.raises(UserError, match=r"memory.*Lower fit.num_values"):
        program()
    assert program.checkpoint(3)["global_step"] == 3


def test_a_signal_ends_after_the_iteration_and_saves(program, capsys):
    assert program(signal_at=3).trainer.iteration == 3
    assert program.checkpoint(3)["global_step"] == 3
    assert program.column("metrics.csv", "iteration") == ["0", "2"]
    assert "stopped at iteration 3. See " in capsys.readouterr().out


def test_a_signal_before_the_first_iteration_stops_at_once(program, capsys):
    assert program(signal_at=1) is None
    assert "stopped before the first iteration" in capsys.readouterr().out
    assert not (program.root / "trial_0" / "checkpoints").exists()


@pytest.mark.parametrize(("arguments", "match"), [
    (["--trial", "-1"], "--trial"), (["--step", "-1"], "--step"), (["--step", "3"], "iteration 3.*none"),
    (["--preset", "published"], "published.*quick.*slow"), (["--set", "x"], "--set.*run.save_every=100"),
    (["--set", "fit.num_value=1"], "fit.num_values"), (["--set", "fit.num_values=0"], "fit.num_values")])
def test_wrong_arguments_are_named(program, arguments, match):
    with pytest.raises(UserError, match=match):
        program(*arguments)


def test_shorthands_and_settings_apply_in_their_order(program):
    assert program("--iterations", "3", "--set", "fit.num_iterations=2").trainer.iteration == 2
    assert program("--trial", "1", "--set", "fit.num_iterations=2", "--iterations", "3").trainer.iteration == 3


def test_arguments_are_parsed_before_tensorflow_is_loaded():
    code = "import sys, utils.training.session; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True,
                          check=True)
    assert done.stdout == "False\n"
