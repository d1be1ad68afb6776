"""What the presets of test sets draw: inside the training ranges, or clearly outside."""

import numpy as np

from config import DegradationConfig
from utils.data.camera import TwoStage
from utils.data.degradations import sample_degradation, sample_noise
from utils.data.presets import TESTSET_PRESETS


def draw(preset, count=200):
    return [TESTSET_PRESETS[preset].sample(np.random.default_rng(seed)) for seed in range(count)]


def test_iid_draws_what_training_draws():
    for seed, [step] in enumerate(draw("iid")):
        rng = np.random.default_rng(seed)
        degradation = sample_degradation(rng, DegradationConfig())
        assert step == TwoStage(degradation, sample_noise(rng, degradation, DegradationConfig()))


def test_presets_lie_outside_of_the_training_distribution_where_they_are_meant_to():
    settings = DegradationConfig()
    for [step] in draw("ood-blur"):
        kernel, second = step.degradation.first.kernel, step.degradation.second.kernel
        assert kernel.size > max(settings.first.kernel_sizes)
        assert min(kernel.sigma_x, kernel.sigma_y) >= 4 > settings.first.sigma_range[1]
        assert second is None or second.size <= 21
    assert all(12 <= motion.length <= 40 for motion, _ in draw("ood-motion"))
    for steps in draw("ood-jpeg"):
        first, second = steps[-2:]
        assert 10 <= min(first.quality, second.quality) <= max(first.quality, second.quality) <= 25
        assert settings.second.jpeg_range[0] > 25
        assert (first.top, first.left) == (0, 0)
        assert 1 <= min(second.top, second.left) <= max(second.top, second.left) <= 7
    assert all(0.01 <= steps[-2].shot <= 0.05 for steps in draw("ood-noise"))
    assert all(abs(np.log(tone.gamma)) > 0.19 for tone, _ in draw("ood-tone"))
