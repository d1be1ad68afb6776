"""The photos that an evaluation degrades, and the faces in what they become.

Photos are given, or people composed into scenes and scikit-image's photograph. Faces are restored as a user's, in the
original's alignment, and the true ones.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import SCALE
from utils.console import Progress
from utils.data.composites import Composite, Person, compose, cut_portrait, draw_number
from utils.errors import FatalError, UserError, printable
from utils.face.alignment import SAME_FACE_IOU, box_overlap
from utils.face.detection import Detector
from utils.face.pairs import BOX_PIXELS
from utils.face.preparation import FACE_COLUMNS, FINISHED, FacePreparer, PreparationSettings
from utils.face.restorers import Restorer
from utils.files import read_bytes, write_text
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.listing import Source, person_of, photo_rng
from utils.report import Report

OWN_PHOTO = "astronaut"  # the portrait of Eileen Collins (NASA, public domain)
RECORD = "photos.json"
EVERYONE = re.compile("(.*)")
KINDS = RESTORED, LEGACY, ORACLE = "restored", "legacy", "oracle"  # folders, each with Face_LQ and Face_HQ


class Photos(NamedTuple):
    """The photos, by stem, as plain data.

    `faces` are boxes [n, 4] in pixels of the clean photo, `people` the names of the people in it; `errors` are lines on
    files that cannot be used, `left_out` on portraits from which nobody can be cut out.
    """

    faces: dict[str, list[list[float]]]
    people: dict[str, list[str]]
    errors: list[str]
    left_out: list[str]


def make_photos(folder: Path, scenes: Sequence[Source], portraits: Sequence[Source], detect: Detector, *,
                seed: int, num_draws: int = 1, people: re.Pattern = EVERYONE, ready: Sequence[Source] = ()) -> Photos:
    """Write `folder/<stem>.png`: a composite per scene and scikit-image's photo; or the `ready` photos as they are.

    A file that fails is named in a line on the terminal and stops nothing. A finished folder is left as it is. Who
    is put in front of a scene depends on the seed and on all files, the rest on the seed and the scene's name.

    `portraits` are of one person each, before an even background, and all used equally often. `num_draws`: copies of
    scikit-image's photo. What of a file's name matches `people` is the same for photos of one person.
    """
    with contextlib.suppress(ValueError, TypeError):  # missing or damaged
        return Photos(**json.loads(read_bytes(folder / RECORD)))
    photos = Photos({}, {}, [], [])
    own = [OWN_PHOTO] if num_draws == 1 else [f"{OWN_PHOTO}-{n}" for n in range(1, num_draws + 1)]
    with Progress(len(ready or [*scenes, *own]), description="photos", unit="photo") as progress:
        sampler = PortraitSampler(portraits, people, seed, cache(partial(_cut, detect, photos, progress.write)))
        jobs = [(source.path.stem, partial(_take, source.path, people)) for source in ready] or [
            *((source.path.stem, partial(_compose, source.path, sampler, seed)) for source in scenes),
            *((stem, _own_photo) for stem in own)]
        for stem, make in jobs:
            try:
                (image, faces), names = make()
                found = [face.box for face in detect(to_float(image), f"{stem}.png")]
                write_png(folder / f"{stem}.png", image)
                others = [box for box in found if not any(box_overlap(box, face) > SAME_FACE_IOU for face in faces)]
                photos.faces[stem] = np.array([*faces, *others], np.float64).tolist()
                photos.people[stem] = names
            except UserError as error:
                photos.errors.append(str(error))
                progress.write(f"error: {error}")
            progress.update(1, stem)
    if not photos.faces:
        raise FatalError("none of the photos can be used; the lines above say why. Check --input_dir.")
    write_text(folder / RECORD, json.dumps(photos._asdict(), indent=1) + "\n")
    return photos


def _cut(detect: Detector, photos: Photos, write: Callable[[str], None], portrait: Source) -> Person | None:
    """Cut somebody out of a portrait; None and a line where that fails."""
    try:
        return cut_portrait(portrait.path, detect)
    except UserError as error:
        photos.errors.append(str(error))
        write(f"error: {error}")
    except ValueError as error:
        photos.left_out.append(f"{portrait.path} is left out: {error}")
        write(f"note: {photos.left_out[-1]}")
    return None


class PortraitSampler:
    """Samples portraits without replacement; when all were drawn, they are shuffled anew."""

    def __init__(self, portraits: Sequence[Source], people: re.Pattern, seed: int,
                 cut: Callable[[Source], Person | None]):
        self._names = {portrait: person_of(portrait.path.stem, people) for portrait in portraits}
        self._rng, self._cut = np.random.default_rng(seed), cut
        self._waiting: list[Source] = []

    def sample(self, number: int) -> dict[str, Person]:
        """Return that many different people by name, or all there are."""
        chosen: dict[str, Person] = {}
        while len(chosen) < number and not chosen.keys() >= set(self._names.values()):
            portrait = next((one for one in self._waiting if self._names[one] not in chosen), None)
            if portrait is None:
                there = list(self._names)
                self._waiting += [there[index] for index in self._rng.permutation(len(there))]
                continue
            self._waiting.remove(portrait)
            person = self._cut(portrait)
            if person is None:
                del self._names[portrait]
                self._waiting = [one for one in self._waiting if one != portrait]
            else:
                chosen[self._names[portrait]] = person
        return chosen


def _compose(path: Path, sampler: PortraitSampler, seed: int) -> tuple[Composite, list[str]]:
    """Return a composite, and the names of the people in it."""
    scene, rng = quantize(read_image(path).pixels), photo_rng(seed, path.stem)
    people = sampler.sample(draw_number(scene.shape[1], rng))
    if not people:
        raise FatalError("nobody can be cut out of any portrait. Check --portraits: one person each, before an even "
                         "background.")
    try:
        return compose(scene, list(people.values()), rng), list(people)
    except ValueError as error:
        raise UserError(f"{path} cannot be used: {error}. Remove it.") from error


def _take(path: Path, people: re.Pattern) -> tuple[Composite, list[str]]:
    return Composite(quantize(read_image(path).pixels), np.zeros((0, 4))), [person_of(path.stem, people)]


def _own_photo() -> tuple[Composite, list[str]]:
    import skimage.data  # takes a while

    return Composite(skimage.data.astronaut(), np.zeros((0, 4))), [OWN_PHOTO]


def prepare_faces(photos: Sequence[Path], truth_dir: Path, folder: Path, *, detect: Detector, restore: Restorer,
                  settings: PreparationSettings) -> tuple[dict[str, list[list[int]]], list[str]]:
    """Write the faces of all photos; those that faces.csv says are done stay, those that failed are tried again.

    `photos` are the degraded ones, `truth_dir` has those of the same names, four times the size. `folder` gets
    `restored/`, `legacy/`, `oracle/` with the same boxes, and faces.csv. Returns the boxes of the faces, [n, 4] in
    pixels of the clean photo, by stem; and a line per photo that failed.
    """
    for kind in KINDS:
        for name in ("Face_LQ", "Face_HQ"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
    boxes, errors = {}, []
    with (Report(folder / "faces.csv", FACE_COLUMNS, keep=FINISHED, digits=None) as report,
          Progress(len(photos), description="faces", unit="photo") as progress):
        for photo in photos:
            rows = report.earlier(photo.name)
            if not rows:
                try:
                    rows = _prepare(photo, truth_dir / photo.name, folder, detect, restore, settings)
                except UserError as error:
                    rows = [{"file": photo.name, "status": "error", "reason": str(error)}]
                report.add(*rows)
            reasons = [row["reason"] for row in rows if row["status"] == "error"]
            if reasons:
                errors.append(f"{photo}: {' '.join(reasons[0].splitlines())}")
                progress.write(f"error: {errors[-1]}")
            else:
                found = [_box(row) for row in rows if row["status"] == "ok"]
                boxes[photo.stem] = [[left, top, left + width - 1, top + height - 1]
                                     for top, left, height, width in found]
            progress.update(1, printable(photo.name))
    return boxes, errors


def _box(row: dict) -> list[int]:
    """Return top, left, height and width of a face in the clean photo, by its row of the report."""
    return [SCALE * int(row[column]) for column in BOX_PIXELS]


def _prepare(photo: Path, truth: Path, folder: Path, detect: Detector, restore: Restorer,
             settings: PreparationSettings) -> list[dict]:
    """Write the faces of one photo; return its rows of the report."""
    faces = detect(read_image(photo).pixels, photo.name)
    rows = []
    for kind in (LEGACY, RESTORED):  # the rows of the latter are kept
        preparer = FacePreparer(lambda *_: faces, restore, folder / kind,
                                replace(settings, legacy_alignment=kind == LEGACY))
        rows = preparer.prepare(Source(photo.name, photo))
    clean = quantize(read_image(truth).pixels)
    for row in rows:
        if row["status"] == "ok":
            top, left, height, width = _box(row)
            name = f"{photo.stem}_{row['index']}.png"
            write_png(folder / ORACLE / "Face_HQ" / name, clean[top:top + height, left:left + width])
            shutil.copyfile(folder / RESTORED / "Face_LQ" / name, folder / ORACLE / "Face_LQ" / name)
    return rows
