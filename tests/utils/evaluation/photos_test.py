"""The photos of an evaluation: who stands where, and what is known of the faces."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.portraits import FACE, cut_once, draw_portrait, texture
from utils.data import composites
from utils.errors import FatalError
from utils.evaluation.photos import PortraitSampler, make_photos
from utils.face.detection import Face
from utils.image.io import quantize, read_image, write_png
from utils.image.listing import Source, list_sources


class Detector:
    """Finds the drawn portraits' face, and in other photos the boxes it is told."""

    def __init__(self, boxes=()):
        self.boxes, self.seen = boxes, []

    def __call__(self, photo, name):
        self.seen.append(name)
        boxes = [FACE] if name.startswith("portrait") else [] if name.startswith("nobody") else self.boxes
        return [Face(np.array(box, float), np.zeros((5, 2)), 1.0) for box in boxes]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(composites, "cut_out", cut_once)
    for seed in range(2):
        write_png(tmp_path / "portraits" / f"portrait{seed}.png", draw_portrait()[0])
        write_png(tmp_path / "scenes" / f"scene{seed}.png", texture(seed, 322, 202, 0, 255).astype(np.uint8))
    return tmp_path


def make(folders, detect, **options):
    return make_photos(folders / "out", list_sources([folders / "scenes"]), list_sources([folders / "portraits"]),
                       detect, seed=0, **options)


def stored(folders):
    return {path.stem: quantize(read_image(path).pixels) for path in sorted((folders / "out").glob("*.png"))}


def test_every_scene_gets_people_and_scikit_images_photo_is_there_too(folders):
    photos = make(folders, Detector())
    assert list(photos.faces) == ["scene0", "scene1", "astronaut"]
    images = stored(folders)
    assert {stem: image.shape for stem, image in images.items()} == {
        "astronaut": (512, 512, 3), "scene0": (320, 200, 3), "scene1": (320, 200, 3)}
    for stem in ("scene0", "scene1"):
        [box] = photos.faces[stem]
        scene = quantize(read_image(folders / "scenes" / f"{stem}.png").pixels)[:320, :200]
        changed = (images[stem] != scene).any(axis=2)
        left, top, right, bottom = np.round(box).astype(int)
        assert changed[top + 20:bottom, left + 25:right - 25].mean() > 0.99
    assert photos.faces["astronaut"] == []


def test_faces_that_a_scene_has_itself_are_added_once(folders):
    photos = make(folders, Detector([(2, 3, 42, 53)]))
    assert [len(photos.faces[stem]) for stem in ("scene0", "scene1", "astronaut")] == [2, 2, 1]
    assert photos.faces["astronaut"] == [[2, 3, 42, 53]]
    known = np.array(photos.faces["scene0"][0])
    again = make_photos(folders / "again", list_sources([folders / "scenes"])[:1],
                        list_sources([folders / "portraits"]), Detector([known + 1]), seed=0)
    assert again.faces["scene0"] == [known.tolist()]


def test_what_is_there_is_neither_made_nor_detected_again(folders):
    first = make(folders, Detector())
    detect = Detector()
    second = make(folders, detect)
    assert detect.seen == []
    assert first == second


def test_files_that_cannot_be_read_are_named_and_stop_nothing(folders, capsys):
    (folders / "scenes" / "broken.png").write_bytes(b"no picture")
    (folders / "portraits" / "broken.png").write_bytes(b"no picture")
    write_png(folders / "portraits" / "nobody.png", draw_portrait()[0])
    photos = make(folders, Detector())
    assert sorted(photos.faces) == ["astronaut", "scene0", "scene1"]
    assert sorted(line.split(":")[0].rpartition("/")[2] for line in photos.errors) == ["broken.png", "broken.png"]
    [line] = photos.left_out
    assert line.endswith("nobody.png is left out: no face is found in it")
    assert capsys.readouterr().err.count("error: cannot read") == 2
    assert make(folders, Detector()) == photos


def test_with_a_damaged_record_the_same_photos_are_made_again(folders):
    first, before = make(folders, Detector()), stored(folders)
    for content in ("{", "[]", '{"faces": {"a": [[1]]}}', '{"faces": {}}'):
        (folders / "out" / "photos.json").write_text(content)
        assert make(folders, Detector()) == first
    for stem, image in stored(folders).items():
        np.testing.assert_array_equal(image, before[stem])


def test_portraits_without_anybody_are_refused(folders):
    for path in (folders / "portraits").iterdir():
        path.rename(path.with_name(f"nobody-{path.name}"))
    with pytest.raises(FatalError, match="--portraits"):
        make(folders, Detector())


def test_ready_photos_are_taken_as_they_are_and_are_the_only_ones(folders):
    drawn = {f"anna_{seed}": texture(seed, 60, 90, 0, 255).astype(np.uint8) for seed in (5, 6)}
    for stem, image in drawn.items():
        write_png(folders / "ready" / f"{stem}.png", image)
    (folders / "ready" / "cut.png").write_bytes((folders / "ready" / "anna_5.png").read_bytes()[:90])
    photos = make_photos(folders / "out", [], [], Detector([[10, 20, 30, 45]]), seed=0, people=re.compile("^[a-z]+"),
                         ready=list_sources([folders / "ready"]))
    assert photos.people == {"anna_5": ["anna"], "anna_6": ["anna"]}
    images = stored(folders)
    assert list(images) == list(photos.faces) == list(drawn)
    for stem, image in drawn.items():
        np.testing.assert_array_equal(images[stem], image)
        assert photos.faces[stem] == [[10, 20, 30, 45]]
    [line] = photos.errors
    assert "cut.png" in line


def test_ready_photos_of_which_none_can_be_used_are_an_error(folders):
    (folders / "ready").mkdir()
    (folders / "ready" / "a.png").write_bytes(b"no picture")
    with pytest.raises(FatalError, match="--input_dir"):
        make_photos(folders / "out", [], [], Detector(), seed=0, ready=list_sources([folders / "ready"]))
    assert not (folders / "out" / "photos.json").exists()


def test_all_portraits_are_used_equally_often_and_nobody_is_in_a_photo_twice():
    sampler = deal_from(range(14))
    numbers = (3, 2, 1, 3, 3, 2) * 10
    dealt = [sampler.sample(number) for number in numbers]
    assert [len(chosen) for chosen in dealt] == list(numbers)
    assert all(person.startswith(name + "_") for chosen in dealt for name, person in chosen.items())
    counts = Counter(person for chosen in dealt for person in chosen.values())
    assert len(counts) == 14
    assert set(counts.values()) <= {9, 10, 11}
    assert len(deal_from(range(3)).sample(3)) == 2


def deal_from(numbers, cut=lambda source: source.path.stem):
    """Return a sampler of two portraits of each person; who is cut out is the file's stem."""
    sources = [Source("", Path(f"person{number // 2}_{number % 2}.png")) for number in numbers]
    return PortraitSampler(sources, re.compile("^[a-z0-9]+"), 0, cut)


def test_portraits_are_cut_when_they_are_needed_and_those_that_fail_are_not_asked_for_again():
    asked = []

    def cut(source):
        asked.append(source.path.stem)
        return None if source.path.stem.endswith("_0") else source.path.stem

    sampler = deal_from(range(8), cut)
    sampler.sample(1)
    assert len(asked) <= 5
    counts = Counter(person for _ in range(20) for person in sampler.sample(2).values())
    assert counts.keys() == {f"person{number}_1" for number in range(4)}
    assert {asked.count(f"person{number}_0") for number in range(4)} == {1}
    assert deal_from(range(2), lambda _: None).sample(1) == {}
