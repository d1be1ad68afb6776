"""The reader against Pillow, tifffile and hand-made files; the writer read back with Pillow and OpenCV."""

import io
import os
import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile

from utils import images
from utils.errors import UserError
from utils.images import image_size, quantize, read_image, resize_bicubic, to_float, write_png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LOSS = 8  # levels that JPEG at quality 95 may change in `smooth`
UPRIGHT = {  # EXIF orientation -> how a viewer turns the stored samples (EXIF 2.3, tag 274)
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height, width):
    """A picture that lossy formats keep within a few levels."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.rint(255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8)


def read_samples(path):
    """Read an image; give its colour and alpha as integers of its own depth, and check that its size is known."""
    photo = read_image(path)
    assert photo.pixels.dtype == np.float32
    assert image_size(path) == photo.pixels.shape[:2]
    peak = 2 ** photo.bit_depth - 1
    scaled = photo.pixels * np.float32(peak)
    samples = np.rint(scaled)
    np.testing.assert_allclose(scaled, samples, atol=0.01)
    alpha = None if photo.alpha is None else np.rint(photo.alpha * peak).astype(int)
    return samples.astype(int), alpha


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(samples, *, colour_type, extra=b""):
    """Encode integers as PNG by the letter of its specification."""
    height, width = samples.shape[:2]
    depth = 8 * samples.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def encode(samples, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, kind, **options)
    return stream.getvalue()


def jpeg_of_claimed_size(side, **options):
    """Give a JPEG of 16x16 pixels whose header states others."""
    data = bytearray(encode(smooth(16, 16), "JPEG", **options))
    frame = data.find(b"\xff\xc2" if options else b"\xff\xc0")
    data[frame + 5:frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def fails_in_one_line(path, read=read_image):
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "0x" not in message  # no memory address
    return message


def attempt(read, path):
    """Give (result, None) or (None, message)."""
    try:
        return read(path), None
    except UserError as error:
        return None, str(error)


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


@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_no_image_is_named(tmp_path, read):
    (tmp_path / "text.png").write_text("not an image\n")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for name in ("text.png", "empty.png", "folder.png", "program.png", "missing.png"):
        fails_in_one_line(tmp_path / name, read)
    assert "No such file" in fails_in_one_line(tmp_path / "missing.png", read)
    assert "directory" in fails_in_one_line(tmp_path / "folder.png", read)


def test_empty_file_is_called_empty(tmp_path):
    (tmp_path / "x.png").touch()
    assert "empty" in fails_in_one_line(tmp_path / "x.png")


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_decompression_bomb_is_refused(tmp_path, read, kind):
    if kind == "JPEG":
        (tmp_path / "bomb.jpg").write_bytes(jpeg_of_claimed_size(20000))
        assert "178 million pixels" in fails_in_one_line(tmp_path / "bomb.jpg", read)
        return
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
                     + chunk(b"IEND", b""))
    assert "178 million pixels" in fails_in_one_line(path, read)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_that_ends_long_before_its_stated_size_is_not_filled_with_gray(tmp_path, options):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg_of_claimed_size(13001, **options))
    started = time.process_time()
    assert "ends long before the 13001x13001 pixels that it states" in fails_in_one_line(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("options", [{}, {"progressive": True, "optimize": True}, {"subsampling": 2, "quality": 1}])
def test_a_jpeg_of_one_colour_is_not_taken_for_one_that_ends_early(tmp_path, options):
    """The most pixels per byte there can be: one bit for a block of 64."""
    path = tmp_path / "x.jpg"
    Image.new("RGB", (1500, 1000), (200, 100, 50)).save(path, **options)
    pixels = read_image(path).pixels
    assert pixels.shape == (1000, 1500, 3)
    assert np.ptp(pixels, axis=(0, 1)).max() == 0


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


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"avif"])
@pytest.mark.parametrize("read", [read_image, image_size])
def test_a_phone_picture_under_another_name_is_called_what_it_is(tmp_path, read, brand):
    path = tmp_path / "IMG_0001.jpg"
    path.write_bytes(struct.pack(">I4s4s", 24, b"ftyp", brand) + bytes(4) + b"mif1heic" + bytes(200))
    kind = "an AVIF" if brand == b"avif" else "a HEIC"
    assert fails_in_one_line(path, read) == (f"{path} is {kind} picture, which is not supported. Convert it to PNG or "
                                             "JPEG.")


@pytest.mark.parametrize("place", ["eXIf", "Raw profile", "text", "profile", "JPEG"])
def test_metadata_of_megabytes_does_not_cost_the_picture(tmp_path, place):
    samples, rest = noise(7, 5, 3), bytes(3 * 2**20)
    if place == "JPEG":
        encoded = encode(smooth(40, 24), "JPEG", quality=95)
        first = exif(6).ljust(65533, b"\0")
        segments = b"".join(b"\xff\xe1\xff\xff" + part for part in (first, *[b"Exif\0\0" + bytes(65527)] * 40))
        (tmp_path / "x.jpg").write_bytes(encoded[:2] + segments + encoded[2:])
        assert np.abs(read_samples(tmp_path / "x.jpg")[0] - UPRIGHT[6](smooth(40, 24))).max() <= LOSS
        return
    tags = exif(6)[6:] + rest
    extra = {"eXIf": chunk(b"eXIf", tags),
             "Raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
                 f"\nexif\n{len(tags) + 6}\n{(b'Exif' + bytes(2) + tags).hex()}".encode())),
             "text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * len(rest))),
             "profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB + rest))}[place]
    (tmp_path / "x.png").write_bytes(make_png(samples, colour_type=2, extra=extra))
    expected = UPRIGHT[6](samples) if place in ("eXIf", "Raw profile") else samples
    np.testing.assert_array_equal(read_samples(tmp_path / "x.png")[0], expected)
    assert read_image(tmp_path / "x.png").icc_profile == (SRGB + rest if place == "profile" else None)


@pytest.mark.parametrize("damage", ["length", "type", "checksum", "cut"])
def test_a_damaged_chunk_of_a_deep_png_takes_no_memory_and_prints_nothing(tmp_path, capfd, damage):
    samples = noise(6, 5, 3, dtype=np.uint16)
    data = make_png(samples, colour_type=2)
    at = data.find(b"IDAT")
    wrong = {"length": (at - 4, b"\xf0\xff\xff\xff"), "type": (at, b"\x1c\x1c\x1c\x1c"),
             "checksum": (data.find(b"IEND") - 8, b"\1\2\3\4")}
    if damage == "cut":
        data = data[:at + 20]
    else:
        place, content = wrong[damage]
        data = data[:place] + content + data[place + len(content):]
    (tmp_path / "x.png").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fails_in_one_line(tmp_path / "x.png")
    assert capfd.readouterr().err == ""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_metadata_that_unpacks_without_end_is_named(tmp_path, kind):
    bomb = chunk(kind, b"x\0\0" + zlib.compress(bytes(2**26)))
    (tmp_path / "x.png").write_bytes(make_png(noise(6, 5, 3), colour_type=2, extra=bomb))
    assert "its texts or its colour profile unpack to more than 16 MiB" in fails_in_one_line(tmp_path / "x.png")


def test_lack_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(encode(noise(5, 4, 3), "PNG"))

    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_to_array", exhaust)
    message = fails_in_one_line(tmp_path / "x.png")
    assert "memory" in message
    assert "damaged" not in message


@pytest.mark.parametrize("layout", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "png16", "tif16"])
def test_truncated_file_is_refused_or_whole(tmp_path, layout):
    picture = smooth(24, 32)
    if layout.endswith("16"):
        deep = picture.astype(np.uint16) * 257
        data = cv2.imencode({"png16": ".png", "tif16": ".tif"}[layout], deep[:, :, ::-1])[1].tobytes()
    else:
        data = encode(picture, layout, **({"quality": 95} if layout in ("JPEG", "WEBP") else {}))
    path = tmp_path / "cut.img"
    path.write_bytes(data)
    whole = read_image(path).pixels
    refused = 0
    for length in sorted({*range(1, len(data), max(1, len(data) // 40)), *range(len(data) - 16, len(data))}):
        path.write_bytes(data[:length])
        photo, message = attempt(read_image, path)
        if message is None:
            np.testing.assert_array_equal(photo.pixels, whole)
            assert length > len(data) - 30  # only the end mark may be missing
        else:
            refused += 1
            assert str(path) in message
            assert "\n" not in message
        size, message = attempt(image_size, path)
        assert size == (24, 32) if message is None else str(path) in message
    assert refused > 35


def test_flipped_bits_never_raise_anything_else(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x.img"
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        data = np.frombuffer(encode(smooth(16, 16), kind, **({"exif": exif(6)} if kind in ("JPEG", "PNG") else {})),
                             np.uint8)
        for _ in range(40):
            damaged = data.copy()
            damaged[rng.integers(0, min(len(data), 200), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            for read in (read_image, image_size):
                _, message = attempt(read, path)
                assert message is None or "\n" not in message


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
