"""Scores outside of the faces: what happens inside of them must not count."""

import math

import cv2
import numpy as np
import pytest
import skimage.data

from utils.evaluation import scores as evaluation_scores
from utils.evaluation.scores import RegionMeter, open_meter, outside, score_photo
from utils.image.io import write_png
from utils.metrics import lpips
from utils.metrics.fidelity import psnr_y, ssim
from utils.metrics.niqe import NiqeModel, niqe, yiq_luma

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
        return float(np.abs(left - right).mean())

    meter = RegionMeter(niqe=lambda picture: float(picture.mean()), lpips=distance)
    assert meter.metrics == ["psnr_y", "ssim", "niqe", "lpips"]
    values = meter.measure(image, truth, FACES)
    spoilt = image.copy()
    spoilt[INSIDE] = np.random.default_rng(0).integers(0, 256, (48, 24, 3))
    assert meter.measure(spoilt, truth, FACES) == values
    keep = outside(FACES, *truth.shape[:2])
    assert values["psnr_y"] == psnr_y(image, truth, keep=keep)
    assert values["ssim"] == ssim(image, truth, keep=keep)
    filled = image.copy()
    filled[INSIDE] = truth[INSIDE]
    assert values["niqe"] == filled.mean()
    np.testing.assert_array_equal(seen[0][0], (filled / np.float32(255)).astype(np.float32))
    np.testing.assert_array_equal(seen[0][1], (truth / np.float32(255)).astype(np.float32))
    spoilt[80, 100] = 255 - spoilt[80, 100]
    assert all(value != values[name] for name, value in meter.measure(spoilt, truth, FACES).items())


def test_without_faces_the_whole_photo_counts():
    image, truth = photos()
    assert RegionMeter().measure(image, truth, np.zeros((0, 4))) == {
        "psnr_y": psnr_y(image, truth), "ssim": ssim(image, truth)}


def test_values_that_do_not_exist_are_left_out():
    def too_flat(_):
        raise ValueError("flat")

    _, truth = photos()
    assert list(RegionMeter(niqe=too_flat, lpips=lambda *_: math.nan).measure(truth, truth, FACES)) == ["ssim"]


def test_missing_results_have_no_scores(tmp_path):
    image, truth = photos()
    for name, picture in (("truth/a", truth), ("blurred/a", image)):
        write_png(tmp_path / f"{name}.png", picture)
    rows, errors = score_photo(tmp_path / "truth" / "a.png", [
        (name, tmp_path / name / "a.png") for name in ("blurred", "missing")], FACES, RegionMeter())
    assert errors == []
    assert [(row["photo"], row["variant"]) for row in rows] == [("a", "blurred")]
    assert rows[0]["psnr_y"] == pytest.approx(RegionMeter().measure(image, truth, FACES)["psnr_y"])


def test_results_that_cannot_be_measured_are_named_and_the_others_scored(tmp_path):
    image, truth = photos()
    for name, picture in (("truth/a", truth), ("blurred/a", image), ("small/a", image[:50])):
        write_png(tmp_path / f"{name}.png", picture)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    files = [(name, tmp_path / name / "a.png") for name in ("broken", "small", "blurred")]
    rows, errors = score_photo(tmp_path / "truth" / "a.png", files, FACES, RegionMeter())
    assert [row["variant"] for row in rows] == ["blurred"]
    assert errors[0].startswith("cannot read the image")
    assert "small/a.png has no score: PSNR needs images of one size" in errors[1]
    rows, errors = score_photo(tmp_path / "truth" / "a.png", files, np.array([[5.0, 5, 120, 107]]), RegionMeter())
    assert rows == []
    [line] = errors
    assert line.endswith("a.png has no scores: its faces leave nothing of it")
    rows, [line] = score_photo(tmp_path / "broken" / "a.png", files, FACES, RegionMeter())
    assert rows == []
    assert line.startswith("cannot read the image")


def test_metrics_without_weights_are_left_out_and_say_how_to_get_them(tmp_path):
    meter, missing = open_meter(tmp_path)
    assert meter.metrics == ["psnr_y", "ssim", "niqe"]
    assert ["download_weights.py lpips" in line for line in missing] == [True]


def test_metrics_with_weights_are_the_projects_own(monkeypatch):
    model = NiqeModel(np.zeros(36), np.eye(36))
    monkeypatch.setattr(evaluation_scores, "choose_metrics", lambda *_, **__: (["psnr_y", "ssim", "niqe", "lpips"], {}))
    monkeypatch.setattr(evaluation_scores, "load_niqe", lambda _: model)
    monkeypatch.setattr(lpips, "load_lpips", lambda _: {})
    monkeypatch.setattr(lpips, "make_lpips_distance", lambda _: lambda left, right: float(np.abs(left - right).max()))
    meter, missing = open_meter(None)
    assert missing == []
    truth = skimage.data.astronaut()[:192, :192]
    values = meter.measure(cv2.GaussianBlur(truth, (0, 0), 1.0), truth, np.zeros((0, 4)))
    blurred = cv2.GaussianBlur(truth, (0, 0), 1.0)
    assert values["niqe"] == niqe(yiq_luma(blurred), model)
    assert values["lpips"] == pytest.approx(np.abs(blurred.astype(int) - truth).max() / 255, abs=1e-6)
