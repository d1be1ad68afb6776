"""Upscales the photos of an evaluation by every variant, with the pipeline of `test.py`."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from config import SCALE, UpscalingConfig
from model.super_resolver import SuperResolver
from utils.errors import UserError
from utils.evaluation.photos import KINDS, RESTORED
from utils.evaluation.variants import BICUBIC, MODEL, VARIANTS
from utils.face.pairs import FaceFolder, PhotoFace
from utils.image.io import Photo, quantize, read_image, write_png
from utils.image.listing import Source
from utils.image.resizing import resize_bicubic
from utils.inference.restoration import ADAPTED, LOSS_ROSE, NOT_ADAPTED, PhotoPipeline, PipelineSettings
from utils.report import Report

RESULT_COLUMNS = ("file", "variant", "status", "seconds", "faces_of", "faces", "patches", "mask_mean", "mask_min",
                  "mask_max", *(f"loss_{step}" for step in range(6)), "learning_rates", "reason")
STATUSES = ("done", ADAPTED, LOSS_ROSE, NOT_ADAPTED, "error")  # of a result


class OtherFaces:
    """A folder of faces in which every photo finds those of its partner; none if it has none."""

    def __init__(self, faces: FaceFolder, partners: Mapping[str, str]):
        self._faces, self._partners = faces, partners

    def faces_of(self, source: Source, photo: Photo, on_progress: Callable[[str], None]) -> list[PhotoFace]:
        """Return the faces of the photo's partner."""
        if source.key not in self._partners:
            return []
        partner = self._partners[source.key] + source.path.suffix
        return self._faces.faces_of(Source(partner, source.path), photo, on_progress)


def find_partners(num_faces: Mapping[str, int], people: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return, for every photo with faces, the photo whose faces it gets as the control; none if there is but one.

    It is the next one, in a circle, preferably with other people, and then with as many faces. Both are by stem.
    """
    there = [stem for stem, count in num_faces.items() if count]

    def unlikeness(stem: str, other: str) -> tuple[bool, bool]:
        return not set(people[stem]).isdisjoint(people[other]), num_faces[stem] != num_faces[other]

    return {stem: min(there[index + 1:] + there[:index], key=lambda other, stem=stem: unlikeness(stem, other))
            for index, stem in enumerate(there) if len(there) > 1}


class VariantRunner:
    """Upscales the photos of one set by some variants."""

    def __init__(self, names: Sequence[str], folder: Path, networks: Mapping[str, SuperResolver], *,
                 photos: Sequence[Path], people: Mapping[str, Sequence[str]], seed: int, learning_rate: float):
        """Set up the pipelines of the variants `names` with the compiled `networks`, `BASE` and `MODEL`.

        `folder`, of the set, has `faces/` and gets `<variant>/<stem>.png` and variants.csv. `photos` are the degraded
        ones, sorted; `people` are the names of those in them, by stem. `seed` is that of the patches.
        """
        self._folder, self.photos = folder, photos
        kinds = {kind: FaceFolder(folder / "faces" / kind) for kind in KINDS}
        self.num_faces = {photo.stem: len(kinds[RESTORED].pairs(photo.stem)) for photo in photos}
        self.partners = find_partners(self.num_faces, people)
        # there is no control without two photos with faces
        self.names = [name for name in names if self.partners or not VARIANTS[name].other]
        unmasked = copy.copy(networks[MODEL])  # shares what is traced
        unmasked.mask = None
        self._pipelines = {}
        for name in self.names:
            variant = VARIANTS[name]
            if variant.network != BICUBIC:
                faces = kinds[variant.faces]
                adaptation = replace(variant.adaptation, seed=seed, learning_rate=learning_rate)
                self._pipelines[name] = PhotoPipeline(
                    networks[variant.network] if variant.masked else unmasked,
                    OtherFaces(faces, self.partners) if variant.other else faces, folder / name,
                    PipelineSettings(adaptation, UpscalingConfig(), backtrack=variant.backtrack))
        self.report = Report(folder / "variants.csv", RESULT_COLUMNS, keep=STATUSES)

    def path(self, name: str, stem: str) -> Path:
        """Return where a result is written."""
        return self._folder / name / f"{stem}.png"

    def run(self, photo: Path, on_result: Callable[[str], None]) -> list[str]:
        """Make the results of a photo that are missing, or were made with the faces of what is no longer its partner.

        Calls `on_result` with the name of each variant when it is done; returns a line for each result that failed.
        """
        rows = {row["variant"]: row for row in self.report.earlier(photo.name)}
        errors = []
        for name in self.names:
            path, variant, faces_of = self.path(name, photo.stem), VARIANTS[name], ""
            if variant.adaptation.num_steps and self.num_faces[photo.stem]:
                faces_of = self.partners[photo.stem] if variant.other else photo.stem
            known = rows[name]["faces_of"] if name in rows else "" if variant.other else faces_of
            if not path.exists() or known != faces_of:
                path.unlink(missing_ok=True)
                row = {"file": photo.name, "variant": name, "faces_of": faces_of}
                started = time.perf_counter()
                try:
                    self._restore(name, photo, row)
                except UserError as error:
                    row.update(status="error", reason=str(error))
                    errors.append(f"{photo} {name}: {error}")
                rows[name] = {**row, "seconds": time.perf_counter() - started}
                self.report.add(*rows.values())
            on_result(name)
        return errors

    def _restore(self, name: str, photo: Path, row: dict) -> None:
        if name in self._pipelines:
            pipeline = self._pipelines[name]
            pipeline.process(pipeline.read(Source(photo.name, photo), row), row, lambda *_: None)
            return
        pixels = read_image(photo).pixels
        height, width = (SCALE * side for side in pixels.shape[:2])
        write_png(self.path(name, photo.stem), quantize(resize_bicubic(pixels, height, width)))
        row["status"] = "done"
