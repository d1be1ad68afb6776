"""Measure speed as ratios within one process, precision and memory, and print them as a table.

Seconds differ from machine to machine and from minute to minute; the rate of a large matrix product, measured
directly before and after each part, is what the networks are compared with.
"""

import argparse
import contextlib
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from config import AdaptationConfig, UpscalingConfig
from scripts.benchmarks import faces as face_benchmark
from scripts.benchmarks import metrics as metrics_benchmark
from scripts.benchmarks import speed as speed_benchmark
from scripts.benchmarks import training as training_benchmark
from utils.console import ArgumentParser, run_cli
from utils.errors import UserError
from utils.files import atomic_path, check_writable
from utils.image.io import quantize, read_image, write_png
from utils.tensorflow_setup import start_tensorflow

UPSCALING = UpscalingConfig()
BEFORE = "481cb6a"
TABLE_HEAD = "| measurement | value |\n|---|---|"
MATRIX_SIZE = 2048
PIXELS_PER_LQ_PIXEL = {"conv_up1": 4, "conv_up2": 16, "conv_hr": 16, "conv_last": 16}  # the other layers: 1
PARTS = ("forward", "bfloat16", "adaptation", "overhead", "tiling", "retinaface", "gpen", "restorers", "training",
         "degradation", "waiting", "metrics", "upsampling", "overlap", "step", "memory", "training_memory", "faces",
         "photos", "iterations")
SLOW_PARTS = ("memory", "training_memory", "faces", "photos", "iterations")
# what depends on the weights; the other parts run once
MODEL_PARTS = ("forward", "bfloat16", "adaptation", "overhead", "tiling", "memory", "upsampling", "photos")
BEFORE_AFTER = ("upsampling", "overlap", "photos", "iterations")  # ratios of times, before over after
MEMORY_PHOTO_SIZE = 1000  # LQ pixels, both sides


def best_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Give the shortest of several durations: the one least disturbed by other work on the machine."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return min(durations)


def matmul_rate() -> float:
    """Measure float32 operations per second of a large `tf.matmul`."""
    import tensorflow as tf

    matrix = tf.random.stateless_normal([MATRIX_SIZE, MATRIX_SIZE], seed=[0, 0])
    multiply = tf.function(tf.matmul)
    multiply(matrix, matrix)
    return 2 * MATRIX_SIZE**3 / best_seconds(lambda: multiply(matrix, matrix).numpy(), repeats=5)


def forward_operations(params: dict, height: int, width: int) -> float:
    """Count the multiplications and additions of one forward pass over an LQ image."""
    weights = {name: value for name, value in params.items() if name.endswith("/weight")}
    return 2 * height * width * sum(int(np.prod(value.shape)) * PIXELS_PER_LQ_PIXEL.get(name.split("/")[0], 1)
                                    for name, value in weights.items())


def graph_operations(network: Callable, params: dict, shape: tuple[int, ...]) -> float:
    """Let TensorFlow count the multiplications and additions of a network for inputs of one shape."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # the counter is old, and TensorFlow says so at every use
    profiler = tf.compat.v1.profiler
    graph = tf.function(lambda images: network(params, images)).get_concrete_function(
        tf.TensorSpec(shape, tf.float32)).graph
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
    return profiler.profile(graph, options=options).total_float_ops


def relative_rate(operations: float, function: Callable[[], object]) -> float:
    """Give the rate of a function over the rate of `tf.matmul`, the latter measured before and after."""
    before, seconds, after = matmul_rate(), best_seconds(function), matmul_rate()
    return operations / seconds / ((before + after) / 2)


def psnr(left: np.ndarray, right: np.ndarray) -> float:
    """Give the PSNR of images in [0, 1], in dB."""
    return float(-10 * np.log10(np.mean((np.clip(left, 0, 1) - np.clip(right, 0, 1)) ** 2)))


class Benchmark:
    """The parts, over one set of weights, which are loaded by the parts that need them, and one photo."""

    def __init__(self, model: str, weights_dir: Path | None, before: str):
        import skimage.data

        self.model, self.weights_dir, self.before = model, weights_dir, before
        self.photo = skimage.data.astronaut().astype(np.float32) / 255

    @cached_property
    def exact(self):
        """A SuperResolver in float32."""
        return self._resolver("float32")

    @cached_property
    def rounded(self):
        """A SuperResolver in bfloat16."""
        return self._resolver("bfloat16")

    def _resolver(self, precision: str):
        from model.super_resolver import SuperResolver
        from utils.weights.checkpoints import load_super_resolver

        weights = load_super_resolver(self.model, weights_dir=self.weights_dir)
        return SuperResolver(weights.generator, weights.mask, precision=precision)

    def forward(self) -> Iterator[tuple[str, str]]:
        """Compare the generator's rate with the matrix product's."""
        image = self.photo[None, :192, :192]
        run = self.exact.upscaler(self.exact.generator)
        run(image)
        rate = relative_rate(forward_operations(self.exact.generator, 192, 192), lambda: run(image))
        yield "float32 forward, rate over tf.matmul's", f"{rate:.0%}"

    def bfloat16(self) -> Iterator[tuple[str, str]]:
        """Compare bfloat16 with float32: time and result."""
        image = self.photo[None, :192, :192]
        runs = [resolver.upscaler(resolver.generator) for resolver in (self.exact, self.rounded)]
        outputs = [run(image) for run in runs]
        # alternating, so that a slow minute of the machine meets both
        seconds = [[best_seconds(lambda run=run: run(image), 1) for run in runs] for _ in range(3)]
        ratio = min(pair[0] for pair in seconds) / min(pair[1] for pair in seconds)
        yield "bfloat16 forward, speed over float32's", f"{ratio:.2f}"
        yield "bfloat16 against float32, PSNR", f"{psnr(*outputs):.1f} dB"

    def adaptation(self) -> Iterator[tuple[str, str]]:
        """Compare the rate of one step on one face (forward and backward, three forwards' work) with the product's."""
        rng = np.random.default_rng(0)
        support = self.exact.weigh_patches(*(rng.random((16, side, side, 3), np.float32) for side in (16, 64)))

        def gradients() -> None:
            self.exact.loss_and_gradients(self.exact.generator, support)

        gradients()
        rate = relative_rate(3 * 16 * forward_operations(self.exact.generator, 16, 16), gradients)
        yield "adaptation step, 16 patches, rate over tf.matmul's", f"{rate:.0%}"

    def overhead(self) -> Iterator[tuple[str, str]]:
        """Measure how much of a photo's time is neither adaptation nor forward, in the real pipeline."""
        from utils.face.pairs import FaceFolder
        from utils.inference.restoration import PhotoPipeline, PipelineSettings

        options = PipelineSettings(AdaptationConfig(learning_rate=1e-3), UPSCALING)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            photo = self.photo[:256, :256]
            write_png(folder / "LQ" / "photo.png", quantize(photo))
            write_png(folder / "Face_LQ" / "photo_0.png", quantize(photo[:48, :40]))
            write_png(folder / "Face_HQ" / "photo_0.png", quantize(self.photo[:192, :160]))
            timed = _Timed(self.exact)
            restorer = PhotoPipeline(timed, FaceFolder(folder), folder / "out", options)
            restorer.restore(folder / "LQ" / "photo.png", {"file": "photo.png"}, lambda *_: None)  # traces
            timed.seconds, row = 0.0, {"file": "photo.png"}
            restorer.restore(folder / "LQ" / "photo.png", row, lambda *_: None)
        share = 1 - timed.seconds / row["seconds_total"]
        yield "photo of 256x256 with a face: time beyond networks", f"{share:.1%}"

    def tiling(self) -> Iterator[tuple[str, str]]:
        """Compare a tiled photo with the whole at exactly the default overlap."""
        from utils.inference.tiling import upscale

        overlap = UPSCALING.tile_overlap
        tile = 192
        side = 2 * tile - overlap
        image = self.photo[:side, :side]
        run = self.exact.upscaler(self.exact.generator)
        value = psnr(upscale(run, image), upscale(run, image, tile_size=tile, overlap=overlap))
        yield f"2x2 tiles of {tile} with overlap {overlap} against the whole, PSNR", f"{value:.1f} dB"

    def retinaface(self) -> Iterator[tuple[str, str]]:
        """Compare RetinaFace's rate with the product's."""
        yield from face_benchmark.retinaface_rate(self.photo, relative_rate, graph_operations)

    def gpen(self) -> Iterator[tuple[str, str]]:
        """Compare GPEN's rate with the product's."""
        yield from face_benchmark.gpen_rate(self.photo, relative_rate, graph_operations)

    def restorers(self) -> Iterator[tuple[str, str]]:
        """Compare `rrdb-face` with GPEN-256."""
        yield from face_benchmark.restorers(self.photo)

    def faces(self) -> Iterator[tuple[str, str]]:
        """Prepare the faces of a crowd."""
        yield from face_benchmark.faces(self.photo)

    def training(self) -> Iterator[tuple[str, str]]:
        """Compare the rate of a meta-training step with the product's, with drawn weights."""
        yield from training_benchmark.training(relative_rate, forward_operations)

    def step(self) -> Iterator[tuple[str, str]]:
        """Say where the time of a training iteration goes."""
        yield from training_benchmark.step_profile()

    def training_memory(self) -> Iterator[tuple[str, str]]:
        """Read the peak memory of meta-training steps."""
        yield from training_benchmark.training_memory()

    def degradation(self) -> Iterator[tuple[str, str]]:
        """Time the degradation of training images."""
        yield from training_benchmark.degradation(self.photo)

    def waiting(self) -> Iterator[tuple[str, str]]:
        """Measure how long training waits for data."""
        yield from training_benchmark.waiting(self.photo)

    def metrics(self) -> Iterator[tuple[str, str]]:
        """Time the metrics of `calculate_metrics.py`, with drawn weights."""
        yield from metrics_benchmark.metrics(self.photo)

    def upsampling(self) -> Iterator[tuple[str, str]]:
        """Compare convolutions of enlarged features that are not enlarged with such that are."""
        yield from speed_benchmark.upsampling(self.exact.generator, self.model)

    def overlap(self) -> Iterator[tuple[str, str]]:
        """Compare photos worked through beside each other with one after the other."""
        yield from speed_benchmark.overlap(self.photo)

    def photos(self) -> Iterator[tuple[str, str]]:
        """Compare `test.py` with that of an earlier commit."""
        with speed_benchmark.tree_of(self.before) as tree:
            yield from speed_benchmark.photos(tree, self.model, self.weights_dir, self.photo)

    def iterations(self) -> Iterator[tuple[str, str]]:
        """Compare `main.py` with that of an earlier commit."""
        with speed_benchmark.tree_of(self.before) as tree:
            yield from speed_benchmark.training(tree, self.photo)

    def memory(self) -> Iterator[tuple[str, str]]:
        """Run test.py on a large photo in a process of its own and read its peak memory."""
        import resource

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            side = MEMORY_PHOTO_SIZE
            photo = quantize(np.tile(self.photo, (2, 2, 1))[:side, :side])
            write_png(folder / "LQ" / "photo.png", photo)
            for index in range(4):
                write_png(folder / "Face_LQ" / f"photo_{index}.png", photo[:40, :32])
                write_png(folder / "Face_HQ" / f"photo_{index}.png", photo[:160, :128])
            command = [sys.executable, str(ROOT / "test.py"), "--input_dir", str(folder / "LQ"), "--face_dir",
                       str(folder), "--output_dir", str(folder / "out"), "--model_dir", self.model, "--learning_rate",
                       "1e-4"]
            command += ["--weights_dir", str(self.weights_dir)] if self.weights_dir else []
            if subprocess.run(command, check=False).returncode:
                raise UserError("test.py failed, see above.")
            shape = read_image(folder / "out" / "photo.png").pixels.shape
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 2**30
        yield f"{side}x{side} photo with 4 faces to {shape[1]}x{shape[0]}: peak resident memory", f"{peak:.2f} GiB"


class _Timed:
    """A SuperResolver that adds up the seconds its networks take."""

    def __init__(self, resolver):
        self._resolver = resolver
        self.generator = resolver.generator
        self.seconds = 0.0

    def _time(self, function: Callable) -> Callable:
        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            return result

        return timed

    def weigh_patches(self, *args):
        return self._time(self._resolver.weigh_patches)(*args)

    def adapt(self, *args, **kwargs):
        return self._time(self._resolver.adapt)(*args, **kwargs)

    def upscaler(self, params):
        return self._time(self._resolver.upscaler(params))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--model_dir", nargs="+", default=["realesrgan"], metavar="M",
                        help="weights to measure with, as for test.py; several are measured one after the other")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--parts", nargs="+", choices=PARTS,
                        default=[part for part in PARTS if part not in SLOW_PARTS],
                        help=f"what to measure; {', '.join(SLOW_PARTS)} take minutes, and faces is to be run alone")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT",
                        help="what photos and iterations compare this tree with (default: the last commit before work "
                             "on speed)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table there, as Markdown")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    if args.output:
        check_writable(args.output.parent)
    start_tensorflow()
    made = [f"`python scripts/benchmark.py {shlex.join(sys.argv[1:] if argv is None else argv)}`", describe_machine()]
    if set(args.parts) & set(BEFORE_AFTER):
        made.append(f"Speed-ups are ratios: time before over time after, above 1 is faster; `photos` and `iterations` "
                    f"compare with commit {args.before}.")
    rows: list[tuple[str, str]] = []
    print("\n\n".join(made), f"weights: {', '.join(args.model_dir)}", TABLE_HEAD, sep="\n\n", flush=True)
    for model in args.model_dir:
        benchmark = Benchmark(model, args.weights_dir, args.before)
        for part in args.parts:
            if model == args.model_dir[0] or part in MODEL_PARTS:
                for what, value in getattr(benchmark, part)():
                    rows.append((what, value))
                    print(f"| {what} | {value} |", flush=True)
    if args.output:
        table = "\n".join([TABLE_HEAD, *(f"| {what} | {value} |" for what, value in rows)])
        with atomic_path(args.output) as temporary:
            temporary.write_text("\n\n".join(["# Benchmarks", *made, table]) + "\n", encoding="utf-8")


def describe_machine() -> str:
    """Name processor, cores and versions."""
    import tensorflow as tf

    name = platform.machine()
    with contextlib.suppress(OSError):  # where there is no such file
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"model name\s*: (.*)", words)
        name = f"{found[1] if found else name}{' with AVX512-BF16' * ('avx512_bf16' in words)}"
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")]
    return (f"{os.cpu_count()} cores of {name}; {', '.join(gpus) or 'no GPU'}; Python {platform.python_version()}, "
            f"TensorFlow {tf.__version__}; {time.strftime('%Y-%m-%d')}.")


if __name__ == "__main__":
    run_cli(main)
