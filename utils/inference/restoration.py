"""The photo pipeline of test.py: read a photo and its faces, adapt the generator to them, upscale, write.

The inner step itself is `inner_steps` in model/adaptation.py; here the patches that it learns from are drawn.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from config import SCALE, AdaptationConfig, UpscalingConfig
from model.layers import Params
from model.super_resolver import SuperResolver
from utils.console import interruptible, shown_name
from utils.errors import DiskFullError, FatalError, UserError
from utils.face.pairs import FaceFolder, read_face
from utils.face.patches import Patches, batch_patches, hold_out, sample_patches
from utils.image.io import Photo, image_size, quantize, read_image, to_8_bit, write_png
from utils.image.listing import COMPARISON, Source, photo_rng
from utils.image.panels import compose_comparison, locate_face
from utils.image.resizing import resize_bicubic
from utils.inference.tiling import choose_tile_size, count_tiles, upscale
from utils.tensorflow_setup import release_memory

OnProgress = Callable[[str, int], None]  # what is being done, tiles finished since the last call
EXPLODED = 3.0  # times the loss before adaptation: the photo is ruined (0.1 in place of 0.01 as the rate gives 9)
EXPLODED_LEAST = 0.02  # loss that is small enough whatever it was before
READ_AHEAD_LIMIT = 4_000_000  # pixels: decoding takes 40 bytes each, which --memory_gib does not count


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of a run. `no_face` is `base`, `skip` or `error`, `backtrack` the safeguard."""

    adaptation: AdaptationConfig
    upscaling: UpscalingConfig
    no_face: str = "base"
    backtrack: bool = False
    save_comparison: bool = False
    strip_metadata: bool = False


class Loaded(NamedTuple):
    """What is read of a photo before the networks see it, the patches of its faces, and the seconds that took."""

    source: Source
    photo: Photo
    faces: list[Patches]
    patches: list[Patches]
    seconds: float


class PhotoPipeline:
    """Restores one photo after the other; every photo starts from the same weights."""

    def __init__(self, resolver: SuperResolver, faces: FaceFolder | None, output_dir: Path, settings: PipelineSettings):
        """Take the compiled networks, the faces (None when no step is taken) and where results go."""
        self._resolver, self._faces, self._output_dir, self._settings = resolver, faces, output_dir, settings

    def read(self, source: Source, row: dict) -> Loaded:
        """Read a photo and its faces, and draw the patches. Uses no TensorFlow: it may run in another thread.

        The report's `row` is filled as things become known, so that it shows how far a photo came that fails.
        """
        started, config = time.perf_counter(), self._settings.adaptation
        with _memory_errors():
            with contextlib.suppress(UserError):  # the header of a damaged photo may still give its size
                row["height"], row["width"] = image_size(source.path)
            photo = read_image(source.path)
            row["height"], row["width"] = photo.pixels.shape[:2]
            _add_reason(row, photo.note)
            pairs = self._faces.pairs(source.key) if config.num_steps else []
            if config.num_steps and not pairs and self._settings.no_face == "error":
                raise UserError(f"no face of {source.path} in {self._faces.folder}. Make it with "
                                "generate_test_faces.py, or use --no_face base.")
            faces, rng = [read_face(pair) for pair in pairs], photo_rng(config.seed, source.key)
            row["faces"] = len(faces)
            patches = [sample_patches(face, rng, lq_patch_size=config.patch_size // SCALE,
                                      count=config.patches_per_face) for face in faces]
        return Loaded(source, photo, faces, patches, time.perf_counter() - started)

    def process(self, loaded: Loaded, row: dict, on_progress: OnProgress) -> None:
        """Adapt to a photo that was read, upscale it and write `<key>.png`; nothing is written after a UserError."""
        started, photo, settings = time.perf_counter(), loaded.photo, self._settings
        with _memory_errors():
            params, status = self._resolver.generator, "base"
            if loaded.faces:
                on_progress("adapting", 0)
                params, status = self._adapt(loaded, row)
                release_memory()
            elif settings.adaptation.num_steps:
                if settings.no_face == "skip":
                    row.update(status="skipped", reason="no face")
                    return
                _add_reason(row, "no face: upscaled without adaptation")
            upscaling = time.perf_counter()
            samples = self._upscale(params, photo, row, on_progress)
            row["seconds_upscaling"] = time.perf_counter() - upscaling
            alpha = None if photo.alpha is None else resize_bicubic(photo.alpha, *samples.shape[:2])
            write_png(self._output_dir / f"{loaded.source.key}.png", samples, alpha=alpha,
                      source=replace(photo, exif=None) if settings.strip_metadata else photo)
        row.update(status=status, seconds_total=loaded.seconds + time.perf_counter() - started)
        if settings.save_comparison:
            try:
                with _memory_errors():
                    self._write_comparison(loaded, samples, row, on_progress)
            except DiskFullError:
                raise
            except UserError as error:  # the result is there, and good
                _add_reason(row, f"no comparison: {error}")

    def _adapt(self, loaded: Loaded, row: dict) -> tuple[Params, str]:
        """Return the adapted parameters and the photo's status."""
        started = time.perf_counter()
        config, patches = self._settings.adaptation, loaded.patches
        row["patches"] = sum(len(batch.lq) for batch in patches)
        learn, held = hold_out(patches, config.holdout_fraction) if self._settings.backtrack else (patches, [])
        supports, holdout = ([interruptible(self._resolver.weigh_patches, *batch) for batch in batch_patches(part)]
                             for part in (learn, held))
        masks = np.concatenate([support.weights.numpy().ravel() for support in (*supports, *holdout)])
        row.update(mask_mean=float(masks.mean(dtype=np.float64)), mask_min=float(masks.min()),
                   mask_max=float(masks.max()))
        result = interruptible(self._resolver.adapt, supports, learning_rate=config.learning_rate,
                               num_steps=config.num_steps, holdout=holdout, max_halvings=config.max_halvings)
        row.update({f"loss_{step}": loss for step, loss in enumerate(result.losses)})
        row["learning_rates"] = " ".join(f"{rate:g}" for rate in result.learning_rates)
        row["seconds_adaptation"] = time.perf_counter() - started
        first, last = result.losses[0], result.losses[-1]
        if not all(map(math.isfinite, result.losses)) or last > max(EXPLODED * first, EXPLODED_LEAST):
            raise UserError(f"adaptation to {loaded.source.name} diverged: its loss went from {first:.4g} to {last:.4g}"
                            ". Lower --learning_rate, or use --safeguard backtrack.")
        if last > first:
            _add_reason(row, f"adaptation raised its loss from {first:.4g} to {last:.4g}: compare with the result "
                             "without it, lower --learning_rate, or use --safeguard backtrack")
        if not any(result.learning_rates):
            _add_reason(row, "the safeguard took no step: upscaled without adaptation")
            return result.params, "base"
        return result.params, "adapted"

    def _upscale(self, params: Params, photo: Photo, row: dict, on_progress: OnProgress) -> np.ndarray:
        """Upscale a photo: integers [4h, 4w, c] of its own depth and channels."""
        config = self._settings.upscaling
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

    def _write_comparison(self, loaded: Loaded, result: np.ndarray, row: dict, on_progress: OnProgress) -> None:
        """Write bicubic, un-adapted and adapted side by side."""
        photo, faces, steps = loaded.photo, loaded.faces, self._settings.adaptation.num_steps
        versions = {"bicubic": cv2.resize(quantize(photo.pixels), result.shape[1::-1], interpolation=cv2.INTER_CUBIC)}
        if faces:
            versions["un-adapted"] = to_8_bit(self._upscale(self._resolver.generator, photo, row, on_progress))
        label = f"adapted ({steps} step{'s' * (steps > 1)}, {len(faces)} face{'s' * (len(faces) > 1)})"
        versions[label if faces else "un-adapted"] = to_8_bit(result)
        face = locate_face(photo.pixels, faces[0].lq[0]) if faces else None
        comparison = compose_comparison(versions, face=face)
        write_png(self._output_dir / COMPARISON / f"{loaded.source.key}.png",
                  comparison[:, :, :1] if photo.gray else comparison, source=replace(photo, exif=None))


def restore_photos(pipeline: PhotoPipeline, photos: Sequence[Source], on_progress: OnProgress) -> Iterator[dict]:
    """Restore photos in order and yield the row of each; while one is computed, the next is read if it is not large.

    A photo that fails has the status `error` and the message as `reason`; only a FatalError stops the others.
    """
    rows = [{"file": photo.name} for photo in photos]
    following = None
    with ThreadPoolExecutor(1) as reader:
        for number, (photo, row) in enumerate(zip(photos, rows, strict=True)):
            reading = following or reader.submit(pipeline.read, photo, row)
            wait([reading])
            following = None
            if number + 1 < len(photos) and _is_read_ahead(photos[number + 1].path):
                following = reader.submit(pipeline.read, photos[number + 1], rows[number + 1])
            name = shown_name(photo.name)
            try:
                pipeline.process(reading.result(), row,
                                 lambda what, tiles, name=name: on_progress(f"{name}: {what}", tiles))
            except FatalError:
                raise
            except UserError as error:
                row.update(status="error", reason=str(error))
            yield row


def _add_reason(row: dict, text: str) -> None:
    row["reason"] = "; ".join(filter(None, (row.get("reason"), text)))


def _is_read_ahead(photo: Path) -> bool:
    try:
        return math.prod(image_size(photo)) <= READ_AHEAD_LIMIT
    except UserError:
        return True  # it fails as soon


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Say what to do where the memory does not suffice."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise UserError("not enough memory for this photo. Lower --memory_gib, or give a smaller --tile_size or "
                        "--patch_num_per_img.") from error
