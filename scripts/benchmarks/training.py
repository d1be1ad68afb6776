"""Meta-training: rate of a step, degradation."""

import time
from dataclasses import replace

import numpy as np

from config import DiscriminatorConfig, TrainingConfig
from scripts.benchmarks.inference import Setting
from scripts.benchmarks.timing import Rows, time_ratio

NUM_DEGRADATIONS = 300


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
    return trainer, lambda: trainer.compute(lambda _: tasks)


def gradients(setting: Setting) -> Rows:
    """Compare the time of a meta-training step with that of the forward of a small photo."""
    trainer, compute = make_step()
    start = time.perf_counter()
    update = compute()
    traced = time.perf_counter()
    trainer.apply(update)
    end = time.perf_counter()
    yield "meta-training: tracing of the step, of its update", f"{traced - start:.0f} s, {end - traced:.0f} s"
    resolver, image = setting.resolver(), setting.photo[None, :192, :192]
    run = resolver.upscaler(resolver.generator)
    run(image)
    ratio = time_ratio(compute, lambda: run(image))
    yield ("meta-training, gradients of one published-size task of one sample: time over that of upscaling 192x192",
           f"{ratio:.1f}")


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
