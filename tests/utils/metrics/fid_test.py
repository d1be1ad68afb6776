"""FID against pytorch-fid (tests/data/inception.npz), closed forms and brute force; KID against brute force."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

import utils.metrics.fid as module
from model.inception import NUM_FEATURES, inception_params_from_torch
from tests.helpers.reference_weights import draw, reference_inception_state
from tests.helpers.tracing import untraced
from utils.errors import UserError
from utils.metrics.fid import (
    SetMeter,
    cached_features,
    extract_features,
    frechet_distance,
    kernel_distance,
    make_feature_extractor,
)


def reference_crops():
    """Return the uint8 images of the reference arrays: crops of the astronaut; others, blurred and noisy."""
    photo, random = skimage.data.astronaut(), np.random.RandomState(77)

    def crop(height, width):
        top, left = (int(random.randint(0, 512 - length)) for length in (height, width))
        return photo[top:top + height, left:left + width]

    sharp, spoilt = [], []
    for index in range(12):
        height, width = (int(length) for length in random.randint(64, 201, 2))
        sharp.append(crop(height, width))
        size = 3 + 2 * (index % 2)
        blurred = np.rint(cv2.blur(crop(height, width).astype(np.float64), (size, size),
                                   borderType=cv2.BORDER_REPLICATE))
        noise = draw(f"fid/{index}", blurred.shape, 1.0).astype(np.float64) * (4 + index)
        spoilt.append(np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8))
    return sharp, spoilt


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[2] / "data" / "inception.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def features():
    with untraced():
        extract = make_feature_extractor(inception_params_from_torch(reference_inception_state()))
        return [extract(crops) for crops in reference_crops()]


def test_features_are_those_of_pytorch_fid(features, golden):
    np.testing.assert_allclose(features[0][:8, ::4], golden["features_a_sub4"], atol=1e-5)
    np.testing.assert_allclose(np.concatenate(features)[:, ::32], golden["features_sub32"], atol=1e-5)


def test_fid_is_that_of_pytorch_fid_although_the_covariances_are_singular(features, golden):
    distance = frechet_distance(*features)
    assert distance == pytest.approx(golden["fid"], rel=1e-4)
    assert distance == pytest.approx(golden["fid_exact"], rel=1e-4)


def test_the_network_is_traced_once_for_all_sizes_and_numbers(monkeypatch):
    traced = []
    monkeypatch.setattr(module, "pool3", lambda _, images: traced.append(images) or images[:, 0, 0])
    extract = make_feature_extractor({})
    for count, height, width in ((1, 20, 30), (3, 299, 299), (2, 400, 17)):
        colours = np.random.default_rng(count).random((count, 1, 1, 3), np.float32)
        images = np.broadcast_to(colours, (count, height, width, 3))
        np.testing.assert_allclose(extract(images), colours[:, 0, 0], atol=1e-6)
    assert len(traced) == 1


def exact_distance(features_a, features_b):
    """The Fréchet distance without a matrix root: the trace is the sum of singular values of A B^T."""
    centred = [(values - values.mean(axis=0)) / np.sqrt(len(values) - 1) for values in (features_a, features_b)]
    difference = features_a.mean(axis=0) - features_b.mean(axis=0)
    common = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return difference @ difference + sum((values**2).sum() for values in centred) - 2 * common


@pytest.mark.parametrize("counts", [(50, 40), (9, 7), (5, 6)])  # of 8 features: few make singular covariances
def test_distance_of_turned_gaussians_equals_the_form_without_a_root_either_way_round(counts):
    rng = np.random.default_rng(0)
    features_a, features_b = (rng.normal(size=(count, 8)) @ rng.normal(size=(8, 8)) for count in counts)
    expected = exact_distance(features_a, features_b)
    assert frechet_distance(features_a, features_b) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(features_b, features_a) == pytest.approx(expected, rel=1e-7)


def test_distance_of_a_set_from_itself_is_zero_and_not_below(features):
    for values in (features[0], features[0][:, ::256]):  # fewer and more images than features
        assert 0 <= frechet_distance(values, values) < 1e-6
        assert 0 <= frechet_distance(values, values[::-1]) < 1e-6


def brute_force_kernel_distance(features_a, features_b):
    def kernel(left, right):
        return (sum(x * y for x, y in zip(left, right, strict=True)) / len(left) + 1) ** 3

    def within(values):
        pairs = [kernel(values[i], values[j]) for i in range(len(values)) for j in range(len(values)) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(left, right) for left in features_a for right in features_b]
    return within(features_a) + within(features_b) - 2 * sum(across) / len(across)


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 4)), rng.normal(size=(6, 4)) + 0.5


def test_kid_of_whole_sets_equals_brute_force_either_way_round(samples):
    expected = brute_force_kernel_distance(*samples)
    assert kernel_distance(*samples) == (pytest.approx(expected), None)
    assert kernel_distance(*samples[::-1]) == (pytest.approx(expected), None)


def test_kid_of_subsets_has_the_mean_and_deviation_of_their_kids(samples, monkeypatch):
    features_a, features_b = samples
    mean, deviation = kernel_distance(features_a, features_b, subset_size=4, num_subsets=3, seed=5)
    drawn = []
    monkeypatch.setattr(module, "_squared_mmd", lambda *subsets: drawn.append(subsets) or 0.0)
    kernel_distance(features_a, features_b, subset_size=4, num_subsets=3, seed=5)
    values = [brute_force_kernel_distance(*subsets) for subsets in drawn]
    assert [len(np.unique(subset, axis=0)) for subsets in drawn for subset in subsets] == [4] * 6
    assert len(set(values)) == 3
    assert (mean, deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))


@pytest.fixture
def counting():
    """Return an extractor of features that are the mean colour, repeated; it counts the batches."""
    def extract(images):
        extract.batches.append(len(images))
        return np.stack([np.resize(image.mean(axis=(0, 1)), NUM_FEATURES) for image in images])

    extract.batches = []
    return extract


@pytest.fixture
def colourful(tmp_path):
    """Seven images of different sizes and colours."""
    (tmp_path / "images").mkdir()
    files = [tmp_path / "images" / f"{index}.png" for index in range(7)]
    for index, file in enumerate(files):
        cv2.imwrite(str(file), np.full((5 + index % 3, 6, 3), (30 * index, 20, 200 - 10 * index), np.uint8))
    return files


def expected_features(files):
    indices = np.array([int(file.stem) for file in files])
    colours = np.stack([200 - 10 * indices, np.full(len(indices), 20), 30 * indices], axis=1) / 255
    return np.stack([np.resize(colour, NUM_FEATURES) for colour in colours])


def test_files_are_read_in_batches_and_their_order_kept(colourful, counting, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    found = extract_features(colourful, counting)
    np.testing.assert_allclose(found, expected_features(colourful), atol=1e-6)
    assert counting.batches == [3, 3, 1]


def test_features_are_computed_once_whatever_the_names_and_the_order(colourful, counting, tmp_path):
    first = cached_features(colourful, counting, tmp_path / "cache")
    moved = [file.rename(tmp_path / f"moved {file.name}") for file in colourful]
    again = cached_features(moved, counting, tmp_path / "cache")
    reordered = cached_features([moved[index] for index in (3, 1, 6, 0, 5, 2, 4)], counting, tmp_path / "cache")
    np.testing.assert_allclose(first, expected_features(colourful), atol=1e-6)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(reordered, first[[3, 1, 6, 0, 5, 2, 4]])
    assert counting.batches == [7]
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_another_image_set_is_computed_anew(colourful, counting, tmp_path):
    cache = tmp_path / "cache"
    for files in (colourful, colourful[:6], [*colourful, colourful[0]]):
        np.testing.assert_allclose(cached_features(files, counting, cache), expected_features(files), atol=1e-6)
    assert counting.batches == [7, 6, 8]
    cv2.imwrite(str(colourful[2]), np.full((9, 9, 3), 77, np.uint8))
    found = cached_features(colourful, counting, cache)
    np.testing.assert_allclose(found[2], 77 / 255, atol=1e-6)
    assert len(os.listdir(cache)) == 4


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def save_pickle(path, ran):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (ran,)

    np.savez(path, features=np.array([Hostile()] * 7, dtype=object))


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"no archive"), flip_byte,
    lambda path: path.write_bytes(path.read_bytes()[:-100]),
    lambda path: np.savez(path, features=np.zeros((6, NUM_FEATURES), np.float32)),
    lambda path: save_pickle(path, path.parent.parent / "ran")],
    ids=["empty", "no archive", "flipped bit", "cut off", "other shape", "pickle"])
def test_a_damaged_cache_is_computed_anew(colourful, counting, tmp_path, damage):
    cached_features(colourful, counting, tmp_path / "cache")
    [path] = (tmp_path / "cache").iterdir()
    damage(path)
    for _ in range(2):
        found = cached_features(colourful, counting, tmp_path / "cache")
        np.testing.assert_allclose(found, expected_features(colourful), atol=1e-6)
    assert counting.batches == [7, 7]
    assert not (tmp_path / "ran").exists()


def test_a_cache_that_cannot_be_written_is_refused_before_the_work(colourful, counting, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write in .*cache"):
        cached_features(colourful, counting, tmp_path / "file" / "cache")
    assert counting.batches == []


@pytest.fixture
def meter(monkeypatch, colourful, counting, tmp_path):
    """FID of four features: a root of 2048x2048 takes seconds."""
    monkeypatch.setattr(module, "load_params", lambda *_, **__: {})
    monkeypatch.setattr(module, "make_feature_extractor", lambda _: counting)
    monkeypatch.setattr(module, "frechet_distance", lambda left, right: frechet_distance(left[:, :4], right[:, :4]))
    return SetMeter(colourful[:5], tmp_path / "cache", seed=3)


def test_sets_are_compared_with_the_reference(meter, colourful):
    found = meter.measure(colourful[3:], ["fid", "kid"])
    left, right = expected_features(colourful[3:]), expected_features(colourful[:5])
    distance = pytest.approx(frechet_distance(left[:, :4], right[:, :4]), rel=1e-5)
    assert found["fid"] == {"mean": distance, "images": 4}
    mean, deviation = kernel_distance(left, right, seed=3)
    assert found["kid"] == pytest.approx({"mean": mean, "deviation": deviation, "images": 4}, rel=1e-5)
    assert mean != pytest.approx(kernel_distance(left, right, seed=4)[0], rel=1e-5)


def test_sets_that_cannot_be_measured_have_a_reason(meter, colourful, tmp_path):
    assert meter.measure(colourful[:1], ["fid"])["fid"]["mean"] is None
    found = meter.measure([colourful[6], tmp_path / "gone.png"], ["fid", "kid"])
    assert [(distance["mean"], distance["images"]) for distance in found.values()] == [(None, 0), (None, 0)]
    assert "gone.png" in found["kid"]["reason"]
