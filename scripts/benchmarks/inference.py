"""Adapting and upscaling: rates, precision, tiles, memory."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from config import AdaptationConfig, UpscalingConfig
from scripts.benchmarks.timing import Rows, generator_operations, peak_memory, psnr, relative_rate, time_ratio
from utils.errors import UserError
from utils.image.io import quantize, read_image, write_png
from utils.image.listing import Source

ROOT = Path(__file__).resolve().parents[2]
MEMORY_PHOTO_SIZE = 1000  # LQ pixels, both sides
MEMORY_GIB = 4


@dataclass(frozen=True)
class Setting:
    """The weights to measure with, and one photo [512, 512, 3] float32 in [0, 1]."""

    model: str
    weights_dir: Path | None = None

    @cached_property
    def photo(self) -> np.ndarray:
        """scikit-image's portrait of an astronaut."""
        import skimage.data

        return skimage.data.astronaut().astype(np.float32) / 255

    def resolver(self, precision: str = "float32"):
        """Return a SuperResolver."""
        return _resolver(self.model, self.weights_dir, precision)


@lru_cache
def _resolver(model: str, weights_dir: Path | None, precision: str):
    from model.super_resolver import SuperResolver
    from utils.weights.checkpoints import load_super_resolver

    weights = load_super_resolver(model, weights_dir=weights_dir)
    return SuperResolver(weights.generator, weights.mask, precision=precision)


def forward(setting: Setting) -> Rows:
    """Compare the generator's rate with the matrix product's."""
    resolver, image = setting.resolver(), setting.photo[None, :192, :192]
    run = resolver.upscaler(resolver.generator)
    run(image)
    rate = relative_rate(generator_operations(resolver.generator, 192, 192), lambda: run(image))
    yield "float32 forward, rate over `tf.matmul`'s", f"{rate:.0%}"


def bfloat16(setting: Setting) -> Rows:
    """Compare bfloat16 with float32: time and result."""
    image = setting.photo[None, :192, :192]
    resolvers = setting.resolver(), setting.resolver("bfloat16")
    exact, rounded = (resolver.upscaler(resolver.generator) for resolver in resolvers)
    value = psnr(exact(image), rounded(image))
    yield "bfloat16 forward, speed over float32's", f"{time_ratio(lambda: exact(image), lambda: rounded(image)):.2f}"
    yield "bfloat16 against float32, PSNR", f"{value:.1f} dB"


def adaptation(setting: Setting) -> Rows:
    """Compare the rate of one step on one face (forward and backward, three forwards' work) with the product's."""
    rng, resolver = np.random.default_rng(0), setting.resolver()
    support = resolver.weigh_patches(*(rng.random((16, side, side, 3), np.float32) for side in (16, 64)))

    def gradients() -> None:
        resolver.loss_and_gradients(resolver.generator, support)

    gradients()
    rate = relative_rate(3 * 16 * generator_operations(resolver.generator, 16, 16), gradients)
    yield "adaptation step, 16 patches, rate over `tf.matmul`'s", f"{rate:.0%}"


def overhead(setting: Setting) -> Rows:
    """Measure how much of a photo's time is neither adaptation nor forward, as test.py processes it."""
    from utils.face.pairs import FaceFolder
    from utils.inference.restoration import PhotoPipeline, PipelineSettings

    with tempfile.TemporaryDirectory() as name:
        folder, photo = Path(name), setting.photo[:256, :256]
        write_png(folder / "LQ" / "photo.png", quantize(photo))
        write_png(folder / "Face_LQ" / "photo_0.png", quantize(photo[:48, :40]))
        write_png(folder / "Face_HQ" / "photo_0.png", quantize(setting.photo[:192, :160]))
        timed = _Timed(setting.resolver())
        pipeline = PhotoPipeline(timed, FaceFolder(folder), folder / "out",
                                 PipelineSettings(AdaptationConfig(learning_rate=1e-3), UpscalingConfig()))
        for _ in range(2):  # the first one traces
            timed.seconds, row = 0.0, {"file": "photo.png"}
            pipeline.process(pipeline.read(Source("photo.png", folder / "LQ" / "photo.png"), row), row, lambda *_: None)
    yield "photo of 256x256 with a face: time beyond networks", f"{1 - timed.seconds / row['seconds_total']:.1%}"


class _Timed:
    """A SuperResolver that sums the seconds of its networks."""

    def __init__(self, resolver):
        self._resolver, self.seconds = resolver, 0.0

    def __getattr__(self, name):
        """Return the resolver's attribute; functions, and functions that these return, are timed."""
        value = getattr(self._resolver, name)
        return self._time(value) if callable(value) else value

    def _time(self, function):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            return self._time(result) if callable(result) else result

        return timed


def tiling(setting: Setting, tile: int = 192) -> Rows:
    """Compare a tiled photo with the whole at the default overlap."""
    from utils.inference.tiling import choose_tiling, upscale

    overlap, resolver = UpscalingConfig().tile_overlap, setting.resolver()
    side = 2 * tile - overlap
    image, run = setting.photo[:side, :side], resolver.upscaler(resolver.generator)
    whole, tiles = (choose_tiling(side, side, UpscalingConfig(tile_size=size)) for size in (0, tile))
    value = psnr(upscale(run, image, whole), upscale(run, image, tiles))
    yield f"2x2 tiles of {tile} with overlap {overlap} against the whole, PSNR", f"{value:.1f} dB"


def memory(setting: Setting) -> Rows:
    """Run test.py on a large photo in a process of its own and read its peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder, side = Path(name), MEMORY_PHOTO_SIZE
        photo = quantize(np.tile(setting.photo, (2, 2, 1))[:side, :side])
        write_png(folder / "LQ" / "photo.png", photo)
        for index in range(4):
            write_png(folder / "Face_LQ" / f"photo_{index}.png", photo[:40, :32])
            write_png(folder / "Face_HQ" / f"photo_{index}.png", photo[:160, :128])
        command = [sys.executable, ROOT / "test.py", "--input_dir", folder / "LQ", "--face_dir", folder, "--output_dir",
                   folder / "out", "--model_dir", setting.model, "--learning_rate", "1e-4", "--memory_gib",
                   MEMORY_GIB]
        command += ["--weights_dir", setting.weights_dir] if setting.weights_dir else []
        if subprocess.run(list(map(str, command)), check=False).returncode:
            raise UserError("test.py failed, see above.")
        shape = read_image(folder / "out" / "photo.png").pixels.shape
    yield (f"{side}x{side} photo with 4 faces to {shape[1]}x{shape[0]}: peak resident memory within {MEMORY_GIB} GiB",
           f"{peak_memory(of_children=True):.2f} GiB")
