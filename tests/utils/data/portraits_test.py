"""Somebody cut out of a file, with landmarks that stay where they were in the face."""

import cv2
import numpy as np
import pytest

from tests.utils.data.composites_test import FACE, MARK, draw_portrait
from utils.data.portraits import cut_portrait
from utils.errors import UserError
from utils.face.detection import Face
from utils.image.io import write_png


def test_the_surest_face_is_cut_out_and_its_landmarks_go_along(tmp_path):
    portrait = cv2.resize(draw_portrait()[0], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    write_png(tmp_path / "a.png", portrait)
    faces = [Face(2 * FACE, np.full((5, 2), 400.0), 0.99), Face(FACE, np.zeros((5, 2)), 0.9)]  # sorted by their score
    found = cut_portrait(tmp_path / "a.png", lambda *_: faces, face_width=120.0)
    assert found.person.face[2] - found.person.face[0] == pytest.approx(120)
    x, y = np.rint(found.landmarks[0]).astype(int)
    np.testing.assert_allclose(found.person.image[y - 5:y + 5, x - 5:x + 5].reshape(-1, 3), [MARK] * 100, atol=3)


def test_files_without_a_face_and_files_that_are_no_image_are_told_apart(tmp_path):
    write_png(tmp_path / "a.png", draw_portrait()[0])
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no face is found in it"):
        cut_portrait(tmp_path / "a.png", lambda *_: [])
    with pytest.raises(UserError, match="cannot read the image"):
        cut_portrait(tmp_path / "b.png", lambda *_: [])
