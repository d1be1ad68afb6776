"""What the presets of test sets draw: inside the training ranges, or clearly outside."""

import numpy as np
import pytest

from config import DegradationConfig
from tests.helpers.degradations import IMAGE
from utils.data.camera import TwoStage, steps_from_plain, steps_to_plain
from utils.data.degradations import sample_degradation, sample_noise
from utils.data.presets import PRESETS


def draw(preset, count=200):
    return [PRESETS[preset].sample(np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_draw_makes_a_picture_of_a_quarter(preset):
    results = []
    for steps in draw(preset, 5):
        assert steps_from_plain(steps_to_plain(steps), preset) == steps
        image = IMAGE
        for step in steps:
            image = step(image)
        assert image.shape == (24, 28, 3)
        results.append(image)
    assert all((result != results[0]).any() for result in results[1:])


def test_iid_draws_what_training_draws():
    for seed, [step] in enumerate(draw("iid")):
        rng = np.random.default_rng(seed)
        degradation = sample_degradation(rng, DegradationConfig())
        assert step == TwoStage(degradation, sample_noise(rng, degradation, DegradationConfig()))


def test_strong_blur_differs_from_iid_in_the_first_blur_alone():
    settings = DegradationConfig()
    for [step] in draw("ood-blur"):
        kernel = step.degradation.first.kernel
        assert kernel.size > max(settings.first.kernel_sizes)
        assert min(kernel.sigma_x, kernel.sigma_y) >= 4 > settings.first.sigma_range[1]
        second = step.degradation.second.kernel
        assert second is None or second.size <= 21


def test_motion_blur_is_longer_than_the_widest_training_blur():
    lengths = [motion.length for motion, _ in draw("ood-motion")]
    assert 12 <= min(lengths) < 14
    assert 38 < max(lengths) <= 40


def test_jpegs_are_below_training_qualities_and_do_not_coincide():
    for steps in draw("ood-jpeg"):
        first, second = steps[-2:]
        assert 10 <= first.quality <= 25
        assert 10 <= second.quality <= 25
        assert DegradationConfig().second.jpeg_range[0] > 25
        assert (first.top, first.left) == (0, 0)
        assert 1 <= second.top <= 7
        assert 1 <= second.left <= 7


def test_sensors_of_the_noise_preset_are_noisier_than_those_of_the_camera_preset():
    noisy, camera = ([steps[-2].shot for steps in draw(preset)] for preset in ("ood-noise", "ood-camera"))
    assert np.median(noisy) > 2 * np.median(camera)
    assert min(noisy) >= 0.01
    assert max(noisy) <= 0.05


def test_tone_is_never_neutral():
    for tone, _ in draw("ood-tone"):
        assert abs(np.log(tone.gamma)) > 0.19
