"""Files that are no picture, damaged or hostile: one line that names them, or the picture they still hold."""

import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.picture_files import (
    LOSS,
    SRGB,
    UPRIGHT,
    attempt,
    chunk,
    encode,
    exif,
    fails_in_one_line,
    jpeg_of_claimed_size,
    make_png,
    noise,
    read_samples,
    smooth,
)
from utils.image import io as images
from utils.image.io import image_size, read_image


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
