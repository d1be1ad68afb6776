"""Measure speed as ratios within one process, precision and memory, and print them as a Markdown table.

Networks without weights at hand have random ones.
"""

import argparse
import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from config import DiscriminatorConfig, TrainingConfig
from utils.console import ArgumentParser, run_cli
from utils.errors import UserError
from utils.face.alignment import ALIGNED_SIZE
from utils.image.io import quantize, read_image, to_float, write_png
from utils.tensorflow_setup import cpu_has_bfloat16, start_tensorflow

SIDE = 192  # of a small photo, and of a tile, low-quality pixels
NUM_DEGRADATIONS = 300
FACE_WIDTHS = (40, 80)  # pixels of the photo
ALIGNED_WIDTHS = 2.4  # side of the aligned crop over the face's width, nearly
Rows = Iterator[tuple[str, str]]  # what was measured, and its value


@dataclass(frozen=True)
class Setting:
    """The weights to measure with."""

    model: str
    weights_dir: Path | None


@cache
def load_photo() -> np.ndarray:
    """Return scikit-image's portrait of an astronaut: [512, 512, 3] float32 in [0, 1]."""
    import skimage.data

    return to_float(skimage.data.astronaut())


@cache
def open_resolver(setting: Setting, precision: str = "float32"):
    """Return a SuperResolver."""
    from model.super_resolver import SuperResolver
    from utils.weights.checkpoints import load_super_resolver

    weights = load_super_resolver(setting.model, weights_dir=setting.weights_dir)
    return SuperResolver(weights.generator, weights.mask, precision=precision)


def upscaling(setting: Setting, precision: str = "float32") -> Callable[[], np.ndarray]:
    """Return a function that upscales a small photo; it has run once."""
    resolver = open_resolver(setting, precision)
    run = partial(resolver.upscaler(resolver.generator), load_photo()[None, :SIDE, :SIDE])
    run()
    return run


def time_ratio(first: Callable[[], object], second: Callable[[], object], repeats: int = 3) -> float:
    """Return the time of one function over another's; they alternate, so that a slow minute meets both."""
    seconds = [[timeit.timeit(function, number=1) for function in (first, second)] for _ in range(repeats)]
    return min(pair[0] for pair in seconds) / min(pair[1] for pair in seconds)


def bfloat16(setting: Setting) -> Rows:
    """Compare bfloat16 with float32: time and result."""
    exact, rounded = upscaling(setting), upscaling(setting, "bfloat16")
    yield "bfloat16 forward, speed over float32's", f"{time_ratio(exact, rounded):.2f}"
    error = np.mean(np.square(np.clip(exact(), 0, 1) - np.clip(rounded(), 0, 1)))
    yield "bfloat16 against float32, PSNR", f"{-10 * np.log10(error):.1f} dB"


def restorers(_: Setting) -> Rows:
    """Compare the time of `rrdb-face` with that of GPEN-512, whose time does not depend on the face's size."""
    from model.gpen import GPEN_512, init_gpen
    from utils.face.restorers import compile_gpen, open_restorer

    photo, own = quantize(load_photo()), open_restorer("rrdb-face", None)
    published = compile_gpen(init_gpen(0, GPEN_512))
    published(photo[None])
    for width in FACE_WIDTHS:
        matrix = np.eye(2, 3) * ALIGNED_SIZE / (ALIGNED_WIDTHS * width)
        restore = partial(own.restore_region, photo, matrix, (100, 100, round(1.3 * width), width))
        restore()
        ratio = time_ratio(restore, lambda: published(photo[None]))
        yield f"rrdb-face, face of {width} pixels: time over that of GPEN-512", f"{ratio:.2f}"


def gradients(setting: Setting) -> Rows:
    """Compare the time of a meta-training step, of random weights, with that of the forward of a small photo."""
    from model.discriminator import init_discriminator
    from model.lpips import init_lpips
    from model.masknet import init_masknet
    from model.meta_learner import Networks, Task
    from model.meta_trainer import MetaTrainer
    from model.rrdbnet import init_rrdbnet

    config, rng = TrainingConfig(), np.random.default_rng(0)
    config = replace(config, meta=replace(config.meta, tasks_per_batch=1))
    trainer = MetaTrainer(config, Networks(
        init_rrdbnet(0), init_masknet(0, last_bias=1.0),
        *init_discriminator(0, num_features=DiscriminatorConfig().num_features), init_lpips(0)))
    face, scene = config.data.face_patch_size, config.data.scene_patch_size
    task = Task(*(rng.random((1, 1, side, side, 3), np.float32)
                  for side in (face // 4, face, scene // 4, scene, scene)))
    start = time.perf_counter()
    update = trainer.compute(lambda _: task)
    traced = time.perf_counter()
    trainer.apply(update)
    end = time.perf_counter()
    yield "meta-training: tracing of the step, of its update", f"{traced - start:.0f} s, {end - traced:.0f} s"
    ratio = time_ratio(lambda: trainer.compute(lambda _: task), upscaling(setting))
    yield ("meta-training, gradients of one published-size task of one sample: time over that of upscaling "
           f"{SIDE}x{SIDE}", f"{ratio:.1f}")


def degradation(_: Setting) -> Rows:
    """Time the degradation of a scene, sharpening included, and of a face, on one thread."""
    import cv2

    from utils.data.degradations import degrade, sample_degradation, sample_noise, usm_sharpen

    settings, threads = TrainingConfig().degradation, cv2.getNumThreads()
    cv2.setNumThreads(1)
    for name, side in (("scene of 400x400, sharpened", 400), ("face of 256x256", 256)):
        image, rng = np.ascontiguousarray(load_photo()[:side, :side]), np.random.default_rng(0)
        start = time.process_time()
        for _ in range(NUM_DEGRADATIONS):
            drawn = sample_degradation(rng, settings)
            sharp = usm_sharpen(image) if "sharpened" in name else image
            degrade(sharp, drawn, sample_noise(rng, drawn, settings))
        seconds = (time.process_time() - start) / NUM_DEGRADATIONS
        yield f"degradation of a {name}, one core", f"{1000 * seconds:.1f} ms"
    cv2.setNumThreads(threads)


def run_process(command: list[object]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak resident memory in GiB (Linux and macOS)."""
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"{command[1]} failed, see above.")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return time.perf_counter() - started, usage.ru_maxrss * unit / 2**30


def original(setting: Setting) -> Rows:
    """Compare whole processes on ten small photos with those of the original's arithmetic, `restore_as_original`."""
    with tempfile.TemporaryDirectory() as name:
        folder, photo = Path(name), quantize(load_photo())
        for number, (height, width) in enumerate(2 * [(128, 128), (128, 192), (160, 160), (192, 256), (256, 192)]):
            write_png(folder / "LQ" / f"{number}.png", photo[:height, :width])
            for face in range(number % 3 + 1):
                write_png(folder / "Face_LQ" / f"{number}_{face}.png", photo[8 * face:8 * face + 48, :40])
                write_png(folder / "Face_HQ" / f"{number}_{face}.png", photo[8 * face:8 * face + 192, :160])
        program = "import sys; from scripts.benchmark import restore_as_original; restore_as_original(*sys.argv[1:])"
        theirs = [sys.executable, "-c", program, folder, setting.model, *filter(None, [setting.weights_dir])]
        for precision in ("float32", *["bfloat16"] * bool(cpu_has_bfloat16())):
            ours = [sys.executable, "test.py", "--input_dir", folder / "LQ", "--face_dir", folder, "--output_dir",
                    folder / "out", "--overwrite", "--learning_rate", "1e-4", "--precision", precision,
                    "--model_dir", setting.model, *["--weights_dir", setting.weights_dir] * bool(setting.weights_dir)]
            runs = np.array([[run_process(command) for command in (theirs, ours)] for _ in range(2)])
            seconds, memory = runs.min(axis=0).T
            yield (f"ten photos of 128x128 to 256x192 with one to three faces, {precision}: time of the original's "
                   "arithmetic over ours; peak memory likewise",
                   f"{seconds[0] / seconds[1]:.2f}; {memory[0] / memory[1]:.2f}")


def restore_as_original(folder: str, model: str, weights_dir: str | None = None) -> None:
    """Restore photos as the original does: one TF1 graph in float32, a session run for the step and one for the photo.

    Reading weights and files is ours, and no patches are drawn, which is in its favour.
    """
    start_tensorflow()
    import tensorflow as tf

    from model.masknet import masknet
    from model.rrdbnet import rrdbnet
    from utils.weights.checkpoints import load_super_resolver

    weights, v1 = load_super_resolver(model, weights_dir=weights_dir and Path(weights_dir)), tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        lq, hq = (v1.placeholder(tf.float32, [None, None, None, 3]) for _ in range(2))
        start, fast = ({name: v1.get_variable(f"{kind}/{name}", initializer=value) for name, value in
                        weights.generator.items()} for kind in ("start", "fast"))
        mask = {name: tf.constant(value) for name, value in (weights.mask or {}).items()}
        trust = masknet(mask, lq, hq) if mask else 1
        loss = tf.reduce_mean(trust * tf.abs(hq - rrdbnet(start, lq)))
        gradients = tf.gradients(loss, list(start.values()))
        step = [fast[name].assign(start[name] - 1e-4 * gradient).op
                for name, gradient in zip(start, gradients, strict=True)]
        output = rrdbnet(fast, lq)
        session.run(v1.global_variables_initializer())
        for path in sorted(Path(folder, "LQ").glob("*.png")):
            count = 16 * len(list(Path(folder, "Face_LQ").glob(f"{path.stem}_*.png")))
            photo = read_image(path).pixels[None]
            session.run([loss, step], {lq: np.repeat(photo[:, :16, :16], count, axis=0),
                                       hq: np.repeat(photo[:, :64, :64], count, axis=0)})
            write_png(Path(folder, "original", path.name), quantize(session.run(output, {lq: photo})[0]))


PARTS = {part.__name__: part for part in (
    bfloat16, restorers, gradients, degradation, original)}


def describe_machine() -> str:
    """Return one line with processor, cores, GPUs and versions."""
    import tensorflow as tf

    name = platform.machine()
    with contextlib.suppress(OSError, TypeError):  # only Linux has this file, and not on every processor such a line
        name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[1]
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")]
    return (f"{os.cpu_count()} cores of {name}{' with bfloat16' * bool(cpu_has_bfloat16())}; "
            f"{', '.join(gpus) or 'no GPU'}; TensorFlow {tf.__version__}; {time.strftime('%Y-%m-%d')}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--model_dir", default="realesrgan", help="weights to measure with, as for test.py")
    parser.add_argument("--weights_dir", type=Path, help="folder of downloaded weights (default: weights/)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "original"],
                        help="what to measure; original takes minutes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    start_tensorflow()
    print(f"{describe_machine()}\nweights: {args.model_dir}\n\n| measurement | value |\n|---|---|", flush=True)
    for part in args.parts:
        for what, value in PARTS[part](Setting(args.model_dir, args.weights_dir)):
            print(f"| {what} | {value} |", flush=True)


if __name__ == "__main__":
    run_cli(main)
