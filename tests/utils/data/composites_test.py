"""People cut out of portraits, and put in front of scenes."""

import cv2
import numpy as np
import pytest

from tests.helpers.portraits import FACE, MARK, draw_portrait
from utils.data.composites import FACE_WIDTHS, Person, compose, cut_out, cut_portrait
from utils.errors import UserError
from utils.face.detection import Face
from utils.image.io import write_png


def draw_person():
    """Somebody with a head of 60 pixels' width, and a mark in the middle of the face."""
    image = np.full((120, 90, 3), 60, np.uint8)
    alpha = np.zeros((120, 90), np.float32)
    cv2.ellipse(alpha, (45, 50), (33, 48), 0, 0, 360, 1, cv2.FILLED)
    alpha[90:, 10:80] = 1
    image[38:53, 38:53] = MARK
    return Person(image, alpha, np.array([15.0, 10, 75, 80]))


def marks(image):
    """Middles of the marks, from left to right."""
    found = (np.abs(image.astype(int) - MARK).max(axis=2) < 60).astype(np.uint8)
    _, _, statistics, centroids = cv2.connectedComponentsWithStats(found)
    return sorted(tuple(centroid) for centroid, row in zip(centroids[1:], statistics[1:], strict=True)
                  if row[cv2.CC_STAT_AREA] > 9)


def test_the_person_and_nothing_else_is_cut_out():
    portrait, inside = draw_portrait()
    person = cut_out(portrait, FACE)
    top, left = (int(np.flatnonzero(inside.any(axis=axis))[0]) for axis in (1, 0))
    alpha = np.zeros(inside.shape, np.float32)
    offset = FACE - person.face
    rows, columns = person.alpha.shape
    assert abs(offset[1] - top) <= 1
    assert abs(offset[0] - left) <= 1
    alpha[int(offset[1]):int(offset[1]) + rows, int(offset[0]):int(offset[0]) + columns] = person.alpha
    kernel = np.ones((5, 5), np.uint8)
    assert alpha[~cv2.dilate(inside.astype(np.uint8), kernel).astype(bool)].max() == 0
    assert alpha[cv2.erode(inside.astype(np.uint8), kernel).astype(bool)].mean() > 0.99
    np.testing.assert_array_equal(person.image, portrait[int(offset[1]):, int(offset[0]):int(offset[0]) + columns])


def test_incomplete_heads_and_narrow_faces_are_refused():
    with pytest.raises(ValueError, match="head"):
        cut_out(draw_portrait(head=(200, 100))[0], FACE - [0, 90, 0, 90])
    portrait, _ = draw_portrait()
    assert cut_out(portrait, np.array([155.0, 120, 245, 280])).alpha.any()
    with pytest.raises(ValueError, match="90 pixels"):
        cut_out(portrait, np.array([155.5, 120, 245, 280]))


def test_scenes_too_narrow_or_too_low_for_one_person_are_refused():
    rng = np.random.default_rng(0)
    assert compose(np.zeros((64, 131, 3), np.uint8), [draw_person()], rng).image.any()
    for shape in ((200, 130, 3), (63, 200, 3)):
        with pytest.raises(ValueError, match="at least 131 pixels wide and 64 pixels high"):
            compose(np.zeros(shape, np.uint8), [draw_person()], rng)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_people_stand_side_by_side_at_the_lower_edge_with_faces_of_realistic_size(seed, count):
    scene = np.full((321, 481, 3), 200, np.uint8)
    composite = compose(scene, [draw_person()] * count, np.random.default_rng(seed))
    assert composite.image.shape == (320, 480, 3)
    widths = composite.faces[:, 2] - composite.faces[:, 0]
    assert widths.min() > FACE_WIDTHS[0] - 2
    assert widths.max() < FACE_WIDTHS[1] + 2
    assert (composite.faces[1:, 0] > composite.faces[:-1, 2]).all()
    assert (composite.image[-1] == 60).all(axis=1).any()
    for (x, y), box in zip(marks(composite.image), composite.faces, strict=True):
        assert (x, y) == pytest.approx(((box[0] + box[2]) / 2 - 0.5, (box[1] + box[3]) / 2 - 0.5), abs=2)


def test_the_surest_face_is_cut_out_and_a_wide_one_downscaled(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.data.composites.CUT_FACE_WIDTH", 120.0)
    portrait = cv2.resize(draw_portrait()[0], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    write_png(tmp_path / "a.png", portrait)
    faces = [Face(2 * FACE, np.zeros((5, 2)), 0.99), Face(FACE, np.zeros((5, 2)), 0.9)]  # sorted by their score
    person = cut_portrait(tmp_path / "a.png", lambda *_: faces)
    assert person.face[2] - person.face[0] == pytest.approx(120)
    x, y = np.rint((200.0 - FACE[:2]) * person.face_width / (FACE[2] - FACE[0]) + person.face[:2]).astype(int)
    np.testing.assert_allclose(person.image[y - 5:y + 5, x - 5:x + 5].reshape(-1, 3), [MARK] * 100, atol=3)


def test_files_without_a_face_and_files_that_are_no_image_are_told_apart(tmp_path):
    write_png(tmp_path / "a.png", draw_portrait()[0])
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no face is found in it"):
        cut_portrait(tmp_path / "a.png", lambda *_: [])
    with pytest.raises(UserError, match="cannot read the image"):
        cut_portrait(tmp_path / "b.png", lambda *_: [])
