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
    automatic_tile_size,
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


def enlarge(batch):
    """An upscaler that looks at one pixel alone."""
    return batch.repeat(4, axis=1).repeat(4, axis=2)


def blur_and_enlarge(batch):
    """A 3x3 box blur with zero padding, then an exact enlargement: it looks one pixel far."""
    padded = np.pad(batch.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = batch.shape[1:3]
    total = sum(padded[:, y:y + height, x:x + width] for y in range(3) for x in range(3))
    return enlarge((total / 9).astype(np.float32))


def test_tiles_cover_the_side_with_the_fewest_that_overlap_enough():
    for length, tile, overlap in TILINGS:
        starts = tile_starts(length, tile, overlap)
        size = min(tile, length)
        assert starts[0] == 0
        assert starts[-1] + size == length
        if length <= tile:
            assert starts == [0]
            continue
        steps = np.diff(starts)
        assert (steps >= 1).all()
        assert (tile - steps >= overlap).all()
        assert steps.max() - steps.min() <= 2  # spread evenly, up to rounding
        fewer = len(starts) - 1
        assert fewer * tile - (fewer - 1) * overlap < length


def test_windows_add_up_to_one():
    for length, tile, overlap in TILINGS:
        total = np.zeros(SCALE * length)
        for start, window in blending_windows(length, tile, overlap):
            assert window.dtype == np.float32
            assert window.min() >= 0
            total[SCALE * start:SCALE * start + len(window)] += window
        np.testing.assert_allclose(total, 1, atol=1e-6, err_msg=f"{length}, {tile}, {overlap}")


def test_windows_add_up_to_one_where_three_tiles_meet():
    windows = blending_windows(20, 12, 9)
    covering = np.zeros(SCALE * 20, int)
    total = np.zeros(SCALE * 20)
    for start, window in windows:
        covering[SCALE * start:SCALE * start + len(window)] += 1
        total[SCALE * start:SCALE * start + len(window)] += window
    assert covering.max() >= 3
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_outer_quarter_of_an_overlap_is_not_used():
    (_, first), (start, second) = blending_windows(56, 32, 8)
    assert start == 24
    shared = 8 * SCALE
    ramp = np.clip(2 * (np.arange(shared) + 0.5) / shared - 0.5, 0, 1)
    np.testing.assert_allclose(second[:shared], ramp, atol=1e-6)
    np.testing.assert_allclose(first[-shared:], 1 - ramp, atol=1e-6)
    assert (second[:shared // 4] == 0).all()
    assert (first[-shared // 4:] == 0).all()
    assert (first[:-shared] == 1).all()
    assert (second[shared:] == 1).all()


@pytest.mark.parametrize(("tile", "overlap"), [(8, 8), (8, 9), (8, -1), (0, 0)])
def test_overlap_must_be_smaller_than_the_tile(tile, overlap):
    with pytest.raises(ValueError, match=f"overlap {overlap}, tile size {tile}"):
        tile_starts(100, tile, overlap)

@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (500, 3), (37, 41), (16, 16), (17, 16), (64, 5)])
@pytest.mark.parametrize(("tile", "overlap"), [(0, 32), (16, 0), (16, 4), (16, 8), (16, 12), (16, 15), (17, 3), (3, 2),
                                               (1000, 32)])


def test_any_tiling_of_a_local_upscaler_is_exact(height, width, tile, overlap):
    image = picture(height, width)
    calls = []
    result = upscale(enlarge, image, tile_size=tile, overlap=overlap, on_tile=lambda: calls.append(1))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, enlarge(image[None])[0], rtol=0, atol=1e-6)
    assert len(calls) == count_tiles(height, width, tile, overlap)


def test_largest_photo_side_is_tiled_in_one_direction_alone():
    image = picture(3, 5000)
    np.testing.assert_allclose(upscale(enlarge, image, tile_size=128, overlap=32), enlarge(image[None])[0], rtol=0,
                               atol=1e-6)
    assert count_tiles(3, 5000, 128, 32) == 52  # ceil((5000 - 32) / 96)


@pytest.mark.parametrize(("tile", "overlap"), [(16, 8), (24, 8), (16, 12), (20, 5)])
def test_tiles_agree_with_the_whole_where_their_borders_are_not_used(tile, overlap):
    """The unused quarter of each overlap is one pixel or more, which is how far the zero padding reaches here."""
    image = picture(50, 61)
    whole = blur_and_enlarge(image[None])[0]
    tiled = upscale(blur_and_enlarge, image, tile_size=tile, overlap=overlap)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)  # the photo's own border included


def test_without_overlap_borders_show():
    """The comparison above can fail."""
    image = picture(50, 61)
    whole = blur_and_enlarge(image[None])[0]
    assert np.abs(upscale(blur_and_enlarge, image, tile_size=16, overlap=0) - whole).max() > 0.05


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (16, 4), (16, 12), (7, 3)])
def test_rows_are_quantised_once_each_and_in_order(tile, overlap):
    image = picture(43, 30)
    bands = []

    def record(rows):
        bands.append(rows.copy())
        return quantize(rows)

    result = upscale(blur_and_enlarge, image, tile_size=tile, overlap=overlap, quantize=record)
    whole = upscale(blur_and_enlarge, image, tile_size=tile, overlap=overlap)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate(bands), whole)
    np.testing.assert_array_equal(result, quantize(whole))
    assert max(len(band) for band in bands) <= STRIP  # several copies of a strip, never of a large photo


@pytest.mark.parametrize(("bit_depth", "gray"), [(8, False), (16, False), (8, True), (16, True)])
def test_quantised_tiles_of_a_local_upscaler_equal_the_whole(bit_depth, gray):
    levels = np.random.default_rng(0).integers(0, 2 ** bit_depth, (43, 30, 1 if gray else 3))
    image = np.broadcast_to(levels, (43, 30, 3)).astype(np.float32) / np.float32(2 ** bit_depth - 1)
    result = upscale(enlarge, image, tile_size=16, overlap=12,
                     quantize=lambda rows: quantize(rows, bit_depth=bit_depth, gray=gray))
    np.testing.assert_array_equal(result, enlarge(levels[None])[0])


def test_forward_gets_batches_of_one_tile_inside_the_photo():
    shapes = []

    def forward(batch):
        shapes.append(batch.shape)
        return enlarge(batch)

    upscale(forward, picture(40, 10), tile_size=16, overlap=4)
    assert shapes == [(1, 16, 10, 3)] * 3


def test_small_photos_are_not_tiled():
    for height, width in ((1, 1), (128, 128), (300, 400), (3, 5000)):
        assert automatic_tile_size(height, width, memory_gib=4.0) == 0
        assert choose_tile_size(height, width, tile_size=None, memory_gib=4.0) == 0


@pytest.mark.parametrize(("height", "width"), [(300, 400), (1080, 1920), (3000, 4000), (5000, 20000), (3, 5000)])
def test_more_memory_never_makes_tiles_smaller(height, width):
    sizes = [automatic_tile_size(height, width, memory_gib=memory) or np.inf
             for memory in (0.01, *np.arange(0.5, 64, 0.25), 5000)]
    assert (np.diff(np.nan_to_num(sizes, posinf=1e9)) >= 0).all()
    assert sizes[0] == UPSCALING.smallest_tile
    assert sizes[-1] == np.inf


def test_larger_photos_never_get_larger_tiles():
    sizes = [automatic_tile_size(side, side, memory_gib=4.0) or 10**9 for side in range(50, 6000, 50)]
    assert (np.diff(sizes) <= 0).all()
    assert len(set(sizes)) > 3


def test_automatic_tile_keeps_to_the_memory():
    """96 bytes per pixel of the photo: 16 pixels of 3 bytes, as the result and as its file."""
    for memory in (2.0, 4.0, 16.0):
        for side in (500, 1500, 4000):
            tile = automatic_tile_size(side, side, memory_gib=memory) or side
            needed = BYTES_OF_PROCESS + side * side * 192 + tile * tile * BYTES_PER_PIXEL
            assert needed <= memory * 2**30 or tile == UPSCALING.smallest_tile
            assert tile == side or tile % 16 == 0


def test_given_tile_is_kept_unless_it_covers_the_photo():
    assert choose_tile_size(300, 400, tile_size=399, memory_gib=4.0) == 399
    assert choose_tile_size(300, 400, tile_size=400, memory_gib=4.0) == 0
    assert choose_tile_size(4000, 4000, tile_size=0, memory_gib=0.1) == 0
    assert choose_tile_size(4000, 4000, tile_size=64, memory_gib=64) == 64


def test_automatic_tile_that_covers_the_photo_means_the_whole():
    assert automatic_tile_size(100, 100, memory_gib=0.1) == UPSCALING.smallest_tile
    assert choose_tile_size(100, 100, tile_size=None, memory_gib=0.1) == 0
