"""What test.py does with one photo: read it and its faces, adapt, upscale, write."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.adaptation import Adaptation, Support
from model.layers import Params
from model.super_resolver import SuperResolver
from utils.comparison import compose_comparison, locate_face
from utils.console import interruptible
from utils.errors import SkipPhoto, UserError
from utils.faces import FaceFolder, Patches, batch_patches, hold_out, read_face, sample_patches
from utils.images import Photo, quantize, read_image, resize_bicubic, to_float, write_png
from utils.photos import photo_rng
from utils.tiling import SCALE, choose_tile_size, count_tiles, upscale


@dataclass(frozen=True)
class Options:
    """Settings of a run; `tile_size` None is automatic and 0 the whole photo, `patch_size` is of the LQ patch."""

    patch_size: int
    patches_per_face: int
    num_steps: int
    learning_rate: float
    seed: int
    tile_size: int | None
    tile_overlap: int
    memory_gib: float
    no_face: str
    backtrack: bool
    holdout_fraction: float
    max_halvings: int
    save_comparison: bool


class PhotoRestorer:
    """Restores one photo after the other; every photo starts from the same weights."""

    def __init__(self, resolver: SuperResolver, faces: FaceFolder | None, output_dir: Path, options: Options):
        """Take the compiled networks, the faces (None when no step is taken) and where results go."""
        self._resolver = resolver
        self._faces = faces
        self._output_dir = output_dir
        self._options = options

    def restore(self, path: Path, on_progress: Callable[[str, int], None]) -> dict:
        """Adapt to a photo, write `<stem>.png` at four times its size, and give its row of the report.

        `on_progress` is told what is being done, and how many tiles have been finished since it was last called.

        Raises:
            UserError: the photo or its faces are faulty; nothing is written.
            SkipPhoto: it has no face and such photos are to be skipped.
        """
        started = time.perf_counter()
        photo = read_image(path)
        height, width = photo.pixels.shape[:2]
        row = {"file": path.name, "width": width, "height": height, "faces": 0, "patches": 0}
        faces = self._read_faces(path)
        params = self._resolver.generator
        if faces:
            on_progress("adapting", 0)
            params = self._adapt(faces, path.stem, row)
        row["status"] = "adapted" if faces else "base"
        if not faces and self._options.num_steps:
            row["reason"] = "no face: upscaled without adaptation"
        row["seconds_adaptation"] = time.perf_counter() - started

        upscaling = time.perf_counter()
        result = self._upscale(params, photo, row, on_progress)
        row["seconds_upscaling"] = time.perf_counter() - upscaling
        if self._options.save_comparison:
            self._save_comparison(path, photo, faces, result, row, on_progress)
        alpha = None if photo.alpha is None else resize_bicubic(photo.alpha, height * SCALE, width * SCALE)
        write_png(self._output_dir / f"{path.stem}.png", result, alpha=alpha, icc_profile=photo.icc_profile)
        row["seconds_total"] = time.perf_counter() - started
        return row

    def _read_faces(self, path: Path) -> list[Patches]:
        if not self._options.num_steps:
            return []
        faces = [read_face(pair) for pair in self._faces.pairs(path.stem)]
        if not faces and self._options.no_face == "skip":
            raise SkipPhoto("no face")
        if not faces and self._options.no_face == "error":
            raise UserError(f"no face of {path} in {self._faces.folder}. Make it with generate_test_faces.py, or use "
                            "--no_face base.")
        return faces

    def _adapt(self, faces: list[Patches], stem: str, row: dict) -> Params:
        options, rng = self._options, photo_rng(self._options.seed, stem)
        patches = [sample_patches(face, rng, patch_size=options.patch_size, count=options.patches_per_face)
                   for face in faces]
        learn, held = hold_out(patches, options.holdout_fraction) if options.backtrack else (patches, [])
        row["faces"], row["patches"] = len(faces), sum(len(batch.lq) for batch in patches)
        supports = [self._resolver.support(*batch) for batch in batch_patches(learn)]
        holdout = [self._resolver.support(*batch) for batch in batch_patches(held)]
        row.update(_mask_statistics([*supports, *holdout]))
        adaptation: Adaptation = _compute(self._resolver.adapt, supports, learning_rate=options.learning_rate,
                                          num_steps=options.num_steps, holdout=holdout,
                                          max_halvings=options.max_halvings)
        losses = [float(loss) for loss in adaptation.losses]
        row.update({f"loss_{step}": loss for step, loss in enumerate(losses)})
        row["learning_rates"] = " ".join(f"{rate:g}" for rate in adaptation.learning_rates)
        bad = [step for step, loss in enumerate(losses) if not math.isfinite(loss)]
        if bad:
            raise UserError(f"adaptation to {stem} diverged: the loss is {losses[bad[0]]} after step {bad[0]}. "
                            "Lower --learning_rate, or use --safeguard backtrack.")
        return adaptation.params

    def _upscale(self, params: Params, photo: Photo, row: dict, on_progress: Callable[[str, int], None]) -> np.ndarray:
        height, width = photo.pixels.shape[:2]
        tile_size = choose_tile_size(height, width, tile_size=self._options.tile_size,
                                     memory_gib=self._options.memory_gib)
        row["tiles"] = count_tiles(height, width, tile_size, self._options.tile_overlap)
        finished = 0

        def on_tile() -> None:
            nonlocal finished
            finished += 1
            on_progress(f"tile {finished} of {row['tiles']}", 1)

        def to_integers(rows: np.ndarray) -> np.ndarray:
            if not np.isfinite(rows).all():
                raise UserError(f"the network's output for {row['file']} is not finite. Lower --learning_rate, or use "
                                "--safeguard backtrack.")
            return quantize(rows, bit_depth=photo.bit_depth, gray=photo.gray)

        forward = self._resolver.forward(params)
        return upscale(lambda tile: _compute(forward, tile), photo.pixels, tile_size=tile_size,
                       overlap=self._options.tile_overlap, quantize=to_integers, on_tile=on_tile)

    def _save_comparison(self, path: Path, photo: Photo, faces: list[Patches], result: np.ndarray, row: dict,
                         on_progress: Callable[[str, int], None]) -> None:
        height, width = result.shape[:2]
        versions = {"bicubic": resize_bicubic(photo.pixels, height, width)}
        if faces:
            versions["un-adapted"] = to_float(self._upscale(self._resolver.generator, photo, row, on_progress))
        steps = self._options.num_steps
        label = f"adapted ({steps} step{'s' * (steps > 1)}, {len(faces)} face{'s' * (len(faces) > 1)})"
        versions[label if faces else "un-adapted"] = to_float(result)
        face = locate_face(photo.pixels, faces[0].lq[0]) if faces else None
        picture = compose_comparison({name: quantize(image) for name, image in versions.items()}, face=face)
        write_png(self._output_dir / "comparison" / f"{path.stem}.png", picture)


def _mask_statistics(supports: list[Support]) -> dict[str, float]:
    weights = np.concatenate([support.weights.numpy().ravel() for support in supports])
    return {"mask_mean": float(weights.mean(dtype=np.float64)), "mask_min": float(weights.min()),
            "mask_max": float(weights.max())}


def _compute(function: Callable, *args, **kwargs):
    """Run a computation so that Ctrl-C ends it, and say in one line when the memory does not suffice."""
    try:
        return interruptible(function, *args, **kwargs)
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise UserError("not enough memory for this photo. Lower --memory_gib, or give a smaller --tile_size or "
                        "--patch_num_per_img.") from error
