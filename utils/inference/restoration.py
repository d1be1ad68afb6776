"""What test.py does with one photo: read it and its faces, adapt, upscale, write."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from config import SCALE, AdaptationConfig, UpscalingConfig
from model.adaptation import Support
from model.layers import Params
from model.super_resolver import SuperResolver
from utils.console import interruptible
from utils.errors import DiskFullError, UserError
from utils.face.pairs import FaceFolder, read_face
from utils.face.patches import Patches, batch_patches, hold_out, sample_patches
from utils.image.io import Photo, image_size, quantize, read_image, resize_bicubic, to_8_bit, write_png
from utils.image.listing import photo_rng
from utils.image.panels import compose_comparison, locate_face
from utils.inference.tiling import choose_tile_size, count_tiles, upscale
from utils.tensorflow_setup import release_memory

OnProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class Options:
    """Settings of a run. `no_face` is `base`, `skip` or `error`, `backtrack` the safeguard."""

    adaptation: AdaptationConfig
    upscaling: UpscalingConfig
    no_face: str = "base"
    backtrack: bool = False
    save_comparison: bool = False


@dataclass(frozen=True)
class Loaded:
    """What is read of a photo before the networks see it: patches of its faces too, and the seconds that took."""

    path: Path
    photo: Photo
    faces: list[Patches]
    patches: list[Patches]
    seconds: float


@dataclass(frozen=True)
class Restored:
    """What is written of a photo: its result, in integers, and the versions of its comparison, by title, if any."""

    loaded: Loaded
    samples: np.ndarray
    comparison: dict[str, np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Memory that it takes, at most, until it is written: with its copy in OpenCV's order, its alpha, its file."""
        copies = 3 if self.loaded.photo.alpha is None else 6
        return copies * self.samples.nbytes + 3 * sum(version.nbytes for version in self.comparison.values())


class PhotoRestorer:
    """Restores one photo after the other; every photo starts from the same weights.

    `read`, `compute` and `write` may run in a thread each, for different photos: only `compute` uses TensorFlow.
    """

    def __init__(self, resolver: SuperResolver, faces: FaceFolder | None, output_dir: Path, options: Options):
        """Take the compiled networks, the faces (None when no step is taken) and where results go."""
        self._resolver = resolver
        self._faces = faces
        self._output_dir = output_dir
        self._options = options

    def restore(self, path: Path, row: dict, on_progress: OnProgress) -> None:
        """Adapt to a photo and write `<stem>.png` at four times its size: `read`, `compute` and `write`.

        Args:
            path: the photo.
            row: of the report; filled as things become known, so that it tells how far a photo came that fails.
            on_progress: told what is being done, and how many tiles have been finished since it was last called.

        Raises:
            UserError: the photo or its faces are faulty, or the memory does not suffice; nothing is written.
        """
        restored = self.compute(self.read(path, row), row, on_progress)
        if restored is not None:
            self.write(restored, row)

    def read(self, path: Path, row: dict) -> Loaded:
        """Read a photo and its faces, and draw the patches."""
        started = time.perf_counter()
        with _memory_errors():
            with contextlib.suppress(UserError):  # a damaged photo may still tell its size
                row["height"], row["width"] = image_size(path)
            photo = read_image(path)
            row["height"], row["width"] = photo.pixels.shape[:2]
            faces = self._read_faces(path)
            row["faces"] = len(faces)
            config, rng = self._options.adaptation, photo_rng(self._options.adaptation.seed, path.stem)
            patches = [sample_patches(face, rng, lq_patch_size=config.patch_size // SCALE,
                                      count=config.patches_per_face) for face in faces]
        return Loaded(path, photo, faces, patches, time.perf_counter() - started)

    def compute(self, loaded: Loaded, row: dict, on_progress: OnProgress) -> Restored | None:
        """Adapt to a photo and upscale it; None if it is to be skipped."""
        started = time.perf_counter()
        with _memory_errors():
            params, status = self._resolver.generator, "base"
            if loaded.faces:
                on_progress("adapting", 0)
                params, status = self._adapt(loaded, row)
                release_memory()
            elif self._options.adaptation.num_steps:
                if self._options.no_face == "skip":
                    row.update(status="skipped", reason="no face")
                    return None
                row["reason"] = "no face: upscaled without adaptation"
            upscaling = time.perf_counter()
            samples = self._upscale(params, loaded.photo, row, on_progress)
            row["seconds_upscaling"] = time.perf_counter() - upscaling
            row.update(status=status, seconds_total=loaded.seconds + time.perf_counter() - started)
            comparison = {}
            if self._options.save_comparison:
                try:
                    comparison = self._compare(loaded, samples, row, on_progress)
                except (UserError, tf.errors.ResourceExhaustedError, MemoryError) as error:  # the result is good
                    row["reason"] = f"no comparison: {error if isinstance(error, UserError) else 'not enough memory'}"
        return Restored(loaded, samples, comparison)

    def write(self, restored: Restored, row: dict) -> None:
        """Encode a result and write it, and then its comparison."""
        started = time.perf_counter()
        path, photo = restored.loaded.path, restored.loaded.photo
        height, width = restored.samples.shape[:2]
        with _memory_errors():
            alpha = None if photo.alpha is None else resize_bicubic(photo.alpha, height, width)
            write_png(self._output_dir / f"{path.stem}.png", restored.samples, alpha=alpha,
                      icc_profile=photo.icc_profile)
        row["seconds_total"] += time.perf_counter() - started
        if restored.comparison:
            faces = restored.loaded.faces
            face = locate_face(photo.pixels, faces[0].lq[0]) if faces else None
            try:
                write_png(self._output_dir / "comparison" / f"{path.stem}.png",
                          compose_comparison(restored.comparison, face=face))
            except DiskFullError:
                raise
            except UserError as error:  # the result is there, and good
                row["reason"] = f"no comparison: {error}"

    def _read_faces(self, path: Path) -> list[Patches]:
        if not self._options.adaptation.num_steps:
            return []
        faces = [read_face(pair) for pair in self._faces.pairs(path.stem)]
        if not faces and self._options.no_face == "error":
            raise UserError(f"no face of {path} in {self._faces.folder}. Make it with generate_test_faces.py, or use "
                            "--no_face base.")
        return faces

    def _adapt(self, loaded: Loaded, row: dict) -> tuple[Params, str]:
        """Give the adapted parameters and the photo's status."""
        started = time.perf_counter()
        config, patches = self._options.adaptation, loaded.patches
        row["patches"] = sum(len(batch.lq) for batch in patches)
        learn, held = hold_out(patches, config.holdout_fraction) if self._options.backtrack else (patches, [])
        supports = [interruptible(self._resolver.weigh_patches, *batch) for batch in batch_patches(learn)]
        holdout = [interruptible(self._resolver.weigh_patches, *batch) for batch in batch_patches(held)]
        row.update(_mask_statistics([*supports, *holdout]))
        result = interruptible(self._resolver.adapt, supports, learning_rate=config.learning_rate,
                               num_steps=config.num_steps, holdout=holdout, max_halvings=config.max_halvings)
        row.update({f"loss_{step}": loss for step, loss in enumerate(result.losses)})
        row["learning_rates"] = " ".join(f"{rate:g}" for rate in result.learning_rates)
        row["seconds_adaptation"] = time.perf_counter() - started
        bad = [step for step, loss in enumerate(result.losses) if not math.isfinite(loss)]
        if bad:
            raise UserError(f"adaptation to {loaded.path.stem} diverged: the loss is {result.losses[bad[0]]} after "
                            f"step {bad[0]}. Lower --learning_rate, or use --safeguard backtrack.")
        if not any(result.learning_rates):
            row["reason"] = "the safeguard took no step: upscaled without adaptation"
            return result.params, "base"
        return result.params, "adapted"

    def _upscale(self, params: Params, photo: Photo, row: dict, on_progress: OnProgress) -> np.ndarray:
        config = self._options.upscaling
        height, width = photo.pixels.shape[:2]
        tile_size = choose_tile_size(height, width, tile_size=config.tile_size, memory_gib=config.memory_gib)
        row["tiles"] = count_tiles(height, width, tile_size, config.tile_overlap)
        finished = 0

        def on_tile() -> None:
            nonlocal finished
            finished += 1
            on_progress(f"tile {finished} of {row['tiles']}", 1)

        def to_integers(rows: np.ndarray) -> np.ndarray:
            if not np.isfinite(rows).all():
                raise UserError(f"the network's output for {row['file']} is not finite. Lower --learning_rate, or use "
                                "--safeguard backtrack or --precision float32.")
            return quantize(rows, bit_depth=photo.bit_depth, gray=photo.gray)

        forward = self._resolver.upscaler(params)
        return upscale(lambda tile: interruptible(forward, tile), photo.pixels, tile_size=tile_size,
                       overlap=config.tile_overlap, quantize=to_integers, on_tile=on_tile)

    def _compare(self, loaded: Loaded, result: np.ndarray, row: dict, on_progress: OnProgress) -> dict[str, np.ndarray]:
        """Give the versions to compare, uint8 RGB, by title."""
        height, width = result.shape[:2]
        photo, faces = loaded.photo, loaded.faces
        versions = {"bicubic": cv2.resize(quantize(photo.pixels), (width, height), interpolation=cv2.INTER_CUBIC)}
        if faces:
            versions["un-adapted"] = to_8_bit(self._upscale(self._resolver.generator, photo, row, on_progress))
        steps = self._options.adaptation.num_steps
        label = f"adapted ({steps} step{'s' * (steps > 1)}, {len(faces)} face{'s' * (len(faces) > 1)})"
        versions[label if faces else "un-adapted"] = to_8_bit(result)
        return versions


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Say what to do where the memory does not suffice."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise UserError("not enough memory for this photo. Lower --memory_gib, or give a smaller --tile_size or "
                        "--patch_num_per_img.") from error


def _mask_statistics(supports: list[Support]) -> dict[str, float]:
    weights = np.concatenate([support.weights.numpy().ravel() for support in supports])
    return {"mask_mean": float(weights.mean(dtype=np.float64)), "mask_min": float(weights.min()),
            "mask_max": float(weights.max())}
