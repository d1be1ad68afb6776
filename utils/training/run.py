"""A training run, whatever it trains: one iteration of it, and what it writes into its folder."""

import abc
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from utils.data.tfrecords import ImageRecords
from utils.errors import NotFiniteError, UserError
from utils.files import atomic_path, remove_leftovers, write_text
from utils.training.configuration import config_to_json, differences
from utils.training.log import EventWriter, History, Panel, plot_curves
from utils.training.state import Checkpoints


class Run(abc.ABC):
    """Base class of the training programs' runs.

    A subclass sets `title` (of the progress bar), `main_loss` (the scalar shown beside the bar), `oom_hint` and
    `not_finite_hint` (what to do when memory runs out or a value is not finite), and implements `score` and
    `panels`. The trainer has `iteration`, `config`, `variables` (for checkpoints), `compute(*batch) -> update` and
    `apply(update)`; an update has `summary() -> {name: float}` and `not_finite() -> [name]`.
    """

    tracing_note = "tracing the network"

    def __init__(self, folder: Path, trainer: Any, batches: Generator, validator: Any, checkpoints: Checkpoints, *,
                 num_iterations: int, columns: Sequence[str], records: Sequence[ImageRecords] = ()):
        """Open the run's files, from the trainer's iteration on.

        `batches` are from there on, too: named tuples of arrays. The `validator` has `columns`, the names of its
        scores; `columns` are the names of an update's scalars, in the order of train.csv. `records`: of the batches.
        """
        self.folder, self.config, self.trainer = folder, trainer.config, trainer
        self.num_iterations = num_iterations
        self._batches, self._validator, self._checkpoints, self._records = batches, validator, checkpoints, records
        remove_leftovers(folder)
        write_text(folder / "config.json", config_to_json(self.config))
        self.training = History(folder / "train.csv", [*columns, "seconds", "data_share"], until=trainer.iteration)
        self.validation = History(folder / "metrics.csv", validator.columns, until=trainer.iteration)
        self._events = EventWriter(folder / "tensorboard")
        self._waited = self._worked = 0.0  # seconds since the last log
        self._num_timed = 0

    def describe(self) -> str:
        """Describe the run in a few lines: where it begins, how it is set, which damage was found in the records."""
        iteration, defaults = self.trainer.iteration, type(self.config)()
        changed = [f"{key}={value}" for key, (_, value) in differences(defaults, self.config).items()]
        begun = f"resumes at iteration {iteration}" if iteration else "begins"
        return "\n".join((f"{self.folder}: {self.title} {begun}, {self.num_iterations} iterations",
                          f"settings that differ from config.py: {', '.join(changed) or 'none'}",
                          *(fault for records in self._records for fault in records.faults)))

    @abc.abstractmethod
    def score(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Score the present state: the validator's scores, and pictures, float32 RGB [h, w, 3] in [0, 1]."""

    @abc.abstractmethod
    def panels(self) -> list[Panel]:
        """Return the diagrams of curves.png."""

    def compute(self, batch: Any) -> Any:
        """Compute the update of a batch, without changing anything."""
        return self.trainer.compute(*batch)

    def step(self) -> Any:
        """Take one iteration and return its update.

        A NotFiniteError leaves the weights as they were, but the step before may have spoilt them; the batch is saved.
        """
        begin = time.perf_counter()
        batch = next(self._batches)
        self._waited += time.perf_counter() - begin
        try:
            update = self.compute(batch)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise UserError(f"the memory does not suffice for this batch. {self.oom_hint}.") from error
        if update.not_finite():
            raise self._not_finite(update, batch)
        self.trainer.apply(update)
        self._worked += time.perf_counter() - begin
        self._num_timed += 1
        return update

    def _not_finite(self, update: Any, batch: Any) -> NotFiniteError:
        iteration, values = self.trainer.iteration + 1, update.summary()
        path = self.folder / f"not_finite_{iteration}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, iteration=iteration, **batch._asdict())
        listed = ", ".join(f"{name} = {values[name]}" for name in update.not_finite())
        return NotFiniteError(f"iteration {iteration}: {listed}. Its batch is in {path}. {self.not_finite_hint}; if "
                              "the latest checkpoint is spoilt already, go back with --step.")

    def log(self, update: Any) -> None:
        """Write the scalars of an iteration, seconds per iteration and the share of them that waited for data."""
        values = {**update.summary(), "seconds": self._worked / self._num_timed,
                  "data_share": self._waited / self._worked}
        self._waited, self._worked, self._num_timed = 0.0, 0.0, 0
        self.training.add(self.trainer.iteration, values)
        self._events.add(self.trainer.iteration, "train", values)

    def validate(self, write: Callable[[str], None]) -> None:
        """Score the present state unless that is done; `write` prints the scores in one line."""
        iteration = self.trainer.iteration
        if self.validation.rows and self.validation.rows[-1]["iteration"] == iteration:
            return
        scores, pictures = self.score()
        self.validation.add(iteration, scores)
        self._events.add(iteration, "validation", scores, pictures)
        plot_curves(self.folder / "curves.png", self.panels())
        write(f"validation at iteration {iteration}: "
              + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def save(self) -> None:
        """Write a checkpoint of the present state unless there is one, or training has not begun."""
        if self.trainer.iteration and self.trainer.iteration != self._checkpoints.latest():
            self._checkpoints.save(self.trainer)

    @property
    def checkpoint(self) -> Path:
        """The prefix of the present state's checkpoint."""
        return self._checkpoints.prefix(self.trainer.iteration)

    @property
    def num_skipped(self) -> int:
        """How many damaged images have been left out so far."""
        return sum(records.num_skipped for records in self._records)

    def close(self) -> None:
        """Stop preparing data and finish the files."""
        self._batches.close()
        self._events.close()
