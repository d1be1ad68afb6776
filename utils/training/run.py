"""A training run: one iteration of it, and what it writes into its folder."""

import abc
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from config import TrainingConfig
from model.meta_learner import Task
from model.meta_trainer import MetaTrainer, Update
from utils.data.meta_tasks import TaskSource
from utils.data.tfrecords import ImageRecords
from utils.errors import NotFiniteError, UserError
from utils.files import atomic_path
from utils.training.configuration import config_to_json
from utils.training.log import EventWriter, History, Panel, losses_panel, plot_curves
from utils.training.state import Checkpoints
from utils.training.validation import Validator

TIMES = ("seconds", "data_share")  # of an iteration; and which part of that the networks waited for data


class Run(abc.ABC):
    """What every training program does, whatever it trains.

    A program's own run says `title` (of the progress bar), `main_loss` (the scalar beside the bar), `if_too_large` and
    `if_not_finite` (what to do when the memory does not suffice, when a value is not finite), perhaps `while_tracing`
    (what it says before the first iteration), and gives `describe`, `score` and `panels`. The trainer has `iteration`,
    `config`, `variables` (for the checkpoints), `compute(*batch) -> update` and `apply(update)`; an update has
    `summary() -> {name: float}` and `not_finite() -> [name]`.

    Only the first of several machines (`chief`) writes, but for the batch that broke it, in whose name `part` tells
    the machines apart. `alone`: there are no other machines.
    """

    title: str
    main_loss: str
    if_too_large: str
    if_not_finite: str
    while_tracing = "tracing the network"
    chief = alone = True
    part = ""

    def __init__(self, folder: Path, trainer: Any, batches: Generator, validator: Any, checkpoints: Checkpoints, *,
                 num_iterations: int, columns: Sequence[str], records: Sequence[ImageRecords]):
        """Open the run's files, from the trainer's iteration on.

        Args:
            folder: of the run.
            trainer: as above.
            batches: from the trainer's iteration on; named tuples of arrays.
            validator: has `columns`, the names of its scores; None where `chief` is False.
            checkpoints: of the run.
            num_iterations: where training ends.
            columns: names of an update's scalars, in the order of train.csv.
            records: that the batches come from.

        Raises:
            UserError: the folder cannot be written.
        """
        self.folder, self.config, self.trainer = folder, trainer.config, trainer
        self.num_iterations = num_iterations
        self._batches, self._validator, self._checkpoints, self._records = batches, validator, checkpoints, records
        self._waited = 0.0
        self._since, self._counted = time.perf_counter(), 0
        if self.chief:
            for part in folder.glob(".*.part"):  # of a process that was killed
                part.unlink()
            with atomic_path(folder / "config.json") as temporary:
                temporary.write_text(config_to_json(self.config), encoding="utf-8")
            self.training = History(folder / "train.csv", [*columns, *TIMES], until=trainer.iteration)
            self.validation = History(folder / "metrics.csv", validator.columns, until=trainer.iteration)
            self._events = EventWriter(folder / "tensorboard")

    @abc.abstractmethod
    def describe(self) -> str:
        """Say what the run does, in a few lines."""

    @abc.abstractmethod
    def score(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Score the present state: the validator's scores, and pictures, float32 RGB [h, w, 3] in [0, 1]."""

    @abc.abstractmethod
    def panels(self) -> list[Panel]:
        """Give what curves.png shows of `training` and `validation`."""

    def compute(self, batch: Any, *, stop: bool) -> Any:
        """Give the update of a batch, without changing anything; with `stop`, ask all machines to end after it."""
        return self.trainer.compute(*batch)

    def step(self, *, stop: bool) -> Any:
        """Take one iteration and give its update; with `stop`, ask all machines to end after it.

        Raises:
            NotFiniteError: the batch is saved; the weights are as they were, but the step before may have spoilt them.
            UserError: the memory does not suffice, or another machine does not answer.
        """
        begin = time.perf_counter()
        batch = next(self._batches)
        self._waited += time.perf_counter() - begin
        try:
            update = self.compute(batch, stop=stop)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise UserError(f"the memory does not suffice for this batch. {self.if_too_large}.") from error
        except tf.errors.OpError as error:
            if self.alone:
                raise
            raise UserError(f"another machine does not answer ({type(error).__name__}). See what it says, and start "
                            "all of them again.") from error
        if update.not_finite():
            raise self._not_finite(update, batch)
        self.trainer.apply(update)
        self._counted += 1
        return update

    def _not_finite(self, update: Any, batch: Any) -> NotFiniteError:
        iteration, names = self.trainer.iteration + 1, update.not_finite()
        path = self.folder / f"not_finite_{iteration}{self.part}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, iteration=iteration, **batch._asdict())
        values = update.summary()
        listed = ", ".join(f"{name} = {values[name]}" for name in names)
        return NotFiniteError(f"iteration {iteration}: {listed}. Its batch is in {path}. {self.if_not_finite}; if the "
                              "latest checkpoint is spoilt already, go back with --step.")

    def log(self, update: Any) -> None:
        """Write the scalars of an iteration and the time since the last ones."""
        now = time.perf_counter()
        elapsed = now - self._since
        values = {**update.summary(), "seconds": elapsed / self._counted, "data_share": self._waited / elapsed}
        self._since, self._counted, self._waited = now, 0, 0.0
        self.training.add(self.trainer.iteration, values)
        self._events.scalars(self.trainer.iteration, values, "train")

    def validate(self) -> dict[str, float]:
        """Score the present state, write the scores, pictures and curves; gives the scores."""
        begin = time.perf_counter()
        scores, pictures = self.score()
        iteration = self.trainer.iteration
        self.validation.add(iteration, scores)
        self._events.scalars(iteration, scores, "validation")
        self._events.images(iteration, pictures)
        plot_curves(self.folder / "curves.png", self.panels())
        self._since += time.perf_counter() - begin  # no part of an iteration
        return scores

    @property
    def validated(self) -> bool:
        """Whether the present state has been scored."""
        return bool(self.validation.rows) and self.validation.rows[-1]["iteration"] == self.trainer.iteration

    def report(self, scores: Mapping[str, float], write: Callable[[str], None]) -> None:
        """Say in one line how the present state scores."""
        listed = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        write(f"validation at iteration {self.trainer.iteration}: {listed}")

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        begin = time.perf_counter()
        self._checkpoints.save(self.trainer)
        self._since += time.perf_counter() - begin

    def save_once(self) -> None:
        """Write a checkpoint of the present state unless there is one, or training has not begun."""
        if self.chief and self.trainer.iteration and self.trainer.iteration != self._checkpoints.latest():
            self.save()

    @property
    def checkpoint(self) -> Path:
        """The prefix of the present state's checkpoint."""
        return self._checkpoints.prefix(self.trainer.iteration)

    @property
    def num_skipped(self) -> int:
        """How many damaged images have been left out so far."""
        return sum(records.num_skipped for records in self._records)

    @property
    def faults(self) -> list[str]:
        """What was found damaged when the records were opened, and will be left out."""
        return [fault for records in self._records for fault in records.faults]

    def close(self) -> None:
        """Stop preparing data and finish the files."""
        self._batches.close()
        if self.chief:
            self._events.close()


class MetaRun(Run):
    """Meta-training: the tasks of a batch are divided among replicas, and these perhaps among machines."""

    title = "meta-training"
    main_loss = "outer_loss"
    while_tracing = "tracing the networks, which takes a minute or two when they are of the published size"
    if_too_large = "Lower data.samples_per_task, data.scene_patch_size or data.face_patch_size"
    if_not_finite = "Lower meta.learning_rate or inner.learning_rate, or give --set meta.clip_norm=1"

    def __init__(self, folder: Path, config: TrainingConfig, trainer: MetaTrainer, source: TaskSource,
                 validator: Validator | None, checkpoints: Checkpoints):
        """Open the run's files, from the trainer's iteration on; without a validator it is not the chief.

        Raises:
            UserError: the folder cannot be written.
        """
        self.chief = validator is not None
        replicas = _local_replicas(trainer.strategy)
        self.alone = len(replicas) == trainer.strategy.num_replicas_in_sync
        self._first_replica, per_replica = replicas.start, trainer.tasks_per_replica
        tasks = range(replicas.start * per_replica, replicas.stop * per_replica)
        self.part = f"_task_{tasks.start}"
        super().__init__(folder, trainer, source.batches(trainer.iteration, tasks), validator, checkpoints,
                         num_iterations=config.meta.num_iterations,
                         columns=[*trainer.scalar_names, "gradient_norm", "discriminator_gradient_norm"],
                         records=[source.faces.records, source.scenes.records])

    def compute(self, batch: Task, *, stop: bool) -> Update:
        """Give the update of a meta-batch, of which this machine has its own part."""
        count = self.trainer.tasks_per_replica

        def share(replica: int) -> Task:
            start = (replica - self._first_replica) * count
            return Task(*(images[start:start + count] for images in batch))

        return self.trainer.compute(share, stop=stop)

    def score(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Score the networks: their moving averages where they are kept, as those are what is used in the end."""
        return self._validator.evaluate(self.trainer.learned("generator"), self.trainer.learned("mask"))

    def panels(self) -> list[Panel]:
        """Show how well the networks adapt, what that gains, and the losses."""
        return meta_panels(self.training, self.validation)

    def describe(self) -> str:
        """Say what the run does, in a few lines."""
        config, trainer = self.config, self.trainer
        terms = " + ".join(f"{weight:g} * {name}" for name, weight in
                           (("L1", config.loss.l1), ("L1 of differences", config.loss.gradient),
                            ("L1 of contrasts", config.loss.contrast),
                            ("LPIPS", config.loss.lpips), ("adversarial", config.loss.gan),
                            ("mean((W - 1)^2)", config.loss.mask)) if weight)
        again = (f"; {config.loss.unadapted:g} times that, MaskNet's term apart, before adaptation"
                 if config.loss.unadapted and config.inner.num_steps else "")
        without = ["LPIPS"] * (not config.loss.lpips) + ["discriminator"] * (not config.loss.gan)
        taught = (f"; {config.loss.distill_weight:.0%} of the target's details are those of {config.loss.teacher}" if
                  config.loss.distill_weight else "")
        order = ("second order" if not config.inner.second_order_from else
                 f"first order, second order from iteration {config.inner.second_order_from} on")
        begun = (f"goes on from iteration {trainer.iteration}" if trainer.iteration else
                 f"begins with {config.meta.init}")
        return "\n".join((
            f"{self.folder} {begun}; {config.meta.num_iterations} iterations of {config.meta.tasks_per_batch} tasks "
            f"with {config.data.samples_per_task} sample(s), on {trainer.strategy.num_replicas_in_sync} device(s); "
            f"{order}",
            f"outer loss: {terms}" + (f" (without {', '.join(without)})" if without else "") + again + taught,
            f"faces: {config.data.restorer} of {config.data.face_record}; scenes: {config.data.scene_record}",
            *self.faults))


def _local_replicas(strategy: tf.distribute.Strategy) -> range:
    """Give the numbers of this process's replicas among all."""
    numbers = strategy.experimental_local_results(strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group)))
    return range(int(numbers[0]), int(numbers[-1]) + 1)


def meta_panels(training: History, validation: History) -> list[Panel]:
    """Give what curves.png shows of meta-training."""
    scores = {"bicubic": "psnr_bicubic", "un-adapted": "psnr_before", "adapted": "psnr_after",
              "adapted with another task's faces": "psnr_other_faces"}
    iterations, after = validation.column("psnr_after")
    gain = {label: (iterations, np.subtract(after, validation.column(name)[1])) for label, name in
            (("over un-adapted", "psnr_before"), ("over another task's faces", "psnr_other_faces"))}
    losses = ("outer_loss", "inner_loss", "l1", "gradient", "contrast", "lpips", "gan", "discriminator_loss")
    return [Panel("validation: PSNR-Y", {label: validation.column(name) for label, name in scores.items()}, "dB"),
            Panel("validation: gain of the adapted", gain, "dB", zero=True), losses_panel(training, losses)]
