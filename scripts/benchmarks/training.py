"""The parts of the benchmark that meta-training has; `scripts/benchmark.py` runs them."""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from config import DiscriminatorConfig, TrainingConfig
from utils.training.configuration import META_TRAINING, resolve_config

NUM_DEGRADATIONS = 300
DISCRIMINATOR_SCALES = {"conv1": 2, "conv2": 4, "conv3": 8, "conv4": 4, "conv5": 2}  # of its maps; the others: 1
ALEXNET_SIDES = {"conv1": 4, "conv2": 8, "conv3": 16, "conv4": 16, "conv5": 16}  # input side over that of its maps


def training_operations(networks, config: TrainingConfig, forward: Callable[[dict, int, int], float]) -> float:
    """Count the multiplications and additions of one task of one sample, second order.

    A convolution's gradient takes two more of its size, one for its inputs and one for its weights; the derivative of
    all three, which the second order needs for the faces, six more.
    """
    face, scene = config.data.face_patch_size, config.data.scene_patch_size

    def count(params: dict, side: int, scales: dict[str, int]) -> float:
        return sum(2 * int(np.prod(value.shape)) * (side // scales.get(name.split("/")[0], 1)) ** 2
                   for name, value in params.items() if len(value.shape) == 4)

    faces = 9 * forward(networks.generator, face // 4, face // 4)
    scenes = 3 * forward(networks.generator, scene // 4, scene // 4)
    # forward for fake and real; back to the fake image for the generator; both gradients of both for itself
    adversary = (2 + 1 + 4) * count(networks.discriminator, scene, DISCRIMINATOR_SCALES)
    perceptual = (2 + 1) * count(networks.lpips, scene, ALEXNET_SIDES)  # target and output, then back to the output
    return faces + scenes + adversary + perceptual + 3 * count(networks.mask, face, {})


def make_step(num_tasks: int):
    """Make a trainer with drawn weights and a function that computes one published-size meta-batch of one sample."""
    from model.discriminator import init_discriminator
    from model.lpips import init_lpips
    from model.masknet import init_masknet
    from model.meta_learner import Networks, Task
    from model.meta_trainer import MetaTrainer
    from model.rrdbnet import init_rrdbnet

    config = TrainingConfig()
    config = replace(config, meta=replace(config.meta, tasks_per_batch=num_tasks))
    networks = Networks(init_rrdbnet(0), init_masknet(0, last_bias=1.0),
                        *init_discriminator(0, num_features=DiscriminatorConfig().num_features), init_lpips(0))
    trainer = MetaTrainer(config, networks)
    rng = np.random.default_rng(0)
    face, scene = config.data.face_patch_size, config.data.scene_patch_size
    tasks = Task(*(rng.random((num_tasks, 1, side, side, 3), np.float32)
                   for side in (face // 4, face, scene // 4, scene, scene)))
    return config, networks, trainer, lambda: trainer.compute(lambda _: tasks)


def peak_of_steps(num_tasks: int) -> float:
    """Take two iterations and give this process's peak resident memory in GiB."""
    from utils.tensorflow_setup import start_tensorflow

    start_tensorflow("-1")
    _, _, trainer, compute = make_step(num_tasks)
    for _ in range(2):
        trainer.apply(compute())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30


def training(relative_rate: Callable, forward_operations: Callable) -> Iterator[tuple[str, str]]:
    """Compare the rate of a meta-training step with the matrix product's."""
    config, networks, trainer, compute = make_step(1)
    start = time.perf_counter()
    update = compute()
    traced = time.perf_counter()
    trainer.apply(update)
    end = time.perf_counter()
    yield "meta-training: tracing of the step, of its update", f"{traced - start:.0f} s, {end - traced:.0f} s"
    rate = relative_rate(training_operations(networks, config, forward_operations), compute)
    yield "meta-training, gradients of one published-size task of one sample, rate over tf.matmul's", f"{rate:.0%}"


def step_profile(repeats: int = 5) -> Iterator[tuple[str, str]]:
    """Say where the time of an iteration of the preset `metaf2n-small` goes, data apart.

    Parts are what an iteration takes less without them.
    """
    from model.masknet import init_masknet
    from model.meta_learner import Networks, Task
    from model.meta_trainer import MetaTrainer
    from model.rrdbnet import init_rrdbnet

    whole = resolve_config(META_TRAINING, "metaf2n-small")
    variants = {"whole": whole,
                "without un-adapted": replace(whole, loss=replace(whole.loss, unadapted=0.0)),
                "of first order": replace(whole, inner=replace(whole.inner, second_order_from=1000)),
                "plain": replace(whole, inner=replace(whole.inner, num_steps=0))}
    face, scene, samples = whole.data.face_patch_size, whole.data.scene_patch_size, whole.data.samples_per_task
    rng = np.random.default_rng(0)
    tasks = Task(*(rng.random((1, samples, side, side, 3), np.float32)
                   for side in (face // 4, face, scene // 4, scene, scene)))
    networks = Networks(init_rrdbnet(0, num_blocks=whole.generator.num_blocks), init_masknet(0, last_bias=1.0))
    trainers = {name: MetaTrainer(config, networks) for name, config in variants.items()}
    for trainer in trainers.values():
        trainer.apply(trainer.compute(lambda _: tasks))  # traces
    seconds = dict.fromkeys([*variants, "update"], float("inf"))
    for _ in range(repeats):  # in turns, so that a slow minute meets all
        for name, trainer in trainers.items():
            start = time.perf_counter()
            update = trainer.compute(lambda _: tasks)
            computed = time.perf_counter()
            trainer.apply(update)
            seconds[name] = min(seconds[name], computed - start)
            seconds["update"] = min(seconds["update"], time.perf_counter() - computed)
    total = seconds["whole"] + seconds["update"]
    parts = {"Adam and the moving average": seconds["update"],
             "scenes of the network without adaptation": seconds["whole"] - seconds["without un-adapted"],
             "second order": seconds["whole"] - seconds["of first order"],
             "scenes, as in plain training": seconds["plain"],
             "faces, first order (the rest)": seconds["of first order"] + seconds["without un-adapted"]
             - seconds["whole"] - seconds["plain"]}
    for name, part in parts.items():
        yield f"share of an iteration of metaf2n-small: {name}", f"{part / total:.0%}"


def training_memory() -> Iterator[tuple[str, str]]:
    """Read the peak memory of steps of one and of four tasks, each in a process of its own."""
    peaks = []
    for num_tasks in (1, 4):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(peak_of_steps, num_tasks).result())
        yield f"meta-training, peak resident memory, tasks: {num_tasks}", f"{peaks[-1]:.2f} GiB"
    yield "the same, four tasks over one", f"{peaks[1] / peaks[0]:.2f}"


def degradation(photo: np.ndarray) -> Iterator[tuple[str, str]]:
    """Time the degradation of a scene, sharpening included, and of a face, on one thread."""
    import cv2

    from utils.data.degradations import degrade, sample_degradation, sample_noise, usm_sharpen

    settings, threads = TrainingConfig().degradation, cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for name, side in (("scene of 400x400, sharpened", 400), ("face of 256x256", 256)):
            image, rng = np.ascontiguousarray(photo[:side, :side]), np.random.default_rng(0)
            start = time.process_time()
            for _ in range(NUM_DEGRADATIONS):
                drawn = sample_degradation(rng, settings)
                sharp = usm_sharpen(image) if "sharpened" in name else image
                degrade(sharp, drawn, sample_noise(rng, drawn, settings))
            seconds = (time.process_time() - start) / NUM_DEGRADATIONS
            yield f"degradation of a {name}, one core", f"{1000 * seconds:.1f} ms"
    finally:
        cv2.setNumThreads(threads)


def waiting(photo: np.ndarray, iterations: int = 20) -> Iterator[tuple[str, str]]:
    """Measure which part of an iteration of the small preset waits for data, through the real pipeline.

    Faces come from the ground truth: a restorer's time would count.
    """
    from model.masknet import init_masknet
    from model.meta_learner import Networks
    from model.meta_trainer import MetaTrainer
    from model.rrdbnet import init_rrdbnet
    from utils.data.meta_tasks import PREFETCHED, Images, TaskSource
    from utils.data.tfrecords import ImageRecords, write_image_records

    config = resolve_config(META_TRAINING, "small")
    samples = (photo * 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        images = []
        for size in (config.data.face_size, config.data.scene_size):
            path = Path(name) / f"{size}.tfrecord"
            write_image_records(path, [samples[:size, shift:shift + size] for shift in range(0, 100, 10)], size)
            images.append(Images(ImageRecords(path, size), 0, 10))
        trainer = MetaTrainer(config, Networks(init_rrdbnet(0), init_masknet(0, last_bias=1.0)))
        batches = TaskSource(*images, config, None).batches(0, range(config.meta.tasks_per_batch))
        # the first iteration traces, and the next ones use up what was prepared meanwhile
        prepared = 2 + PREFETCHED + multiprocessing.cpu_count()
        for iteration in range(prepared + iterations):
            if iteration == prepared:
                begin, waited = time.perf_counter(), 0.0
            before = time.perf_counter()
            tasks = next(batches)
            if iteration >= prepared:
                waited += time.perf_counter() - before
            trainer.apply(trainer.compute(lambda _, tasks=tasks: tasks))
        share = waited / (time.perf_counter() - begin)
        batches.close()
    yield "meta-training, small preset: share of the time that waits for data", f"{share:.1%}"
