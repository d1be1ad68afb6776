"""Steps by which test sets are degraded: the training degradation, and what cameras do that it does not contain.

A step is a frozen record with `apply(image) -> image`, a pure function: images are float32 RGB in [0, 1], [h, w, 3].
Lengths are in pixels of the image that the step is given.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from config import SCALE
from utils.data.blur_kernels import GaussianKernel, SincKernel, apply_kernel, filter_image
from utils.data.degradations import Degradation, NoiseDraw, compress_jpeg, degrade, usm_sharpen
from utils.data.tone import Tone
from utils.errors import UserError, require
from utils.files import read_bytes
from utils.image.io import to_float
from utils.image.resizing import RESIZE_MODES, resize_to
from utils.plain_data import from_plain, to_plain

DISPLAY_GAMMA = 2.2  # between linear light, in which sensors work, and stored values
# bilinear demosaicing: how the samples of one colour spread to its missing pixels
SPREAD_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
SPREAD_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
MOTION_SAMPLES = 16  # per pixel of the path


@dataclass(frozen=True)
class TwoStage:
    """The degradation of training, which shrinks to a quarter."""

    degradation: Degradation
    noise: NoiseDraw

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Degrade and shrink."""
        return to_float(degrade(image, self.degradation, self.noise))


@dataclass(frozen=True)
class Sharpen:
    """The unsharp mask that training puts before the degradation of scenes."""

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Sharpen."""
        return usm_sharpen(image)


@dataclass(frozen=True)
class Blur:
    """A blur by one of the kernels of training, of any strength."""

    kernel: GaussianKernel | SincKernel

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Blur."""
        return apply_kernel(image, self.kernel)


@dataclass(frozen=True)
class MotionBlur:
    """A camera that moved steadily by `length` pixels; `angle` in radians from x towards y (downwards)."""

    length: float
    angle: float

    def __post_init__(self):
        require(0 < self.length <= 200, "length must be positive and at most 200", self.length)
        require(math.isfinite(self.angle), "angle must be a finite number", self.angle)

    def weights(self) -> np.ndarray:
        """Give the kernel: the path drawn into an odd square by bilinear weights, with sum 1."""
        radius = math.ceil(self.length / 2) + 1
        count = math.ceil(self.length * MOTION_SAMPLES)
        along = ((np.arange(count) + 0.5) / count - 0.5) * self.length
        x, y = radius + along * math.cos(self.angle), radius + along * math.sin(self.angle)
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
        for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
            for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
                np.add.at(kernel, (row, column), row_weight * column_weight)
        return kernel / kernel.sum()

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Blur along the path."""
        return filter_image(image, self.weights())


@dataclass(frozen=True)
class ColourFringe:
    """A lens that magnifies red and blue differently from green, by these factors about the middle."""

    red: float
    blue: float

    def __post_init__(self):
        require(0.9 <= self.red <= 1.1 and 0.9 <= self.blue <= 1.1, "red and blue must be from 0.9 to 1.1",
                f"{self.red}, {self.blue}")

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Magnify the channels; the border is continued."""
        height, width = image.shape[:2]
        result = image.copy()
        for channel, factor in ((0, self.red), (2, self.blue)):
            middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
            to_source = np.array([[1 / factor, 0, middle_x * (1 - 1 / factor)],
                                  [0, 1 / factor, middle_y * (1 - 1 / factor)]])
            warped = cv2.warpAffine(np.ascontiguousarray(image[:, :, channel]), to_source, (width, height),
                                    flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
            result[:, :, channel] = np.clip(warped, 0, 1)
        return result


@dataclass(frozen=True)
class Shrink:
    """Resize to a quarter; only `area` does not alias."""

    mode: str

    def __post_init__(self):
        require(self.mode in RESIZE_MODES, f"mode is one of {', '.join(RESIZE_MODES)}", self.mode)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Resize."""
        return resize_to(image, image.shape[0] // SCALE, image.shape[1] // SCALE, self.mode)


@dataclass(frozen=True)
class CameraNoise:
    """A sensor with a Bayer mosaic (RGGB): every pixel measures one colour, the others are interpolated.

    Noise is added to the measurements in linear light (gamma 2.2), with variance `shot` * x + `read`**2. After
    interpolation it is signal-dependent, correlated between neighbours, and coloured.
    """

    shot: float
    read: float
    seed: int

    def __post_init__(self):
        require(0 <= self.shot <= 1 and 0 <= self.read <= 1, "shot and read must be from 0 to 1",
                f"{self.shot}, {self.read}")
        require(self.seed >= 0, "seed must be at least 0", self.seed)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Expose the sensor and interpolate."""
        linear = np.clip(image, 0, 1) ** np.float32(DISPLAY_GAMMA)
        field = np.random.Generator(np.random.SFC64(self.seed)).standard_normal(image.shape[:2], dtype=np.float32)
        result = np.empty_like(linear)
        for channel, spread in enumerate((SPREAD_RED_BLUE, SPREAD_GREEN, SPREAD_RED_BLUE)):
            light = linear[:, :, channel]
            measured = np.clip(light + np.sqrt(self.shot * light + self.read ** 2) * field, 0, 1)
            result[:, :, channel] = filter_image(measured * _bayer_mask(*field.shape, channel), spread)
        return np.clip(result, 0, 1) ** np.float32(1 / DISPLAY_GAMMA)


def _bayer_mask(height: int, width: int, channel: int) -> np.ndarray:
    """Give 1 where the sensor measures this channel, otherwise 0."""
    rows, columns = np.mgrid[:height, :width] % 2
    return (rows + columns == channel).astype(np.float32)


@dataclass(frozen=True)
class Jpeg:
    """JPEG (libjpeg, 4:2:0) whose 8x8 blocks begin `top` and `left` pixels outside the image, as after a crop."""

    quality: int
    top: int = 0
    left: int = 0

    def __post_init__(self):
        require(1 <= self.quality <= 100, "quality must be from 1 to 100", self.quality)
        require(0 <= self.top < 16 and 0 <= self.left < 16, "top and left must be from 0 to 15",
                f"{self.top}, {self.left}")

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Compress and read back."""
        framed = cv2.copyMakeBorder(image, self.top, 0, self.left, 0, cv2.BORDER_REPLICATE)
        return to_float(compress_jpeg(framed, self.quality)[self.top:, self.left:])


Step = TwoStage | Sharpen | Blur | MotionBlur | ColourFringe | Tone | Shrink | CameraNoise | Jpeg
STEPS: dict[str, type] = {kind.__name__: kind for kind in (TwoStage, Sharpen, Blur, MotionBlur, ColourFringe, Tone,
                                                           Shrink, CameraNoise, Jpeg)}


def steps_to_plain(steps: list[Step]) -> list[dict]:
    """Give steps as a list that JSON can hold; every entry says under `step` what it is."""
    return [{"step": type(step).__name__, **to_plain(step)} for step in steps]


def steps_from_plain(data: Any, name: str) -> list[Step]:
    """Undo `steps_to_plain`; `name` is what the list is called in messages.

    Raises:
        UserError: the list or a step in it is none, the key being named, or they do not shrink to a quarter.
    """
    require(isinstance(data, list), f"{name} must be a list of steps", repr(data))
    steps = [_step_from_plain(entry, f"{name}[{index}]") for index, entry in enumerate(data)]
    shrinking = [type(step).__name__ for step in steps if isinstance(step, TwoStage | Shrink)]
    require(len(shrinking) == 1, f"exactly one step of {name} must be TwoStage or Shrink",
            ", ".join(shrinking) or "none")
    return steps


def _step_from_plain(data: Any, name: str) -> Step:
    kind = data.get("step") if isinstance(data, Mapping) else None
    require(isinstance(kind, str) and kind in STEPS, f"{name} must name a step, one of {', '.join(STEPS)}", repr(kind))
    return from_plain(STEPS[kind], {key: value for key, value in data.items() if key != "step"}, name)


def read_steps(path: Path) -> dict[str, Any]:
    """Read a file that `scripts/synthesize_testset.py` wrote: what was applied to which photo, by stems.

    The steps of a photo are left as they are, for `steps_from_plain`.

    Raises:
        UserError: the file is missing or is none.
    """
    data = read_bytes(path)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}. Give a degradations.json of this tool.") from error
    photos = content.get("photos") if isinstance(content, dict) else None
    require(isinstance(photos, dict), f"{path} must be a degradations.json of this tool, with `photos`",
            type(content).__name__ if not isinstance(content, dict) else f"only {', '.join(content) or 'nothing'}")
    return content
