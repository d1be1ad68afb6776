"""The photos that an evaluation degrades: people composed into scenes, and a photograph inside scikit-image."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.composites import Composite, Person, compose, cut_out, draw_number
from utils.console import Progress, shown_name
from utils.errors import FatalError, UserError
from utils.face_alignment import box_overlap
from utils.face_detection import Detector
from utils.files import atomic_path, read_bytes
from utils.images import quantize, read_image, to_float, write_png
from utils.photo_sources import Source, person_of
from utils.photos import photo_rng

OWN_PHOTO = "astronaut"  # the portrait of Eileen Collins (NASA, public domain)
RECORD = "photos.json"
SAME_FACE = 0.3  # intersection over union of two boxes
EVERYONE = re.compile("(.*)")


class Photos(NamedTuple):
    """The boxes of the faces [n, 4] by stem, in pixels of the clean photo.

    `errors` are lines on files that cannot be read, `left_out` on portraits that show nobody who can be cut out.
    """

    faces: dict[str, np.ndarray]
    errors: list[str]
    left_out: list[str]


def make_photos(folder: Path, scenes: Sequence[Source], portraits: Sequence[Source], detect: Detector, *,
                seed: int, num_draws: int = 1, people: re.Pattern = EVERYONE) -> Photos:
    """Write `folder/<stem>.png`: a composite for every scene, and the photograph inside scikit-image.

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

    Raises:
        UserError: there are scenes, and no portrait can be used.
    """
    if (folder / RECORD).exists():
        return _read_record(folder / RECORD)
    stems = [OWN_PHOTO] if num_draws == 1 else [f"{OWN_PHOTO}-{number}" for number in range(1, num_draws + 1)]
    faces: dict[str, np.ndarray] = {}
    with Progress(len(portraits) + len(scenes) + len(stems), description="photos", unit="photo") as progress:
        sources = _Sources(progress)
        cut = {source: sources.work(source, lambda path: _cut_out(path, detect)) for source in portraits}
        persons = [(person_of(source.path.stem, people), person) for source, person in cut.items() if person]
        if scenes and not persons:
            raise UserError(f"nobody can be cut out of the {len(portraits)} portraits. "
                            f"{[*sources.errors, *sources.left_out][0]}")
        deck = _Deck(persons, seed)
        for scene in scenes:
            composite = sources.work(scene, lambda path: _compose(path, deck, seed))
            if composite is not None:
                faces[scene.path.stem] = _write(folder / f"{scene.path.stem}.png", composite, detect)
        import skimage.data  # takes a while

        for stem in stems:
            faces[stem] = _write(folder / f"{stem}.png", Composite(skimage.data.astronaut(), np.zeros((0, 4))), detect)
            progress.update(1, stem)
    photos = Photos(faces, sources.errors, sources.left_out)
    with atomic_path(folder / RECORD) as temporary:
        plain = {"faces": {stem: boxes.tolist() for stem, boxes in faces.items()}, "errors": photos.errors,
                 "left_out": photos.left_out}
        temporary.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return photos


def _read_record(path: Path) -> Photos:
    content = json.loads(read_bytes(path))
    return Photos({stem: np.array(boxes).reshape(-1, 4) for stem, boxes in content["faces"].items()},
                  content["errors"], content["left_out"])


class _Sources:
    """Works through files, and collects what is wrong with some."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self.errors: list[str] = []
        self.left_out: list[str] = []

    def work(self, source: Source, function: Callable) -> Person | Composite | None:
        """Give what `function` makes of a file, or None: a UserError is an error, another ValueError leaves it out."""
        result = None
        try:
            result = function(source.path)
        except FatalError:
            raise
        except UserError as error:
            self.errors.append(" ".join(str(error).splitlines()))
            self._progress.write(f"error: {self.errors[-1]}")
        except ValueError as error:
            self.left_out.append(f"{source.path} is left out: {error}")
            self._progress.write(f"note: {self.left_out[-1]}")
        self._progress.update(1, shown_name(source.path))
        return result


def _cut_out(path: Path, detect: Detector) -> Person:
    photo = read_image(path)
    found = detect(photo.pixels, path.name)
    if not found:
        raise ValueError("no face is found in it")
    return cut_out(quantize(photo.pixels), found[0].box)


class _Deck:
    """Deals portraits in random order, all of them before one comes again."""

    def __init__(self, persons: Sequence[tuple[str, Person]], seed: int):
        self._persons, self._rng = persons, np.random.default_rng(seed)
        self._waiting: list[int] = []

    def deal(self, number: int) -> list[Person]:
        """Give that many people, no one twice, or all there are."""
        chosen: dict[str, Person] = {}
        while len(chosen) < min(number, len({name for name, _ in self._persons})):
            for index in self._waiting:
                name, person = self._persons[index]
                if name not in chosen:
                    chosen[name] = person
                    self._waiting.remove(index)
                    break
            else:
                self._waiting += self._rng.permutation(len(self._persons)).tolist()
        return list(chosen.values())


def _compose(path: Path, deck: _Deck, seed: int) -> Composite:
    scene, rng = quantize(read_image(path).pixels), photo_rng(seed, path.stem)
    return compose(scene, deck.deal(draw_number(scene.shape[1], rng)), rng)


def _write(path: Path, composite: Composite, detect: Detector) -> np.ndarray:
    """Write a photo and give the boxes of its faces: those that are known, and others that are found."""
    write_png(path, composite.image)
    others = [face.box for face in detect(to_float(composite.image), path.name)
              if not any(box_overlap(face.box, box) > SAME_FACE for box in composite.faces)]
    return np.array([*composite.faces, *others], np.float64).reshape(-1, 4)
