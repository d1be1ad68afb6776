"""The photos that an evaluation degrades: given ones, or people composed into scenes and scikit-image's photograph."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.console import Progress, shown_name
from utils.data.composites import Composite, Person, compose, cut_portrait, draw_number
from utils.errors import FatalError, UserError
from utils.face.alignment import box_overlap
from utils.face.detection import Detector
from utils.files import atomic_path, read_bytes
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.listing import Source, list_photos, person_of, photo_rng

OWN_PHOTO = "astronaut"  # the portrait of Eileen Collins (NASA, public domain)
RECORD = "photos.json"
SAME_FACE = 0.3  # intersection over union of two boxes
EVERYONE = re.compile("(.*)")


class Photos(NamedTuple):
    """What is known of the photos, by stem.

    `faces` are boxes [n, 4] in pixels of the clean photo, `people` the names of those whom it is known to show;
    `errors` are lines on files that cannot be used, `left_out` on portraits that show nobody who can be cut out.
    """

    faces: dict[str, np.ndarray]
    people: dict[str, list[str]]
    errors: list[str]
    left_out: list[str]


def make_photos(folder: Path, scenes: Sequence[Source], portraits: Sequence[Source], detect: Detector, *,
                seed: int, num_draws: int = 1, people: re.Pattern = EVERYONE, ready: Sequence[Source] = ()) -> Photos:
    """Write `folder/<stem>.png`: a composite for every scene, and the photograph inside scikit-image; or `ready` ones.

    All portraits are used equally often. What is drawn depends on the seed, the name of the scene and, as to who stands
    in front of it, on the other files. A file that fails is named in a line on the terminal and stops nothing. What an
    earlier call made that came to its end is left as it is.

    Args:
        folder: where the photos, and what is known of them, are written.
        scenes: none: only the photograph inside scikit-image.
        portraits: of one person each, in front of an even background; needed if there are scenes.
        detect: finds faces. Those that a scene itself has are found in the finished photo.
        seed: of all that is drawn.
        num_draws: copies of scikit-image's photograph, to be degraded in so many ways.
        people: what of a portrait's name matches this is the same for portraits of one person, who is not put into a
            photo twice.
        ready: photos of people that are taken as they are, instead of all others.

    Raises:
        UserError: there are scenes, and no portrait can be used; or none of those that are ready.
    """
    if (folder / RECORD).exists():
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
            return _read_record(folder / RECORD)
    photos = Photos({}, {}, [], [])
    stems = [] if ready else [OWN_PHOTO] if num_draws == 1 else [f"{OWN_PHOTO}-{n}" for n in range(1, num_draws + 1)]
    with Progress(len(ready) + len(scenes) + len(stems), description="photos", unit="photo") as progress:
        if (folder / RECORD).exists():
            progress.write(f"note: {folder / RECORD} is damaged: the photos are made again")
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


def check_no_others(folder: Path, faces: Mapping[str, np.ndarray]) -> None:
    """Make sure that a folder of an evaluation holds no photos but its own.

    Raises:
        UserError: it does.
    """
    others = [path.name for path in list_photos(folder) if path.stem not in faces]
    if others:
        raise UserError(f"{folder} holds photos that the evaluation did not make: {', '.join(others)}. Remove them.")


def _read_record(path: Path) -> Photos:
    content = json.loads(read_bytes(path))
    return Photos({stem: np.array(boxes, np.float64).reshape(-1, 4) for stem, boxes in content["faces"].items()},
                  {stem: list(content["people"][stem]) for stem in content["faces"]},
                  list(content["errors"]), list(content["left_out"]))


def _note_error(error: UserError, photos: Photos, say: Callable[[str], None]) -> None:
    photos.errors.append(" ".join(str(error).splitlines()))
    say(f"error: {photos.errors[-1]}")


def _cutter(detect: Detector, photos: Photos, say: Callable[[str], None]) -> Callable[[Source], Person | None]:
    """Return a function that cuts somebody out of a portrait, once for each; None and a line where that fails."""

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
    """Return a photo as it is, and whom it shows, by its name.

    Raises:
        UserError: it cannot be read.
    """
    return Composite(quantize(read_image(path).pixels), np.zeros((0, 4))), [person_of(path.stem, people)]


def _own_photo() -> Composite:
    import skimage.data  # takes a while

    return Composite(skimage.data.astronaut(), np.zeros((0, 4)))


def _write(path: Path, composite: Composite, detect: Detector) -> np.ndarray:
    """Write a photo and give the boxes of its faces: those that are known, and others that are found."""
    others = [face.box for face in detect(to_float(composite.image), path.name)
              if not any(box_overlap(face.box, box) > SAME_FACE for box in composite.faces)]
    write_png(path, composite.image)  # only now: a photo that is not in the record would be a stray one
    return np.array([*composite.faces, *others], np.float64).reshape(-1, 4)
