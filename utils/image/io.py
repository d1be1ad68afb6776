"""The only reader and writer of image files.

Outside this module an image is RGB, float32 in [0, 1], [h, w, 3]. EXIF orientation, palettes, gray, alpha, 16-bit
samples, BGR and colour profiles are dealt with here. Pillow decodes; OpenCV does where samples have 16 bits.
"""

import argparse
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from utils.errors import UserError, require
from utils.files import atomic_path, read_bytes
from utils.image.png import colour_chunks, encode_png, metadata_chunks

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, full range
# Pillow runs other programs for some of its formats
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "HEIF", "AVIF", "JPEG2000")
JPEG_FORMATS = ("JPEG", "MPO")
GRAY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 274  # EXIF tag
BITS_PER_SAMPLE, PHOTOMETRIC, PLANES, EXTRA_SAMPLES = 258, 262, 284, 338  # TIFF tags
WHITE_IS_ZERO, SEPARATE_PLANES, PREMULTIPLIED = 0, 2, (1,)  # values of the last three
PNG_BIT_DEPTH, PNG_COLOUR_TYPE = 24, 25  # positions in the file
JPEG_END = b"\xff\xd9"
# codes of large coefficients, also behind each restart mark, one of which may be awaited
JPEG_FILLER = b"".join(mark + bytes(range(254, 0, -1)) for mark in (b"", *(bytes([255, 208 + n]) for n in range(8))))

PngImagePlugin.MAX_TEXT_CHUNK = 2**24  # bytes of a text or profile, unpacked; some scanners and editors need that
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it would print what is raised
Image.MAX_IMAGE_PIXELS = None  # `_check_size` does it, with a limit that a flag can raise
pillow_heif.register_heif_opener()
_max_megapixels = 1000.0  # results of 62 megapixels; OpenCV's own limit is 1073


@dataclass(frozen=True)
class Photo:
    """A decoded image, upright.

    `pixels` [h, w, 3] float32 RGB in [0, 1]; `alpha` [h, w] likewise, or None; `bit_depth` 8 or 16 and `gray` say how
    the file stored it; `icc_profile`, `colour_chunks` (of a PNG) and `exif` are kept for the result.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    bit_depth: int = 8
    gray: bool = False
    icc_profile: bytes | None = None
    colour_chunks: bytes = b""
    exif: bytes | None = None


def add_pixel_limit(parser: argparse.ArgumentParser) -> None:
    """Add --max_megapixels, which calls `set_pixel_limit`, to a parser or to a group of its options."""
    def megapixels(text: str) -> float:  # its name is in argparse's error
        return set_pixel_limit(float(text))

    parser.add_argument("--max_megapixels", type=megapixels, default=_max_megapixels,
                        help="larger images are not read: they would fill the memory")


def set_pixel_limit(megapixels: float) -> float:
    """Set the size above which no image is read in this process, as --max_megapixels does."""
    global _max_megapixels
    require(megapixels > 0, "--max_megapixels must be positive", megapixels)
    _max_megapixels = megapixels
    return _max_megapixels


def read_image(path: Path) -> Photo:
    """Decode a PNG, JPEG, BMP, WebP, TIFF, GIF, HEIC, AVIF or JPEG 2000 file; of an animation, the first frame.

    Raises:
        UserError: the file is missing, empty, no image, truncated, larger than the limit or has 32-bit samples.
    """
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; errors are raised
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(path, image)
            deep = _is_16_bit(image, data)
            if image.mode in ("I", "F") and not deep:
                raise UserError(f"{path} has 32-bit samples, which are not supported. Convert it to 8 or 16 bits.")
            image = _load(image, data)
            profile = image.info.get("icc_profile")
            if image.mode == "CMYK" and profile:
                image, profile = _cmyk_to_srgb(image, profile), None
            samples = _decode_16_bit(data, image) if deep else _to_array(image, data)
            return _to_photo(_upright(samples, _orientation(image)), image, data, profile)
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise _explain(path, error) from error


def image_size(path: Path) -> tuple[int, int]:
    """Read (height, width) of the upright image from the file's header; an EXIF chunk behind a PNG's pixels is missed.

    Raises:
        UserError: the file is missing, no image or larger than the limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image)
                width, height = image.size
                return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)
    except UserError:
        raise
    except Exception as error:  # as above
        raise _explain(path, error) from error


def is_image(path: Path) -> bool:
    """Whether a file's header is that of an image, whatever its name."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:
        return False


def _check_size(path: Path, image: Image.Image) -> None:
    if image.width * image.height > _max_megapixels * 1e6:
        raise UserError(f"{path} has {image.width}x{image.height} pixels, more than {_max_megapixels:g} million. Raise "
                        "--max_megapixels, or make it smaller.")


def _explain(path: Path, error: Exception) -> UserError:
    """Return the error that an exception met while reading an image means."""
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"cannot read the image {path}: {error.strerror}. Check the path and its permissions.")
    if isinstance(error, MemoryError):
        return UserError(f"cannot read the image {path}: not enough memory. Make it smaller.")
    if isinstance(error, UnidentifiedImageError):  # Pillow's message names a memory address
        empty = Path(path).stat().st_size == 0
        kind = "the file is empty" if empty else "no image of a known kind"
        return UserError(f"cannot read the image {path}: {kind}. Convert, replace or remove it.")
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"cannot read the image {path}: {reason}. It is damaged or of a rare kind: convert, replace or "
                     "remove it.")


def _load(image: Image.Image, data: bytes) -> Image.Image:
    """Decode the pixels; of a JPEG also where nothing but its end mark is missing."""
    try:
        image.load()
        return image
    except OSError:
        if image.format not in JPEG_FORMATS or (image.info.get("progressive") and not _has_all_scans(data)):
            raise
        data = data.rstrip(b"\xff")  # half an end mark
        complete, longer = (Image.open(io.BytesIO(data + more + JPEG_END)) for more in (b"", JPEG_FILLER))
        complete.load()
        if not np.array_equal(np.asarray(complete), np.asarray(longer)):  # more data fill what was missing
            raise
        return complete


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG cover all coefficients of all components down to the last bit."""
    data = data[data.rindex(b"\xff\xc2"):]
    covered = set()
    for scan in re.finditer(b"\xff\xda..(.)", data, re.DOTALL):
        count = scan[1][0]
        components = data[scan.end():scan.end() + 2 * count:2]
        first, last, bits = data[scan.end() + 2 * count:scan.end() + 2 * count + 3]
        if bits & 15 == 0:
            covered |= {(component, number) for component in components for number in range(first, last + 1)}
    return len(covered) == 64 * data[9]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation still to be undone; Pillow and OpenCV undo that of a TIFF themselves."""
    if image.format == "TIFF":
        return 1
    try:
        return Image.Image.getexif(image).get(ORIENTATION, 1)  # PNG's own first decodes the whole image
    except Exception:  # damaged metadata of an image that may be fine
        return 1


def _is_16_bit(image: Image.Image, data: bytes) -> bool:
    if image.format == "TIFF":
        return 16 in tuple(image.tag_v2.get(BITS_PER_SAMPLE, ()))
    return image.mode.startswith("I;16") or (image.format == "PNG" and data[PNG_BIT_DEPTH] == 16)


def _decode_16_bit(data: bytes, image: Image.Image) -> np.ndarray:
    """Return uint16 samples like `_to_array`: OpenCV decodes them, Pillow's `image` knows what they mean.

    Raises:
        ValueError: they are damaged or stored in a way that OpenCV cannot decode.
    """
    if image.format == "PNG":
        Image.open(io.BytesIO(data)).verify()  # checksums, about which OpenCV would print
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    tags, gray = getattr(image, "tag_v2", {}), image.mode in GRAY_MODES
    if samples is None or samples.dtype != np.uint16 or (tags.get(PLANES) == SEPARATE_PLANES and not gray):
        raise ValueError("its 16-bit samples are stored in an unsupported way")
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[2] > 1:
        samples = cv2.cvtColor(samples, cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        samples = 65535 - samples
    if image.format == "PNG" and samples.shape[2] == 1 and "transparency" in image.info:  # OpenCV ignores it in gray
        return np.concatenate([samples, (samples != image.info["transparency"]) * np.uint16(65535)], axis=2)
    if image.format == "PNG" and data[PNG_COLOUR_TYPE] == 4:  # gray and alpha
        return samples[:, :, [0, 3]]
    if image.format == "TIFF" and samples.shape[2] == 4 and image.mode not in ALPHA_MODES:
        return samples[:, :, :3]
    if samples.shape[2] == 4 and tags.get(EXTRA_SAMPLES) == PREMULTIPLIED:
        colour = np.rint(samples[:, :, :3] * 65535.0 / np.maximum(samples[:, :, 3:], 1))
        samples = np.concatenate([np.minimum(colour, 65535).astype(np.uint16), samples[:, :, 3:]], axis=2)
    return samples


def _to_array(image: Image.Image, data: bytes) -> np.ndarray:
    """Return uint8 samples [h, w, 1 to 4]: gray, gray and alpha, RGB or RGB and alpha."""
    if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        # Pillow scales samples of 2 or 4 bits, but not the transparent one
        image.info["transparency"] *= 255 // (2 ** data[PNG_BIT_DEPTH] - 1)
    alpha = image.mode in ALPHA_MODES or "transparency" in image.info
    mode = "L" if image.mode in GRAY_MODES else "RGB"
    return np.asarray(image.convert(mode + "A" if alpha else mode)).reshape(image.height, image.width, -1)


def _cmyk_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    converted.format, converted.info = image.format, image.info
    return converted


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8; anything else counts as 1)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _to_photo(samples: np.ndarray, image: Image.Image, data: bytes, profile: object) -> Photo:
    channels = samples.shape[2]
    values, alpha = to_float(samples[:, :, :channels - (channels % 2 == 0)]), None
    if channels % 2 == 0:
        alpha = samples[:, :, -1].astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
        values = _extend_colours(values, alpha)
    if not isinstance(profile, bytes) or profile[16:20] != (b"GRAY" if channels < 3 else b"RGB "):
        profile = None
    chunks = colour_chunks(data) if image.format == "PNG" else b""
    return Photo(values, alpha, 8 * samples.dtype.itemsize, channels < 3, profile, chunks, _upright_exif(image))


def _extend_colours(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Replace invisible colours by the nearest visible ones, so that they do not bleed when the image is upscaled."""
    hidden = alpha == 0
    if hidden.all() or not hidden.any():
        return pixels
    _, labels = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5,
                                                labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.zeros(labels.max() + 1, np.int64)
    visible = np.flatnonzero(~hidden)
    nearest[labels.ravel()[visible]] = visible
    return pixels.reshape(-1, 3)[nearest[labels]]


def _upright_exif(image: Image.Image) -> bytes | None:
    """Return the EXIF data of the upright image, without a thumbnail; None if there are none or they are damaged."""
    try:
        tags = Image.Image.getexif(image)
        if not tags or image.format == "TIFF":  # whose tags describe the file
            return None
        tags[ORIENTATION] = 1
        return tags.tobytes().removeprefix(b"Exif\0\0")
    except Exception:
        return None


def quantize(pixels: np.ndarray, *, bit_depth: int = 8, gray: bool = False) -> np.ndarray:
    """Clip to [0, 1] and round to integers.

    Args:
        pixels: [h, w, c] float32, RGB if `gray`.
        bit_depth: 8 or 16.
        gray: return the BT.601 luma as one channel instead.

    Returns:
        uint8 or uint16, [h, w, c] or [h, w, 1].
    """
    if gray:
        pixels = (pixels @ LUMA)[:, :, None]
    scaled = np.clip(pixels, 0, 1) * np.float32(2 ** bit_depth - 1)
    return np.rint(scaled).astype(np.uint8 if bit_depth == 8 else np.uint16)


def to_8_bit(samples: np.ndarray) -> np.ndarray:
    """Convert integers [h, w, 1 or 3] of 8 or 16 bits to uint8 RGB [h, w, 3]."""
    if samples.dtype == np.uint16:
        samples = cv2.convertScaleAbs(samples, alpha=1 / 257).reshape(samples.shape)
    return cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB) if samples.shape[2] == 1 else samples


def to_float(samples: np.ndarray) -> np.ndarray:
    """Undo `quantize`: integers [h, w, 1 or 3] to float32 RGB in [0, 1], [h, w, 3]."""
    values = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    return np.repeat(values, 3, axis=2) if samples.shape[2] == 1 else values


def resize_bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize [h, w] or [h, w, c] float32 by cubic convolution (half-pixel centres, a = -0.75), clipped to [0, 1]."""
    return np.clip(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def write_png(path: Path, samples: np.ndarray, *, alpha: np.ndarray | None = None, source: Photo | None = None) -> None:
    """Write integers as PNG, atomically.

    Args:
        path: where to; its folder is created.
        samples: uint8 or uint16, [h, w, 3] RGB or [h, w, 1] gray.
        alpha: [h, w] float32 in [0, 1].
        source: the photo whose colour description and EXIF data are embedded.

    Raises:
        UserError: the file cannot be written.
    """
    chunks = b""
    if source is not None:
        matching = source.icc_profile and source.icc_profile[16:20] == (b"GRAY" if samples.shape[2] == 1 else b"RGB ")
        chunks = source.colour_chunks + metadata_chunks(source.icc_profile if matching else None, source.exif)
    if alpha is not None:
        samples = np.dstack([samples, quantize(alpha[:, :, None], bit_depth=8 * samples.dtype.itemsize)])
    png = encode_png(samples, chunks)
    if png is None:
        raise UserError(f"cannot write {path}: {samples.shape[1]}x{samples.shape[0]} pixels do not fit into a PNG.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines(png)
