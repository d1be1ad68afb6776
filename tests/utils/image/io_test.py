"""The reader and writer against Pillow, tifffile, OpenCV and hand-made files."""

import argparse
import io
import struct
import zlib

import cv2
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile

from tests.helpers.picture_files import (
    LOSS,
    SRGB,
    UPRIGHT,
    check_image,
    chunk,
    cmyk_profile,
    encode,
    exif,
    make_png,
    noise,
    read_colour,
    refusal,
    smooth,
)
from utils.errors import UserError
from utils.image import io as images
from utils.image.io import Photo, add_pixel_limit, image_size, quantize, read_image, to_float, write_png
from utils.image.png import cicp_chunk


def write_tiff(path, samples, **options):
    tifffile.imwrite(path, samples.squeeze(), photometric="minisblack" if samples.shape[2] == 1 else "rgb",
                     extrasamples=["unassalpha"] if samples.shape[2] == 4 else None, **options)


@pytest.mark.parametrize(("kind", "ending", "options"), [
    ("PNG", "png", {}), ("BMP", "bmp", {}), ("WEBP", "webp", {"lossless": True}), ("TIFF", "tiff", {}),
    ("TIFF", "tif", {"compression": "tiff_lzw"}), ("JPEG2000", "jp2", {}), ("BMP", "png", {}), ("PNG", "jpg", {})])
def test_lossless_formats_are_read_exactly_whatever_the_ending(tmp_path, kind, ending, options):
    (tmp_path / f"x.{ending}").write_bytes(encode(noise(9, 7, 3), kind, **options))
    check_image(tmp_path / f"x.{ending}", noise(9, 7, 3))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_lossy_formats_are_read_closely_and_upright(tmp_path, kind, orientation):
    (tmp_path / "x").write_bytes(encode(smooth(40, 56), kind, quality=95, exif=exif(orientation)))
    colour, expected = read_colour(tmp_path / "x"), UPRIGHT[orientation](smooth(40, 56))
    assert colour.shape == expected.shape
    assert image_size(tmp_path / "x") == colour.shape[:2]
    assert np.abs(colour - expected).max() <= (LOSS if kind == "JPEG" else 12)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_of_lossless_files_is_undone_exactly(tmp_path, dtype, orientation):
    samples = noise(7, 5, 3, dtype=dtype)
    (tmp_path / "x.png").write_bytes(make_png(samples, colour_type=2, extra=chunk(b"eXIf", exif(orientation)[6:])))
    check_image(tmp_path / "x.png", UPRIGHT[orientation](samples))
    for channels in (1, 3, 4):
        samples = noise(7, 5, channels, dtype=dtype) | 1
        write_tiff(tmp_path / "x.tif", samples, extratags=[(274, 3, 1, orientation, True)])
        check_image(tmp_path / "x.tif", UPRIGHT[orientation](samples))


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
    assert np.abs(read_colour(tmp_path / "x") - smooth(16, 24)).max() <= (40 if kind == "GIF" else LOSS)


# how samples are stored


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (3, 2), (2, 4), (4, 6)])
def test_png_layouts_are_read_exactly(tmp_path, channels, colour_type, dtype):
    samples = noise(6, 5, channels, dtype=dtype)
    samples[:, :, -1] |= 1  # invisible colours are replaced
    (tmp_path / "x.png").write_bytes(make_png(samples, colour_type=colour_type))
    check_image(tmp_path / "x.png", samples)
    assert read_image(tmp_path / "x.png").gray == (channels < 3)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "options"), [
    (1, {}), (3, {}), (3, {"compression": "deflate", "predictor": True}), (3, {"tile": (16, 16)}), (4, {})])
def test_tiff_layouts_are_read_exactly(tmp_path, channels, options, dtype, byteorder):
    samples = noise(20, 18, channels, dtype=dtype) | 1
    write_tiff(tmp_path / "x.tif", samples, byteorder=byteorder, **options)
    check_image(tmp_path / "x.tif", samples)


def test_palettes_and_single_bits_are_resolved(tmp_path):
    indices, palette = noise(6, 21) % 3, noise(256, 3, seed=1)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    for ending in ("png", "bmp", "tif"):
        image.save(tmp_path / f"x.{ending}")
        check_image(tmp_path / f"x.{ending}", palette[indices])
        Image.fromarray(indices > 0).save(tmp_path / f"x.{ending}")
        check_image(tmp_path / f"x.{ending}", np.uint8(255 * (indices > 0))[:, :, None])
    image.save(tmp_path / "x.png", transparency=bytes([1, 100, 255]))
    check_image(tmp_path / "x.png", np.dstack([palette[indices], np.uint8([1, 100, 255])[indices]]))


@pytest.mark.parametrize(("shape", "dtype", "options"), [
    ((6, 5, 7), np.uint16, {"photometric": "rgb"}), ((6, 5, 4), np.uint16, {"photometric": "separated"}),
    ((6, 5), np.int16, {}), ((6, 5), np.uint32, {}), ((6, 5), np.float32, {}),
    ((6, 5, 3), np.float32, {"photometric": "rgb"}), ((6, 5), np.uint16, {"photometric": "miniswhite"}),
    ((3, 6, 5), np.uint16, {"photometric": "rgb", "planarconfig": "separate"}),
    ((6, 5, 4), np.uint16, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    ((6, 5, 4), np.uint16, {"photometric": "rgb", "extrasamples": ["assocalpha"]})])
def test_rare_tiff_is_refused_in_one_line(tmp_path, capfd, shape, dtype, options):
    tifffile.imwrite(tmp_path / "x.tif", noise(*shape).astype(dtype), **options)
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
        pixels.append(read_colour(tmp_path / "x.png"))
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0][:, :2], samples[:, 2:3, :3].repeat(2, axis=1))  # the nearest visible ones
    np.testing.assert_array_equal(pixels[0][:, 2:], samples[:, 2:, :3])


def test_cmyk_is_converted_by_its_profile_as_littlecms_does_it(tmp_path):
    inks = np.dstack([smooth(16, 24), np.repeat(np.arange(24, dtype=np.uint8)[None] * 5, 16, axis=0)])
    profile = cmyk_profile()
    data = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=95, icc_profile=profile, exif=exif(6))
    (tmp_path / "x.jpg").write_bytes(data)
    with Image.open(tmp_path / "x.jpg") as stored:
        expected = ImageCms.profileToProfile(stored, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                             ImageCms.createProfile("sRGB"), outputMode="RGB")
        plain = stored.convert("RGB")
    assert np.abs(np.asarray(expected, int) - np.asarray(plain)).max() > 20  # so that the profile matters
    np.testing.assert_array_equal(read_colour(tmp_path / "x.jpg"), UPRIGHT[6](np.asarray(expected)))
    photo = read_image(tmp_path / "x.jpg")
    assert photo.icc_profile is None
    assert photo.exif


def test_what_describes_colours_is_named_where_it_is_left_out_and_converted_where_it_can_be(tmp_path):
    inks = Image.fromarray(noise(24, 40, 4), "CMYK")
    (tmp_path / "cmyk").write_bytes(encode(inks, "JPEG", icc_profile=b"no profile"))
    gray = Image.fromarray(noise(24, 40, 1)[:, :, 0])
    (tmp_path / "gray").write_bytes(encode(gray, "JPEG", icc_profile=SRGB))
    (tmp_path / "good").write_bytes(encode(gray.convert("RGB"), "JPEG", icc_profile=SRGB))
    photos = {name: read_image(tmp_path / name) for name in ("cmyk", "gray", "good")}
    assert {name: "colour profile" in photo.note for name, photo in photos.items()} == {
        "cmyk": True, "gray": True, "good": False}
    assert cicp_chunk(color_primaries=9, transfer_characteristics=16)[4:12] == b"cICP\x09\x10\x00\x01"
    assert (cicp_chunk(), cicp_chunk(1, 13)) == (b"", b"")


@pytest.mark.parametrize("mode", ["RGB;16", "L;16"])
def test_heif_of_ten_bits_keeps_them(tmp_path, mode):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16) * np.ones((64, 1), np.uint16)
    samples = ramp if mode == "L;16" else np.dstack([ramp] * 3)
    pillow_heif.from_bytes(mode, (64, 64), samples.tobytes()).save(tmp_path / "x.heic", quality=-1)
    photo = read_image(tmp_path / "x.heic")
    assert (photo.bit_depth, photo.gray) == (16, mode == "L;16")
    assert np.abs(photo.pixels - samples.reshape(64, 64, -1) / 65535).max() < 1.5 / 1023


def test_cmyk_without_a_profile_is_converted_as_viewers_do(tmp_path):
    Image.fromarray(smooth(16, 16)).convert("CMYK").save(tmp_path / "x.jpg", quality=98)
    assert np.abs(read_colour(tmp_path / "x.jpg") - smooth(16, 16)).max() <= LOSS


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
    check_image(tmp_path / "y.png", samples)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_profile_date_place_and_camera_survive_and_the_orientation_is_that_of_the_result(tmp_path, kind):
    tags = Image.Exif()
    tags[274], tags[271], tags[306] = 6, "Camera", "2024:01:02 03:04:05"
    tags.get_ifd(34853)[1] = "N"  # GPS
    (tmp_path / "x").write_bytes(encode(smooth(40, 24), kind, exif=tags.tobytes(), icc_profile=SRGB))
    photo = read_image(tmp_path / "x")
    write_png(tmp_path / "y.png", quantize(photo.pixels), source=photo)
    with Image.open(tmp_path / "y.png") as written:
        found = written.getexif()
        assert (found[274], found[271], found[306]) == (1, "Camera", "2024:01:02 03:04:05")
        assert found.get_ifd(34853)[1] == "N"
        assert written.info["icc_profile"] == SRGB
        np.testing.assert_array_equal(np.asarray(written), quantize(photo.pixels))
    assert image_size(tmp_path / "y.png") == photo.pixels.shape[:2] == (24, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tags", [
    b"Exif\0\0garbagegarbage", exif(6)[:12], b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 274, 2, 4, b"abc\0") + bytes(4)],
    ids=["garbage", "cut", "nowhere", "text"])
def test_damaged_metadata_do_not_cost_the_picture(tmp_path, kind, tags):
    (tmp_path / "x").write_bytes(encode(smooth(40, 24), kind, exif=tags, **({"quality": 95} if kind != "PNG" else {})))
    assert np.abs(read_colour(tmp_path / "x") - smooth(40, 24)).max() <= 12


# files that are no picture, damaged or too large


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize("content", [b"not an image\n", b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", None])
def test_what_is_no_image_is_named(tmp_path, read, content):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    refusal(tmp_path / "x.png", read)
    refusal(tmp_path, read)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_one_limit_of_pixels_holds_everywhere_and_its_flag_is_named(tmp_path, monkeypatch, read):
    parser = argparse.ArgumentParser()
    add_pixel_limit(parser)
    monkeypatch.setattr(images, "_max_megapixels", 1.0)
    for kind in ("PNG", "JPEG", "TIFF"):
        (tmp_path / "x").write_bytes(encode(np.zeros((1001, 1000, 3), np.uint8), kind))
        assert "--max_megapixels" in refusal(tmp_path / "x", read)
    parser.parse_args(["--max_megapixels", "1.1"])
    read(tmp_path / "x")


@pytest.mark.parametrize("layout", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "png16", "tif16"])
def test_truncated_files_are_refused_or_whole(tmp_path, capfd, layout):
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
    assert capfd.readouterr().err == ""  # OpenCV would print something


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_written_png_holds_the_samples_of_views_too(tmp_path, dtype, channels, with_alpha):
    samples, opacity = noise(12, 10, channels, dtype=dtype)[2:8, ::2], noise(6, 5, 1, dtype=dtype, seed=1)
    write_png(tmp_path / "x.png", samples, alpha=to_float(opacity)[:, :, 0] if with_alpha else None)
    found = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED).reshape(6, 5, -1)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:, :, :3][:, :, ::-1], np.broadcast_to(samples, found[:, :, :3].shape))
    np.testing.assert_array_equal(found[:, :, 3:], opacity[:, :, :with_alpha])


def test_a_profile_is_written_only_to_samples_of_its_space(tmp_path):
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    for profile, channels, kept in ((SRGB, 3, True), (SRGB, 1, False), (gray, 1, True), (gray, 3, False)):
        write_png(tmp_path / "x.png", noise(6, 5, channels), source=Photo(np.zeros((1, 1, 3)), icc_profile=profile))
        assert ("icc_profile" in Image.open(tmp_path / "x.png").info) == kept
