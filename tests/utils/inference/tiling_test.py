"""Tiling against running the whole photo at once, with forwards whose result is known."""

import numpy as np
import pytest

from config import SCALE, GeneratorConfig, UpscalingConfig
from model.rrdbnet import rrdbnet_shapes
from utils.image.io import quantize
from utils.inference.tiling import (
    STRIP,
    Tiling,
    blending_windows,
    choose_tiling,
    multiply_adds_per_pixel,
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


def square_tiles(image, side, overlap):
    return choose_tiling(*image.shape[:2], UpscalingConfig(tile_size=side, tile_overlap=overlap))


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

    tiling = square_tiles(image, tile, overlap)
    result = upscale(forward, image, tiling)
    np.testing.assert_allclose(result, repeat_pixels(image[None])[0], rtol=0, atol=1e-6)
    assert len(calls) == tiling.num_tiles
    assert sum(batch[1] * batch[2] for batch in calls) == pytest.approx(height * width * (1 + tiling.extra_work))
    assert set(calls) == {(1, min(height, tile or height), min(width, tile or width), 3)}


@pytest.mark.parametrize(("tile", "overlap"), [(16, 8), (20, 5)])
def test_tiles_agree_with_the_whole_where_their_borders_are_not_used(tile, overlap):
    """The unused quarter of each overlap is one pixel or more, which is how far the zero padding reaches here."""
    image = picture(50, 61)
    whole = blur_and_repeat(image[None])[0]
    tiled = upscale(blur_and_repeat, image, square_tiles(image, tile, overlap))
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)
    assert np.abs(upscale(blur_and_repeat, image, square_tiles(image, 16, 0)) - whole).max() > 0.05  # borders show


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (16, 12)])
def test_rows_are_quantised_once_each_and_in_order(tile, overlap):
    image, bands = picture(43, 30), []

    def record(rows):
        bands.append(rows.copy())
        return quantize(rows)

    result = upscale(blur_and_repeat, image, square_tiles(image, tile, overlap), quantize=record)
    whole = upscale(blur_and_repeat, image, square_tiles(image, tile, overlap))
    np.testing.assert_array_equal(np.concatenate(bands), whole)
    np.testing.assert_array_equal(result, quantize(whole))
    assert max(len(band) for band in bands) <= STRIP  # several copies of a strip, never of a large photo


def test_tiles_of_two_sides_add_up():
    image = picture(50, 61)
    result = upscale(blur_and_repeat, image, Tiling(50, 61, 20, 43, 8))
    np.testing.assert_allclose(result, blur_and_repeat(image[None])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [(300, 400), (128, 128), (3, 5000), (1500, 4000)])
def test_automatic_tiles_take_less_work_with_more_memory_and_keep_to_it(side):
    work, least = [], choose_tiling(*side, UpscalingConfig(memory_gib=0.01)).memory_gib(8)
    for memory in (0.01, 1, 2, 2.5, 3, 4, 6, 8, 16, 5000):
        tiling = choose_tiling(*side, UpscalingConfig(memory_gib=memory))
        assert tiling.memory_gib(8) <= max(memory, least)
        assert min(tiling.tile_height, tiling.tile_width) >= min(*side, 128)
        work.append(tiling.extra_work)
    assert work == sorted(work, reverse=True)
    assert work[-1] == 0  # the whole photo at once


def test_a_photo_of_12_megapixels_takes_36_tiles_within_8_gib():
    """554 rows and 720 columns: 6 x 6 tiles of those sides overlap by 64."""
    tiling = choose_tiling(3000, 4000, UpscalingConfig(memory_gib=8.0))
    assert tiling == Tiling(3000, 4000, 554, 720, 64)
    assert tiling.num_tiles == 36
    assert tiling.extra_work == pytest.approx(36 * 554 * 720 / 12e6 - 1)
    assert tiling.extra_work < 0.35


def test_memory_that_the_result_alone_takes_makes_no_smaller_tiles():
    """5184x3888: three copies of the result are 2.7 GiB, whatever the tiles are."""
    small, large = (choose_tiling(3888, 5184, UpscalingConfig(memory_gib=memory)) for memory in (0.1, 4.0))
    assert small == large
    assert small.memory_gib(8) == pytest.approx((1.7e9 + 3 * 3888 * 5184 * 48) / 2**30)
    assert small.memory_gib(16) > 1.5 * small.memory_gib(8)
    assert small.num_tiles < 400


@pytest.mark.parametrize(("side", "tile", "expected"), [
    ((300, 400), 399, (300, 399)), ((300, 400), 400, (300, 400)), ((4000, 4000), 0, (4000, 4000)),
    ((4000, 4000), 64, (64, 64))])
def test_given_tile_is_kept_whatever_the_memory(side, tile, expected):
    tiling = choose_tiling(*side, UpscalingConfig(tile_size=tile, tile_overlap=8, memory_gib=0.1))
    assert (tiling.tile_height, tiling.tile_width) == expected


@pytest.mark.parametrize("generator", [GeneratorConfig(), GeneratorConfig(num_blocks=6, num_features=24, growth=7)])
def test_work_of_a_pixel_is_that_of_the_generator(generator):
    """Multiplications of each convolution, times the output pixels per low-quality pixel."""
    shapes = rrdbnet_shapes(generator.num_blocks, generator.num_features, generator.growth)
    finer = {"conv_up1": 4, "conv_up2": 16, "conv_hr": 16, "conv_last": 16}
    total = sum(np.prod(shape) * finer.get(name.split("/")[0], 1) for name, shape in shapes.items() if len(shape) == 4)
    assert multiply_adds_per_pixel(generator) == total
