"""The two-stage degradation: what is drawn, what a task shares, the order of the steps; USM sharpening."""

import dataclasses

import numpy as np
import pytest

from config import DegradationConfig
from tests.helpers.degradations import IMAGE, REFERENCE, check_frequencies, check_uniform, thin
from utils.data.blur_kernels import GaussianKernel, SincKernel, apply_kernel
from utils.data.degradations import (
    Degradation,
    NoiseDraw,
    StageDegradation,
    StageNoise,
    compress_jpeg,
    degrade,
    sample_degradation,
    sample_noise,
    usm_sharpen,
)
from utils.data.noise import Tone, add_noise
from utils.image.io import quantize, to_float
from utils.image.resizing import resize_by, resize_to

SETTINGS = DegradationConfig()
DEGRADATION = Degradation(
    StageDegradation(GaussianKernel("aniso", 21, 2.0, 0.7, 0.5), 0.7, "bicubic", "gaussian", 60),
    StageDegradation(SincKernel(9, 1.5), 1.07, "area", "poisson", 80),
    final_sinc=SincKernel(13, 2.0), final_resize_mode="bilinear", jpeg_last=True)
NOISE = NoiseDraw(StageNoise(10.0, False), StageNoise(0.5, True), 5)


def draw(count, seed=0):
    rng = np.random.default_rng(seed)
    degradations = [sample_degradation(rng, SETTINGS) for _ in range(count)]
    return degradations, [sample_noise(rng, degradation, SETTINGS) for degradation in degradations]


@pytest.fixture(scope="module")
def drawn():
    return draw(4000)


def check_frequency(happens, probability):
    check_frequencies(map(bool, happens), {True: probability, False: 1 - probability})


def psnr(first, second):
    return -10 * np.log10(((first.astype(float) - second) ** 2).mean())


@pytest.mark.parametrize("jpeg_last", [True, False])
def test_steps_follow_one_another_as_published(jpeg_last):
    degradation = dataclasses.replace(DEGRADATION, jpeg_last=jpeg_last)
    rng = np.random.Generator(np.random.SFC64(NOISE.seed))
    first, second = degradation.first, degradation.second
    image = resize_by(apply_kernel(IMAGE, first.kernel), 0.7, "bicubic")
    image = to_float(compress_jpeg(add_noise(rng, image, "gaussian", 10.0, gray=False), 60))
    image = resize_to(apply_kernel(image, second.kernel), 25, 29, "area")  # of 24x28, times 1.07, rounded down
    image = add_noise(rng, image, "poisson", 0.5, gray=True)
    if jpeg_last:
        expected = compress_jpeg(apply_kernel(resize_to(image, 24, 28, "bilinear"), degradation.final_sinc), 80)
    else:
        image = resize_to(to_float(compress_jpeg(image, 80)), 24, 28, "bilinear")
        expected = quantize(apply_kernel(image, degradation.final_sinc))
    np.testing.assert_array_equal(degrade(IMAGE, degradation, NOISE), expected)


def test_equal_arguments_give_equal_bits_and_the_photo_is_left_alone():
    photo = IMAGE.copy()
    first = degrade(photo, DEGRADATION, NOISE)
    np.testing.assert_array_equal(photo, IMAGE)
    np.random.seed(3)  # the global state must not matter
    np.testing.assert_array_equal(degrade(IMAGE, DEGRADATION, NOISE), first)
    np.testing.assert_array_equal(degrade(np.pad(IMAGE, ((4, 4), (4, 4), (0, 0)))[4:-4, 4:-4], DEGRADATION, NOISE),
                                  first)


@pytest.mark.parametrize("shape", [(97, 112, 3), (96, 110, 3), (2, 4, 3)])
def test_sides_that_4_does_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match="divisible by 4"):
        degrade(np.zeros(shape, np.float32), DEGRADATION, NOISE)


@pytest.mark.parametrize(("quality", "expected"), REFERENCE["jpeg_psnr"].tolist())
def test_jpeg_loses_what_libjpeg_loses(quality, expected):
    """Measured with another binding of libjpeg; swapped channels or unsubsampled colour would differ by decibels."""
    assert psnr(compress_jpeg(IMAGE, int(quality)) / 255, IMAGE) == pytest.approx(expected, abs=0.05)


def test_choices_have_their_probabilities_and_ranges(drawn):
    degradations, noises = drawn
    sincs = [degradation.final_sinc for degradation in degradations]
    check_frequency((sinc is not None for sinc in sincs), 0.8)
    check_frequencies((sinc.size for sinc in sincs if sinc), dict.fromkeys(range(7, 22, 2), 1 / 8))
    check_uniform([sinc.cutoff for sinc in sincs if sinc], np.pi / 3, np.pi)
    check_frequency((degradation.jpeg_last for degradation in degradations), 0.5)
    check_frequency((degradation.second.kernel is None for degradation in degradations), 0.2)
    modes = dict.fromkeys(("area", "bilinear", "bicubic"), 1 / 3)
    check_frequencies((degradation.final_resize_mode for degradation in degradations), modes)
    for name, (up, down, keep), resizing, sigma, scale in (
            ("first", (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3)),
            ("second", (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))):
        stages = [getattr(degradation, name) for degradation in degradations]
        factors = np.array([stage.resize_factor for stage in stages])
        for happens, probability in ((factors > 1, up), (factors < 1, down), (factors == 1, keep)):
            check_frequency(happens, probability)
        check_uniform(factors[factors > 1], 1, resizing[1])
        check_uniform(factors[factors < 1], resizing[0], 1)
        check_frequencies((stage.resize_mode for stage in stages), modes)
        check_frequencies((stage.noise_type for stage in stages), {"gaussian": 0.5, "poisson": 0.5})
        check_frequency((getattr(noise, name).gray for noise in noises), 0.4)
        qualities = [stage.jpeg_quality for stage in stages]
        assert {type(quality) for quality in qualities} == {int}
        check_uniform(qualities, 30, 95)
        for kind, limits in (("gaussian", sigma), ("poisson", scale)):
            check_uniform([getattr(noise, name).strength for stage, noise in zip(stages, noises, strict=True)
                           if stage.noise_type == kind], *limits)


def draw_with_tone(count, prob):
    settings = dataclasses.replace(SETTINGS, tone_prob=prob, tone_gamma=0.5, tone_gain_range=(0.7, 1.2))
    rng = np.random.default_rng(0)
    return [sample_degradation(rng, settings) for _ in range(count)]


def test_tones_have_their_probability_and_ranges():
    tones = [degradation.tone for degradation in draw_with_tone(3000, 0.3)]
    check_frequency((tone is not None for tone in tones), 0.3)
    tones = [tone for tone in tones if tone]
    check_uniform([np.log(tone.gamma) for tone in tones], -0.5, 0.5)
    for channel in ("red", "green", "blue"):
        check_uniform([getattr(tone, channel) for tone in tones], 0.7, 1.2)


def test_without_tone_seeds_give_what_they_gave_before_there_was_any(drawn):
    assert not any(degradation.tone for degradation in drawn[0])
    first = draw_with_tone(1, 1.0)[0]
    assert first.tone
    assert dataclasses.replace(first, tone=None) == drawn[0][0]


def test_tone_comes_before_everything_else():
    tone = Tone(1.4, 0.8, 1.0, 1.1)
    toned = dataclasses.replace(DEGRADATION, tone=tone)
    np.testing.assert_array_equal(degrade(IMAGE, toned, NOISE), degrade(tone(IMAGE), DEGRADATION, NOISE))
    assert np.abs(degrade(IMAGE, toned, NOISE).astype(float) - degrade(IMAGE, DEGRADATION, NOISE)).mean() > 5


def test_sharpened_image_equals_the_original():
    result = usm_sharpen((REFERENCE["usm_img"] / 255).astype(np.float32))
    np.testing.assert_allclose(thin(result[::2, ::2], 4), REFERENCE["usm"], atol=1e-5)
    np.testing.assert_allclose(result[48:112, 48:112], REFERENCE["usm_crop"], atol=1e-5)  # one flip would be 5e-5
