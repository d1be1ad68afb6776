"""Meta-training: rate of a step, degradation."""

import time
from dataclasses import replace

import numpy as np

from config import DiscriminatorConfig, TrainingConfig
from scripts.benchmarks.inference import Setting
from scripts.benchmarks.timing import Rows, generator_operations, relative_rate

NUM_DEGRADATIONS = 300
DISCRIMINATOR_SCALES = {"conv1": 2, "conv2": 4, "conv3": 8, "conv4": 4, "conv5": 2}  # of its maps; the others: 1
ALEXNET_SIDES = {"conv1": 4, "conv2": 8, "conv3": 16, "conv4": 16, "conv5": 16}  # input side over that of its maps


def training_operations(networks, config: TrainingConfig) -> float:
    """Count the multiplications and additions of one task of one sample, second order.

    A convolution's gradient takes two more of its size, one for its inputs and one for its weights; the derivative of
    all three, which the second order needs for the faces, six more.
    """
    face, scene = config.data.face_patch_size, config.data.scene_patch_size

    def count(params: dict, side: int, scales: dict[str, int]) -> float:
        return sum(2 * int(np.prod(value.shape)) * (side // scales.get(name.split("/")[0], 1)) ** 2
                   for name, value in params.items() if len(value.shape) == 4)

    faces = 9 * generator_operations(networks.generator, face // 4, face // 4)
    scenes = 3 * generator_operations(networks.generator, scene // 4, scene // 4)
    # forward for fake and real; back to the fake image for the generator; both gradients of both for itself
    adversary = (2 + 1 + 4) * count(networks.discriminator, scene, DISCRIMINATOR_SCALES)
    perceptual = (2 + 1) * count(networks.lpips, scene, ALEXNET_SIDES)  # target and output, then back to the output
    return faces + scenes + adversary + perceptual + 3 * count(networks.mask, face, {})


def make_step():
    """Return a trainer with random weights and a function that computes one published-size task of one sample."""
    from model.discriminator import init_discriminator
    from model.lpips import init_lpips
    from model.masknet import init_masknet
    from model.meta_learner import Networks, Task
    from model.meta_trainer import MetaTrainer
    from model.rrdbnet import init_rrdbnet

    config = TrainingConfig()
    config = replace(config, meta=replace(config.meta, tasks_per_batch=1))
    networks = Networks(init_rrdbnet(0), init_masknet(0, last_bias=1.0),
                        *init_discriminator(0, num_features=DiscriminatorConfig().num_features), init_lpips(0))
    trainer = MetaTrainer(config, networks)
    rng = np.random.default_rng(0)
    face, scene = config.data.face_patch_size, config.data.scene_patch_size
    tasks = Task(*(rng.random((1, 1, side, side, 3), np.float32)
                   for side in (face // 4, face, scene // 4, scene, scene)))
    return config, networks, trainer, lambda: trainer.compute(lambda _: tasks)


def gradients(_: Setting) -> Rows:
    """Compare the rate of a meta-training step with the matrix product's."""
    config, networks, trainer, compute = make_step()
    start = time.perf_counter()
    update = compute()
    traced = time.perf_counter()
    trainer.apply(update)
    end = time.perf_counter()
    yield "meta-training: tracing of the step, of its update", f"{traced - start:.0f} s, {end - traced:.0f} s"
    rate = relative_rate(training_operations(networks, config), compute)
    yield "meta-training, gradients of one published-size task of one sample, rate over `tf.matmul`'s", f"{rate:.0%}"


def degradation(setting: Setting) -> Rows:
    """Time the degradation of a scene, sharpening included, and of a face, on one thread."""
    import cv2

    from utils.data.degradations import degrade, sample_degradation, sample_noise, usm_sharpen

    settings, threads = TrainingConfig().degradation, cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for name, side in (("scene of 400x400, sharpened", 400), ("face of 256x256", 256)):
            image, rng = np.ascontiguousarray(setting.photo[:side, :side]), np.random.default_rng(0)
            start = time.process_time()
            for _ in range(NUM_DEGRADATIONS):
                drawn = sample_degradation(rng, settings)
                sharp = usm_sharpen(image) if "sharpened" in name else image
                degrade(sharp, drawn, sample_noise(rng, drawn, settings))
            seconds = (time.process_time() - start) / NUM_DEGRADATIONS
            yield f"degradation of a {name}, one core", f"{1000 * seconds:.1f} ms"
    finally:
        cv2.setNumThreads(threads)
