"""LPIPS, FID and KID as the tool uses them; the figures of the networks are tested beside them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

import utils.metrics.network_metrics as module
from model.lpips import lpips_params_from_torch
from tests.reference_weights import reference_alexnet_state
from utils.errors import UserError
from utils.image.io import read_image, write_png
from utils.metrics.fid import FeatureExtractor, frechet_distance, kernel_distance
from utils.metrics.lpips import make_lpips_distance
from utils.metrics.network_metrics import SetMeter, open_lpips

FEATURES = 2048
HEADS = np.load(Path(__file__).parents[2] / "data" / "lpips.npz")  # published; the backbone is drawn


@pytest.fixture
def pictures(tmp_path):
    """Write ten random pictures and give their files."""
    rng, files = np.random.default_rng(0), [tmp_path / "images" / f"{index}.png" for index in range(10)]
    for file in files:
        write_png(file, rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return files


@pytest.fixture
def batches(monkeypatch):
    """Take mean colours for features; gives the numbers of images that were asked for."""
    counts = []

    def run(images):
        counts.append(len(images))
        features = np.zeros((len(images), FEATURES), np.float32)
        features[:, :3] = [image.mean(axis=(0, 1)) for image in images]
        return features

    monkeypatch.setattr(module, "load_inception", lambda _: {})
    monkeypatch.setattr(module, "make_feature_extractor", lambda _: FeatureExtractor(run, "weights"))
    return counts


def colours(files):
    features = np.zeros((len(files), FEATURES), np.float32)
    features[:, :3] = [read_image(file).pixels.mean(axis=(0, 1)) for file in files]
    return features


def test_sets_are_compared_with_the_reference_and_its_features_are_kept(monkeypatch, pictures, batches, tmp_path):
    few = 4  # a root of 2048x2048 takes seconds
    monkeypatch.setattr(module, "frechet_distance", lambda left, right: frechet_distance(left[:, :few], right[:, :few]))
    advanced = []
    meter = SetMeter(pictures[:6], tmp_path / "cache", seed=3, advance=advanced.append)
    found = meter.measure(pictures[5:], ["fid", "kid"], advance=advanced.append)
    left, right = colours(pictures[5:]), colours(pictures[:6])
    assert found["fid"].value == pytest.approx(frechet_distance(left[:, :few], right[:, :few]), rel=1e-6)
    assert found["fid"].deviation is None
    assert found["kid"][:2] == pytest.approx(kernel_distance(left, right, seed=3), rel=1e-5)
    assert found["kid"].value != pytest.approx(kernel_distance(left, right, seed=4)[0], rel=1e-5)
    assert (batches, advanced) == ([6, 5], [6, 5])
    again = SetMeter(pictures[:6], tmp_path / "cache", seed=3)
    assert again.measure(pictures[5:], ["kid"]) == {"kid": found["kid"]}
    assert batches == [6, 5, 5]


def test_sets_that_cannot_be_measured_have_a_reason(monkeypatch, pictures, batches, tmp_path):
    meter = SetMeter(pictures[:6], tmp_path / "cache")
    for files, received in (([], "0"), (pictures[:1], "1")):
        assert meter.measure(files, ["fid"]) == {
            "fid": (None, None, f"it needs at least 2 images that can be read. Received: {received}.")}
    found = meter.measure([pictures[7], tmp_path / "gone.png"], ["fid", "kid"])
    assert [value.value for value in found.values()] == [None, None]
    assert "gone.png" in found["kid"].reason

    def refuse(*_):
        raise UserError("no root.")

    monkeypatch.setattr(module, "frechet_distance", refuse)
    found = meter.measure(pictures[6:], ["fid", "kid"])
    assert found["fid"] == (None, None, "no root.")
    assert found["kid"].value == pytest.approx(kernel_distance(colours(pictures[6:]), colours(pictures[:6]))[0])


def test_lpips_is_refused_below_the_size_its_network_needs(monkeypatch):
    monkeypatch.setattr(module, "load_lpips", lambda _: {})
    monkeypatch.setattr(module, "make_lpips_distance", lambda _: lambda left, right: float(left.shape[0]))
    measure = open_lpips()
    assert measure(*np.zeros((2, 31, 40, 3), np.float32)) == 31
    with pytest.raises(ValueError, match=r"LPIPS needs images of at least 31x31 pixels\. Received: 40x30\."):
        measure(*np.zeros((2, 30, 40, 3), np.float32))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "cat"])
def test_more_noise_and_more_blur_look_less_alike_on_photographs(name):
    heads = {f"lin{index}.model.1.weight": HEADS[f"lin{index}"].reshape(1, -1, 1, 1) for index in range(5)}
    distance = make_lpips_distance(lpips_params_from_torch(reference_alexnet_state(), heads))
    photo = getattr(skimage.data, name)()[100:228, 100:260].astype(np.float32) / 255
    noise = np.random.default_rng(0).standard_normal(photo.shape, np.float32)
    for spoil in (lambda sigma: np.clip(photo + sigma / 255 * noise, 0, 1),
                  lambda sigma: cv2.GaussianBlur(photo, (0, 0), sigma / 4)):
        values = [distance(spoil(sigma), photo) for sigma in (2, 4, 8, 16, 32)]
        assert values[0] > 0
        assert np.all(np.diff(values) > 0)
    assert distance(photo, photo) == 0
    assert np.isfinite(distance(np.full_like(photo, 0.5), photo))
