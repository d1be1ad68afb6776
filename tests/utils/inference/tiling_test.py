"""Tiling against running the whole photo at once, with forwards whose result is known."""

import numpy as np
import pytest

from config import SCALE
from utils.image.io import quantize
from utils.inference.tiling import (
    BYTES_OF_PROCESS,
    BYTES_PER_PIXEL,
    STRIP,
    UPSCALING,
    blending_windows,
    choose_tile_size,
    count_tiles,
    tile_starts,
    upscale,
)

TILINGS = [(length, tile, overlap)
           for length in (*range(1, 41), 64, 100, 333)
           for tile in (1, 2, 3, 5, 8, 16, 32, 200)
           for overlap in sorted({0, 1, 2, tile // 3, tile // 2, 2 * tile // 3, tile - 1}) if overlap < tile]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def repeat_pixels(batch):
    """An upscaler that looks at one pixel alone."""
    return batch.repeat(4, axis=1).repeat(4, axis=2)


def blur_and_repeat(batch):
    """A 3x3 box blur with zero padding, then exact upscaling: its receptive field is 3 pixels."""
    padded = np.pad(batch.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = batch.shape[1:3]
    total = sum(padded[:, y:y + height, x:x + width] for y in range(3) for x in range(3))
    return repeat_pixels((total / 9).astype(np.float32))


def test_tiles_cover_the_side_with_the_fewest_that_overlap_enough():
    for length, tile, overlap in TILINGS:
        starts = tile_starts(length, tile, overlap)
        assert starts[0] == 0
        assert starts[-1] + min(tile, length) == length
        if length > tile:
            steps = np.diff(starts)
            assert (steps >= 1).all()
            assert (tile - steps >= overlap).all()
            assert steps.max() - steps.min() <= 2  # spread evenly, up to rounding
            assert (len(starts) - 1) * tile - (len(starts) - 2) * overlap < length  # one less would not do


def test_windows_add_up_to_one():
    for length, tile, overlap in TILINGS:
        total = np.zeros(SCALE * length)
        for start, window in blending_windows(length, tile, overlap):
            assert window.min() >= 0
            total[SCALE * start:SCALE * start + len(window)] += window
        np.testing.assert_allclose(total, 1, atol=1e-6, err_msg=f"{length}, {tile}, {overlap}")


def test_outer_quarter_of_an_overlap_is_not_used():
    (_, first), (start, second) = blending_windows(56, 32, 8)
    ramp = np.clip(2 * (np.arange(8 * SCALE) + 0.5) / (8 * SCALE) - 0.5, 0, 1)
    assert start == 24
    np.testing.assert_allclose(second, [*ramp, *np.ones(24 * SCALE)], atol=1e-6)
    np.testing.assert_allclose(first, second[::-1], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (37, 41)])
@pytest.mark.parametrize(("tile", "overlap"), [(0, 32), (16, 0), (16, 15), (17, 3)])
def test_any_tiling_of_a_pointwise_upscaler_is_exact(height, width, tile, overlap):
    image, calls = picture(height, width), []

    def forward(batch):
        calls.append(batch.shape)
        return repeat_pixels(batch)

    result = upscale(forward, image, tile_size=tile, overlap=overlap)
    np.testing.assert_allclose(result, repeat_pixels(image[None])[0], rtol=0, atol=1e-6)
    assert len(calls) == count_tiles(height, width, tile, overlap)
    assert set(calls) == {(1, min(height, tile or height), min(width, tile or width), 3)}


@pytest.mark.parametrize(("tile", "overlap"), [(16, 8), (20, 5)])
def test_tiles_agree_with_the_whole_where_their_borders_are_not_used(tile, overlap):
    """The unused quarter of each overlap is one pixel or more, which is how far the zero padding reaches here."""
    image = picture(50, 61)
    whole = blur_and_repeat(image[None])[0]
    tiled = upscale(blur_and_repeat, image, tile_size=tile, overlap=overlap)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)
    assert np.abs(upscale(blur_and_repeat, image, tile_size=16, overlap=0) - whole).max() > 0.05  # borders show


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (16, 12)])
def test_rows_are_quantised_once_each_and_in_order(tile, overlap):
    image, bands = picture(43, 30), []

    def record(rows):
        bands.append(rows.copy())
        return quantize(rows)

    result = upscale(blur_and_repeat, image, tile_size=tile, overlap=overlap, quantize=record)
    whole = upscale(blur_and_repeat, image, tile_size=tile, overlap=overlap)
    np.testing.assert_array_equal(np.concatenate(bands), whole)
    np.testing.assert_array_equal(result, quantize(whole))
    assert max(len(band) for band in bands) <= STRIP  # several copies of a strip, never of a large photo


@pytest.mark.parametrize("side", [(300, 400), (5000, 20000)])
def test_automatic_tiles_grow_with_the_memory_and_keep_to_it(side):
    height, width = side
    sizes = {memory: choose_tile_size(*side, tile_size=None, memory_gib=memory) or 10**9
             for memory in (0.01, *np.arange(0.5, 64, 0.5), 5000)}
    assert list(sizes.values()) == sorted(sizes.values())
    assert sizes[0.01] == UPSCALING.smallest_tile
    assert sizes[5000] == 10**9
    for memory, tile in sizes.items():
        # 192 bytes per pixel of the photo: 16 pixels of 3 samples of 2 bytes, as the result and as its file
        needed = BYTES_OF_PROCESS + height * width * 192 + min(tile, height) * min(tile, width) * BYTES_PER_PIXEL
        assert needed <= memory * 2**30 or tile == UPSCALING.smallest_tile
        assert tile % 16 == 0


@pytest.mark.parametrize(("side", "tile", "memory", "expected"), [
    ((300, 400), 399, 4.0, 399), ((300, 400), 400, 4.0, 0), ((4000, 4000), 0, 0.1, 0), ((4000, 4000), 64, 64, 64),
    ((100, 100), None, 0.1, 0), ((128, 128), None, 4.0, 0), ((3, 5000), None, 4.0, 0)])
def test_given_tile_is_kept_unless_it_covers_the_photo(side, tile, memory, expected):
    assert choose_tile_size(*side, tile_size=tile, memory_gib=memory) == expected
