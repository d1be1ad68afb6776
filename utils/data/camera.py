"""Steps that degrade test sets: the training degradation, and camera effects that it does not contain.

A step is a frozen dataclass, called with an image and returning one: float32 RGB [h, w, 3] in [0, 1]. Lengths are in
pixels of the step's input.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, get_args

import cv2
import numpy as np

from config import SCALE
from utils.data.blur_kernels import Kernel, apply_kernel, filter_image
from utils.data.degradations import Degradation, Mode, NoiseDraw, Quality, Seed, compress_jpeg, degrade, usm_sharpen
from utils.data.noise import Tone
from utils.errors import require
from utils.image.io import to_float
from utils.image.resizing import resize_to
from utils.plain_data import Range, from_plain

DISPLAY_GAMMA = 2.2  # between linear sensor values and stored ones
# bilinear demosaicing: kernels that interpolate the missing samples of a colour
SPREAD_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
SPREAD_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
MOTION_SAMPLES = 16  # per pixel of the path


@dataclass(frozen=True)
class TwoStage:
    """The training degradation, which downscales by 4."""

    degradation: Degradation
    noise: NoiseDraw

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Degrade and downscale."""
        return to_float(degrade(image, self.degradation, self.noise))


@dataclass(frozen=True)
class Sharpen:
    """The unsharp mask that training applies to scenes before degrading them."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Sharpen."""
        return usm_sharpen(image)


@dataclass(frozen=True)
class Blur:
    """A blur by a kernel of a type used in training."""

    kernel: Kernel

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Blur."""
        return apply_kernel(image, self.kernel)


@dataclass(frozen=True)
class MotionBlur:
    """A linear camera motion of `length` pixels; `angle` in radians from x towards y (downwards)."""

    length: Annotated[float, Range(0.1, 200)]
    angle: Annotated[float, Range(-math.pi, math.pi)]

    def weights(self) -> np.ndarray:
        """Return the kernel: the path, rasterised with bilinear weights into an odd square, with sum 1."""
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

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Blur along the path."""
        return filter_image(image, self.weights())


@dataclass(frozen=True)
class ColourFringe:
    """Lateral chromatic aberration: red and blue magnified about the middle, with a replicated border."""

    red: Annotated[float, Range(0.9, 1.1)]
    blue: Annotated[float, Range(0.9, 1.1)]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Magnify red and blue."""
        height, width = image.shape[:2]
        middle, result = np.array([width - 1, height - 1]) / 2, image.copy()
        for channel, factor in ((0, self.red), (2, self.blue)):
            to_source = np.column_stack([np.eye(2) / factor, middle * (1 - 1 / factor)])
            warped = cv2.warpAffine(np.ascontiguousarray(image[:, :, channel]), to_source, (width, height),
                                    flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
            result[:, :, channel] = np.clip(warped, 0, 1)
        return result


@dataclass(frozen=True)
class Shrink:
    """Downscale by 4; only `area` does not alias."""

    mode: Mode

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Downscale."""
        return resize_to(image, image.shape[0] // SCALE, image.shape[1] // SCALE, self.mode)


@dataclass(frozen=True)
class CameraNoise:
    """Sensor noise before demosaicing: every pixel measures one colour (Bayer RGGB), the others are interpolated.

    Noise of variance `shot` * x + `read`**2 is added in linear light (gamma 2.2, x in [0, 1]). After demosaicing it is
    signal-dependent, spatially correlated and coloured.
    """

    shot: Annotated[float, Range(0, 1)]
    read: Annotated[float, Range(0, 1)]
    seed: Seed

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Add noise and demosaic."""
        linear = np.clip(image, 0, 1) ** np.float32(DISPLAY_GAMMA)
        field = np.random.Generator(np.random.SFC64(self.seed)).standard_normal(image.shape[:2], dtype=np.float32)
        rows, columns = np.mgrid[:image.shape[0], :image.shape[1]] % 2
        colours, result = rows + columns, np.empty_like(linear)  # which channel a pixel measures
        for channel, spread in enumerate((SPREAD_RED_BLUE, SPREAD_GREEN, SPREAD_RED_BLUE)):
            light = linear[:, :, channel]
            measured = np.clip(light + np.sqrt(self.shot * light + self.read ** 2) * field, 0, 1)
            result[:, :, channel] = filter_image(measured * (colours == channel).astype(np.float32), spread)
        return np.clip(result, 0, 1) ** np.float32(1 / DISPLAY_GAMMA)


@dataclass(frozen=True)
class Jpeg:
    """JPEG (libjpeg, 4:2:0) whose block grid starts `top` and `left` pixels outside the image, as after a crop."""

    quality: Quality
    top: Annotated[int, Range(0, 15)] = 0
    left: Annotated[int, Range(0, 15)] = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Compress and decompress."""
        framed = cv2.copyMakeBorder(image, self.top, 0, self.left, 0, cv2.BORDER_REPLICATE)
        return to_float(compress_jpeg(framed, self.quality)[self.top:, self.left:])


Step = TwoStage | Sharpen | Blur | MotionBlur | ColourFringe | Tone | Shrink | CameraNoise | Jpeg
STEPS: dict[str, type] = {kind.__name__: kind for kind in get_args(Step)}


def steps_to_plain(steps: list[Step]) -> list[dict]:
    """Return steps as a list for JSON; the key `step` of each entry names its type."""
    return [{"step": type(step).__name__, **asdict(step)} for step in steps]


def steps_from_plain(data: Any, name: str) -> list[Step]:
    """Undo `steps_to_plain`; `name` is that of the list in messages. Exactly one step must downscale by 4."""
    require(isinstance(data, list), f"{name} must be a list of steps", repr(data))
    steps = []
    for index, entry in enumerate(data):
        kind = entry.get("step") if isinstance(entry, Mapping) else None
        require(isinstance(kind, str) and kind in STEPS, f"{name}[{index}] must name a step, one of {', '.join(STEPS)}",
                repr(kind))
        values = {key: value for key, value in entry.items() if key != "step"}
        steps.append(from_plain(STEPS[kind], values, f"{name}[{index}]"))
    downscaling = [type(step).__name__ for step in steps if isinstance(step, TwoStage | Shrink)]
    require(len(downscaling) == 1, f"exactly one step of {name} must be TwoStage or Shrink",
            ", ".join(downscaling) or "none")
    return steps
