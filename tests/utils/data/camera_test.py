"""Steps that degrade test photos: their values and statistics, and that JSON keeps them."""

import json
import re

import cv2
import numpy as np
import pytest

from tests.helpers.degradations import IMAGE
from utils.data.blur_kernels import GaussianKernel, SincKernel
from utils.data.camera import (
    STEPS,
    Blur,
    CameraNoise,
    ColourFringe,
    Jpeg,
    MotionBlur,
    Sharpen,
    Shrink,
    TwoStage,
    steps_from_plain,
    steps_to_plain,
)
from utils.data.degradations import (
    Degradation,
    NoiseDraw,
    StageDegradation,
    StageNoise,
)
from utils.data.noise import Tone
from utils.errors import UserError

TWO_STAGE = TwoStage(
    Degradation(StageDegradation(GaussianKernel("iso", 7, 1.0, 1.0), 0.7, "area", "gaussian", 60),
                StageDegradation(None, 1.1, "bicubic", "poisson", 80), SincKernel(7, 2.0), "bilinear", True),
    NoiseDraw(StageNoise(10.0, False), StageNoise(0.5, True), 5))
ALL_STEPS = [TWO_STAGE, Sharpen(), Blur(SincKernel(9, 1.0)), MotionBlur(7.5, 0.3), ColourFringe(1.01, 0.99),
             Tone(1.2, 0.9, 1.0, 1.1), CameraNoise(0.02, 0.01, 9), Jpeg(15, 3, 0)]


def moments(weights):
    """Mean of x, of y, of x squared, of y squared and of x times y, relative to the middle."""
    y, x = np.mgrid[:len(weights), :len(weights)] - len(weights) // 2
    return [(weights * values).sum() for values in (x, y, x * x, y * y, x * y)]


@pytest.mark.parametrize("length", [3.0, 10.0, 33.3])
@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
def test_motion_blur_has_the_moments_of_a_line(length, angle):
    """A line has length^2 / 12 along its direction; drawing it by bilinear weights adds up to 1/4 pixel^2."""
    weights = MotionBlur(length, angle).weights()
    assert weights.sum() == pytest.approx(1)
    x, y, xx, yy, xy = moments(weights)
    assert (x, y) == pytest.approx((0, 0), abs=1e-9)
    variance = length**2 / 12
    assert xx == pytest.approx(variance * np.cos(angle) ** 2, abs=0.3)
    assert yy == pytest.approx(variance * np.sin(angle) ** 2, abs=0.3)
    assert xy == pytest.approx(variance * np.sin(angle) * np.cos(angle), abs=0.3)


def test_green_stays_and_the_others_are_magnified_about_the_middle():
    """On slopes the values indicate the positions."""
    y, x = np.mgrid[:81, :101].astype(np.float32) / 100
    slope = np.stack([x, x, y], axis=2)
    result = ColourFringe(1.05, 0.96)(slope)
    np.testing.assert_array_equal(result[:, :, 1], x)
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(result[:, :, 0][inner], (0.5 + (x - 0.5) / 1.05)[inner], atol=2e-3)
    np.testing.assert_allclose(result[:, :, 2][inner], (0.4 + (y - 0.4) / 0.96)[inner], atol=2e-3)


def expose(level, shot, read, seed=0, side=400):
    """Return the picture of a gray card in linear light."""
    card = np.full((side, side, 3), level ** (1 / 2.2), np.float32)
    return CameraNoise(shot, read, seed)(card).astype(np.float64) ** 2.2


@pytest.mark.parametrize(("level", "shot", "read"), [(0.3, 0.01, 0.0), (0.3, 0.0, 0.02), (0.6, 0.004, 0.01)])
def test_sensor_noise_has_its_variance_where_a_colour_is_measured(level, shot, read):
    image = expose(level, shot, read)
    measured = {0: image[::2, ::2, 0], 1: image[1::2, ::2, 1], 2: image[1::2, 1::2, 2]}
    for values in measured.values():
        assert values.var() == pytest.approx(shot * level + read**2, rel=0.03)
        assert values.mean() == pytest.approx(level, abs=2e-3)


def test_jpeg_grid_lies_where_it_is_said_to():
    """With a hard quality only block means are left: jumps are largest at the borders of blocks."""
    image = cv2.GaussianBlur(np.random.default_rng(0).random((128, 128, 1)).astype(np.float32), (0, 0), 2)
    image = np.repeat((image[:, :, None] - 0.5) * 2 + 0.5, 3, axis=2)
    for top, left in ((0, 0), (3, 0), (0, 5), (7, 2)):
        result = Jpeg(8, top, left)(image)[:, :, 1]
        for axis, offset in ((0, top), (1, left)):
            jumps = np.abs(np.diff(result, axis=axis)).mean(axis=1 - axis)
            strongest = np.argmax([jumps[phase::8].mean() for phase in range(8)])
            assert (strongest + 1 + offset) % 8 == 0


def test_json_gives_back_exactly_the_same_steps():
    plain = json.loads(json.dumps(steps_to_plain(ALL_STEPS)))
    assert steps_from_plain(plain, "steps") == ALL_STEPS
    assert {entry["step"] for entry in plain} | {"Shrink"} == set(STEPS)
    assert steps_from_plain([{"step": "Shrink", "mode": "area"}], "steps") == [Shrink("area")]


@pytest.mark.parametrize("step", [*ALL_STEPS, Shrink("bicubic")])
def test_steps_keep_the_range_and_leave_their_input_alone(step):
    image = IMAGE.copy()
    result = step(image)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(step(IMAGE), result)
    assert result.dtype == np.float32
    assert result.min() > -0.2
    assert result.max() < 1.2
    quarter = isinstance(step, TwoStage | Shrink)
    assert result.shape == ((24, 28, 3) if quarter else IMAGE.shape)


@pytest.mark.parametrize(("data", "message"), [
    ({}, "steps .* list"), ([], "none"), ([{"step": "Shrink", "mode": "area"}] * 2, "Shrink, Shrink"),
    (["Sharpen"], r"steps\[0\]"), ([{"step": "Sharpen"}, {"step": "Zoom"}], r"steps\[1\].*'Zoom'"),
    ([{"step": "Jpeg", "quality": 10, "top": 16, "left": 0}], r"steps\[0\].top"),
    ([{"step": "Jpeg", "top": 1}], r"steps\[0\] lacks quality"),
    ([{"step": "MotionBlur", "length": 0, "angle": 0}], r"steps\[0\].length"),
    ([{"step": "Blur", "kernel": None}], r"steps\[0\]\.kernel")])
def test_fault_in_a_list_of_steps_is_named(data, message):
    with pytest.raises(UserError, match=message):
        steps_from_plain(data, "steps")


@pytest.mark.parametrize(("path", "value"), [
    ("degradation.first.kernel.sigma_x", "2"), ("degradation.first.kernel.sigma_y", 0.0),
    ("degradation.first.kernel.kind", "round"), ("degradation.first.kernel.size", 8),
    ("degradation.first.resize_factor", 0.0), ("degradation.first.resize_mode", "nearest"),
    ("degradation.second.noise_type", "salt"), ("degradation.second.jpeg_quality", 101),
    ("degradation.final_sinc.cutoff", float("nan")), ("degradation.final_resize_mode", "x"),
    ("degradation.jpeg_last", None), ("noise.seed", -1), ("noise.first.strength", -1.0), ("noise.second.gray", 2)])
def test_wrong_value_of_the_training_degradation_is_named(path, value):
    [entry] = steps_to_plain([TWO_STAGE])
    *parents, key = path.split(".")
    target = entry
    for parent in parents:
        target = target[parent]
    target[key] = value
    with pytest.raises(UserError, match=re.escape(f"steps[0].{path}")):
        steps_from_plain([entry], "steps")


def test_degradations_from_before_there_was_a_tone_are_read():
    [entry] = steps_to_plain([TWO_STAGE])
    del entry["degradation"]["tone"]
    assert steps_from_plain([entry], "steps") == [TWO_STAGE]
