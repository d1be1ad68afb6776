"""PNG files: encoding, and the chunks that describe colours and hold EXIF data."""

import struct
import zlib

import cv2
import numpy as np

from utils.errors import require

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_SIZE = 33  # bytes of the signature and IHDR
COLOUR_CHUNKS = (b"cICP", b"gAMA", b"cHRM", b"sRGB")
COMPRESSION = 3  # of 9: photographs hardly shrink further, and 9 takes many times as long
GRAY_AND_ALPHA = 4  # colour type
UNSPECIFIED, SRGB = 2, (1, 13)  # codes of primaries and transfer (ITU-T H.273)


def colour_chunks(png: bytes) -> bytes:
    """Return the chunks, beside an ICC profile, that say what the samples of a PNG mean."""
    found, position, kind = b"", len(SIGNATURE), b""
    while kind != b"IDAT":
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + length + 12
        found += png[position:end] if kind in COLOUR_CHUNKS else b""
        position = end
    return found


def cicp_chunk(color_primaries: int = UNSPECIFIED, transfer_characteristics: int = UNSPECIFIED, **_) -> bytes:
    """Return the chunk for what HEIF says of its colours; nothing where it says nothing, or sRGB."""
    described = (int(color_primaries), int(transfer_characteristics))
    return b"" if UNSPECIFIED in described or described == SRGB else _chunk(b"cICP", bytes([*described, 0, 1]))


def encode_png(samples: np.ndarray, *, colours: bytes, icc_profile: bytes | None,
               exif: bytes | None) -> list[bytes | memoryview]:
    """Return the parts of a PNG of uint8 or uint16 [h, w, c]: gray, gray and alpha, RGB, or RGB and alpha.

    `colours` are chunks as of `colour_chunks`, `exif` is without its `Exif` header.
    """
    if samples.shape[2] == 2:
        png = _encode_gray_and_alpha(samples)
    else:
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(samples.shape[2])
        samples = samples if order is None else cv2.cvtColor(samples, order)
        succeeded, png = cv2.imencode(".png", samples, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
        require(succeeded, "a PNG cannot hold as many pixels", f"{samples.shape[1]}x{samples.shape[0]}")
    profile = _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)) if icc_profile else b""
    chunks = colours + profile + (_chunk(b"eXIf", exif) if exif else b"")
    return [memoryview(png)[:HEADER_SIZE], chunks, memoryview(png)[HEADER_SIZE:]]


def _encode_gray_and_alpha(samples: np.ndarray) -> bytes:
    """Encode [h, w, 2], which OpenCV cannot."""
    height, width = samples.shape[:2]
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    pixels = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes(), COMPRESSION)  # each row begins with its filter
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.dtype.itemsize, GRAY_AND_ALPHA, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
