"""The only reader and writer of image files.

Outside this module an image is RGB, float32 in [0, 1], [h, w, 3]; EXIF orientation, palettes, gray, alpha, 16-bit
samples, BGR and colour profiles are dealt with here.
"""

import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from utils.errors import UserError
from utils.files import atomic_path
from utils.image.jpeg_data import ends_in_gray, lengthened

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, full range
EXIF_ORIENTATION = 274
TIFF_BITS_PER_SAMPLE = 258
TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 262, 0
TIFF_PLANAR, TIFF_SEPARATE_PLANES = 284, 2
TIFF_EXTRA_SAMPLES, TIFF_PREMULTIPLIED = 338, (1,)
PNG_BIT_DEPTH, PNG_COLOUR_TYPE, PNG_GRAY_AND_ALPHA = 24, 25, 4  # where in the file, and which
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")  # Pillow hands some others, like EPS, to outside programs
PNG_SIGNATURE_SIZE, PNG_HEADER_SIZE = 8, 33  # bytes; the header is the signature and IHDR
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Pillow's 1 MB of a text or colour profile, unpacked, would cost the pictures of some scanners and editors
PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_PNG_TEXT = 2**24  # bytes
JPEG_PIXELS_PER_BYTE = 1024  # at most: 64 in a bit, the shortest code of a block, with room to spare
# the brands of ISO base media files (ISO/IEC 14496-12) that are pictures
ISO_PICTURES = {**dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC"),
                **dict.fromkeys((b"avif", b"avis"), "an AVIF")}
PNG_COMPRESSION = 3  # of 9: photographs hardly shrink further, and 9 takes many times as long
JPEG_FORMATS = ("JPEG", "MPO")
GRAY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
WIDE_MODES = ("I", "F")


@dataclass(frozen=True)
class Photo:
    """A decoded image, upright.

    `pixels` [h, w, 3] float32 RGB in [0, 1]; `alpha` [h, w] likewise, or None; `bit_depth` 8 or 16 and `gray` say how
    the file stored it, so that the result can be stored alike; `icc_profile` is the colour profile's bytes, or None.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    bit_depth: int = 8
    gray: bool = False
    icc_profile: bytes | None = None


def read_image(path: Path) -> Photo:
    """Decode a PNG, JPEG, BMP, WebP or TIFF file; of an animation, the first frame.

    Raises:
        UserError: the file is missing, empty, not an image, truncated or of a kind that is not supported (32-bit
            samples, more than 178 million pixels).
    """
    data = _read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on large files and odd metadata; errors are raised
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.format in JPEG_FORMATS and math.prod(image.size) > JPEG_PIXELS_PER_BYTE * len(data):
                raise UserError(f"cannot read the image {path}: it ends long before the {image.width}x{image.height} "
                                "pixels that it states. Replace or remove it.")  # libjpeg would fill them with gray
            deep = _is_16_bit(image)
            if image.mode in WIDE_MODES and not deep:
                raise UserError(f"{path} has 32-bit samples, which are not supported. Convert it to 8 or 16 bits.")
            image.load()
            if image.format in JPEG_FORMATS and _is_cut_off(image, data):
                raise UserError(f"cannot read the image {path}: its data end before its lower right corner, which "
                                "would be gray. Replace or remove it.")
            samples = _decode_16_bit(path, data, image) if deep else _to_array(image, data)
            return _to_photo(_upright(samples, _orientation(image)), image)
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise _explain(path, error) from error


def image_size(path: Path) -> tuple[int, int]:
    """Read (height, width) of the upright image from the file's header alone.

    An orientation that a PNG states behind its pixels, as old tools wrote it, is not seen: that would take decoding.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                turned = _orientation(image) in (5, 6, 7, 8)
                width, height = image.size
    except Exception as error:  # as above
        raise _explain(path, error) from error
    return (width, height) if turned else (height, width)


def _read_bytes(path: Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _explain(path, error) from error
    if not data:
        raise UserError(f"cannot read the image {path}: the file is empty. Replace or remove it.")
    return data


def _explain(path: Path, error: Exception) -> UserError:
    """Say what an exception met while reading an image means."""
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"cannot read the image {path}: {error.strerror}. Check the path and its permissions.")
    if isinstance(error, MemoryError):
        return UserError(f"cannot read the image {path}: the memory does not suffice. Make it smaller.")
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} million pixels, which is not "
                         "supported. Make it smaller or divide it.")
    if "MAX_TEXT" in str(error):
        return UserError(f"cannot read the image {path}: its texts or its colour profile unpack to more than "
                         f"{LARGEST_PNG_TEXT // 2**20} MiB. Convert or replace it.")
    if isinstance(error, UnidentifiedImageError) and (kind := _iso_picture(path)):
        return UserError(f"{path} is {kind} picture, which is not supported. Convert it to PNG or JPEG.")
    if isinstance(error, UnidentifiedImageError):  # what Pillow says here names a memory address
        return UserError(f"cannot read the image {path}: it is no PNG, JPEG, BMP, WebP or TIFF of a known kind. "
                         "Convert, replace or remove it.")
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"cannot read the image {path}: {reason}. It is damaged or of a rare kind: convert, replace or "
                     "remove it.")


def _iso_picture(path: Path) -> str | None:
    """Give the kind of picture that phones write and often call .jpg, or None if a file is no such one."""
    with Path(path).open("rb") as file:
        head = file.read(12)
    return ISO_PICTURES.get(head[8:]) if head[4:8] == b"ftyp" else None


def _is_cut_off(image: Image.Image, data: bytes) -> bool:
    """Whether blocks of a decoded JPEG are missing at its end; it costs time only if its corner is gray."""
    if not ends_in_gray(image.getpixel((image.width - 1, image.height - 1))):
        return False
    longer = lengthened(data)
    if longer is None:
        return False
    with Image.open(io.BytesIO(longer), formats=FORMATS) as other:
        return not np.array_equal(np.asarray(image), np.asarray(other))


def _orientation(image: Image.Image) -> int:
    """Give the EXIF orientation still to be undone: Pillow and OpenCV turn TIFFs, and only those, themselves."""
    if image.format == "TIFF":
        return 1
    try:
        return Image.Image.getexif(image).get(EXIF_ORIENTATION, 1)  # PNG's own first decodes the whole picture
    except Exception:  # damaged metadata: the picture may be sound, and whoever decodes it will know
        return 1


def _is_16_bit(image: Image.Image) -> bool:
    if image.mode.startswith("I;16"):
        return True
    if image.format == "TIFF":
        return 16 in tuple(image.tag_v2.get(TIFF_BITS_PER_SAMPLE, ()))
    return image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile)


def _decode_16_bit(path: Path, data: bytes, image: Image.Image) -> np.ndarray:
    """Give uint16 samples like `_to_array`, for which Pillow has no modes: it would silently give 8 bits.

    OpenCV decodes them, but leaves what they mean to the caller; Pillow's `image` knows.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it would print what is raised below
    encoded = _checked_png(data) if image.format == "PNG" else data
    samples = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    tags = image.tag_v2 if image.format == "TIFF" else {}
    separate = tags.get(TIFF_PLANAR) == TIFF_SEPARATE_PLANES and image.mode not in GRAY_MODES  # OpenCV garbles them
    if samples is None or samples.dtype != np.uint16 or separate:
        raise UserError(f"cannot read the image {path}: its 16-bit samples are stored in an unsupported way. Convert "
                        "it to a 16-bit PNG or to 8 bits.")
    if samples.ndim == 2:
        samples = samples[:, :, None]
    else:
        samples = cv2.cvtColor(samples, cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    if image.format == "PNG":
        if samples.shape[2] == 1 and "transparency" in image.info:  # OpenCV knows that of colour alone
            opaque = (samples != image.info["transparency"]) * np.uint16(65535)
            return np.concatenate([samples, opaque], axis=2)
        return samples[:, :, [0, 3]] if data[PNG_COLOUR_TYPE] == PNG_GRAY_AND_ALPHA else samples
    if tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:
        samples = np.iinfo(np.uint16).max - samples
    if samples.shape[2] == 4 and image.mode not in ALPHA_MODES:
        samples = samples[:, :, :3]
    elif samples.shape[2] == 4 and tags.get(TIFF_EXTRA_SAMPLES) == TIFF_PREMULTIPLIED:
        colour = np.rint(samples[:, :, :3] * 65535.0 / np.maximum(samples[:, :, 3:], 1))
        samples = np.concatenate([np.minimum(colour, 65535).astype(np.uint16), samples[:, :, 3:]], axis=2)
    return samples


def _checked_png(data: bytes) -> bytes:
    """Give the chunks of a PNG that tell its samples, of which none is damaged: OpenCV believes any length and prints.

    Raises:
        ValueError: one is.
    """
    chunks, position, kind = [data[:PNG_SIGNATURE_SIZE]], PNG_SIGNATURE_SIZE, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        if kind in PNG_CHUNKS:
            checksum = data[end - 4:end]
            if checksum != struct.pack(">I", zlib.crc32(data[position + 4:end - 4])):
                raise ValueError(f"the checksum of its {kind.decode()} is wrong")
            chunks.append(data[position:end])
        position = end
    return b"".join(chunks)


def _to_array(image: Image.Image, data: bytes) -> np.ndarray:
    """Give uint8 samples [h, w, 1 to 4]: gray, gray and alpha, RGB or RGB and alpha."""
    if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        # Pillow spreads samples of 2 or 4 bits over 0 to 255, but not the one that is transparent
        image.info["transparency"] *= 255 // (2 ** data[PNG_BIT_DEPTH] - 1)
    alpha = image.mode in ALPHA_MODES or "transparency" in image.info
    mode = "L" if image.mode in GRAY_MODES else "RGB"
    samples = np.asarray(image.convert(mode + "A" if alpha else mode))
    return samples[:, :, None] if samples.ndim == 2 else samples


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8; anything else counts as 1)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _to_photo(samples: np.ndarray, image: Image.Image) -> Photo:
    channels = samples.shape[2]
    values = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    alpha = np.ascontiguousarray(values[:, :, -1]) if channels in (2, 4) else None
    gray = channels < 3
    colour = np.repeat(values[:, :, :1], 3, axis=2) if channels < 3 else np.ascontiguousarray(values[:, :, :3])
    profile = image.info.get("icc_profile")
    space = b"GRAY" if gray else b"RGB "
    if not isinstance(profile, bytes) or profile[16:20] != space:  # a CMYK profile means nothing to converted samples
        profile = None
    return Photo(colour, alpha, 8 * samples.dtype.itemsize, gray, profile)


def quantize(pixels: np.ndarray, *, bit_depth: int = 8, gray: bool = False) -> np.ndarray:
    """Clip to [0, 1] and round to integers.

    Args:
        pixels: [h, w, c] float32, RGB if `gray`.
        bit_depth: 8 or 16.
        gray: give the BT.601 luma as one channel instead.

    Returns:
        uint8 or uint16, [h, w, c] or [h, w, 1].
    """
    if gray:
        pixels = (pixels @ LUMA)[:, :, None]
    scaled = np.clip(pixels, 0, 1) * np.float32(2 ** bit_depth - 1)
    return np.rint(scaled).astype(np.uint8 if bit_depth == 8 else np.uint16)


def to_8_bit(samples: np.ndarray) -> np.ndarray:
    """Give uint8 RGB [h, w, 3] for integers [h, w, 1 or 3] of 8 or 16 bits."""
    if samples.dtype == np.uint16:
        samples = cv2.convertScaleAbs(samples, alpha=1 / 257).reshape(samples.shape)
    return cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB) if samples.shape[2] == 1 else samples


def to_float(samples: np.ndarray) -> np.ndarray:
    """Undo `quantize`: integers [h, w, 1 or 3] -> float32 RGB in [0, 1], [h, w, 3]."""
    values = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    return np.repeat(values, 3, axis=2) if samples.shape[2] == 1 else values


def resize_bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize [h, w] or [h, w, c] float32 by cubic convolution (half-pixel centres, a = -0.75), clipped to [0, 1]."""
    return np.clip(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def write_png(path: Path, samples: np.ndarray, *, alpha: np.ndarray | None = None,
              icc_profile: bytes | None = None) -> None:
    """Write integers as PNG, atomically.

    Args:
        path: where to; its folder is created.
        samples: uint8 or uint16, [h, w, 3] RGB or [h, w, 1] gray.
        alpha: [h, w] float32 in [0, 1]; a gray image with alpha is stored as RGB and alpha.
        icc_profile: colour profile to embed.

    Raises:
        UserError: the file cannot be written.
    """
    if alpha is not None:
        combined = np.empty((*samples.shape[:2], 4), samples.dtype)
        combined[:, :, :3] = samples
        combined[:, :, 3:] = quantize(alpha[:, :, None], bit_depth=8 * samples.dtype.itemsize)
        samples = combined
        icc_profile = icc_profile if icc_profile and icc_profile[16:20] == b"RGB " else None
    if samples.shape[2] > 1:
        samples = cv2.cvtColor(samples, cv2.COLOR_RGB2BGR if samples.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    succeeded, encoded = cv2.imencode(".png", samples, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    if not succeeded:
        raise UserError(f"cannot write {path}: {samples.shape[1]}x{samples.shape[0]} pixels do not fit into a PNG.")
    png = memoryview(encoded)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(png[:PNG_HEADER_SIZE])
        if icc_profile:
            file.write(_profile_chunk(icc_profile))
        file.write(png[PNG_HEADER_SIZE:])


def _profile_chunk(profile: bytes) -> bytes:
    """Give the iCCP chunk of a PNG, which stands behind the header."""
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(profile)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
