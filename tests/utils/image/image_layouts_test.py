"""How samples are stored: depths, channels, palettes, transparency; against Pillow, tifffile and hand-made files."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.picture_files import LOSS, chunk, encode, fails_in_one_line, make_png, noise, read_samples, smooth
from utils.image.io import quantize, read_image


def test_gray_stays_gray(tmp_path):
    samples = noise(6, 5)
    (tmp_path / "x.png").write_bytes(encode(samples, "PNG"))
    photo = read_image(tmp_path / "x.png")
    assert photo.gray
    np.testing.assert_array_equal(quantize(photo.pixels, gray=True)[:, :, 0], samples)


def test_one_bit_is_black_and_white(tmp_path):
    bits = noise(6, 21) > 127
    for name in ("x.png", "x.bmp", "x.tif"):
        Image.fromarray(bits).save(tmp_path / name)
        np.testing.assert_array_equal(read_samples(tmp_path / name)[0], np.repeat(255 * bits[:, :, None], 3, axis=2))


def test_palette_is_resolved(tmp_path):
    indices, palette = noise(6, 5) % 7, noise(256, 3, seed=1)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    for name in ("x.png", "x.bmp", "x.tif"):
        image.save(tmp_path / name)
        samples, alpha = read_samples(tmp_path / name)
        np.testing.assert_array_equal(samples, palette[indices])
        assert alpha is None


def test_transparent_palette_entries_become_alpha(tmp_path):
    indices, palette = noise(6, 5) % 3, noise(256, 3, seed=1)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "x.png", transparency=bytes([0, 100, 255]))
    samples, alpha = read_samples(tmp_path / "x.png")
    np.testing.assert_array_equal(samples, palette[indices])
    np.testing.assert_array_equal(alpha, np.array([0, 100, 255])[indices])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (3, 2), (2, 4), (4, 6)])
def test_png_layouts_are_read_exactly(tmp_path, channels, colour_type, dtype):
    samples = noise(6, 5, channels, dtype=dtype)
    path = tmp_path / "x.png"
    path.write_bytes(make_png(samples, colour_type=colour_type))
    photo = read_image(path)
    got, alpha = read_samples(path)
    assert (photo.bit_depth, photo.gray) == (8 * samples.dtype.itemsize, channels < 3)
    np.testing.assert_array_equal(got, np.broadcast_to(samples[:, :, :1 if channels < 3 else 3], (6, 5, 3)))
    if channels in (2, 4):
        np.testing.assert_array_equal(alpha, samples[:, :, -1])
    else:
        assert alpha is None


@pytest.mark.parametrize(("dtype", "colour_type"), [(np.uint8, 0), (np.uint8, 2), (np.uint16, 2)])
def test_transparent_colour_of_a_png_becomes_alpha(tmp_path, dtype, colour_type):
    samples = noise(6, 5, 3 if colour_type else 1, dtype=dtype)
    key = b"".join(struct.pack(">H", int(value)) for value in samples[2, 3])
    (tmp_path / "x.png").write_bytes(make_png(samples, colour_type=colour_type, extra=chunk(b"tRNS", key)))
    got, alpha = read_samples(tmp_path / "x.png")
    np.testing.assert_array_equal(got, np.broadcast_to(samples, (6, 5, 3)))
    np.testing.assert_array_equal(alpha == 0, (samples == samples[2, 3]).all(axis=2))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "options"), [
    (1, {}), (3, {}), (3, {"compression": "deflate", "predictor": True}), (3, {"tile": (16, 16)}), (4, {})])
def test_tiff_layouts_are_read_exactly(tmp_path, channels, options, dtype, byteorder):
    samples = noise(20, 18, channels, dtype=dtype)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, samples if channels > 1 else samples[:, :, 0], byteorder=byteorder,
                     photometric="rgb" if channels > 1 else "minisblack",
                     extrasamples=["unassalpha"] if channels == 4 else None, **options)
    got, alpha = read_samples(path)
    np.testing.assert_array_equal(got, np.broadcast_to(samples[:, :, :3], (20, 18, 3)))
    assert read_image(path).bit_depth == 8 * samples.dtype.itemsize
    if channels == 4:
        np.testing.assert_array_equal(alpha, samples[:, :, 3])
    else:
        assert alpha is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_whose_zero_is_white_is_no_negative(tmp_path, dtype):
    samples = noise(6, 5, dtype=dtype)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="miniswhite")
    expected = np.iinfo(dtype).max - samples.astype(int)
    np.testing.assert_array_equal(read_samples(tmp_path / "x.tif")[0][:, :, 0], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_fourth_tiff_channel_without_meaning_is_no_alpha(tmp_path, dtype):
    samples = noise(6, 5, 4, dtype=dtype)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    got, alpha = read_samples(tmp_path / "x.tif")
    np.testing.assert_array_equal(got, samples[:, :, :3])
    assert alpha is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_premultiplied_tiff_colours_are_divided_by_alpha(tmp_path, dtype):
    peak = np.iinfo(dtype).max
    alpha = np.maximum(noise(6, 5, dtype=dtype), peak // 2)
    alpha[0] = 0
    colour = noise(6, 5, 3, dtype=dtype, seed=1)
    stored = np.rint(colour * (alpha[:, :, None] / peak)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([stored, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    got, opacity = read_samples(tmp_path / "x.tif")
    np.testing.assert_array_equal(opacity, alpha)
    assert np.abs(got - colour)[1:].max() <= 2  # what rounding before the division costs at half opacity


def test_twelve_bit_tiff_spans_black_to_white(tmp_path):
    values = np.array([[0, 4095, 2048, 1]])
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist())
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(packed))]
    data = struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    (tmp_path / "x.tif").write_bytes(data)
    np.testing.assert_allclose(read_image(tmp_path / "x.tif").pixels[:, :, 0], values / 4095, atol=3e-4)


def test_cmyk_jpeg_gets_its_colours(tmp_path):
    cmyk = Image.fromarray(smooth(32, 32)).convert("CMYK")
    cmyk.save(tmp_path / "x.jpg", quality=98)
    assert np.abs(read_samples(tmp_path / "x.jpg")[0] - smooth(32, 32)).max() <= LOSS


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_tiff_with_its_channels_one_after_the_other_is_right_or_refused(tmp_path, compression):
    samples = noise(20, 18, 3)
    for name, values in (("8.tif", samples), ("16.tif", samples.astype(np.uint16))):
        tifffile.imwrite(tmp_path / name, np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate",
                         compression=compression)
    np.testing.assert_array_equal(read_samples(tmp_path / "8.tif")[0], samples)
    fails_in_one_line(tmp_path / "16.tif")


@pytest.mark.parametrize("layout", ["spectral", "cmyk", "gray and alpha", "signed", "float", "float colour", "32-bit"])
def test_rare_tiff_is_refused_in_one_line(tmp_path, capfd, layout):
    samples, options = noise(6, 5, 3, dtype=np.uint16), {"photometric": "rgb"}
    if layout == "spectral":
        samples = noise(6, 5, 7, dtype=np.uint16)
    elif layout == "cmyk":
        samples, options = noise(6, 5, 4, dtype=np.uint16), {"photometric": "separated"}
    elif layout == "gray and alpha":
        samples, options = samples[:, :, :2], {"photometric": "minisblack", "planarconfig": "contig",
                                               "extrasamples": ["unassalpha"]}
    elif layout == "signed":
        samples, options = samples[:, :, 0].astype(np.int16), {}
    elif layout == "float":
        samples, options = samples[:, :, 0].astype(np.float32), {}
    elif layout == "float colour":
        samples = samples.astype(np.float32)
    else:
        samples, options = samples[:, :, 0].astype(np.uint32), {}
    tifffile.imwrite(tmp_path / "x.tif", samples, **options)
    assert "onvert" in fails_in_one_line(tmp_path / "x.tif")
    assert capfd.readouterr().err == ""  # OpenCV has its say in several lines


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_gray_of_a_png_of_any_depth_becomes_alpha(tmp_path, bits):
    """Pillow scales gray samples of few bits but not the transparent one; OpenCV knows that of colour alone."""
    values = [0, 2 ** bits - 1, 1, 2 ** bits // 3] * 4
    packed = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(2 * bits, "big")
    header = struct.pack(">IIBBBBB", 16, 1, bits, 0, 0, 0, 0)
    for transparent in {*values}:
        data = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent))
                + chunk(b"IDAT", zlib.compress(b"\0" + packed)) + chunk(b"IEND", b""))
        (tmp_path / "x.png").write_bytes(data)
        photo = read_image(tmp_path / "x.png")
        np.testing.assert_allclose(photo.pixels[0, :, 0], np.array(values) / (2 ** bits - 1), atol=1e-6)
        np.testing.assert_array_equal(photo.alpha[0], np.array(values) != transparent)
