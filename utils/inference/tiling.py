"""Run a large photo through a network in overlapping tiles and blend them.

The generator's receptive field is several hundred pixels, so tiles agree only up to their overlap. A tile is least
reliable near its border, where zero padding replaces the missing photo: the outer quarter of each overlap is not used,
and the middle half fades linearly from one tile to the next.
"""

from collections.abc import Callable

import numpy as np

from config import SCALE, UpscalingConfig

UPSCALING = UpscalingConfig()
# Measured on the 23-block generator in float32 (see scripts/benchmark.py): memory beyond the process's own grows by
# this much per low-quality pixel of a tile, and the process with TensorFlow and the weights takes this much by itself.
BYTES_PER_PIXEL = 13_000
BYTES_OF_PROCESS = 1_700_000_000
STRIP = 64  # rows quantised at once: that takes several copies of them
BYTES_PER_RESULT_SAMPLE = 4  # at most 2 for the result and as much again for the copy that is being encoded


def choose_tile_size(height: int, width: int, *, tile_size: int | None, memory_gib: float) -> int:
    """Return the tile side, in low-quality pixels: `tile_size`, or automatic for None; 0 means the whole photo at once.

    It never depends on the memory that happens to be free, so that results do not depend on the machine.
    """
    if tile_size is None:
        result = height * width * SCALE * SCALE * 3 * BYTES_PER_RESULT_SAMPLE
        pixels = max(0.0, memory_gib * 2**30 - BYTES_OF_PROCESS - result) / BYTES_PER_PIXEL
        if height * width <= pixels:
            return 0
        tile_size = max(UPSCALING.smallest_tile, int(pixels**0.5) // 16 * 16)
    return 0 if tile_size >= max(height, width) else tile_size


def tile_starts(length: int, tile_size: int, overlap: int) -> list[int]:
    """Spread the fewest tiles evenly over a side so that neighbours share at least `overlap` < `tile_size` pixels."""
    if length <= tile_size:
        return [0]
    count = -(-(length - overlap) // (tile_size - overlap))
    return [round(index * (length - tile_size) / (count - 1)) for index in range(count)]


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


def upscale(forward: Callable[[np.ndarray], np.ndarray], image: np.ndarray, *, tile_size: int = 0, overlap: int = 0,
            quantize: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
            on_tile: Callable[[], None] = lambda: None) -> np.ndarray:
    """Upscale a photo [h, w, 3] float32 four times, whole or in tiles: [4h, 4w, 3] in the type `quantize` returns.

    Float sums are kept for one row of tiles only; finished rows are quantised at once, so a large photo needs little
    more memory than its result.

    Args:
        forward: [1, h, w, 3] -> [1, 4h, 4w, 3], float32.
        image: the photo.
        tile_size: side of a tile in low-quality pixels; 0 for the whole photo.
        overlap: of neighbouring tiles, in low-quality pixels.
        quantize: float32 rows [n, 4w, 3] -> rows in the type of the result.
        on_tile: called after each tile.
    """
    height, width = image.shape[:2]
    size = tile_size or max(height, width)
    rows = blending_windows(height, size, overlap if tile_size else 0)
    columns = blending_windows(width, size, overlap if tile_size else 0)
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


def count_tiles(height: int, width: int, tile_size: int, overlap: int) -> int:
    """Return how many tiles `upscale` runs."""
    if not tile_size:
        return 1
    return len(tile_starts(height, tile_size, overlap)) * len(tile_starts(width, tile_size, overlap))
