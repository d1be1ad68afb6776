"""Run a large photo through a network in overlapping tiles and blend them.

The generator's receptive field is several hundred pixels, so tiles agree only up to their overlap. A tile is least
reliable near its border, where zero padding replaces the missing photo: the outer quarter of each overlap is not used,
and the middle half fades linearly from one tile to the next.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from config import SCALE, GeneratorConfig, UpscalingConfig

# Measured on the 23-block generator in float32 (see scripts/benchmark.py): memory beyond the process's own grows by
# this much per low-quality pixel of a tile, and the process with TensorFlow and the weights takes this much by itself.
BYTES_PER_PIXEL = 13_000
BYTES_OF_PROCESS = 1_700_000_000
STRIP = 64  # rows quantised at once: that takes several copies of them
ENCODING_COPIES = 3  # of the result while it is encoded: itself, with its channels in another order, and as a file
CONVOLUTION_EFFICIENCY = 0.8  # rate of the convolutions over that of a matrix product


@dataclass(frozen=True)
class Tiling:
    """Tiles that cover a photo, in low-quality pixels: the photo's sides, a tile's, and the overlap of neighbours."""

    height: int
    width: int
    tile_height: int
    tile_width: int
    overlap: int

    @property
    def num_tiles(self) -> int:
        """How many tiles `upscale` runs."""
        return (_count_tiles(self.height, self.tile_height, self.overlap)
                * _count_tiles(self.width, self.tile_width, self.overlap))

    @property
    def extra_work(self) -> float:
        """Return what is computed twice or more because tiles overlap, as a share of the photo."""
        return self.num_tiles * self.tile_height * self.tile_width / (self.height * self.width) - 1

    def memory_gib(self, bit_depth: int) -> float:
        """Return an estimate of the resident memory of a process that upscales by these tiles to PNG, in GiB."""
        pixels, result = self.height * self.width, self.height * self.width * 3 * SCALE**2 * bit_depth // 8
        bands = 2 * self.tile_height * self.width * 3 * SCALE**2 * 4 * (self.tile_height < self.height)
        upscaling = pixels * 3 * 4 + result + bands + self.tile_height * self.tile_width * BYTES_PER_PIXEL
        return (BYTES_OF_PROCESS + max(upscaling, ENCODING_COPIES * result)) / 2**30


def choose_tiling(height: int, width: int, config: UpscalingConfig, *, bit_depth: int = 8) -> Tiling:
    """Return the tiles of a photo: of the side that is given, or those of least work within the memory.

    Where no tiles keep to the memory they are of those that take least; `Tiling.memory_gib` says how much.
    """
    def tiling(tile_height: int, tile_width: int) -> Tiling:
        return Tiling(height, width, min(tile_height, height), min(tile_width, width), config.tile_overlap)

    if config.tile_size is not None:
        side = config.tile_size or max(height, width)
        return tiling(side, side)
    choices = [tiling(*sides) for sides in itertools.product(_tile_sides(height, config), _tile_sides(width, config))]
    needed = [choice.memory_gib(bit_depth) for choice in choices]
    limit = max(config.memory_gib, min(needed))
    affordable = [choice for choice, memory in zip(choices, needed, strict=True) if memory <= limit]
    return min(affordable, key=lambda choice: (choice.extra_work, choice.num_tiles))


def _tile_sides(length: int, config: UpscalingConfig) -> list[int]:
    """Return the sides of 1, 2, 3 ... equal tiles that cover a length, from the whole of it down to the smallest."""
    overlap, most = config.tile_overlap, (length - config.tile_overlap) // (config.smallest_tile - config.tile_overlap)
    return [-(-(length + (count - 1) * overlap) // count) for count in range(1, max(1, most) + 1)]


def multiply_adds_per_pixel(generator: GeneratorConfig) -> int:
    """Count the multiplications of the generator's convolutions per low-quality pixel of a photo."""
    features, growth = generator.num_features, generator.growth
    dense_block = growth * (4 * features + 6 * growth) + (features + 4 * growth) * features
    before = 3 * features + 3 * generator.num_blocks * dense_block + features**2
    return 9 * (before + 4 * features**2 + 16 * (2 * features**2 + 3 * features))  # then at 2 and 4 times the size


def estimate_seconds(num_pixels: float) -> float:
    """Estimate how long this CPU takes to upscale low-quality pixels, from how fast it multiplies two matrices."""
    matrix = np.ones((1536, 1536), np.float32)
    matrix @ matrix  # the first product starts the threads
    started = time.perf_counter()
    matrix @ matrix
    rate = matrix.shape[0]**3 / (time.perf_counter() - started)
    return num_pixels * multiply_adds_per_pixel(GeneratorConfig()) / (CONVOLUTION_EFFICIENCY * rate)


def tile_starts(length: int, tile_size: int, overlap: int) -> list[int]:
    """Spread the fewest tiles evenly over a side so that neighbours share at least `overlap` < `tile_size` pixels."""
    count = _count_tiles(length, tile_size, overlap)
    return [round(index * (length - tile_size) / max(1, count - 1)) for index in range(count)]


def _count_tiles(length: int, tile_size: int, overlap: int) -> int:
    return 1 if length <= tile_size else -(-(length - overlap) // (tile_size - overlap))


def blending_windows(length: int, tile_size: int, overlap: int) -> list[tuple[int, np.ndarray]]:
    """Return each tile's start on one side and its blending weights per high-quality pixel; they add up to one."""
    starts = tile_starts(length, tile_size, overlap)
    size = min(tile_size, length)
    windows = [np.ones(size * SCALE, np.float32) for _ in starts]
    for left, right, start, following in zip(windows, windows[1:], starts, starts[1:], strict=False):
        shared = (start + size - following) * SCALE
        ramp = _ramp(shared)
        left[len(left) - shared:] *= 1 - ramp
        right[:shared] *= ramp
    total = np.zeros(length * SCALE, np.float32)  # where three tiles overlap, the ramps do not sum to one
    for start, window in zip(starts, windows, strict=True):
        total[start * SCALE:(start + size) * SCALE] += window
    return [(start, window / total[start * SCALE:(start + size) * SCALE])
            for start, window in zip(starts, windows, strict=True)]


def _ramp(length: int) -> np.ndarray:
    """Rise from 0 to 1 over the middle half of `length` samples."""
    position = (np.arange(length) + 0.5) / max(length, 1)
    return np.clip(2 * position - 0.5, 0, 1).astype(np.float32)


def upscale(forward: Callable[[np.ndarray], np.ndarray], image: np.ndarray, tiling: Tiling, *,
            quantize: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
            on_tile: Callable[[], None] = lambda: None) -> np.ndarray:
    """Upscale a photo [h, w, 3] float32 four times by its tiles: [4h, 4w, 3] in the type `quantize` returns.

    Float sums are kept for one row of tiles only; finished rows are quantised at once, so a large photo needs little
    more memory than its result.

    Args:
        forward: [1, h, w, 3] -> [1, 4h, 4w, 3], float32.
        image: the photo.
        tiling: its tiles.
        quantize: float32 rows [n, 4w, 3] -> rows in the type of the result.
        on_tile: called after each tile.
    """
    height, width = image.shape[:2]
    rows = blending_windows(height, tiling.tile_height, tiling.overlap)
    columns = blending_windows(width, tiling.tile_width, tiling.overlap)
    ends = [top for top, _ in rows[1:]] + [height]
    result, carried = None, np.zeros((0, width * SCALE, 3), np.float32)
    for (top, row_weights), end in zip(rows, ends, strict=True):
        band = np.zeros((len(row_weights), width * SCALE, 3), np.float32)
        band[:len(carried)] = carried
        for left, column_weights in columns:
            bottom, right = top + len(row_weights) // SCALE, left + len(column_weights) // SCALE
            tile = forward(image[None, top:bottom, left:right])[0]
            band[:, left * SCALE:right * SCALE] += tile * row_weights[:, None, None] * column_weights[None, :, None]
            on_tile()
        num_finished = (end - top) * SCALE
        for start in range(0, num_finished, STRIP):
            strip = quantize(band[start:min(start + STRIP, num_finished)])
            if result is None:  # only now its type is known
                result = np.empty((height * SCALE, *strip.shape[1:]), strip.dtype)
            result[top * SCALE + start:top * SCALE + start + len(strip)] = strip
        carried = band[num_finished:].copy()  # the band itself is not needed any more
    return result
