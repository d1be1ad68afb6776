"""Pictures as files of many kinds, some made by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from utils.errors import UserError
from utils.image.io import image_size, read_image

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
    """Read an image; return its colour and alpha as integers of its own depth, and check that its size is known."""
    photo = read_image(path)
    assert photo.pixels.dtype == np.float32
    assert image_size(path) == photo.pixels.shape[:2]
    peak = 2 ** photo.bit_depth - 1
    scaled = photo.pixels * np.float32(peak)
    np.testing.assert_allclose(scaled, np.rint(scaled), atol=0.01)
    alpha = None if photo.alpha is None else np.rint(photo.alpha * peak).astype(int)
    return np.rint(scaled).astype(int), alpha


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
    image = samples if isinstance(samples, Image.Image) else Image.fromarray(samples)
    image.save(stream, kind, **options)
    return stream.getvalue()


def refusal(path, read=read_image):
    """Return the one-line message with which a file is refused."""
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "at 0x" not in message  # no memory address
    return message
