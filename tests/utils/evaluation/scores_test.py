"""Scores outside of the faces: what happens inside of them must not count."""

import math

import cv2
import numpy as np
import skimage.data

from utils.evaluation.results import measure, outside, score_photo
from utils.image.io import write_png
from utils.metrics.fidelity import psnr_y, ssim

FACES = np.array([[20.0, 30, 39.5, 69.9]])
INSIDE = slice(26, 74), slice(18, 42)  # the box 20..39, 30..69 and a tenth of its size around, in whole pixels


def photos():
    truth = skimage.data.astronaut()[:112, :128]
    return cv2.GaussianBlur(truth, (0, 0), 1.5), truth


def test_a_box_and_a_tenth_of_it_around_are_left_out():
    left_out = ~outside(FACES, 112, 128)
    rows, columns = np.flatnonzero(left_out.any(axis=1)), np.flatnonzero(left_out.any(axis=0))
    # 30 - 3.99 = 26.01 and 69.9 + 3.99 = 73.89; 20 - 1.95 = 18.05 and 39.5 + 1.95 = 41.45
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (26, 73, 18, 41)
    assert left_out.sum() == 48 * 24
    assert outside(np.array([[-50.0, 0, -10, 9]]), 20, 20).all()
    assert not outside(np.array([[-5.0, -5, 3, 3], [10, 10, 40, 40]]), 20, 20)[[0, 15], [0, 15]].any()


def test_nothing_inside_of_the_faces_counts():
    image, truth = photos()
    seen = []

    def distance(left, right):
        seen.append((left, right))
        return float(np.abs(left.astype(float) - right).mean())

    functions = {"niqe": lambda picture: float(picture.mean()), "lpips": distance}
    values = measure(image, truth, FACES, functions)
    assert list(values) == ["psnr_y", "ssim", "niqe", "lpips"]
    spoilt = image.copy()
    spoilt[INSIDE] = np.random.default_rng(0).integers(0, 256, (48, 24, 3))
    assert measure(spoilt, truth, FACES, functions) == values
    keep = outside(FACES, *truth.shape[:2])
    assert values["psnr_y"] == psnr_y(image, truth, keep=keep)
    assert values["ssim"] == ssim(image, truth, keep=keep)
    filled = image.copy()
    filled[INSIDE] = truth[INSIDE]
    assert values["niqe"] == filled.mean()
    np.testing.assert_array_equal(seen[0], (filled, truth))
    spoilt[80, 100] = 255 - spoilt[80, 100]
    assert all(value != values[name] for name, value in measure(spoilt, truth, FACES, functions).items())


def test_without_faces_the_whole_photo_counts():
    image, truth = photos()
    assert measure(image, truth, np.zeros((0, 4)), {}) == {
        "psnr_y": psnr_y(image, truth), "ssim": ssim(image, truth)}


def test_values_that_do_not_exist_are_left_out():
    def too_flat(_):
        raise ValueError("flat")

    _, truth = photos()
    assert list(measure(truth, truth, FACES, {"niqe": too_flat, "lpips": lambda *_: math.nan})) == ["ssim"]


def test_results_that_cannot_be_measured_are_named_and_the_others_scored(tmp_path):
    image, truth = photos()
    for name, picture in (("truth/a", truth), ("blurred/a", image), ("small/a", image[:50])):
        write_png(tmp_path / f"{name}.png", picture)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    files = {name: tmp_path / name / "a.png" for name in ("broken", "small", "missing", "blurred")}
    [score], errors = score_photo(tmp_path / "truth" / "a.png", files, FACES, {})
    assert score == {"photo": "a", "variant": "blurred", **measure(image, truth, FACES, {})}
    assert ["broken/a.png" in errors[0], "small/a.png" in errors[1]] == [True, True]
    for name, faces in (("truth", np.array([[5.0, 5, 120, 107]])), ("broken", FACES)):
        scores, [line] = score_photo(tmp_path / name / "a.png", files, faces, {})
        assert scores == []
        assert f"{name}/a.png" in line
