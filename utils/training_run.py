"""A meta-training run: its folder, its parts put together, and what is written at which iteration."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from config import GROUND_TRUTH, RANDOM, GeneratorConfig, TrainingConfig
from model.layers import Params
from model.masknet import init_masknet
from model.meta_learner import Networks, Task
from model.meta_trainer import MetaTrainer, Update
from model.rrdbnet import init_rrdbnet, rrdbnet_architecture
from utils.adversary import load_discriminator, read_discriminator
from utils.checkpoints import load_super_resolver
from utils.configuration import config_to_json
from utils.errors import UserError, require
from utils.face_restorers import RESTORERS, Restorer
from utils.files import atomic_path
from utils.perceptual import load_lpips, make_lpips_distance
from utils.tfrecords import ImageRecords
from utils.training_data import Images, TaskSource
from utils.training_log import EventWriter, History, plot_curves
from utils.training_state import Checkpoints
from utils.validation import Validator, draw_validation_tasks

TIMES = ("seconds", "data_share")  # of an iteration; and which part of that the networks waited for data


class Data(NamedTuple):
    """Where images come from, divided into those to train on and those to validate on."""

    faces: Images
    scenes: Images
    validation_faces: Images
    validation_scenes: Images


def open_data(config: TrainingConfig) -> Data:
    """Open the records.

    Raises:
        UserError: one is missing, damaged, of another image size, or has too few images to divide.
    """
    data = config.data
    faces, kept_faces = _divide(data.face_record, data.face_validation_record, data.face_size, config)
    scenes, kept_scenes = _divide(data.scene_record, data.scene_validation_record, data.scene_size, config)
    return Data(faces, scenes, kept_faces, kept_scenes)


def _divide(path: str, validation_path: str, size: int, config: TrainingConfig) -> tuple[Images, Images]:
    records = ImageRecords(path, size, skip_corrupt=config.data.skip_corrupt)
    if validation_path:
        kept = ImageRecords(validation_path, size, skip_corrupt=config.data.skip_corrupt)
        return Images(records, 0, len(records)), Images(kept, 0, len(kept))
    count = config.data.num_validation
    require(0 < count < len(records), f"{path} must have more images than the data.num_validation that are kept for "
            "validation, and these must be at least 1 unless there is a record of their own",
            f"{len(records)} images, {count} kept")
    return Images(records, 0, len(records) - count), Images(records, len(records) - count, count)


def make_restorer(config: TrainingConfig, weights_dir: Path | None) -> Restorer | None:
    """Load what restores the degraded faces; None for the ground truth.

    Raises:
        UserError: there is no such restorer, or its weights are missing.
    """
    name = config.data.restorer
    if name == GROUND_TRUTH:
        return None
    if name not in RESTORERS:
        raise UserError(f"--restorer is one of {', '.join(RESTORERS)}, {GROUND_TRUTH}. Received: {name}.")
    try:
        return RESTORERS[name](name, weights_dir)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. Or give --restorer {GROUND_TRUTH}.") from error


def load_networks(config: TrainingConfig, weights_dir: Path | None) -> Networks:
    """Load or draw the start weights of every network the losses need.

    A discriminator that lies in the checkpoint `meta.init` goes before `discriminator.init`.

    Raises:
        UserError: weights are missing, or of another architecture than the configuration's.
    """
    seed, architecture, mask, adversary = config.meta.seed, config.generator, None, None
    if config.meta.init == RANDOM:
        generator = init_rrdbnet(seed, num_blocks=architecture.num_blocks, num_features=architecture.num_features,
                                 growth=architecture.growth)
    else:
        weights = load_super_resolver(config.meta.init, weights_dir=weights_dir)
        generator, mask = weights.generator, weights.mask
        found = GeneratorConfig(*rrdbnet_architecture({name: value.shape for name, value in generator.items()}))
        require(found == architecture, f"the configuration must name the generator of {weights.source}: {found}; use "
                "--set generator.num_blocks=... or another --init", architecture)
        if weights.meta_trained and config.loss.gan:
            adversary = read_discriminator(weights.source, num_features=config.discriminator.num_features)
    mask = mask or init_masknet(seed, last_bias=config.meta.mask_bias)
    networks = Networks(*({name: tf.convert_to_tensor(value) for name, value in params.items()}
                          for params in (generator, mask)))
    if config.loss.gan:
        params, vectors = adversary or load_discriminator(
            config.discriminator.init, weights_dir, seed=seed, num_features=config.discriminator.num_features)
        networks = networks._replace(discriminator=params, vectors=vectors)
    if config.loss.lpips:
        networks = networks._replace(lpips=load_lpips(weights_dir, alternative="Or give --lpips_weight 0."))
    return networks


def make_strategy(cpu_devices: int) -> tf.distribute.Strategy | None:
    """Choose how replicas are spread: over the machines of TF_CONFIG, over the GPUs, or over parts of the CPU.

    Must run before TensorFlow's devices are used.

    Args:
        cpu_devices: how many logical devices the CPU is divided into, to try several replicas without GPUs.

    Returns:
        None for a single device.

    Raises:
        UserError: these contradict each other, or TF_CONFIG is wrong.
    """
    gpus = tf.config.list_physical_devices("GPU")
    require(cpu_devices == 1 or not gpus, "--cpu_devices is for machines without GPUs; add --gpu -1", cpu_devices)
    if cpu_devices > 1:
        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpu_devices)
    if os.environ.get("TF_CONFIG"):
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, KeyError, AttributeError, TypeError, tf.errors.OpError) as error:
            raise UserError(f"the environment variable TF_CONFIG does not describe this cluster ({error}). Mend it, or "
                            "unset it to train on this machine alone.") from error
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy()
    if cpu_devices > 1:
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(cpu_devices)])
    return None


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
        self.alone = trainer.strategy.num_replicas_in_sync == len(
            trainer.strategy.experimental_local_results(_replica_numbers(trainer.strategy)))
        self._source, self._validator, self._checkpoints = source, validator, checkpoints
        self.replicas = _local_replicas(trainer.strategy)
        per_replica = trainer.tasks_per_replica
        self._tasks = range(self.replicas.start * per_replica, self.replicas.stop * per_replica)
        self._batches = source.batches(trainer.iteration, self._tasks)
        self._waited = 0.0
        self._since, self._counted = time.perf_counter(), 0
        if self.chief:
            with atomic_path(folder / "config.json") as temporary:
                temporary.write_text(config_to_json(config), encoding="utf-8")
            names = [*trainer.scalar_names, "gradient_norm", "discriminator_gradient_norm"]
            self.training = History(folder / "train.csv", [*names, *TIMES], until=trainer.iteration)
            self.validation = History(folder / "metrics.csv", validator.columns, until=trainer.iteration)
            self._events = EventWriter(folder / "tensorboard")

    def step(self, *, stop: bool) -> Update:
        """Take one iteration; with `stop`, ask all machines to end after it.

        Raises:
            UserError: a value was not finite: the batch is saved, the weights are as they were before.
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

    def _not_finite(self, update: Update, tasks: Task) -> UserError:
        iteration, names = self.trainer.iteration + 1, update.not_finite()
        path = self.folder / f"not_finite_{iteration}_task_{self._tasks.start}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, iteration=iteration, **tasks._asdict())
        values = update.summary()
        listed = ", ".join(f"{name} = {values[name]}" for name in names)
        return UserError(f"iteration {iteration}: {listed}. Its batch is in {path}; checkpoints are sound. Lower "
                         "meta.learning_rate or inner.learning_rate, or give --set meta.clip_norm=1.")

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


def _replica_numbers(strategy: tf.distribute.Strategy):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group))


def _local_replicas(strategy: tf.distribute.Strategy) -> range:
    """Give the numbers of this process's replicas among all."""
    numbers = strategy.experimental_local_results(_replica_numbers(strategy))
    return range(int(numbers[0]), int(numbers[-1]) + 1)


def _check_agreement(trainer: MetaTrainer) -> None:
    """Check that all machines are at the same iteration.

    Raises:
        UserError: they are not.
    """
    own = trainer.strategy.experimental_distribute_values_from_function(lambda _: tf.constant([trainer.iteration]))
    iterations = sorted(set(trainer.strategy.gather(own, axis=0).numpy().tolist()))
    if len(iterations) > 1:
        raise UserError(f"the machines are at different iterations, {', '.join(map(str, iterations))}: they must share "
                        "--run_dir. Start them again when all of them see the same checkpoints.")


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process is the one that writes."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_type == "worker" and resolver.task_id == 0)


def _lpips_if_there(weights_dir: Path | None) -> Params | None:
    try:
        return load_lpips(weights_dir)
    except UserError:  # then validation does without
        return None


def assemble(folder: Path, config: TrainingConfig, *, start: int, checkpoints: Checkpoints, weights_dir: Path | None,
             strategy: tf.distribute.Strategy | None) -> TrainingRun:
    """Put a run together: open the records, load the networks, go back to a checkpoint.

    Args:
        folder: of the run.
        config: of the run.
        start: iteration of the checkpoint to go on from; 0 to begin.
        checkpoints: of the run.
        weights_dir: where downloaded weights are looked up.
        strategy: as `make_strategy` gives.

    Raises:
        UserError: for whatever is missing or does not fit.
    """
    data = open_data(config)
    restore = make_restorer(config, weights_dir)
    begin = config
    if start:  # the checkpoint brings the weights; those that the run began with may be gone by now
        begin = replace(config, meta=replace(config.meta, init=RANDOM),
                        discriminator=replace(config.discriminator, init=RANDOM))
    networks = load_networks(begin, weights_dir)
    num_devices = strategy.num_replicas_in_sync if strategy else 1
    require(config.meta.tasks_per_batch % num_devices == 0, "meta.tasks_per_batch must be divisible by the number of "
            "devices", f"{config.meta.tasks_per_batch} tasks, {num_devices} devices")
    trainer = MetaTrainer(config, networks, strategy)
    if start:
        checkpoints.restore(start, trainer)
    if strategy:
        _check_agreement(trainer)
    validator = None
    if is_chief(strategy):
        checkpoints.clean()
        if start and start != checkpoints.latest():
            checkpoints.mark_latest(start)
        tasks = draw_validation_tasks(data.validation_faces, data.validation_scenes, config, restore)
        lpips = networks.lpips if networks.lpips is not None else _lpips_if_there(weights_dir)
        validator = Validator(tasks, config, make_lpips_distance(lpips) if lpips is not None else None)
    source = TaskSource(data.faces, data.scenes, config, restore)
    return TrainingRun(folder, config, trainer, source, validator, checkpoints)


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
        f"{config.data.samples_per_task} samples, on {trainer.strategy.num_replicas_in_sync} device(s); {order}",
        f"outer loss: {terms}" + (f" (without {', '.join(without)})" if without else ""),
        f"faces: {config.data.restorer} of {config.data.face_record}; scenes: {config.data.scene_record}",
        *run.faults))
