"""The run of meta-training, and how it is built: records, start weights, devices, checkpoint."""

import contextlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf

from config import GROUND_TRUTH, RANDOM, GeneratorConfig, TrainingConfig
from model.masknet import init_masknet
from model.meta_learner import Networks, Task
from model.meta_trainer import MetaTrainer, Update
from model.rrdbnet import init_rrdbnet, rrdbnet_architecture
from utils.data.meta_tasks import TaskSource
from utils.data.tfrecords import divide_record
from utils.errors import UserError, require
from utils.face.restorers import Restorer, check_restorer, open_restorer
from utils.metrics.lpips import load_lpips, make_lpips_distance
from utils.training.log import Panel, losses_panel
from utils.training.run import Run
from utils.training.state import Checkpoints
from utils.training.validation import Validator, draw_validation_tasks
from utils.weights.checkpoints import load_super_resolver
from utils.weights.discriminator import load_discriminator, read_discriminator


class MetaRun(Run):
    """A run of meta-training."""

    title = "meta-training"
    main_loss = "outer_loss"
    tracing_note = "tracing the networks, which takes a minute or two when they are of the published size"
    oom_hint = "Lower data.samples_per_task, data.scene_patch_size or data.face_patch_size"
    not_finite_hint = "Lower meta.learning_rate or inner.learning_rate, or give --set meta.clip_norm=1"

    def compute(self, batch: Task) -> Update:
        """Compute the update of a meta-batch, whose tasks are divided among the replicas."""
        count = self.trainer.tasks_per_replica
        return self.trainer.compute(lambda replica: Task(*(images[replica * count:][:count] for images in batch)))

    def score(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Score the networks: their moving averages where these are kept, as they are used in the end."""
        return self._validator.evaluate(self.trainer.learned("generator"), self.trainer.learned("mask"))

    def panels(self) -> list[Panel]:
        """Return diagrams of the scores, of what adaptation gains, and of the losses."""
        column = self.validation.column
        scores = {"bicubic": "psnr_bicubic", "not adapted": "psnr_before", "adapted": "psnr_after",
                  "adapted with another task's faces": "psnr_other_faces"}
        iterations, after = column("psnr_after")
        gain = {label: (iterations, np.subtract(after, column(name)[1])) for label, name in
                (("over not adapted", "psnr_before"), ("over another task's faces", "psnr_other_faces"))}
        losses = ("outer_loss", "inner_loss", "l1", "lpips", "gan", "discriminator_loss")
        return [Panel("validation: PSNR-Y", {label: column(name) for label, name in scores.items()}, "dB"),
                Panel("validation: gain of the adapted", gain, "dB", zero=True), losses_panel(self.training, losses)]


def make_restorer(config: TrainingConfig, weights_dir: Path | None) -> Restorer | None:
    """Load the face restorer of the training faces; None for the ground truth."""
    name = config.data.restorer
    if name == GROUND_TRUTH:
        return None
    fidelity = config.data.codeformer_fidelity
    check_restorer(name, fidelity=fidelity, others=[GROUND_TRUTH])
    try:
        return open_restorer(name, weights_dir, fidelity=fidelity)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. Or give --restorer {GROUND_TRUTH}.") from error


def load_networks(config: TrainingConfig, weights_dir: Path | None, *, resumed: bool) -> Networks:
    """Load or draw the start weights of every network the losses need; draw them where a checkpoint will replace them.

    A discriminator in the checkpoint `meta.init` takes precedence over `discriminator.init`.
    """
    seed, architecture, mask, adversary = config.meta.seed, config.generator, None, None
    init, discriminator_init = (RANDOM, RANDOM) if resumed else (config.meta.init, config.discriminator.init)
    if init == RANDOM:
        generator = init_rrdbnet(seed, **asdict(architecture))
    else:
        weights = load_super_resolver(init, weights_dir=weights_dir)
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
            discriminator_init, weights_dir, seed=seed, num_features=config.discriminator.num_features)
        networks = networks._replace(discriminator=params, vectors=vectors)
    if config.loss.lpips:
        networks = networks._replace(lpips=load_lpips(weights_dir, alternative="Or give --lpips_weight 0."))
    return networks


def make_strategy(cpu_devices: int) -> tf.distribute.Strategy | None:
    """Spread replicas over the GPUs, or divide the CPU into several devices; None for a single device.

    Must run before TensorFlow's devices are used.
    """
    gpus = tf.config.list_physical_devices("GPU")
    require(cpu_devices == 1 or not gpus, "--cpu_devices is for machines without GPUs; add --gpu -1", cpu_devices)
    if cpu_devices > 1:
        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpu_devices)
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(cpu_devices)])
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else None


def assemble(folder: Path, config: TrainingConfig, *, start: int, checkpoints: Checkpoints, weights_dir: Path | None,
             strategy: tf.distribute.Strategy | None) -> MetaRun:
    """Build a run: open the records, load the networks, restore a checkpoint, draw the validation tasks.

    `start` is the iteration of the checkpoint to resume from; 0 to begin. `strategy`: from `make_strategy`.
    """
    num_devices = strategy.num_replicas_in_sync if strategy else 1
    require(config.meta.tasks_per_batch % num_devices == 0, "meta.tasks_per_batch must be divisible by the number of "
            "devices", f"{config.meta.tasks_per_batch} tasks, {num_devices} devices")
    data = config.data
    faces, kept_faces = divide_record(data.face_record, data.face_validation_record, data.face_size, data)
    scenes, kept_scenes = divide_record(data.scene_record, data.scene_validation_record, data.scene_size, data)
    restore = make_restorer(config, weights_dir)
    trainer = MetaTrainer(config, load_networks(config, weights_dir, resumed=start > 0), strategy)
    checkpoints.resume(start, trainer)
    tasks = draw_validation_tasks(kept_faces, kept_scenes, config, restore)
    distance = None  # validation does without LPIPS when its weights are missing
    with contextlib.suppress(UserError):
        distance = make_lpips_distance(load_lpips(weights_dir))
    batches = TaskSource(faces, scenes, config, restore).batches(start, range(config.meta.tasks_per_batch))
    return MetaRun(folder, trainer, batches, Validator(tasks, config, distance), checkpoints,
                   num_iterations=config.meta.num_iterations, records=[faces.records, scenes.records],
                   columns=[*trainer.scalar_names, "gradient_norm", "discriminator_gradient_norm"])
