"""Named degradations of test sets: where they are drawn, in and out of the training distribution."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from config import DegradationConfig
from utils.data.blur_kernels import GaussianKernel
from utils.data.camera import Blur, CameraNoise, ColourFringe, Jpeg, MotionBlur, Shrink, Step, TwoStage
from utils.data.degradations import sample_degradation, sample_noise
from utils.data.noise import Tone

TRAINING = DegradationConfig()
STRONG_BLUR = replace(TRAINING, first=replace(
    TRAINING.first, kernel_sizes=(29, 33, 37), sinc_prob=0.0, sigma_range=(4.0, 6.0)))


@dataclass(frozen=True)
class Preset:
    """`sample` draws the steps for one photo, one of which downscales by 4."""

    description: str
    sample: Callable[[np.random.Generator], list[Step]]


def two_stage(rng: np.random.Generator, settings: DegradationConfig = TRAINING) -> TwoStage:
    """Draw a two-stage degradation."""
    degradation = sample_degradation(rng, settings)
    return TwoStage(degradation, sample_noise(rng, degradation, settings))


def _defocus(rng: np.random.Generator) -> Blur:
    sigma = float(rng.uniform(0.5, 2.0))
    return Blur(GaussianKernel("iso", 21, sigma, sigma))


def _motion(rng: np.random.Generator, low: float, high: float) -> MotionBlur:
    return MotionBlur(float(rng.uniform(low, high)), float(rng.uniform(0, np.pi)))


def _sensor(rng: np.random.Generator, low: float, high: float) -> CameraNoise:
    """Draw shot noise, log-uniformly, and a read noise in proportion."""
    shot = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return CameraNoise(shot, read=shot * float(rng.uniform(0.2, 1)), seed=int(rng.integers(2 ** 32)))


def _jpeg(rng: np.random.Generator, low: int, high: int, *, shifted: bool = False) -> Jpeg:
    top, left = rng.integers(1, 8, 2).tolist() if shifted else (0, 0)
    return Jpeg(int(rng.integers(low, high + 1)), top, left)


def _camera(rng: np.random.Generator) -> list[Step]:
    fringe = ColourFringe(*(1 + rng.choice((-1, 1), 2) * rng.uniform(0.002, 0.006, 2)).tolist())
    return [fringe, _motion(rng, 4, 14), _defocus(rng), Shrink("area"), _sensor(rng, 0.002, 0.03), _jpeg(rng, 50, 90)]


def _tone(rng: np.random.Generator) -> list[Step]:
    gamma = float(np.exp(rng.choice((-1, 1)) * rng.uniform(0.2, 0.5)))
    return [Tone(gamma, *rng.uniform(0.75, 1.1, 3).tolist()), two_stage(rng)]


TESTSET_PRESETS: dict[str, Preset] = {
    "iid": Preset("the degradation of training: two stages of blur, resizing, noise and JPEG", lambda rng: [
        two_stage(rng)]),
    "ood-blur": Preset("as iid, but the first blur has sigma 4 to 6 (training: at most 3)", lambda rng: [
        two_stage(rng, STRONG_BLUR)]),
    "ood-motion": Preset("motion blur over 12 to 40 pixels of the photo, in any direction; then as iid", lambda rng: [
        _motion(rng, 12, 40), two_stage(rng)]),
    "ood-noise": Preset("slight blur, downscaling, then sensor noise: shot and read noise in linear light before "
                        "demosaicing, so that it is coloured and correlated; JPEG of quality 80 to 95", lambda rng: [
        _defocus(rng), Shrink("area"), _sensor(rng, 0.01, 0.05), _jpeg(rng, 80, 95)]),
    "ood-jpeg": Preset("slight blur, downscaling, then two JPEGs of quality 10 to 25 with different block grids "
                       "(training: 30 to 95)", lambda rng: [
        _defocus(rng), Shrink("area"), _jpeg(rng, 10, 25), _jpeg(rng, 10, 25, shifted=True)]),
    "ood-camera": Preset("chromatic aberration, camera motion (4 to 14 pixels), defocus, downscaling, weaker sensor "
                         "noise than in ood-noise, JPEG of quality 50 to 90", _camera),
    "ood-tone": Preset("wrong exposure and colour cast, then as iid. The ground truth keeps its colours, so metrics "
                       "count the cast as an error", _tone),
}
