"""The two-stage degradation of Real-ESRGAN (Wang et al., ICCVW 2021): where it is drawn, and where it is applied.

The images of one task share a `Degradation` (`sample_degradation`); every image has its own `NoiseDraw`
(`sample_noise`). `degrade` is a pure function of both. Images are float32 RGB [h, w, 3] in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np

from config import SCALE, DegradationConfig, DegradationStage
from utils.data.blur_kernels import Kernel, SincKernel, apply_kernel, filter_separably, sample_kernel
from utils.data.noise import NOISE_TYPES, Tone, add_noise
from utils.image.io import quantize, to_float
from utils.image.resizing import RESIZE_MODES, resize_by, resize_to
from utils.plain_data import Range

Mode = Annotated[str, tuple(RESIZE_MODES)]
Quality = Annotated[int, Range(1, 100)]  # of JPEG
Seed = Annotated[int, Range(0, math.inf)]
USM_SIZE = 51  # taps, for which OpenCV chooses a sigma of 8
USM_WEIGHT = 0.5
USM_THRESHOLD = 10 / 255


@dataclass(frozen=True)
class StageDegradation:
    """Blur, resize, noise type and JPEG of one stage.

    `resize_factor` is relative to the HR size in the first stage, to the LR size in the second.
    """

    kernel: Kernel | None
    resize_factor: Annotated[float, Range(0.01, 16)]
    resize_mode: Mode
    noise_type: Annotated[str, NOISE_TYPES]
    jpeg_quality: Quality


@dataclass(frozen=True)
class Degradation:
    """What the images of one task share.

    The last steps are (resize to LR, sinc, JPEG) if `jpeg_last`, otherwise (JPEG, resize to LR, sinc). `tone` comes
    first and is not part of the published degradation.
    """

    first: StageDegradation
    second: StageDegradation
    final_sinc: SincKernel | None
    final_resize_mode: Mode
    jpeg_last: bool
    tone: Tone | None = None


@dataclass(frozen=True)
class StageNoise:
    """`strength`: sigma in range 255, or the scale of Poisson noise. `gray`: the same noise in all channels."""

    strength: Annotated[float, Range(0, 255)]
    gray: bool


@dataclass(frozen=True)
class NoiseDraw:
    """What is drawn for each image: the noise of both stages, and the seed of its values."""

    first: StageNoise
    second: StageNoise
    seed: Seed


def sample_degradation(rng: np.random.Generator, settings: DegradationConfig) -> Degradation:
    """Draw what the images of one task share."""
    first, second = _sample_stage(rng, settings.first), _sample_stage(rng, settings.second)
    final_sinc = None
    if rng.random() < settings.final_sinc_prob:
        final_sinc = SincKernel(int(rng.choice(settings.second.kernel_sizes)), float(rng.uniform(np.pi / 3, np.pi)))
    final_resize_mode, jpeg_last = _sample_mode(rng), bool(rng.random() < settings.jpeg_last_prob)
    tone = None
    if settings.tone_prob > 0 and rng.random() < settings.tone_prob:  # 0: no draw, so that published seeds stay valid
        gamma = float(np.exp(rng.uniform(-settings.tone_gamma, settings.tone_gamma)))
        tone = Tone(gamma, *rng.uniform(*settings.tone_gain_range, 3).tolist())
    return Degradation(first, second, final_sinc, final_resize_mode, jpeg_last, tone)


def _sample_stage(rng: np.random.Generator, stage: DegradationStage) -> StageDegradation:
    kernel = sample_kernel(rng, stage)
    smallest, largest = stage.resize_range
    limits = {"up": (1, largest), "down": (smallest, 1), "keep": (1, 1)}[
        str(rng.choice(("up", "down", "keep"), p=stage.resize_probs))]
    return StageDegradation(
        kernel, resize_factor=float(rng.uniform(*limits)), resize_mode=_sample_mode(rng),
        noise_type="gaussian" if rng.random() < stage.gaussian_noise_prob else "poisson",
        jpeg_quality=round(rng.uniform(*stage.jpeg_range)))


def _sample_mode(rng: np.random.Generator) -> str:
    return str(rng.choice(tuple(RESIZE_MODES)))


def sample_noise(rng: np.random.Generator, degradation: Degradation, settings: DegradationConfig) -> NoiseDraw:
    """Draw the noise of one image of a task."""
    noises = []
    for drawn, stage in ((degradation.first, settings.first), (degradation.second, settings.second)):
        limits = stage.noise_sigma_range if drawn.noise_type == "gaussian" else stage.poisson_scale_range
        noises.append(StageNoise(float(rng.uniform(*limits)), bool(rng.random() < stage.gray_noise_prob)))
    return NoiseDraw(*noises, seed=int(rng.integers(2 ** 32)))


def degrade(image: np.ndarray, degradation: Degradation, noise: NoiseDraw) -> np.ndarray:
    """Degrade an image, float32 RGB [h, w, 3] in [0, 1], and downscale it by 4: uint8 RGB [h/4, w/4, 3].

    Raises a ValueError if a side is not divisible by 4.
    """
    if image.shape[0] % SCALE or image.shape[1] % SCALE:
        raise ValueError(f"the sides of an image to degrade must be divisible by {SCALE}. Received: {image.shape}.")
    height, width = image.shape[0] // SCALE, image.shape[1] // SCALE
    rng = np.random.Generator(np.random.SFC64(noise.seed))  # the fastest
    first, second = degradation.first, degradation.second

    if degradation.tone:
        image = degradation.tone(image)
    image = apply_kernel(image, first.kernel)
    image = resize_by(image, first.resize_factor, first.resize_mode)
    image = add_noise(rng, image, first.noise_type, noise.first.strength, gray=noise.first.gray)
    image = to_float(compress_jpeg(image, first.jpeg_quality))

    image = apply_kernel(image, second.kernel)
    image = resize_to(image, max(1, int(height * second.resize_factor)), max(1, int(width * second.resize_factor)),
                      second.resize_mode)
    image = add_noise(rng, image, second.noise_type, noise.second.strength, gray=noise.second.gray)

    if not degradation.jpeg_last:
        image = to_float(compress_jpeg(image, second.jpeg_quality))
    image = resize_to(image, height, width, degradation.final_resize_mode)
    image = apply_kernel(image, degradation.final_sinc)
    return compress_jpeg(image, second.jpeg_quality) if degradation.jpeg_last else quantize(image)


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image, clipped to [0, 1], after JPEG compression (libjpeg, 4:2:0): uint8 RGB [h, w, 3]."""
    samples = cv2.cvtColor(quantize(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", samples, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def usm_sharpen(image: np.ndarray) -> np.ndarray:
    """Apply Real-ESRGAN's unsharp mask (USMSharp) to a float32 image [h, w, 3] in [0, 1].

    Where an image differs from its Gaussian blur (51 taps, sigma 8) by more than 10/255, half the difference is added,
    through a mask that is blurred in the same way.
    """
    profile = cv2.getGaussianKernel(USM_SIZE, 0)[:, 0]
    blurred = filter_separably(image, profile)
    _, mask = cv2.threshold(cv2.absdiff(image, blurred), USM_THRESHOLD, 1, cv2.THRESH_BINARY)
    mask = filter_separably(mask, profile)
    sharpened = np.clip(cv2.addWeighted(image, 1 + USM_WEIGHT, blurred, -USM_WEIGHT, 0), 0, 1)
    return (sharpened - image) * mask + image
