"""Rounding, resizing, and the writer, read back with Pillow and OpenCV."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.picture_files import SRGB, noise, read_samples
from utils.errors import UserError
from utils.image import io as images
from utils.image.io import quantize, resize_bicubic, to_float, write_png


@pytest.mark.parametrize(("dtype", "bit_depth"), [(np.uint8, 8), (np.uint16, 16)])
@pytest.mark.parametrize("gray", [False, True])
def test_quantize_undoes_to_float_for_every_value(dtype, bit_depth, gray):
    values = np.arange(2 ** bit_depth, dtype=dtype).reshape(2 ** (bit_depth // 2), -1, 1)
    samples = quantize(to_float(values), bit_depth=bit_depth, gray=gray)
    assert samples.dtype == dtype
    np.testing.assert_array_equal(samples, values if gray else np.repeat(values, 3, axis=2))


def test_quantize_clips_and_rounds():
    pixels = np.array([-1, -1e-9, 0.49 / 255, 0.51 / 255, 1.49 / 255, 254.51 / 255, 1.0001, 7], np.float32)
    expected = [0, 0, 0, 1, 1, 255, 255, 255]
    np.testing.assert_array_equal(quantize(np.tile(pixels[None, :, None], (1, 1, 3)))[0, :, 0], expected)


def test_halves_are_rounded_not_cut():
    pixels = np.tile(np.array([127.5 / 255, 128.5 / 255], np.float32)[None, :, None], (1, 1, 3))
    assert np.abs(quantize(pixels)[0, :, 0] - np.array([127.5, 128.5])).max() == 0.5
    assert quantize(np.full((1, 1, 3), 0.9999999, np.float32), bit_depth=16)[0, 0, 0] == 65535


def test_gray_is_bt601_luma():
    primaries = np.eye(3, dtype=np.float32)[None]
    np.testing.assert_array_equal(quantize(primaries, gray=True)[0, :, 0], [76, 150, 29])  # 255 * .299, .587, .114
    np.testing.assert_array_equal(quantize(primaries, gray=True)[0, :, 0],
                                  np.asarray(Image.fromarray(quantize(primaries)).convert("L"))[0])


def test_bicubic_has_half_pixel_centres_and_opencvs_kernel():
    signal = np.zeros((1, 9), np.float32)
    signal[0, 4] = 0.5

    def kernel(x, a=-0.75):  # Keys (1981)
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0

    expected = [max(0, 0.5 * kernel((position + 0.5) / 4 - 0.5 - 4)) for position in range(36)]
    np.testing.assert_allclose(resize_bicubic(signal, 4, 36)[2], expected, atol=1e-6)


def test_bicubic_treats_channels_alike_and_stays_in_range():
    image = (noise(5, 7, 3) > 127).astype(np.float32)
    result = resize_bicubic(image, 20, 28)
    assert (result.min(), result.max()) == (0, 1)
    for channel in range(3):
        np.testing.assert_allclose(result[:, :, channel], resize_bicubic(image[:, :, channel].copy(), 20, 28),
                                   atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 40000)])
def test_bicubic_keeps_a_constant_at_any_size(height, width):
    result = resize_bicubic(np.full((height, width, 3), 0.3, np.float32), 4 * height, 4 * width)
    assert result.shape == (4 * height, 4 * width, 3)
    np.testing.assert_allclose(result, 0.3, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_written_png_holds_the_samples(tmp_path, dtype, channels, with_alpha):
    samples, opacity = noise(6, 5, channels, dtype=dtype), noise(6, 5, dtype=dtype, seed=1)
    peak = np.iinfo(dtype).max
    write_png(tmp_path / "x.png", samples, alpha=(opacity / np.float32(peak)) if with_alpha else None)
    got = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert got.dtype == dtype
    if channels == 1 and not with_alpha:
        np.testing.assert_array_equal(got, samples[:, :, 0])
        return
    np.testing.assert_array_equal(got[:, :, 2::-1], np.broadcast_to(samples, (6, 5, 3)))
    if with_alpha:
        np.testing.assert_array_equal(got[:, :, 3], opacity)
    else:
        assert got.shape == (6, 5, 3)


def test_views_are_written_like_copies(tmp_path):
    samples = noise(12, 10, 3)
    for name, view in (("slice", samples[3:9, 2:7]), ("mirror", samples[:, ::-1]), ("turned", np.rot90(samples)),
                       ("gray", samples[:, :, 1:2])):
        write_png(tmp_path / f"{name}.png", view)
        expected = np.broadcast_to(view, (*view.shape[:2], 3))
        np.testing.assert_array_equal(read_samples(tmp_path / f"{name}.png")[0], expected)


def test_gray_profile_is_dropped_when_alpha_makes_it_colour(tmp_path):
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    write_png(tmp_path / "gray.png", noise(6, 5, 1), icc_profile=profile)
    write_png(tmp_path / "alpha.png", noise(6, 5, 1), alpha=np.ones((6, 5), np.float32), icc_profile=profile)
    with Image.open(tmp_path / "gray.png") as gray, Image.open(tmp_path / "alpha.png") as alpha:
        assert gray.info["icc_profile"] == profile
        assert "icc_profile" not in alpha.info


@pytest.mark.parametrize("outcome", ["false", "raise"])
def test_nothing_is_left_when_encoding_fails(tmp_path, monkeypatch, outcome):
    def imencode(*_):
        if outcome == "raise":
            raise cv2.error("no")
        return False, np.zeros(0, np.uint8)

    monkeypatch.setattr(images.cv2, "imencode", imencode)
    with pytest.raises(UserError if outcome == "false" else cv2.error):
        write_png(tmp_path / "sub" / "x.png", noise(5, 4, 3))
    assert not list(tmp_path.rglob("*.*"))


def test_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    write_png(tmp_path / "x.png", noise(5, 4, 3))

    original = type(tmp_path).open

    def open_and_fail(path, mode="r", **options):
        if "w" not in mode:
            return original(path, mode, **options)
        with original(path, mode, **options) as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "open", open_and_fail)
    with pytest.raises(UserError, match="No space left"):
        write_png(tmp_path / "x.png", noise(5, 4, 3, seed=1))
    assert os.listdir(tmp_path) == ["x.png"]
    np.testing.assert_array_equal(read_samples(tmp_path / "x.png")[0], noise(5, 4, 3))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_png(tmp_path / "x.png", noise(5, 4, 3))
    finally:
        os.umask(before)
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == mode
