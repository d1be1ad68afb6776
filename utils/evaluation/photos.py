"""The clean photos of an evaluation: given ones, or people composed into scenes and scikit-image's astronaut."""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.console import Progress, shown_name
from utils.data.composites import Composite, Person, compose, cut_portrait, draw_number
from utils.errors import FatalError, UserError
from utils.face.alignment import SAME_FACE_IOU, box_overlap
from utils.face.detection import Detector
from utils.files import atomic_path, read_bytes
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.listing import Source, person_of, photo_rng

OWN_PHOTO = "astronaut"  # the portrait of Eileen Collins (NASA, public domain)
RECORD = "photos.json"
EVERYONE = re.compile("(.*)")


class Photos(NamedTuple):
    """Faces and people of the photos, by stem.

    `faces`: boxes [n, 4] in pixels of the clean photo; `people`: names of the people in it; `errors`: a line per
    file that cannot be used; `left_out`: a line per portrait from which nobody can be cut out.
    """

    faces: dict[str, np.ndarray]
    people: dict[str, list[str]]
    errors: list[str]
    left_out: list[str]


def make_photos(folder: Path, scenes: Sequence[Source], portraits: Sequence[Source], detect: Detector, *,
                seed: int, num_draws: int = 1, people: re.Pattern = EVERYONE, ready: Sequence[Source] = ()) -> Photos:
    """Write `folder/<stem>.png`: a composite per scene and scikit-image's astronaut; or the `ready` photos.

    All portraits are used equally often. Draws depend on the seed and the name of the scene; the choice of people also
    on the other files. A file that fails is named on the terminal and skipped. Photos of an earlier complete call are
    kept.

    Args:
        folder: receives the photos and their record.
        scenes: may be empty: scikit-image's astronaut only.
        portraits: one person each, in front of an even background; needed if there are scenes.
        detect: the face detector, also for faces that a scene already contains.
        seed: of all draws.
        num_draws: copies of the astronaut, each to be degraded differently.
        people: the part of a portrait's name that matches identifies the person; nobody is put into a photo twice.
        ready: photos of people, used unchanged instead of all others.

    Raises:
        UserError: there are scenes but no usable portrait, or no usable photo, or a damaged record.
    """
    if (folder / RECORD).exists():
        return _read_record(folder / RECORD)
    photos = Photos({}, {}, [], [])
    stems = [] if ready else [OWN_PHOTO] if num_draws == 1 else [f"{OWN_PHOTO}-{n}" for n in range(1, num_draws + 1)]
    with Progress(len(ready) + len(scenes) + len(stems), description="photos", unit="photo") as progress:
        sampler = PortraitSampler(portraits, people, seed, _cutter(detect, photos, progress.write))
        for source in (*ready, *scenes):
            stem = source.path.stem
            try:
                composite, names = (_take(source.path, people) if ready else _compose(source.path, sampler, seed))
                photos.faces[stem] = _write(folder / f"{stem}.png", composite, detect)
                photos.people[stem] = names
            except FatalError:
                raise
            except UserError as error:
                _note_error(error, photos, progress.write)
            progress.update(1, shown_name(source.path))
        for stem in stems:
            photos.faces[stem] = _write(folder / f"{stem}.png", _own_photo(), detect)
            photos.people[stem] = [OWN_PHOTO]
            progress.update(1, stem)
    if not photos.faces:
        raise FatalError("none of the photos can be used; the lines above say why. Check --input_dir.")
    with atomic_path(folder / RECORD) as temporary:
        plain = {**photos._asdict(), "faces": {stem: boxes.tolist() for stem, boxes in photos.faces.items()}}
        temporary.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return photos


def _read_record(path: Path) -> Photos:
    try:
        content = json.loads(read_bytes(path))
        return Photos(**{**content, "faces": {stem: np.array(boxes, np.float64).reshape(-1, 4)
                                              for stem, boxes in content["faces"].items()}})
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{path} is damaged. Give --overwrite, or another --output_dir.") from error


def _note_error(error: UserError, photos: Photos, say: Callable[[str], None]) -> None:
    photos.errors.append(" ".join(str(error).splitlines()))
    say(f"error: {photos.errors[-1]}")


def _cutter(detect: Detector, photos: Photos, say: Callable[[str], None]) -> Callable[[Source], Person | None]:
    """Return a cached function that cuts the person out of a portrait, or returns None and prints why."""

    @cache
    def cut(portrait: Source) -> Person | None:
        try:
            return cut_portrait(portrait.path, detect)[0]
        except FatalError:
            raise
        except UserError as error:
            _note_error(error, photos, say)
        except ValueError as error:
            photos.left_out.append(f"{portrait.path} is left out: {error}")
            say(f"note: {photos.left_out[-1]}")
        return None

    return cut


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
    """Return a composite, and the names of the people in it.

    Raises:
        FatalError: no portrait is left.
        UserError: the scene cannot be used.
    """
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
    """Return a photo unchanged, and the name of the person in it.

    Raises:
        UserError: it cannot be read.
    """
    return Composite(quantize(read_image(path).pixels), np.zeros((0, 4))), [person_of(path.stem, people)]


def _own_photo() -> Composite:
    import skimage.data  # takes a while

    return Composite(skimage.data.astronaut(), np.zeros((0, 4)))


def _write(path: Path, composite: Composite, detect: Detector) -> np.ndarray:
    """Write a photo; returns the boxes of its faces: the composed and the detected ones."""
    others = [face.box for face in detect(to_float(composite.image), path.name)
              if not any(box_overlap(face.box, box) > SAME_FACE_IOU for box in composite.faces)]
    write_png(path, composite.image)
    return np.array([*composite.faces, *others], np.float64).reshape(-1, 4)
