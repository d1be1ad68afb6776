"""Noise statistics, against thousands of draws of Real-ESRGAN's own noise on the same image."""

import numpy as np
import pytest

from tests.helpers.degradations import REFERENCE
from utils.data import noise as noise_module
from utils.data.noise import Tone, add_noise, gaussian_noise, poisson_noise

IMAGE = (REFERENCE["noise_img"] / 255).astype(np.float32)
GAUSSIAN_SIGMA, POISSON_SCALE = 20.0, 2.0  # of the reference
DRAWS = 1000


def generator(seed=0):
    return np.random.Generator(np.random.SFC64(seed))


def draw(kind, *, gray):
    rng = generator()
    make, strength = (gaussian_noise, GAUSSIAN_SIGMA) if kind == "gauss" else (poisson_noise, POISSON_SCALE)
    fields = [make(rng, IMAGE, strength, gray=gray) for _ in range(DRAWS)]
    return np.broadcast_to(np.stack(fields), (DRAWS, *IMAGE.shape))


def draw_clipped(kind):
    rng, full = generator(), {"gauss": "gaussian", "poisson": "poisson"}[kind]
    strength = GAUSSIAN_SIGMA if kind == "gauss" else POISSON_SCALE
    return np.stack([add_noise(rng, IMAGE, full, strength, gray=False) - IMAGE for _ in range(DRAWS)])


def check_statistics(fields, name):
    def expected(statistic):
        return REFERENCE[f"noise_{name}_{statistic}"]

    samples = fields.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(samples.std(axis=0), expected("std"), rtol=0.01)
    np.testing.assert_allclose(samples.mean(axis=0), expected("mean"), atol=0.1 / 255)
    np.testing.assert_allclose(np.corrcoef(samples, rowvar=False), expected("corr"), atol=0.02)
    neighbours = np.corrcoef(fields[:, :, :-1].ravel(), fields[:, :, 1:].ravel())[0, 1]
    assert neighbours == pytest.approx(expected("lag1"), abs=0.02)
    ratios = fields[:, 2::4, 2::4].var(axis=0) / expected("var_map_sub4")
    assert ratios.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(ratios, 1, atol=0.2)  # each is known to 4 %


@pytest.mark.parametrize("kind", ["gauss", "poisson"])
def test_noise_has_the_statistics_of_the_original(kind):
    for gray in (False, True):
        check_statistics(draw(kind, gray=gray), f"{kind}_{'gray' if gray else 'colour'}")
    check_statistics(draw_clipped(kind), f"{kind}_colour_clipped")


def test_poisson_noise_counts_the_levels_of_the_image_or_its_luma(monkeypatch):
    """The reference image has 143 levels, its luma 147: both make 256 photons."""
    asked = []
    monkeypatch.setattr(noise_module, "_poisson_table",
                        lambda photons: asked.append(photons) or np.zeros(256 << noise_module.POISSON_BITS))
    for gray in (False, True):
        poisson_noise(generator(), IMAGE, 1.0, gray=gray)
    for levels in (1, 2, 3, 4, 5, 128, 129, 256):
        column = (np.arange(256) % levels / 255).astype(np.float32)
        poisson_noise(generator(), np.broadcast_to(column[:, None, None], (256, 2, 3)), 1.0, gray=False)
    assert asked == [*REFERENCE["poisson_vals"][[1, 3]], 1, 2, 4, 4, 8, 128, 256, 256]


def test_gaussian_noise_is_normal_far_out():
    fields = np.abs(gaussian_noise(generator(), np.zeros((600, 600, 3)), 255.0, gray=False))
    for limit, share in ((1, 0.31731), (2, 0.04550), (3, 0.0026998)):
        assert (fields > limit).mean() == pytest.approx(share, rel=0.06)


def test_tone_is_gain_then_power():
    image = np.float32([[[0.5, 0.5, 0.9], [0.0, 1.0, 0.25]]])
    expected = np.float32([[[0.25, 0.16, 1.0], [0.0, 0.64, 0.25]]])
    np.testing.assert_allclose(Tone(2.0, 1.0, 0.8, 2.0)(image), expected, atol=1e-6)
