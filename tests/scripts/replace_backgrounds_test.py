"""Aligned faces with other backgrounds: where the face lies, what is behind it, what goes wrong."""

import contextlib

import numpy as np
import pytest

from scripts import replace_backgrounds
from tests.helpers.portraits import FACE, draw_portrait
from utils.errors import UserError
from utils.face.alignment import estimate_alignment, reference_points
from utils.face.detection import Face
from utils.image.io import quantize, read_image, write_png

# of the drawn face: an upright face's five points within its box
POINTS = np.array(FACE[:2]) + (reference_points() - 130) / 250 * (np.array(FACE[2:]) - FACE[:2])


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_png(tmp_path / "portraits" / "a.png", draw_portrait()[0])
    write_png(tmp_path / "scenes" / "s.png", np.full((150, 100, 3), (0, 255, 0), np.uint8))

    @contextlib.contextmanager
    def open_detector(*_, **__):
        yield lambda photo, name: [] if name.startswith("nobody") else [Face(np.array(FACE, float), POINTS, 1.0)]

    monkeypatch.setattr(replace_backgrounds, "open_detector", open_detector)
    return tmp_path


def run(place, *flags):
    folders = [f"--{name}={place / name}" for name in ("portraits", "scenes")]
    return replace_backgrounds.main([*folders, f"--output_dir={place / 'out'}", *flags])


def stored(place):
    return {path.stem: quantize(read_image(path).pixels) for path in sorted((place / "out").glob("*.png"))}


def test_faces_are_aligned_and_the_scene_is_behind_them(place):
    assert run(place, "--count", "2") == 0
    faces = stored(place)
    with pytest.raises(UserError, match="--overwrite"):
        run(place, "--count", "2")
    assert list(faces) == ["a_0", "a_1"]
    portrait = draw_portrait()[0]
    to_portrait = np.linalg.inv(np.vstack([estimate_alignment(POINTS), [0, 0, 1]]))
    for image in faces.values():
        assert image.shape == (512, 512, 3)
        for point in reference_points():  # the face shows at its place what the portrait shows
            x, y = np.rint(to_portrait @ [*point, 1])[:2].astype(int)
            seen = image[int(point[1]) - 3:int(point[1]) + 4, int(point[0]) - 3:int(point[0]) + 4].mean(axis=(0, 1))
            np.testing.assert_allclose(seen, portrait[y - 2:y + 3, x - 2:x + 3].mean(axis=(0, 1)), atol=30)
        np.testing.assert_array_equal(image[5, 5], (0, 255, 0))
        np.testing.assert_array_equal(image[5, -5], (0, 255, 0))


def test_portraits_whose_faces_would_have_one_name_are_refused(place):
    write_png(place / "portraits" / "inner" / "a.png", draw_portrait()[0])
    with pytest.raises(UserError, match="2 portraits a"):
        run(place)


def test_a_bad_portrait_stops_nothing(place, capsys):
    (place / "portraits" / "broken.png").write_bytes(b"no image")
    write_png(place / "portraits" / "nobody.png", draw_portrait()[0])
    assert run(place, "--count", "1") == 2
    output = capsys.readouterr()
    assert "broken.png" in output.out + output.err
    assert "nobody.png" in output.out + output.err
    assert list(stored(place)) == ["a_0"]
