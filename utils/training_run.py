"""A meta-training run: one iteration of it, and what it writes into its folder."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from config import TrainingConfig
from model.meta_learner import Task
from model.meta_trainer import MetaTrainer, Update
from utils.configuration import config_to_json
from utils.errors import NotFiniteError, UserError
from utils.files import atomic_path
from utils.training_data import TaskSource
from utils.training_log import EventWriter, History, plot_curves
from utils.training_state import Checkpoints
from utils.validation import Validator

TIMES = ("seconds", "data_share")  # of an iteration; and which part of that the networks waited for data


class TrainingRun:
    """The parts of a run. Only the first of several machines (`chief`) writes, but for the batch that broke it."""

    def __init__(self, folder: Path, config: TrainingConfig, trainer: MetaTrainer, source: TaskSource,
                 validator: Validator | None, checkpoints: Checkpoints):
        """Open the run's files, from the trainer's iteration on.

        Raises:
            UserError: the folder cannot be written.
        """
        self.folder, self.config, self.trainer = folder, config, trainer
        self.chief = validator is not None
        self._source, self._validator, self._checkpoints = source, validator, checkpoints
        self.replicas = _local_replicas(trainer.strategy)
        self.alone = len(self.replicas) == trainer.strategy.num_replicas_in_sync  # on this machine
        per_replica = trainer.tasks_per_replica
        self._tasks = range(self.replicas.start * per_replica, self.replicas.stop * per_replica)
        self._batches = source.batches(trainer.iteration, self._tasks)
        self._waited = 0.0
        self._since, self._counted = time.perf_counter(), 0
        if self.chief:
            for part in folder.glob(".*.part"):  # of a process that was killed
                part.unlink()
            with atomic_path(folder / "config.json") as temporary:
                temporary.write_text(config_to_json(config), encoding="utf-8")
            names = [*trainer.scalar_names, "gradient_norm", "discriminator_gradient_norm"]
            self.training = History(folder / "train.csv", [*names, *TIMES], until=trainer.iteration)
            self.validation = History(folder / "metrics.csv", validator.columns, until=trainer.iteration)
            self._events = EventWriter(folder / "tensorboard")

    def step(self, *, stop: bool) -> Update:
        """Take one iteration; with `stop`, ask all machines to end after it.

        Raises:
            NotFiniteError: the batch is saved; the weights are as they were, but the step before may have spoilt them.
            UserError: the memory does not suffice, or another machine does not answer.
        """
        begin = time.perf_counter()
        tasks = next(self._batches)
        self._waited += time.perf_counter() - begin
        try:
            update = self.trainer.compute(self._share_of(tasks), stop=stop)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise UserError("the memory does not suffice for this batch. Lower data.samples_per_task, "
                            "data.scene_patch_size or data.face_patch_size.") from error
        except tf.errors.OpError as error:
            if self.alone:
                raise
            raise UserError(f"another machine does not answer ({type(error).__name__}). See what it says, and start "
                            "all of them again.") from error
        if update.not_finite():
            raise self._not_finite(update, tasks)
        self.trainer.apply(update)
        self._counted += 1
        return update

    def _share_of(self, tasks: Task) -> Callable[[int], Task]:
        count, first = self.trainer.tasks_per_replica, self.replicas.start

        def share(replica: int) -> Task:
            start = (replica - first) * count
            return Task(*(images[start:start + count] for images in tasks))

        return share

    def _not_finite(self, update: Update, tasks: Task) -> NotFiniteError:
        iteration, names = self.trainer.iteration + 1, update.not_finite()
        path = self.folder / f"not_finite_{iteration}_task_{self._tasks.start}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, iteration=iteration, **tasks._asdict())
        values = update.summary()
        listed = ", ".join(f"{name} = {values[name]}" for name in names)
        return NotFiniteError(f"iteration {iteration}: {listed}. Its batch is in {path}. Lower meta.learning_rate or "
                              "inner.learning_rate, or give --set meta.clip_norm=1; if the latest checkpoint is "
                              "spoilt already, go back with --step.")

    def log(self, update: Update) -> dict[str, float]:
        """Write the scalars of an iteration and the time since the last ones; gives them."""
        now = time.perf_counter()
        elapsed = now - self._since
        values = {**update.summary(), "seconds": elapsed / self._counted, "data_share": self._waited / elapsed}
        self._since, self._counted, self._waited = now, 0, 0.0
        self.training.add(self.trainer.iteration, values)
        self._events.scalars(self.trainer.iteration, values, "train")
        return values

    def validate(self) -> dict[str, float]:
        """Score the present state, write the scores, pictures and curves; gives the scores."""
        begin = time.perf_counter()
        scores, pictures = self._validator.evaluate(self.trainer.params("generator"), self.trainer.params("mask"))
        iteration = self.trainer.iteration
        self.validation.add(iteration, scores)
        self._events.scalars(iteration, scores, "validation")
        self._events.images(iteration, pictures)
        plot_curves(self.folder / "curves.png", self.training, self.validation)
        self._since += time.perf_counter() - begin  # no part of an iteration
        return scores

    def save_once(self) -> None:
        """Write a checkpoint of the present state unless there is one, or training has not begun."""
        if self.chief and self.trainer.iteration and self.trainer.iteration != self._checkpoints.latest():
            self.save()

    @property
    def validated(self) -> bool:
        """Whether the present state has been scored."""
        return bool(self.validation.rows) and self.validation.rows[-1]["iteration"] == self.trainer.iteration

    def save(self) -> Path:
        """Write a checkpoint; gives its prefix."""
        begin = time.perf_counter()
        self._checkpoints.save(self.trainer)
        self._since += time.perf_counter() - begin
        return self._checkpoints.prefix(self.trainer.iteration)

    @property
    def num_skipped(self) -> int:
        """How many damaged images have been left out so far."""
        return sum(images.records.num_skipped for images in (self._source.faces, self._source.scenes))

    @property
    def faults(self) -> list[str]:
        """What was found damaged when the records were opened, and will be left out."""
        return [fault for images in (self._source.faces, self._source.scenes) for fault in images.records.faults]

    def report(self, scores: dict[str, float], write: Callable[[str], None]) -> None:
        """Say in one line how the present state scores."""
        listed = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        write(f"validation at iteration {self.trainer.iteration}: {listed}")

    def close(self) -> None:
        """Stop preparing data and finish the files."""
        self._batches.close()
        if self.chief:
            self._events.close()


def _local_replicas(strategy: tf.distribute.Strategy) -> range:
    """Give the numbers of this process's replicas among all."""
    numbers = strategy.experimental_local_results(strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group)))
    return range(int(numbers[0]), int(numbers[-1]) + 1)


def describe(run: TrainingRun) -> str:
    """Say what a run does, in a few lines."""
    config, trainer = run.config, run.trainer
    terms = " + ".join(f"{weight:g} * {name}" for name, weight in
                       (("L1", config.loss.l1), ("LPIPS", config.loss.lpips), ("adversarial", config.loss.gan),
                        ("mean((W - 1)^2)", config.loss.mask)) if weight)
    without = ["LPIPS"] * (not config.loss.lpips) + ["discriminator"] * (not config.loss.gan)
    order = ("second order" if not config.inner.second_order_from else
             f"first order, second order from iteration {config.inner.second_order_from} on")
    begun = f"goes on from iteration {trainer.iteration}" if trainer.iteration else f"begins with {config.meta.init}"
    return "\n".join((
        f"{run.folder} {begun}; {config.meta.num_iterations} iterations of {config.meta.tasks_per_batch} tasks with "
        f"{config.data.samples_per_task} sample(s), on {trainer.strategy.num_replicas_in_sync} device(s); {order}",
        f"outer loss: {terms}" + (f" (without {', '.join(without)})" if without else ""),
        f"faces: {config.data.restorer} of {config.data.face_record}; scenes: {config.data.scene_record}",
        *run.faults))
