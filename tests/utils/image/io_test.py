"""The reader and writer against Pillow, tifffile, OpenCV and hand-made files."""

import contextlib
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import skimage
import tifffile
from PIL import Image, ImageFile

from tests.picture_files import LOSS, SRGB, UPRIGHT, chunk, encode, exif, make_png, noise, read_samples, refusal, smooth
from utils.errors import UserError
from utils.image import io as images
from utils.image.io import Photo, image_size, quantize, read_image, set_pixel_limit, to_float, write_png
from utils.image.resizing import resize_bicubic


@pytest.mark.parametrize(("kind", "ending", "options"), [
    ("PNG", "png", {}), ("BMP", "bmp", {}), ("WEBP", "webp", {"lossless": True}), ("TIFF", "tiff", {}),
    ("TIFF", "tif", {"compression": "tiff_lzw"}), ("JPEG2000", "jp2", {}), ("BMP", "png", {}), ("PNG", "jpg", {})])
def test_lossless_formats_are_read_exactly_whatever_the_ending(tmp_path, kind, ending, options):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(encode(noise(9, 7, 3), kind, **options))
    samples, alpha = read_samples(path)
    np.testing.assert_array_equal(samples, noise(9, 7, 3))
    assert alpha is None
    assert read_image(path).bit_depth == 8


@pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", LOSS), ("WEBP", 12), ("HEIF", 12), ("AVIF", 12)])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_lossy_formats_are_read_closely_and_upright(tmp_path, kind, tolerance, orientation):
    picture = smooth(40, 56)
    (tmp_path / "x").write_bytes(encode(picture, kind, quality=95, exif=exif(orientation)))
    samples = read_samples(tmp_path / "x")[0]
    expected = UPRIGHT[orientation](picture)
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() <= tolerance


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png8", "png16", "tif8", "tif16", "tif16gray", "tif16alpha"])
def test_orientation_of_lossless_files_is_undone_exactly(tmp_path, kind, orientation):
    dtype = np.uint16 if "16" in kind else np.uint8
    samples = noise(7, 5, {"tif16gray": 1, "tif16alpha": 4}.get(kind, 3), dtype=dtype)
    path = tmp_path / f"x.{kind[:3]}"
    if kind.startswith("tif"):
        tifffile.imwrite(path, samples.squeeze(), photometric="minisblack" if samples.shape[2] == 1 else "rgb",
                         extrasamples=["unassalpha"] if kind == "tif16alpha" else None,
                         extratags=[(274, 3, 1, orientation, True)])
    else:
        path.write_bytes(make_png(samples, colour_type=2, extra=chunk(b"eXIf", exif(orientation)[6:])))
    expected = UPRIGHT[orientation](samples)
    colour, alpha = read_samples(path)
    np.testing.assert_array_equal(colour, np.broadcast_to(expected[:, :, :3], colour.shape))
    assert (alpha is None) == (kind != "tif16alpha")
    if alpha is not None:
        np.testing.assert_array_equal(alpha, expected[:, :, 3])


def test_size_is_known_without_decoding(tmp_path, monkeypatch):
    paths = [tmp_path / f"x.{ending}" for ending in ("png", "jpg", "bmp", "webp", "tif", "heif", "avif")]
    for path in paths:
        Image.fromarray(noise(7, 5, 3)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    assert [image_size(path) for path in paths] == [(7, 5)] * len(paths)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG", "TIFF", "MPO"])
def test_the_first_frame_of_several_is_read(tmp_path, kind):
    first, second = Image.fromarray(smooth(16, 24)), Image.fromarray(smooth(16, 24)[::-1])
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    (tmp_path / "x").write_bytes(encode(first, kind, save_all=True, append_images=[second], **options))
    assert np.abs(read_samples(tmp_path / "x")[0] - smooth(16, 24)).max() <= (40 if kind == "GIF" else LOSS)


# how samples are stored


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (3, 2), (2, 4), (4, 6)])
def test_png_layouts_are_read_exactly(tmp_path, channels, colour_type, dtype):
    samples = noise(6, 5, channels, dtype=dtype)
    samples[:, :, -1] |= 1  # invisible colours are replaced
    (tmp_path / "x.png").write_bytes(make_png(samples, colour_type=colour_type))
    photo = read_image(tmp_path / "x.png")
    colour, alpha = read_samples(tmp_path / "x.png")
    assert (photo.bit_depth, photo.gray) == (8 * samples.dtype.itemsize, channels < 3)
    np.testing.assert_array_equal(colour, np.broadcast_to(samples[:, :, :1 if channels < 3 else 3], (6, 5, 3)))
    assert (alpha is None) == (channels % 2 == 1)
    if alpha is not None:
        np.testing.assert_array_equal(alpha, samples[:, :, -1])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "options"), [
    (1, {}), (3, {}), (3, {"compression": "deflate", "predictor": True}), (3, {"tile": (16, 16)}), (4, {})])
def test_tiff_layouts_are_read_exactly(tmp_path, channels, options, dtype, byteorder):
    samples = noise(20, 18, channels, dtype=dtype) | 1
    tifffile.imwrite(tmp_path / "x.tif", samples.squeeze(), byteorder=byteorder,
                     photometric="rgb" if channels > 1 else "minisblack",
                     extrasamples=["unassalpha"] if channels == 4 else None, **options)
    colour, alpha = read_samples(tmp_path / "x.tif")
    np.testing.assert_array_equal(colour, np.broadcast_to(samples[:, :, :3], (20, 18, 3)))
    assert (alpha is None) == (channels != 4)
    if alpha is not None:
        np.testing.assert_array_equal(alpha, samples[:, :, 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rare_tiff_samples_get_their_meaning(tmp_path, dtype):
    peak, path = np.iinfo(dtype).max, tmp_path / "x.tif"
    tifffile.imwrite(path, noise(6, 5, dtype=dtype), photometric="miniswhite")
    np.testing.assert_array_equal(read_samples(path)[0][:, :, 0], peak - noise(6, 5, dtype=dtype).astype(int))
    tifffile.imwrite(path, noise(6, 5, 4, dtype=dtype), photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_samples(path)[0], noise(6, 5, 4, dtype=dtype)[:, :, :3])
    assert read_image(path).alpha is None
    colour, alpha = noise(6, 5, 3, dtype=dtype, seed=1), np.maximum(noise(6, 5, dtype=dtype), peak // 2)
    stored = np.rint(colour * (alpha[:, :, None] / peak)).astype(dtype)
    tifffile.imwrite(path, np.dstack([stored, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read_samples(path)[0] - colour).max() <= 2  # what rounding costs at half opacity


def test_palettes_and_single_bits_are_resolved(tmp_path):
    indices, palette = noise(6, 21) % 3, noise(256, 3, seed=1)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    for ending in ("png", "bmp", "tif"):
        image.save(tmp_path / f"x.{ending}")
        np.testing.assert_array_equal(read_samples(tmp_path / f"x.{ending}")[0], palette[indices])
        Image.fromarray(indices > 0).save(tmp_path / f"x.{ending}")
        np.testing.assert_array_equal(read_samples(tmp_path / f"x.{ending}")[0][:, :, 1], 255 * (indices > 0))
    image.save(tmp_path / "x.png", transparency=bytes([1, 100, 255]))
    samples, alpha = read_samples(tmp_path / "x.png")
    np.testing.assert_array_equal(samples, palette[indices])
    np.testing.assert_array_equal(alpha, np.array([1, 100, 255])[indices])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_gray_of_a_png_of_any_depth_becomes_alpha(tmp_path, bits):
    values = [0, 2 ** bits - 1, 1, 2 ** bits // 3] * 4
    packed = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(2 * bits, "big")
    header = struct.pack(">IIBBBBB", 16, 1, bits, 0, 0, 0, 0)
    for transparent in {*values}:
        (tmp_path / "x.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent))
            + chunk(b"IDAT", zlib.compress(b"\0" + packed)) + chunk(b"IEND", b""))
        photo, shown = read_image(tmp_path / "x.png"), np.array(values) != transparent
        np.testing.assert_array_equal(photo.alpha[0], shown)
        np.testing.assert_allclose(photo.pixels[0, shown, 0], (np.array(values) / (2 ** bits - 1))[shown], atol=1e-6)


@pytest.mark.parametrize("layout", ["spectral", "cmyk", "signed", "float", "float colour", "32-bit", "planes"])
def test_rare_tiff_is_refused_in_one_line(tmp_path, capfd, layout):
    samples, options = {
        "spectral": (noise(6, 5, 7, dtype=np.uint16), {"photometric": "rgb"}),
        "cmyk": (noise(6, 5, 4, dtype=np.uint16), {"photometric": "separated"}),
        "signed": (noise(6, 5).astype(np.int16), {}), "float": (noise(6, 5).astype(np.float32), {}),
        "float colour": (noise(6, 5, 3).astype(np.float32), {"photometric": "rgb"}),
        "32-bit": (noise(6, 5).astype(np.uint32), {}),
        "planes": (noise(3, 6, 5, dtype=np.uint16), {"photometric": "rgb", "planarconfig": "separate"})}[layout]
    tifffile.imwrite(tmp_path / "x.tif", samples, **options)
    refusal(tmp_path / "x.tif")
    assert capfd.readouterr().err == ""  # OpenCV would print several lines


# colour


def test_the_colour_under_invisible_pixels_does_not_matter(tmp_path):
    samples = np.concatenate([noise(6, 5, 3) // 2 + 60, np.full((6, 5, 1), 255, np.uint8)], axis=2)
    samples[:, :2, 3] = 0
    pixels = []
    for underneath in (0, 255):
        samples[:, :2, :3] = underneath
        (tmp_path / "x.png").write_bytes(make_png(samples, colour_type=6))
        pixels.append(read_samples(tmp_path / "x.png")[0])
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0][:, :2], samples[:, 2:3, :3].repeat(2, axis=1))  # the nearest visible ones
    np.testing.assert_array_equal(pixels[0][:, 2:], samples[:, 2:, :3])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_colour_profile_survives(tmp_path, kind):
    (tmp_path / "in").write_bytes(encode(smooth(16, 16), kind, icc_profile=SRGB))
    photo = read_image(tmp_path / "in")
    write_png(tmp_path / "out.png", quantize(photo.pixels), source=photo)
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["icc_profile"] == SRGB
        np.testing.assert_array_equal(np.asarray(written), quantize(photo.pixels))


@pytest.mark.parametrize(("mode", "space", "kept"), [
    ("RGB", b"GRAY", False), ("L", b"RGB ", False), ("L", b"GRAY", True), ("RGB", b"RGB ", True), ("RGB", b"", False)])
def test_colour_profile_of_another_space_is_dropped(tmp_path, mode, space, kept):
    profile = SRGB[:16] + space + SRGB[20:] if space else b"short"
    Image.fromarray(smooth(16, 16)).convert(mode).save(tmp_path / "x.jpg", icc_profile=profile)
    assert read_image(tmp_path / "x.jpg").icc_profile == (profile if kept else None)


def test_cmyk_is_converted_by_its_profile_or_else_as_viewers_do(tmp_path, monkeypatch):
    cmyk = Image.fromarray(smooth(16, 16)).convert("CMYK")
    cmyk.save(tmp_path / "plain.jpg", quality=98)
    assert np.abs(read_samples(tmp_path / "plain.jpg")[0] - smooth(16, 16)).max() <= LOSS
    seen = []
    monkeypatch.setattr(images.ImageCms, "ImageCmsProfile", lambda stream: seen.append(stream.read()) or "source")
    monkeypatch.setattr(images.ImageCms, "createProfile", lambda name: name)
    monkeypatch.setattr(images.ImageCms, "profileToProfile",
                        lambda image, *pair, outputMode: seen.append(pair) or Image.new(outputMode, image.size, "red"))
    cmyk.save(tmp_path / "x.jpg", icc_profile=b"inks", exif=exif(6))
    photo = read_image(tmp_path / "x.jpg")
    assert seen == [b"inks", ("source", "sRGB")]
    assert photo.icc_profile is None
    np.testing.assert_array_equal(photo.pixels[0, 0], [1, 0, 0])
    assert photo.exif


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_chunks_of_a_png_survive_and_gray_with_alpha_keeps_its_profile(tmp_path, dtype):
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    extra = [chunk(b"cICP", bytes([12, 13, 0, 1])), chunk(b"gAMA", struct.pack(">I", 100000)),
             chunk(b"iCCP", b"x\0\0" + zlib.compress(gray))]
    samples = noise(6, 5, 2, dtype=dtype) | 1
    (tmp_path / "x.png").write_bytes(make_png(samples, colour_type=4, extra=b"".join(extra)))
    photo = read_image(tmp_path / "x.png")
    write_png(tmp_path / "y.png", quantize(photo.pixels, bit_depth=photo.bit_depth, gray=True), alpha=photo.alpha,
              source=photo)
    written = (tmp_path / "y.png").read_bytes()
    assert extra[0] in written
    assert extra[1] in written
    again = read_image(tmp_path / "y.png")
    assert (again.gray, again.icc_profile, again.bit_depth) == (True, gray, photo.bit_depth)
    np.testing.assert_array_equal(read_samples(tmp_path / "y.png")[0][:, :, 0], samples[:, :, 0])
    np.testing.assert_array_equal(read_samples(tmp_path / "y.png")[1], samples[:, :, 1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_date_place_and_camera_survive_and_the_orientation_is_that_of_the_result(tmp_path, kind):
    tags = Image.Exif()
    tags[274], tags[271], tags[306] = 6, "Camera", "2024:01:02 03:04:05"
    tags.get_ifd(34853)[1] = "N"  # GPS
    (tmp_path / "x").write_bytes(encode(smooth(40, 24), kind, exif=tags.tobytes()))
    photo = read_image(tmp_path / "x")
    write_png(tmp_path / "y.png", quantize(photo.pixels), source=photo)
    with Image.open(tmp_path / "y.png") as written:
        found = written.getexif()
        assert (found[274], found[271], found[306]) == (1, "Camera", "2024:01:02 03:04:05")
        assert found.get_ifd(34853)[1] == "N"
    assert image_size(tmp_path / "y.png") == photo.pixels.shape[:2] == (24, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tags", [
    b"Exif\0\0garbagegarbage", exif(6)[:12], b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 274, 2, 4, b"abc\0") + bytes(4)],
    ids=["garbage", "cut", "nowhere", "text"])
def test_damaged_metadata_do_not_cost_the_picture(tmp_path, kind, tags):
    (tmp_path / "x").write_bytes(encode(smooth(40, 24), kind, exif=tags, **({"quality": 95} if kind != "PNG" else {})))
    assert np.abs(read_samples(tmp_path / "x")[0] - smooth(40, 24)).max() <= 12


# files that are no picture, damaged or too large


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize("content", [b"not an image\n", b"", b"<!DOCTYPE html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", None])
def test_what_is_no_image_is_named(tmp_path, read, content):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    message = refusal(path, read)
    assert ("empty" in message) == (content == b"")
    refusal(tmp_path, read)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_one_limit_of_pixels_holds_everywhere_and_its_flag_is_named(tmp_path, monkeypatch, read):
    monkeypatch.setattr(images, "_max_megapixels", 1.0)
    for kind in ("PNG", "JPEG", "TIFF"):
        (tmp_path / "x").write_bytes(encode(np.zeros((1001, 1000, 3), np.uint8), kind))
        assert "--max_megapixels" in refusal(tmp_path / "x", read)
    set_pixel_limit(1.1)
    read(tmp_path / "x")


def test_an_image_above_pillows_own_limit_is_read(tmp_path):
    Image.new("1", (20000, 9500)).save(tmp_path / "x.png")  # 190 megapixels
    assert image_size(tmp_path / "x.png") == (9500, 20000)


def test_lack_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(encode(noise(5, 4, 3), "PNG"))

    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_to_array", exhaust)
    assert "memory" in refusal(tmp_path / "x.png")


@pytest.mark.parametrize("layout", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "png16", "tif16"])
def test_truncated_files_are_refused_or_whole(tmp_path, layout):
    picture, path = smooth(24, 32), tmp_path / "cut"
    if layout.endswith("16"):
        data = cv2.imencode(f".{layout[:3]}", picture.astype(np.uint16) * 257)[1].tobytes()
    else:
        data = encode(picture, layout)
    path.write_bytes(data)
    whole = read_image(path).pixels
    refused = 0
    for length in range(1, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:length])
        try:
            np.testing.assert_array_equal(read_image(path).pixels, whole)
            assert length > len(data) - 40  # only what follows the pixels is missing
        except UserError:
            refused += 1
    assert refused > 35


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"quality": 95, "subsampling": 0}, {"progressive": True},
                                     {"restart_marker_blocks": 3}], ids=str)
def test_a_jpeg_without_its_end_mark_is_read_and_one_that_lacks_more_is_refused(tmp_path, mode, options):
    image = Image.fromarray(skimage.data.astronaut()[:100, :133])
    data, path = encode(image.convert(mode), "JPEG", **options), tmp_path / "x.jpg"
    path.write_bytes(data)
    whole = read_image(path).pixels
    for missing in (1, 2):
        path.write_bytes(data[:-missing])
        np.testing.assert_array_equal(read_image(path).pixels, whole)
    start = data.index(b"\xff\xda")
    for length in range(start, len(data) - 12, max(1, (len(data) - start) // 80)):
        path.write_bytes(data[:length])
        refusal(path)


def test_flipped_bytes_never_raise_anything_else(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x"
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF"):
        data = np.frombuffer(encode(smooth(16, 16), kind), np.uint8)
        for _ in range(20):
            damaged = data.copy()
            damaged[rng.integers(0, min(len(data), 200), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            for read in (read_image, image_size):
                with contextlib.suppress(UserError):
                    read(path)


def test_a_damaged_16_bit_png_prints_nothing(tmp_path, capfd):
    data = make_png(noise(6, 5, 3, dtype=np.uint16), colour_type=2)
    for place, content in ((data.find(b"IDAT") - 4, b"\xf0\xff\xff\xff"), (data.find(b"IEND") - 8, b"\1\2\3\4")):
        (tmp_path / "x.png").write_bytes(data[:place] + content + data[place + 4:])
        refusal(tmp_path / "x.png")
    assert capfd.readouterr().err == ""


# rounding, resizing, writing


@pytest.mark.parametrize(("dtype", "bit_depth"), [(np.uint8, 8), (np.uint16, 16)])
@pytest.mark.parametrize("gray", [False, True])
def test_quantize_undoes_to_float_for_every_value(dtype, bit_depth, gray):
    values = np.arange(2 ** bit_depth, dtype=dtype).reshape(2 ** (bit_depth // 2), -1, 1)
    samples = quantize(to_float(values), bit_depth=bit_depth, gray=gray)
    assert samples.dtype == dtype
    np.testing.assert_array_equal(samples, values if gray else np.repeat(values, 3, axis=2))


def test_quantize_clips_and_rounds_and_gray_is_bt601_luma():
    pixels = np.array([-1, -1e-9, 0.49 / 255, 0.51 / 255, 1.49 / 255, 254.51 / 255, 1.0001, 7], np.float32)
    expected = [0, 0, 0, 1, 1, 255, 255, 255]
    np.testing.assert_array_equal(quantize(np.tile(pixels[None, :, None], (1, 1, 3)))[0, :, 0], expected)
    primaries = np.eye(3, dtype=np.float32)[None]
    np.testing.assert_array_equal(quantize(primaries, gray=True)[0, :, 0], [76, 150, 29])  # 255 * .299, .587, .114


def test_bicubic_has_half_pixel_centres_and_opencvs_kernel_and_stays_in_range():
    signal = np.zeros((1, 9), np.float32)
    signal[0, 4] = 0.5

    def kernel(x, a=-0.75):  # Keys (1981)
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0

    expected = [max(0, 0.5 * kernel((position + 0.5) / 4 - 0.5 - 4)) for position in range(36)]
    np.testing.assert_allclose(resize_bicubic(signal, 4, 36)[2], expected, atol=1e-6)
    image = (noise(5, 7, 3) > 127).astype(np.float32)
    assert (resize_bicubic(image, 20, 28).min(), resize_bicubic(image, 20, 28).max()) == (0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_written_png_holds_the_samples_of_views_too(tmp_path, dtype, channels, with_alpha):
    samples, opacity = noise(12, 10, channels, dtype=dtype)[2:8, ::2], noise(6, 5, dtype=dtype, seed=1)
    write_png(tmp_path / "x.png", samples, alpha=to_float(opacity[:, :, None])[:, :, 0] if with_alpha else None)
    found = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert found.dtype == dtype
    found = found.reshape(6, 5, -1)
    np.testing.assert_array_equal(found[:, :, :3][:, :, ::-1], np.broadcast_to(samples, found[:, :, :3].shape))
    assert (found.shape[2] == 4) == with_alpha
    if with_alpha:
        np.testing.assert_array_equal(found[:, :, 3], opacity)


def test_a_profile_is_written_only_to_samples_of_its_space(tmp_path):
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    for profile, channels, kept in ((SRGB, 3, True), (SRGB, 1, False), (gray, 1, True), (gray, 3, False)):
        write_png(tmp_path / "x.png", noise(6, 5, channels), source=Photo(np.zeros((1, 1, 3)), icc_profile=profile))
        assert ("icc_profile" in Image.open(tmp_path / "x.png").info) == kept


@pytest.mark.parametrize("name", ["UPPER.PNG", "two  spaces.png", "\u5199\u771f\u3000.png", "-dash.png", "%s.png"])
def test_any_file_name_is_written_and_read(tmp_path, name):
    write_png(tmp_path / "new" / name, noise(4, 5, 3))
    np.testing.assert_array_equal(read_samples(tmp_path / "new" / name)[0], noise(4, 5, 3))
    assert os.listdir(tmp_path / "new") == [name]


def test_too_many_pixels_for_a_png_are_one_line_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(UserError, match=r"x\.png"):
        write_png(tmp_path / "x.png", noise(5, 4, 3))
    assert os.listdir(tmp_path) == []
