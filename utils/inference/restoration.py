"""The photo pipeline of test.py: read a photo and its faces, adapt the generator to them, upscale, write.

The inner step itself is `inner_steps` in model/adaptation.py; here the patches that it learns from are drawn.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import tensorflow as tf

from config import SCALE, AdaptationConfig, UpscalingConfig
from model.layers import Params
from model.super_resolver import SuperResolver
from utils.console import interruptible, note_once
from utils.errors import UserError
from utils.face.pairs import PhotoFace
from utils.face.patches import batch_patches, hold_out, sample_patches
from utils.image.io import Photo, image_size, quantize, read_image, to_8_bit, write_image, write_png
from utils.image.listing import COMPARISON, Source, photo_rng, result_name
from utils.image.panels import compose_comparison
from utils.image.resizing import resize_bicubic, resize_to
from utils.inference.pasting import can_be_pasted, paste_faces
from utils.inference.tiling import choose_tiling, upscale
from utils.tensorflow_setup import release_memory

OnProgress = Callable[[str, float], None]  # what is being done, the share of the photo finished since the last call
EXPLODED = 3.0  # times the loss before adaptation: the photo is ruined (0.1 in place of 0.01 as the rate gives 9)
EXPLODED_LEAST = 0.02  # loss that is small enough whatever it was before
PROBE_EVERY = 4  # the loss after the step is reported from every fourth patch, which saves a third of a forward pass
MAX_WEIGHED_SIDE = 256  # of a whole face that MaskNet weighs, in low-quality pixels: that takes about 1 GiB
DARK, BLACK = 0.02, 0.1  # mean of a photo, and share of it below which the result's is an error
ADAPTED, LOSS_ROSE, NOT_ADAPTED = "adapted", "loss rose", "not adapted"  # statuses of a photo with a result


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Say what to do where the memory does not suffice."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise UserError("not enough memory for this photo. Lower --memory_gib, or give a smaller --tile_size or "
                        "--patch_num_per_img.") from error


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of a run: `no_face` and `check_faces` as the flags of test.py, `backtrack` is the safeguard.

    `face_weight` is that of the faces to be pasted, 0 for none; `outscale` is in [1, 4]; `image_format` and
    `name_suffix` are those of `result_name`, `quality` is that of JPEG and WebP.
    """

    adaptation: AdaptationConfig
    upscaling: UpscalingConfig
    no_face: str = "base"
    backtrack: bool = False
    check_faces: str = "off"
    face_weight: float = 0.0
    save_comparison: bool = False
    compare_unadapted: bool = True
    outscale: float = SCALE
    image_format: str = "png"
    name_suffix: str = ""
    quality: int = 95
    strip_metadata: bool = False


class FaceSource(Protocol):
    """Where the faces of photos come from: a `FaceFolder`, or a `FacePreparer` that finds them."""

    def faces_of(self, source: Source, photo: Photo, on_progress: Callable[[str], None]) -> list[PhotoFace]:
        """Return the faces of a photo that was read from `source`."""


class Loaded(NamedTuple):
    """A photo that was read, and the seconds that took."""

    source: Source
    photo: Photo
    seconds: float


class PhotoPipeline:
    """Restores one photo after the other; every photo starts from the same weights."""

    def __init__(self, resolver: SuperResolver, faces: FaceSource | None, output_dir: Path, settings: PipelineSettings):
        """Take the compiled networks, the faces (None if none are used) and where results go."""
        self._resolver, self._faces, self._output_dir, self._settings = resolver, faces, output_dir, settings

    def read(self, source: Source, row: dict) -> Loaded:
        """Read a photo. Uses no TensorFlow: it may run in another thread.

        The report's `row` is filled as things become known, so that it shows how far a photo came that fails.
        """
        started = time.perf_counter()
        with _memory_errors():
            with contextlib.suppress(UserError):  # the header of a damaged photo may still give its size
                row["height"], row["width"] = image_size(source.path)
            photo = read_image(source.path)
            row["height"], row["width"] = photo.pixels.shape[:2]
            _add_reason(row, photo.note)
        return Loaded(source, photo, time.perf_counter() - started)

    def process(self, loaded: Loaded, row: dict, on_progress: OnProgress) -> None:
        """Adapt to a photo that was read, upscale it and write the result; nothing is written after a UserError."""
        started, settings = time.perf_counter(), self._settings
        with _memory_errors():
            faces = self.find_faces(loaded, row, on_progress)
            if self._uses_faces and not faces and settings.no_face == "skip":
                row.update(status="skipped", reason="no face")
                return
            samples, status = self.restore(loaded, faces, row, on_progress)
            if settings.face_weight:
                on_progress("pasting faces", 0)
                pasted, trust = self.trust_faces(faces)
                paste_faces(samples, pasted, trust, weight=settings.face_weight)
                row["pasted"] = len(pasted)
            self._write(loaded, samples)
        row.update(status=status, seconds_total=loaded.seconds + time.perf_counter() - started)
        if settings.save_comparison:
            try:
                with _memory_errors():
                    self._write_comparison(loaded, faces, samples, row, on_progress)
            except UserError as error:  # the result is there, and good
                _add_reason(row, f"no comparison: {error}")

    @_memory_errors()
    def restore(self, loaded: Loaded, faces: list[PhotoFace], row: dict,
                on_progress: OnProgress) -> tuple[np.ndarray, str]:
        """Adapt to the faces of a photo, if it has any, and upscale it; nothing is pasted or written.

        Returns integers [4h, 4w, c] of the photo's own depth and channels, and the status.
        """
        params, status = self._resolver.generator, NOT_ADAPTED
        if faces and self._settings.adaptation.num_steps:
            on_progress("adapting", 0)
            params, status = self._adapt(loaded.source, faces, row)
            release_memory()
        elif self._uses_faces and not faces:
            _add_reason(row, "no face: upscaled without adaptation")
        started = time.perf_counter()
        samples = self._upscale(params, loaded.photo, row, on_progress)
        row["seconds_upscaling"] = time.perf_counter() - started
        return samples, status

    def _write(self, loaded: Loaded, samples: np.ndarray) -> None:
        """Write the result, resampled to --outscale."""
        settings, photo = self._settings, loaded.photo
        if settings.outscale != SCALE:
            size = [max(1, round(side * settings.outscale)) for side in photo.pixels.shape[:2]]
            samples = resize_to(samples, *size, "area").reshape(*size, -1)
        alpha = None if photo.alpha is None else resize_bicubic(photo.alpha, *samples.shape[:2])
        name = result_name(loaded.source, settings.name_suffix, settings.image_format)
        write_image(self._output_dir / name, samples, alpha=alpha, quality=settings.quality,
                    source=replace(photo, exif=None) if settings.strip_metadata else photo)

    @property
    def _uses_faces(self) -> bool:
        return bool(self._settings.adaptation.num_steps or self._settings.face_weight)

    @_memory_errors()
    def find_faces(self, loaded: Loaded, row: dict, on_progress: OnProgress) -> list[PhotoFace]:
        """Return a photo's faces if they are used, with boxes where these are; check that they are this photo's."""
        settings, path = self._settings, loaded.source.path
        if not self._uses_faces:
            return []
        faces = self._faces.faces_of(loaded.source, loaded.photo, lambda what: on_progress(what, 0))
        row["faces"] = len(faces)  # also of a photo that fails here
        if not faces and settings.no_face == "error":
            raise UserError(f"no face of {path} was found. Make it with generate_test_faces.py, or use --no_face base.")
        if settings.check_faces == "off" and not settings.face_weight:
            return faces
        faces = [face.located(loaded.photo.pixels) for face in faces]
        strangers = [face.name for face in faces if face.box is None]
        if strangers and settings.check_faces != "off":
            text = f"{strangers[0]} in Face_LQ is not cut from {path}" + (
                f", nor are {len(strangers) - 1} more" if strangers[1:] else "")
            if settings.check_faces == "error":
                raise UserError(f"{text}. Make its faces with generate_test_faces.py, or use --check_faces warn.")
            _add_reason(row, text)
        return faces

    def _adapt(self, source: Source, faces: list[PhotoFace], row: dict) -> tuple[Params, str]:
        """Return the adapted parameters and the photo's status."""
        started, config = time.perf_counter(), self._settings.adaptation
        rng = photo_rng(config.seed, source.key)
        patches = [sample_patches(face.patches, rng, lq_patch_size=config.patch_size // SCALE,
                                  count=config.patches_per_face) for face in faces]
        row["patches"] = sum(len(batch.lq) for batch in patches)
        learn, held = hold_out(patches, config.holdout_fraction) if self._settings.backtrack else (patches, [])
        supports, holdout = ([interruptible(self._resolver.weigh_patches, *batch) for batch in batch_patches(part)]
                             for part in (learn, held))
        masks = np.concatenate([support.weights.numpy().ravel() for support in (*supports, *holdout)])
        row.update(mask_mean=float(masks.mean(dtype=np.float64)), mask_min=float(masks.min()),
                   mask_max=float(masks.max()))
        result = interruptible(self._resolver.adapt, supports, learning_rate=config.learning_rate,
                               num_steps=config.num_steps, holdout=holdout, max_halvings=config.max_halvings,
                               probe_every=PROBE_EVERY)
        row.update({f"loss_{step}": loss for step, loss in enumerate(result.losses)})
        row["learning_rates"] = " ".join(f"{rate:g}" for rate in result.learning_rates)
        row["seconds_adaptation"] = time.perf_counter() - started
        first, last = result.losses[0], result.losses[-1]
        if not all(map(math.isfinite, result.losses)) or last > max(EXPLODED * first, EXPLODED_LEAST):
            raise UserError(f"adaptation to {source.name} diverged: its loss went from {first:.4g} to {last:.4g}. "
                            "Lower --learning_rate, or use --safeguard backtrack.")
        if last > first:
            _add_reason(row, f"adaptation raised its loss from {first:.4g} to {last:.4g}: compare with the result "
                             "without it, lower --learning_rate, or use --safeguard backtrack")
            return result.params, LOSS_ROSE
        if not any(result.learning_rates):
            _add_reason(row, "the safeguard took no step: upscaled without adaptation")
            return result.params, NOT_ADAPTED
        return result.params, ADAPTED

    def _upscale(self, params: Params, photo: Photo, row: dict, on_progress: OnProgress) -> np.ndarray:
        """Upscale a photo: integers [4h, 4w, c] of its own depth and channels."""
        config = self._settings.upscaling
        tiling = choose_tiling(*photo.pixels.shape[:2], config, bit_depth=photo.bit_depth)
        row["tiles"] = tiling.num_tiles
        if config.tile_size is None and (needed := tiling.memory_gib(photo.bit_depth)) > config.memory_gib:
            note_once(f"{row['file']} takes at least {needed:.1f} GiB of memory, more than the {config.memory_gib:.1f} "
                      "of --memory_gib")
        finished, count = 0, row["tiles"] * (1 + (self._settings.save_comparison and self._settings.compare_unadapted))

        def on_tile() -> None:
            nonlocal finished
            finished += 1
            on_progress(f"tile {finished} of {row['tiles']}", 1 / count)

        def to_integers(rows: np.ndarray) -> np.ndarray:
            if not np.isfinite(rows).all():
                raise UserError(f"the network's output for {row['file']} is not finite. Lower --learning_rate, or use "
                                "--safeguard backtrack or --precision float32.")
            return quantize(rows, bit_depth=photo.bit_depth, gray=photo.gray)

        forward = self._resolver.upscaler(params)
        samples = upscale(lambda tile: interruptible(forward, tile), photo.pixels, tiling, quantize=to_integers,
                          on_tile=on_tile)
        if photo.pixels.mean() > max(DARK, samples.mean() / np.iinfo(samples.dtype).max / BLACK):
            raise UserError(f"the result for {row['file']} is black. Lower --learning_rate, or use --safeguard "
                            "backtrack or --precision float32.")
        return samples

    @_memory_errors()
    def trust_faces(self, faces: list[PhotoFace]) -> tuple[list[PhotoFace], list[np.ndarray]]:
        """Return the faces that can be pasted, and the trust in the pixels of each, for `paste_faces`."""
        pasted = [face for face in faces if can_be_pasted(face)]
        return pasted, [self._trust(*face.patches) for face in pasted]

    def _trust(self, lq: np.ndarray, hq: np.ndarray) -> np.ndarray:
        """Return MaskNet's weights of a face's pixels over their median, as their scale is arbitrary, at most 1."""
        height, width = lq.shape[1:3]
        shrink = max(1, max(height, width) / MAX_WEIGHED_SIDE)
        small = [max(1, round(side / shrink)) for side in (height, width)]
        lq, hq = resize_to(lq[0], *small, "area"), resize_to(hq[0], *(SCALE * side for side in small), "area")
        weights = interruptible(self._resolver.weigh_patches, lq[None], hq[None]).weights.numpy()[0, :, :, 0]
        weights = np.minimum(weights / max(np.median(weights), np.finfo(np.float32).tiny), 1)
        return resize_to(weights, SCALE * height, SCALE * width, "bilinear")

    def _write_comparison(self, loaded: Loaded, faces: list[PhotoFace], result: np.ndarray, row: dict,
                          on_progress: OnProgress) -> None:
        """Write bicubic, not adapted and adapted side by side."""
        photo, steps = loaded.photo, self._settings.adaptation.num_steps
        versions = {"bicubic": cv2.resize(quantize(photo.pixels), result.shape[1::-1], interpolation=cv2.INTER_CUBIC)}
        if faces and self._settings.compare_unadapted:
            versions[NOT_ADAPTED] = to_8_bit(self._upscale(self._resolver.generator, photo, row, on_progress))
        label = f"adapted ({steps} step{'s' * (steps > 1)}, {len(faces)} face{'s' * (len(faces) > 1)})"
        versions[label if faces else NOT_ADAPTED] = to_8_bit(result)
        box = faces[0].located(photo.pixels).box if faces else None
        face = box and tuple(SCALE * side for side in box)
        comparison = compose_comparison(versions, face=face)
        name = result_name(loaded.source, self._settings.name_suffix)
        write_png(self._output_dir / COMPARISON / name, comparison[:, :, :1] if photo.gray else comparison,
                  source=replace(photo, exif=None))


def _add_reason(row: dict, reason: str) -> None:
    row["reason"] = "; ".join(filter(None, (row.get("reason"), reason)))
