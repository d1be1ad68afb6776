"""The pixels of the side-by-side picture, and finding a face in its photo."""

import cv2
import numpy as np
import pytest

from utils.image.panels import LABEL_HEIGHT, MARGIN, PANEL, compose_comparison, compose_exact


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def columns(picture, count):
    """Divide a comparison into its versions, checking the white gaps between them."""
    assert picture.dtype == np.uint8
    assert picture.shape[1] == count * PANEL + (count - 1) * MARGIN
    for index in range(1, count):
        start = index * (PANEL + MARGIN) - MARGIN
        assert (picture[:, start:start + MARGIN] == 255).all()
    return [picture[:, index * (PANEL + MARGIN):][:, :PANEL] for index in range(count)]


def parts(column):
    """Divide a version into label, whole photo, face and detail."""
    detail = column[-PANEL:]
    face = column[-2 * PANEL - MARGIN:-PANEL - MARGIN]
    whole = column[LABEL_HEIGHT + MARGIN:-2 * PANEL - 2 * MARGIN]
    assert (column[-PANEL - MARGIN:-PANEL] == 255).all()
    return column[:LABEL_HEIGHT], whole, face, detail


def upscale(image):
    return cv2.resize(image, (PANEL, PANEL), interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (12, 20000), (5000, 300), (480, 480), (5, 700)])
@pytest.mark.parametrize("with_face", [False, True])
def test_every_shape_of_photo_is_composed(height, width, with_face):
    versions = {f"version {index}": photo(height, width, index) for index in range(2)}
    face = (height - 1, width - 1, 1, 1) if with_face else None
    side = min(height, width, max(64, min(240, min(height, width) // 3)))
    for column, image in zip(columns(compose_comparison(versions, face=face), 2), versions.values(), strict=True):
        label, whole, face_crop, _ = parts(column)
        assert label.min() < 100  # text is black
        assert 1 <= whole.shape[0] <= 1.5 * PANEL
        if (height, width) == (PANEL, PANEL):
            np.testing.assert_array_equal(whole, image)
        top, left = (height - side, width - side) if with_face else (height // 2 - side // 2, width // 2 - side // 2)
        np.testing.assert_array_equal(face_crop, upscale(image[top:top + side, left:left + side]))


def test_detail_panel_shows_the_most_detailed_part_beside_the_face():
    image = np.full((600, 600, 3), 128, np.uint8)
    image[20:180, 20:180] = photo(160, 160)  # the face, with the strongest detail
    image[350:550, 300:500] = 100 + photo(200, 200) // 8  # and a weaker one elsewhere
    _, _, face, detail = parts(compose_comparison({"a": image}, face=(20, 20, 160, 160)))
    np.testing.assert_array_equal(face, upscale(image[:200, :200]))
    np.testing.assert_allclose(detail.mean(), upscale(image[350:550, 300:500]).mean(), atol=0.5)
    assert detail.std() > 0.95 * image[350:550, 300:500].std()


def test_all_versions_show_the_same_places():
    first = photo(500, 400)
    versions = {"first": first, "brighter": first // 2 + 100, "flat": np.full_like(first, 9)}
    one, two, three = columns(compose_comparison(versions, face=(10, 10, 50, 50)), 3)
    for index in (2, 3):
        np.testing.assert_array_equal(parts(one)[index] // 2 + 100, parts(two)[index])
        assert (parts(three)[index] == 9).all()


def test_exact_versions_are_shown_pixel_for_pixel_row_by_row():
    versions = {f"version {index}": photo(50, 70, index) for index in range(5)}
    shown = compose_exact(versions, columns=3)
    assert shown.shape == (2 * (LABEL_HEIGHT + MARGIN + 50) + MARGIN, 3 * 70 + 2 * MARGIN, 3)
    for index, image in enumerate(versions.values()):
        top = (index // 3) * (LABEL_HEIGHT + 50 + 2 * MARGIN)
        left = (index % 3) * (70 + MARGIN)
        label = shown[top:top + LABEL_HEIGHT, left:left + 70]
        assert label.min() < 100
        below = top + LABEL_HEIGHT + MARGIN
        np.testing.assert_array_equal(shown[below:below + 50, left:left + 70], image)
    assert (shown[-50:, -70:] == 255).all()
