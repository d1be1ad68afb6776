"""Pictures as files of many kinds, some made by hand."""

import io
import itertools
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


def read_colour(path):
    """Return the colour of an image of 8 bits as integers."""
    return np.rint(read_image(path).pixels * 255).astype(int)


def check_image(path, samples):
    """Check that a file is read as these integers [h, w, 1 to 4], the last of 2 or 4 channels as alpha."""
    photo, has_alpha, peak = read_image(path), samples.shape[2] % 2 == 0, np.float32(np.iinfo(samples.dtype).max)
    assert (photo.pixels.dtype, photo.bit_depth) == (np.float32, 8 * samples.dtype.itemsize)
    assert image_size(path) == photo.pixels.shape[:2]
    colour = samples[:, :, :-1] if has_alpha else samples
    np.testing.assert_allclose(photo.pixels * peak, np.broadcast_to(colour, photo.pixels.shape), atol=0.01)
    assert (photo.alpha is not None) == has_alpha
    if has_alpha:
        np.testing.assert_allclose(photo.alpha * peak, samples[:, :, -1], atol=0.01)


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


def cmyk_profile():
    """Make an ICC profile of a printer with a lookup table of the Lab values of all or none of each ink."""
    inks = np.array([*itertools.product((0, 1), repeat=4)])
    lab = [255, 128, 128] + inks @ [[-60, -40, -50], [-70, 75, -5], [-10, -5, 90], [-240, 0, 0]]
    curve = bytes(range(256))
    table = (struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *np.eye(3, dtype=int).ravel() << 16) + 4 * curve
             + np.clip(lab, 0, 255).astype(np.uint8).tobytes() + 3 * curve)
    white = (0xf6d6, 0x10000, 0xd32d)  # D50
    header = struct.pack(">I4xI4s4s4s12x4s28x3i48x", 144 + len(table), 0x2400000, b"prtr", b"CMYK", b"Lab ", b"acsp",
                         *white)
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


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
