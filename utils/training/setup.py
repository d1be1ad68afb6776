"""Puts a meta-training run together from its configuration: records, start weights, devices, checkpoint."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from config import GROUND_TRUTH, RANDOM, GeneratorConfig, TrainingConfig
from model.layers import Params
from model.masknet import init_masknet
from model.meta_learner import Networks
from model.meta_trainer import MetaTrainer
from model.rrdbnet import init_rrdbnet, rrdbnet_architecture
from utils.data.meta_tasks import Images, TaskSource, divide_record
from utils.errors import UserError, require
from utils.face.restorers import RESTORERS, Restorer, check_restorer, open_restorer
from utils.metrics.lpips import LPIPS_WEIGHTS, load_lpips, make_lpips_distance
from utils.training.run import MetaRun
from utils.training.state import Checkpoints
from utils.training.validation import Validator, draw_validation_tasks
from utils.weights.checkpoints import OWN_DIFFERENCE, REALESRGAN, load_super_resolver
from utils.weights.discriminator import load_discriminator, read_discriminator
from utils.weights.manifest import find_weights, get_entry, load_manifest


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
    faces, kept_faces = divide_record(data.face_record, data.face_validation_record, data.face_size, data)
    scenes, kept_scenes = divide_record(data.scene_record, data.scene_validation_record, data.scene_size, data)
    return Data(faces, scenes, kept_faces, kept_scenes)


def make_restorer(config: TrainingConfig, weights_dir: Path | None) -> Restorer | None:
    """Load what restores the degraded faces; None for the ground truth.

    Raises:
        UserError: there is no such restorer, or its weights are missing.
    """
    name = config.data.restorer
    if name == GROUND_TRUTH:
        return None
    check_restorer(name, others=[GROUND_TRUTH])
    try:
        return open_restorer(name, weights_dir)
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
    if config.loss.distill_weight:
        try:
            teacher = load_super_resolver(config.loss.teacher, weights_dir=weights_dir).generator
        except UserError as error:
            raise UserError(f"loss.teacher: {str(error).rstrip('.')}. Or give --set loss.distill_weight=0.") from error
        networks = networks._replace(teacher={name: tf.convert_to_tensor(value) for name, value in teacher.items()})
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
        return _join_cluster()
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy()
    if cpu_devices > 1:
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(cpu_devices)])
    return None


def _join_cluster() -> tf.distribute.Strategy:
    """Wait for the other machines of TF_CONFIG.

    Raises:
        UserError: it does not describe a cluster.
    """
    try:
        settings = json.loads(os.environ["TF_CONFIG"])
        workers, index = settings["cluster"]["worker"], settings["task"]["index"]
        settings["task"]["type"], workers[0 if index is None else int(index)]
        # TensorFlow waits where Python does not see a signal: leave these to the system meanwhile
        handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    except (ValueError, KeyError, AttributeError, TypeError, IndexError, tf.errors.OpError) as error:
        raise UserError(f"the environment variable TF_CONFIG does not describe this cluster ({type(error).__name__}: "
                        f"{error}). Mend it, or unset it to train on this machine alone.") from error


def check_weights(config: TrainingConfig, weights_dir: Path | None) -> None:
    """Look for all weights of the manifest that a new run needs.

    Raises:
        UserError: several are missing; names them all, with one command.
    """
    wanted = [config.data.restorer] * (config.data.restorer in RESTORERS)
    wanted = [name for name in wanted if not get_entry(load_manifest(), name).in_repository]  # nothing fetches that
    wanted += [config.meta.init] * config.meta.init.startswith(REALESRGAN)
    teacher = config.loss.teacher if config.loss.distill_weight else ""
    wanted += [teacher] * teacher.startswith(REALESRGAN)
    wanted += [REALESRGAN] * (OWN_DIFFERENCE in (config.meta.init, teacher))
    wanted += [config.discriminator.init] * (bool(config.loss.gan) and config.discriminator.init.startswith(REALESRGAN))
    wanted += [LPIPS_WEIGHTS] * bool(config.loss.lpips)
    missing = []
    for name in dict.fromkeys(wanted):
        try:
            find_weights(name, weights_dir)
        except UserError:
            missing.append(name)
    if len(missing) > 1:  # a single one is explained where it is loaded
        option = f" --weights_dir {weights_dir}" if weights_dir else ""
        raise UserError(f"weights are missing: {', '.join(missing)}. Get them with: python scripts/download_weights.py "
                        f"{' '.join(missing)}{option}. Or do without: --restorer {GROUND_TRUTH}, --gan_weight 0, "
                        "--lpips_weight 0, --set loss.distill_weight=0.")


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
             strategy: tf.distribute.Strategy | None) -> MetaRun:
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
    if not start:
        check_weights(config, weights_dir)
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
        checkpoints.set_aside(start)
        tasks = draw_validation_tasks(data.validation_faces, data.validation_scenes, config, restore)
        lpips = networks.lpips if networks.lpips is not None else _lpips_if_there(weights_dir)
        validator = Validator(tasks, config, make_lpips_distance(lpips) if lpips is not None else None)
    source = TaskSource(data.faces, data.scenes, config, restore)
    return MetaRun(folder, config, trainer, source, validator, checkpoints)
