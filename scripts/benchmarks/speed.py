"""Before and after: how much faster this tree is than an earlier commit; `scripts/benchmark.py` runs it.

Everything is a ratio of two durations that were measured in turns within one run, of the shortest of several: seconds
differ from machine to machine and from minute to minute. Commands run in processes of their own, from the tree of the
commit (`git worktree`) and from this one, with the same Python, weights and inputs.
"""

import contextlib
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from config import AdaptationConfig, UpscalingConfig
from utils.errors import UserError
from utils.image.io import quantize, resize_bicubic, write_png

ROOT = Path(__file__).resolve().parents[2]
# low-quality pixels, height and width of the ten photos
SIZES = ((48, 64), (128, 96), (120, 160), (128, 128), (150, 200), (320, 240), (256, 256), (240, 320), (400, 180),
         (300, 400))
REPEATS = 3
TRAINING_ITERATIONS = 24
SKIPPED_ITERATIONS = 4  # of these, while caches fill
GPU_SECONDS = 0.05  # that a stand-in for a GPU takes for a photo
Rows = Iterator[tuple[str, str]]


@contextlib.contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """Check a commit out beside this tree while the block runs.

    Raises:
        UserError: this is no git checkout, or does not hold the commit.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tree"
        made = _git("worktree", "add", "--detach", str(folder), commit)
        if made.returncode:
            reason = " ".join(made.stderr.split()) or "git failed"
            raise UserError(f"cannot check {commit} out: {reason}. Give --before one "
                            "that this clone holds (git fetch --unshallow).")
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError("git is not installed: an earlier commit cannot be measured.") from error


def in_turns(functions: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Give the shortest duration of each function; they run in turns, so that a slow minute meets all."""
    seconds = {name: float("inf") for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, float]) -> str:
    """Format what `before` takes over what `after` takes."""
    return f"{seconds['before'] / seconds['after']:.2f}"


def run(tree: Path, *command: str) -> None:
    """Run a Python program of a tree, silently.

    Raises:
        UserError: it fails.
    """
    ran = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True, cwd=tree)
    if ran.returncode:
        raise UserError(f"{command[0]} failed: {' '.join(ran.stderr.splitlines()[-3:])}")


def make_photos(folder: Path, photo: np.ndarray, sizes=SIZES) -> None:
    """Write photos of the given sizes, cut or enlarged from one, each with a face of 40x40 that is the same in all."""
    small = resize_bicubic(photo, photo.shape[0] // 2, photo.shape[1] // 2)
    for number, (height, width) in enumerate(sizes):
        scale = max(height, width) / min(photo.shape[:2])
        large = photo if scale <= 1 else resize_bicubic(photo, *(round(side * scale) + 1 for side in photo.shape[:2]))
        write_png(folder / "LQ" / f"{number}.png", quantize(large[:height, :width]))
        face = small[20:60, 100:140]
        write_png(folder / "Face_LQ" / f"{number}_0.png", quantize(face))
        write_png(folder / "Face_HQ" / f"{number}_0.png", quantize(resize_bicubic(face, 160, 160)))


def photos(before: Path, model: str, weights_dir: Path | None, photo: np.ndarray) -> Rows:
    """Compare `test.py`, from start to end: for ten photos of mixed size, and for one tiny one, which is its start."""
    for what, sizes in (("`test.py`, a photo of 16x16: start-up", ((16, 16),)),
                        ("`test.py`, ten photos of 48x64 to 300x400", SIZES)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_photos(folder, photo, sizes)

            def restore(tree: Path, folder: Path = folder) -> None:
                run(tree, "test.py", "--input_dir", str(folder / "LQ"), "--face_dir", str(folder), "--output_dir",
                    str(folder / tree.name), "--model_dir", model, "--overwrite", "--weights_dir",
                    str(weights_dir or ROOT / "weights"))

            repeats = REPEATS if sizes is not SIZES else 2
            seconds = in_turns({"before": lambda: restore(before), "after": lambda: restore(ROOT)}, repeats)
            yield f"{what}, {model}", ratio(seconds)
            if sizes is SIZES:
                yield from _profile(folder / ROOT.name / "report.csv", seconds["after"], model)


def _profile(report: Path, whole: float, model: str) -> Rows:
    """Say where the time of the last run went; what stages do beside each other counts in each."""
    with report.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    adapting, upscaling, total = (sum(float(row[f"seconds_{name}"]) for row in rows)
                                  for name in ("adaptation", "upscaling", "total"))
    shares = {"adaptation (the first with its tracing)": adapting, "upscaling (likewise)": upscaling,
              "reading and writing, beside the others": total - adapting - upscaling,
              "imports, weights and end": whole - adapting - upscaling}
    for name, seconds in shares.items():
        yield f"share of those ten photos' time, {model}: {name}", f"{seconds / whole:.0%}"


def upsampling(params: dict, label: str) -> Rows:
    """Compare the convolutions behind the enlargements, and the whole generator, with repeated pixels and without."""
    import tensorflow as tf

    from model import rrdbnet as generator
    from model.layers import conv2d, upsample_nearest, upsampled_conv2d

    def repeated(params, name, inputs):
        return conv2d(params, name, upsample_nearest(inputs))

    for dtype in (tf.float32, tf.bfloat16):
        own = {name: tf.cast(value, dtype) for name, value in params.items()}
        shape = [1, 256, 256, params["conv_up2/weight"].shape[2]]
        features = tf.cast(tf.random.stateless_normal(shape, seed=[0, 0]), dtype)
        layers = {name: tf.function(layer) for name, layer in (("before", repeated), ("after", upsampled_conv2d))}
        calls = {name: lambda layer=layer, own=own, x=features: layer(own, "conv_up2", x)[0, 0, 0, 0].numpy()
                 for name, layer in layers.items()}
        in_turns(calls, 1)
        yield (f"enlargement and convolution of 256x256x{shape[3]}, {dtype.name}, {label}: without repeated pixels",
               ratio(in_turns(calls, 7)))

    images = tf.random.stateless_uniform([1, 192, 192, 3], seed=[0, 0])
    calls = {}
    for name, layer in (("before", repeated), ("after", upsampled_conv2d)):
        generator.upsampled_conv2d = layer  # while it is traced
        try:
            traced = tf.function(generator.rrdbnet).get_concrete_function(params, images)
        finally:
            generator.upsampled_conv2d = upsampled_conv2d
        calls[name] = lambda traced=traced: traced(params, images)[0, 0, 0, 0].numpy()
    in_turns(calls, 1)
    yield f"forward of 192x192, {label}: the same", ratio(in_turns(calls, 5))


def overlap(photo: np.ndarray) -> Rows:
    """Compare photos one stage after the other with stages beside each other, for networks that only wait."""
    from utils.face.pairs import FaceFolder
    from utils.inference.restoration import PhotoPipeline, PipelineSettings, restore_photos

    class Waiting:
        """A SuperResolver whose work is done elsewhere, as on a GPU."""

        generator: dict = {}  # noqa: RUF012

        def upscaler(self, _):
            def forward(images: np.ndarray) -> np.ndarray:
                time.sleep(GPU_SECONDS)
                return images.repeat(4, axis=1).repeat(4, axis=2)

            return forward

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(folder, photo, ((480, 640),) * 8)
        paths = sorted((folder / "LQ").iterdir())
        upscaling = UpscalingConfig(memory_gib=64.0)
        restorer = PhotoPipeline(Waiting(), FaceFolder(folder), folder / "out",
                                 PipelineSettings(AdaptationConfig(num_steps=0), upscaling))

        def one_by_one() -> None:
            for path in paths:
                restorer.restore(path, {"file": path.name}, lambda *_: None)

        def beside() -> None:
            list(restore_photos(restorer, paths, lambda *_: None))

        yield (f"eight photos of 640x480 whose networks wait {1000 * GPU_SECONDS:.0f} ms as for a GPU: "
               "reading the next one beside them", ratio(in_turns({"before": one_by_one, "after": beside})))


def training(before: Path, photo: np.ndarray) -> Rows:
    """Compare `main.py`: an iteration, and all that comes before the second one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(12):
            write_png(folder / "photos" / f"{number}.png", quantize(photo[8 * number:8 * number + 400, :400]))
        for kind, size in (("faces", 256), ("scenes", 320)):
            run(ROOT, "scripts/generate_tfrecord.py", kind, "--input_dir", str(folder / "photos"), "--size", str(size),
                "--output", str(folder / f"{kind}.tfrecord"))
        iterations, starts = {"before": [], "after": []}, {"before": [], "after": []}
        for number in range(2):
            for label, tree in (("before", before), ("after", ROOT)):
                start = time.perf_counter()
                run(tree, "main.py", "--run_dir", str(folder / label), "--trial", str(number), "--preset",
                    "metaf2n-small", "--iterations", str(TRAINING_ITERATIONS), "--set", "run.log_every=1",
                    "--set", "run.validation_tasks=2", "--set", "data.num_validation=2", "--restorer", "ground-truth",
                    "--face_record", str(folder / "faces.tfrecord"), "--scene_record", str(folder / "scenes.tfrecord"))
                whole = time.perf_counter() - start
                with (folder / label / f"trial_{number}" / "train.csv").open(newline="") as file:
                    seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
                iterations[label] += seconds[SKIPPED_ITERATIONS:]
                starts[label].append(whole - sum(seconds[1:]))
    yield ("`main.py --preset metaf2n-small`, an iteration",
           ratio({label: float(np.median(found)) for label, found in iterations.items()}))
    yield ("the same, start and end: imports, tracing, validations, saving",
           ratio({label: min(found) for label, found in starts.items()}))
