"""Samples: aligned, placed where their position maps say, varied within their ranges, functions of seed and number."""

from collections import Counter
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest

from config import FaceVariationConfig, RestorerTrainingConfig
from tests.helpers.restorer_workplace import BOX, LANDMARKS, write_portraits
from utils.data import face_samples
from utils.data.face_samples import (
    Portrait,
    draw_face_sample,
    draw_training_sample,
    draw_validation_samples,
    face_batches,
    list_portraits,
)
from utils.errors import UserError
from utils.face.detection import Face
from utils.face.positions import position_maps
from utils.image.io import quantize, write_png

PATCH = 24
STILL = FaceVariationConfig(tilt=0.0, alignment_rotation=0.0, alignment_scale=0.0, alignment_shift=0.0, gamma=0.0,
                            gain=0.0, saturation_range=(1.0, 1.0), gray_prob=0.0, max_upscale=8.0)
DOT_SIZE = 256  # pixels: side of the picture with dots


def configure(variation=STILL, *, width=None, clean=True, **data):
    """A configuration whose samples are only shrunk, unless told otherwise."""
    config = RestorerTrainingConfig()
    if width:
        variation = replace(variation, face_width_range=(width, width))
    if clean:
        data |= {"clean_prob": 1.0, "jpeg_prob": 0.0, "mild_prob": 0.0}
    return replace(config, variation=variation, data=replace(config.data, **data))


@pytest.fixture
def dots(tmp_path):
    """A black portrait with a bright dot at each landmark."""
    scale, picture = DOT_SIZE / 64, np.zeros((DOT_SIZE, DOT_SIZE, 3), np.float32)
    rows, columns = np.mgrid[:DOT_SIZE, :DOT_SIZE]
    landmarks = (LANDMARKS + 0.5) * scale - 0.5
    for x, y in landmarks:
        picture += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)[:, :, None]
    write_png(tmp_path / "dots.png", quantize(np.clip(picture, 0, 1)))
    return Portrait(tmp_path / "dots.png", Face(BOX * scale, landmarks, 1.0))


def draw(portrait, config, seed, patch=PATCH):
    return draw_face_sample(portrait, config, patch, np.random.default_rng(seed))


def face_width(sample):
    """Return how wide the face box, 28 of 64 pixels of the aligned crop, is according to the map of the scale."""
    return 28 / 64 * 2 / np.exp(sample.positions[0, 0, 7]) * 25


@pytest.mark.parametrize("seed", range(4))
def test_low_quality_is_the_target_shrunk(dots, seed):
    sample = draw(dots, configure(FaceVariationConfig(), width=20.0), seed)
    shrunk = cv2.resize(sample.target, (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    assert np.abs(sample.lq - 255 * shrunk).max() <= 1
    assert sample.target.shape == (4 * PATCH, 4 * PATCH, 3)
    assert sample.positions.shape == (PATCH, PATCH, 8)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tilt", [0.0, 20.0])
def test_position_maps_are_highest_where_the_landmarks_are(dots, seed, tilt):
    """The maps' Gaussians lie around the dots: their centres of mass agree to a fifth of a pixel."""
    sample = draw(dots, configure(replace(STILL, tilt=tilt), width=14.0), seed, patch=32)
    rows, columns = np.mgrid[:32, :32]
    light = sample.lq.mean(axis=2)
    for number in range(5):
        weights = sample.positions[:, :, number].astype(float) ** 8  # narrow enough for one dot
        assert weights.max() > 0.5
        for axis in (rows, columns):
            place = (weights * axis).sum() / weights.sum()
            near = light * (weights > 0.02)
            assert (near * axis).sum() / near.sum() == pytest.approx(place, abs=0.35)


def test_errors_of_the_landmarks_move_the_maps_and_not_the_picture(dots):
    exact, moved = (draw(dots, configure(replace(STILL, alignment_shift=shift), width=14.0), 5, patch=32)
                    for shift in (0.0, 0.05))
    np.testing.assert_array_equal(exact.target, moved.target)
    assert np.abs(exact.positions - moved.positions).max() > 0.02


def test_sizes_are_even_in_their_logarithm_and_within_their_range(dots):
    widths = [face_width(draw(dots, configure(), seed)) for seed in range(80)]
    assert min(widths) > 17.9
    assert max(widths) < 80.1
    assert np.median(widths) == pytest.approx(np.sqrt(18 * 80), rel=0.2)


def test_a_portrait_is_hardly_upscaled(dots):
    """The face is 112 pixels wide: 28 in low quality."""
    widths = [face_width(draw(dots, configure(replace(STILL, max_upscale=1.25), width=80.0), seed))
              for seed in range(3)]
    np.testing.assert_allclose(widths, 35, rtol=1e-3)


def test_colours_vary(dots):
    config = configure(FaceVariationConfig(), width=20.0)
    means = [draw(dots, config, seed).target.mean(axis=(0, 1)) for seed in range(9)]
    assert np.std([mean[0] / mean[2] for mean in means]) > 0.01


def test_the_shares_of_degradations_are_those_of_the_configuration(dots, monkeypatch):
    kinds = []
    shrink, jpegs = face_samples._shrink, face_samples._compress_twice
    config = configure(clean=False, width=20.0, clean_prob=0.2, jpeg_prob=0.3, mild_prob=0.25)
    monkeypatch.setattr(face_samples, "sample_degradation", lambda rng, settings: kinds.append(
        "mild" if settings is config.mild_degradation else "full"))
    monkeypatch.setattr(face_samples, "sample_noise", lambda *_: None)
    monkeypatch.setattr(face_samples, "degrade", lambda image, *_: shrink(image))
    monkeypatch.setattr(face_samples, "_compress_twice", lambda *args: kinds.append("jpeg") or jpegs(*args))
    for seed in range(120):
        draw(dots, config, seed)
    counts = Counter(kinds)
    assert counts["jpeg"] / 120 == pytest.approx(0.3, abs=0.12)
    assert counts["mild"] / 120 == pytest.approx(0.25, abs=0.12)
    assert counts["full"] / 120 == pytest.approx(0.25, abs=0.12)


@pytest.fixture
def portraits(tmp_path):
    names = [f"p_{number:03d}.png" for number in range(1, 7)]
    return tmp_path / "photos", write_portraits(tmp_path / "photos", names)


def test_people_are_held_out_by_the_number_in_their_names(portraits):
    data = RestorerTrainingConfig().data
    training = [portrait.path.name for portrait in list_portraits(*portraits, exclude=data.held_out)]
    validation = [portrait.path.name for portrait in list_portraits(*portraits, match=data.validation)]
    assert training == ["p_002.png", "p_003.png", "p_004.png", "p_005.png"]
    assert validation == ["p_001.png"]
    np.testing.assert_array_equal(list_portraits(*portraits)[0].face.landmarks, LANDMARKS)


def test_photos_without_a_face_are_left_out_and_none_is_an_error(portraits):
    write_png(portraits[0] / "other.png", np.zeros((8, 8, 3), np.uint8))
    assert len(list_portraits(*portraits)) == 6
    with pytest.raises(UserError, match=r"data\.held_out"):
        list_portraits(*portraits, exclude="p_")


def test_an_epoch_has_every_portrait_once_and_samples_follow_from_their_number(portraits, monkeypatch):
    sample = partial(draw_training_sample, list_portraits(*portraits), configure(patch_size=PATCH))
    again = [sample(7).lq for _ in range(2)]
    np.testing.assert_array_equal(*again)
    drawn = []
    monkeypatch.setattr(face_samples, "draw_face_sample", lambda portrait, *_: drawn.append(portrait.path.name))
    for number in range(12):
        sample(number)
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == sorted(set(drawn))
    assert drawn[:6] != drawn[6:]


def test_batches_go_on_where_they_are_asked_to(portraits):
    place = list_portraits(*portraits), configure(patch_size=PATCH)
    batches = face_batches(*place, 2)
    batch = next(batches)
    batches.close()
    samples = [draw_training_sample(*place, number) for number in range(8, 12)]
    for part, expected in zip(batch, zip(*samples, strict=True), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_validation_samples_are_the_same_every_time(portraits):
    config = configure()
    config = replace(config, run=replace(config.run, validation_faces=3, validation_patch_size=PATCH))
    first, second = (draw_validation_samples(list_portraits(*portraits), config) for _ in range(2))
    assert len(first) == 3
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left.lq, right.lq)


def test_maps_of_an_upright_aligned_crop():
    """By hand: the first landmark, and pixels of 1/128 of half the crop."""
    maps = position_maps(np.array([[1.0, 0, 0], [0, 1, 0]]), 190, 190, 20, 30)
    x, y = LANDMARKS[0] * 8
    expected = np.exp(-((192 - x) ** 2 + (191 - y) ** 2) / 256**2 / (2 * 0.12**2))
    assert maps[1, 2, 0] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(maps[1, 2, 5:], [192 / 256 - 1, 191 / 256 - 1, np.log(25 / 256)], rtol=1e-5)
