"""The reader against Pillow: formats, names, orientation, metadata, colour profiles."""

import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from tests.picture_files import LOSS, SRGB, UPRIGHT, chunk, encode, exif, make_png, noise, read_samples, smooth
from utils.image import io as images
from utils.image.io import image_size, quantize, read_image, write_png


@pytest.mark.parametrize(("ending", "options"), [("png", {}), ("bmp", {}), ("webp", {"lossless": True}), ("tiff", {}),
                                                 ("tif", {"compression": "tiff_lzw"})])
def test_lossless_formats_are_read_exactly(tmp_path, ending, options):
    samples = noise(9, 7, 3)
    path = tmp_path / f"x.{ending}"
    Image.fromarray(samples).save(path, **options)
    got, alpha = read_samples(path)
    np.testing.assert_array_equal(got, samples)
    assert alpha is None
    assert read_image(path).bit_depth == 8


@pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", LOSS), ("WEBP", 12)])
def test_lossy_formats_are_read_closely(tmp_path, kind, tolerance):
    samples = smooth(40, 56)
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(encode(samples, kind, quality=95))
    assert np.abs(read_samples(path)[0] - samples).max() <= tolerance


@pytest.mark.parametrize("name", ["UPPER.PNG", "two  spaces.png", "写真　é.png", "a.b.c.png", "-dash.png", "%s.png"])
def test_any_file_name_is_read_and_written(tmp_path, name):
    samples = noise(4, 5, 3)
    write_png(tmp_path / name, samples)
    np.testing.assert_array_equal(read_samples(tmp_path / name)[0], samples)
    assert os.listdir(tmp_path) == [name]


def test_content_counts_not_the_ending(tmp_path):
    path = tmp_path / "really_a_bmp.png"
    path.write_bytes(encode(noise(5, 4, 3), "BMP"))
    np.testing.assert_array_equal(read_samples(path)[0], noise(5, 4, 3))


def test_phone_pictures_with_a_second_frame_are_read(tmp_path):
    path = tmp_path / "mpo.jpg"
    first, second = Image.fromarray(smooth(16, 24)), Image.fromarray(smooth(16, 24)[::-1])
    first.save(path, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(path).format == "MPO"
    assert np.abs(read_samples(path)[0] - smooth(16, 24)).max() <= LOSS


@pytest.mark.parametrize(("kind", "ending", "options"), [
    ("WEBP", "webp", {"lossless": True}), ("GIF", "webp", {}), ("PNG", "png", {}), ("TIFF", "tif", {})])
def test_first_frame_of_an_animation_is_read(tmp_path, kind, ending, options):
    frames = [np.repeat(np.repeat(noise(4, 4, 3, seed=seed), 4, 0), 4, 1) for seed in (0, 1)]
    path = tmp_path / f"x.{ending}"
    Image.fromarray(frames[0]).save(path, kind, save_all=True, append_images=[Image.fromarray(frames[1])], **options)
    np.testing.assert_array_equal(read_samples(path)[0], frames[0])


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png8", "png16", "webp", "tif8", "tif16", "tif16gray", "tif16alpha", "tif16deflate"])
def test_orientation_is_undone_exactly(tmp_path, kind, orientation):
    dtype = np.uint16 if "16" in kind else np.uint8
    samples = noise(7, 5, *{"tif16gray": (), "tif16alpha": (4,)}.get(kind, (3,)), dtype=dtype)
    path = tmp_path / f"x.{kind[:3]}"
    if kind.startswith("tif"):
        tifffile.imwrite(path, samples, photometric="minisblack" if samples.ndim == 2 else "rgb",
                         compression="deflate" if kind == "tif16deflate" else None,
                         extrasamples=["unassalpha"] if kind == "tif16alpha" else None,
                         extratags=[(274, 3, 1, orientation, True)])
    elif kind == "webp":
        Image.fromarray(samples).save(path, "WEBP", lossless=True, exif=exif(orientation))
    else:
        path.write_bytes(make_png(samples, colour_type=2, extra=chunk(b"eXIf", exif(orientation)[6:])))
    expected = UPRIGHT[orientation](samples)
    got, alpha = read_samples(path)
    if kind == "tif16alpha":
        np.testing.assert_array_equal(alpha, expected[:, :, 3])
        expected = expected[:, :, :3]
    expected = np.repeat(expected[:, :, None], 3, axis=2) if expected.ndim == 2 else expected
    np.testing.assert_array_equal(got, expected)


def test_orientation_behind_the_pixels_of_a_png_is_undone(tmp_path):
    data = make_png(noise(7, 5, 3), colour_type=2)
    (tmp_path / "x.png").write_bytes(data[:-12] + chunk(b"eXIf", exif(6)[6:]) + data[-12:])
    np.testing.assert_array_equal(quantize(read_image(tmp_path / "x.png").pixels), UPRIGHT[6](noise(7, 5, 3)))


def test_size_is_known_without_decoding(tmp_path, monkeypatch):
    paths = [tmp_path / f"x.{ending}" for ending in ("png", "jpg", "bmp", "webp", "tif")]
    for path in paths:
        Image.fromarray(noise(7, 5, 3)).save(path)
    monkeypatch.setattr(images.Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    assert [image_size(path) for path in paths] == [(7, 5)] * 5


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_of_jpeg_is_undone(tmp_path, orientation):
    path = tmp_path / "x.jpg"
    path.write_bytes(encode(smooth(40, 24), "JPEG", quality=95, exif=exif(orientation)))
    got, _ = read_samples(path)
    expected = UPRIGHT[orientation](smooth(40, 24))
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= LOSS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tags", [
    b"Exif\0\0garbagegarbage", exif(6)[:12], b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 274, 2, 4, b"abc\0") + bytes(4),
    b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 274, 4, 1, 99) + bytes(4)],
    ids=["garbage", "cut", "nowhere", "text", "99"])
def test_damaged_metadata_does_not_cost_the_picture(tmp_path, kind, tags):
    path = tmp_path / "x.img"
    path.write_bytes(encode(smooth(40, 24), kind, exif=tags, **({"quality": 95} if kind != "PNG" else {})))
    assert np.abs(read_samples(path)[0] - smooth(40, 24)).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colour_profile_survives(tmp_path, kind):
    (tmp_path / "in.img").write_bytes(encode(smooth(16, 16), kind, icc_profile=SRGB))
    photo = read_image(tmp_path / "in.img")
    assert photo.icc_profile == SRGB
    write_png(tmp_path / "out.png", quantize(photo.pixels), icc_profile=photo.icc_profile)
    with Image.open(tmp_path / "out.png") as written:
        written.load()
        assert written.info["icc_profile"] == SRGB
        np.testing.assert_array_equal(np.asarray(written), quantize(photo.pixels))


def test_colour_profile_of_16_bit_files_survives(tmp_path):
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB))
    (tmp_path / "x.png").write_bytes(make_png(noise(6, 5, 3, dtype=np.uint16), colour_type=2, extra=profile))
    tifffile.imwrite(tmp_path / "x.tif", noise(6, 5, 3, dtype=np.uint16), photometric="rgb", iccprofile=SRGB)
    assert read_image(tmp_path / "x.png").icc_profile == SRGB
    assert read_image(tmp_path / "x.tif").icc_profile == SRGB


@pytest.mark.parametrize(("mode", "space", "kept"), [
    ("CMYK", b"CMYK", False), ("RGB", b"GRAY", False), ("L", b"RGB ", False), ("L", b"GRAY", True),
    ("RGB", b"RGB ", True), ("RGB", b"", False)])
def test_colour_profile_of_another_space_is_dropped(tmp_path, mode, space, kept):
    profile = SRGB[:16] + space + SRGB[20:] if space else b"short"
    Image.fromarray(smooth(16, 16)).convert(mode).save(tmp_path / "x.jpg", icc_profile=profile)
    assert read_image(tmp_path / "x.jpg").icc_profile == (profile if kept else None)


@pytest.mark.parametrize(("kind", "value", "count"), [(4, 5, 1), (3, 5, 1), (1, b"abcd", 4), (2, "text", 5)])
def test_colour_profile_that_is_none_is_dropped(tmp_path, kind, value, count):
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "x.tif", noise(6, 5, 3, dtype=dtype), photometric="rgb",
                         extratags=[(34675, kind, count, value, True)])
        assert read_image(tmp_path / "x.tif").icc_profile is None
