"""The only reader and writer of image files; outside it an image is RGB, float32 in [0, 1], [h, w, 3]."""

import argparse
import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from utils.errors import UserError, require
from utils.files import atomic_path, read_bytes
from utils.image.png import GRAY_AND_ALPHA, cicp_chunk, colour_chunks, encode_png

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, full range
# Pillow runs other programs for some of its formats
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "HEIF", "AVIF", "JPEG2000")
ORIENTATION, SWAPPING = 274, (5, 6, 7, 8)  # EXIF tag, and its values that exchange height and width
BITS_PER_SAMPLE = 258  # TIFF tag
# photometric interpretation, planar configuration and extra samples of a TIFF whose 16-bit samples OpenCV reads right
TIFF_LAYOUT, TIFF_LAYOUTS = (262, 284, 338), ((1, 1, None), (2, 1, None), (2, 1, (2,)))
PNG_BIT_DEPTH, PNG_COLOUR_TYPE = 24, 25  # positions in the file

PngImagePlugin.MAX_TEXT_CHUNK = 2**24  # bytes of a text or profile, unpacked; some scanners and editors need that
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it would print what is raised
Image.MAX_IMAGE_PIXELS = None  # `_open` has a limit that a flag can raise
pillow_heif.register_heif_opener()
_max_megapixels = 1000.0  # results of 62 megapixels; OpenCV's own limit is 1073


@dataclass(frozen=True)
class Photo:
    """A decoded image, upright: `pixels` [h, w, 3] float32 RGB in [0, 1]; `alpha` [h, w] likewise, or None.

    `bit_depth` 8 or 16 and `gray` say how the file stored it; the other fields are kept for the result.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    bit_depth: int = 8
    gray: bool = False
    icc_profile: bytes | None = None
    colour_chunks: bytes = b""
    exif: bytes | None = None
    note: str = ""  # what was left out


def add_pixel_limit(parser: argparse.ArgumentParser) -> None:
    """Add --max_megapixels, above which this process reads no image, to a parser or to a group of its options."""
    def megapixels(text: str) -> float:  # its name is in argparse's error
        global _max_megapixels
        require(float(text) > 0, "--max_megapixels must be positive", text)
        _max_megapixels = float(text)
        return _max_megapixels

    parser.add_argument("--max_megapixels", type=megapixels, default=_max_megapixels,
                        help="larger images are not read: they would fill the memory")


def read_image(path: Path) -> Photo:
    """Decode a file of one of `FORMATS`; of an animation, the first frame.

    Raises:
        UserError: the file is missing, no image, truncated, larger than the limit or has unsupported samples.
    """
    data = read_bytes(path)
    with _open(path, io.BytesIO(data)) as image:
        kind = image.format
        bits = (data[PNG_BIT_DEPTH],) if kind == "PNG" else getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())
        if image.info.get("bit_depth", 8) > 8:  # of HEIF, which is read as 16
            bits = (16,)
        if 16 not in bits and image.mode.startswith(("I", "F")):
            raise ValueError("only integers of 8 bits, and of 16 in PNG and TIFF, are supported")
        image.load()
        orientation, exif = _orientation_and_exif(image)
        profile = image.info.get("icc_profile")
        if image.mode == "CMYK" and profile and 16 not in bits:
            with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a damaged profile
                image = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                                  ImageCms.createProfile("sRGB"), outputMode="RGB")
                profile = None
        samples = _upright(_decode_16_bit(data, image) if 16 in bits else _to_array(image), orientation)
        channels = samples.shape[2]
        pixels, alpha = to_float(samples[:, :, :channels - (channels % 2 == 0)]), None
        if channels % 2 == 0:
            alpha = samples[:, :, -1].astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
            pixels = _extend_colours(pixels, alpha)
        kept = _matching(profile, gray=channels < 3)
        nclx = image.info.get("nclx_profile") if kept is None else None
        chunks = colour_chunks(data) if kind == "PNG" else cicp_chunk(**nclx or {})
        note = "left out: its colour profile, damaged or of another colour space" if profile and not kept else ""
        return Photo(pixels, alpha, 8 * samples.dtype.itemsize, channels < 3, kept, chunks, exif, note)


def image_size(path: Path) -> tuple[int, int]:
    """Read (height, width) of the upright image from the file's header, with UserErrors as `read_image`."""
    with _open(path, path) as image:
        return image.size if _orientation_and_exif(image)[0] in SWAPPING else image.size[::-1]


def is_image(path: Path) -> bool:
    """Whether a file's header is that of an image, whatever its name."""
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS):
        return True
    return False


@contextlib.contextmanager
def _open(path: Path, file: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an image and check its size; whatever the block raises on a damaged one becomes a UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; errors are raised
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > _max_megapixels * 1e6:
                    raise UserError(f"{path} has {image.width}x{image.height} pixels, more than {_max_megapixels:g} "
                                    "million. Raise --max_megapixels, or make it smaller.")
                yield image
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # Pillow's message names a memory address
            reason = f"no image of a known kind ({Path(path).stat().st_size} bytes)"
        raise UserError(f"cannot read the image {path}: {reason}. Check, convert, replace or remove it.") from error


def _orientation_and_exif(image: Image.Image) -> tuple[int, bytes | None]:
    """Return the EXIF orientation still to be undone (1: none), and the EXIF data of the upright image."""
    orientation, data = 1, None
    with contextlib.suppress(Exception):  # damaged metadata of an image that may be fine
        tags = Image.Image.getexif(image)  # PNG's own first decodes the whole image
        if tags and image.format != "TIFF":  # whose tags describe the file; decoders undo its orientation
            orientation, tags[ORIENTATION] = tags.get(ORIENTATION, 1), 1
            data = tags.tobytes().removeprefix(b"Exif\0\0")
    return orientation, data


def _decode_16_bit(data: bytes, image: Image.Image) -> np.ndarray:
    """Return uint16 samples like `_to_array`, decoded by OpenCV or libheif; raise a ValueError if it cannot."""
    if image.format == "HEIF":
        samples = np.asarray(pillow_heif.open_heif(data, convert_hdr_to_8bit=False))
        return samples.reshape(*samples.shape[:2], -1)
    if image.format == "PNG":
        Image.open(io.BytesIO(data)).verify()  # checksums, about which OpenCV would print
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    layout = tuple(map(image.tag_v2.get, TIFF_LAYOUT, (1, 1, None))) if image.format == "TIFF" else TIFF_LAYOUTS[0]
    if samples is None or samples.dtype != np.uint16 or layout not in TIFF_LAYOUTS:
        raise ValueError("its 16-bit samples are stored in an unsupported way")
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[2] > 1:
        samples = cv2.cvtColor(samples, cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    is_gray_and_alpha = image.format == "PNG" and data[PNG_COLOUR_TYPE] == GRAY_AND_ALPHA
    return samples[:, :, [0, 3]] if is_gray_and_alpha else samples


def _to_array(image: Image.Image) -> np.ndarray:
    """Return uint8 samples [h, w, 1 to 4]: gray, gray and alpha, RGB or RGB and alpha."""
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    samples = np.asarray(image.convert(mode + "A" if image.has_transparency_data else mode))
    return samples.reshape(image.height, image.width, -1)


def _matching(profile: object, *, gray: bool) -> bytes | None:
    """Return a colour profile if it describes gray samples or RGB, as asked."""
    return profile if isinstance(profile, bytes) and profile[16:20] == (b"GRAY" if gray else b"RGB ") else None


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8; anything else counts as 1)."""
    if orientation in SWAPPING:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples[:, ::-1] if orientation in (2, 3, 6, 7) else samples


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


def quantize(pixels: np.ndarray, *, bit_depth: int = 8, gray: bool = False) -> np.ndarray:
    """Clip [h, w, c] to [0, 1] and round to uint8 or uint16 by `bit_depth`; `gray`: RGB to BT.601 luma [h, w, 1]."""
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


def write_png(path: Path, samples: np.ndarray, *, alpha: np.ndarray | None = None, source: Photo | None = None) -> None:
    """Write uint8 or uint16 [h, w, 3] RGB or [h, w, 1] gray as PNG, atomically; create the folder.

    `alpha` is [h, w] float32 in [0, 1]; the colour description and the EXIF data of `source` are embedded. Raises a
    UserError if the file cannot be written.
    """
    source = source or Photo(samples)
    profile = _matching(source.icc_profile, gray=samples.shape[2] == 1)
    if alpha is not None:
        samples = np.dstack([samples, quantize(alpha, bit_depth=8 * samples.dtype.itemsize)])
    png = encode_png(samples, colours=source.colour_chunks, icc_profile=profile, exif=source.exif)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines(png)


def write_image(path: Path, samples: np.ndarray, *, alpha: np.ndarray | None = None, source: Photo | None = None,
                quality: int = 95) -> None:
    """Write as `write_png`, or in the format of the ending .jpg or .webp: 8 bits, and a JPEG on white without alpha."""
    if path.suffix == ".png":
        write_png(path, samples, alpha=alpha, source=source)
        return
    source = source or Photo(samples)
    is_gray = samples.shape[2] == 1 and path.suffix == ".jpg"
    image = Image.fromarray(to_8_bit(samples)).convert("L" if is_gray else "RGB")
    if alpha is not None:
        mask = Image.fromarray(quantize(alpha))
        if path.suffix == ".webp":
            image.putalpha(mask)
        else:
            image = Image.composite(image, Image.new(image.mode, image.size, "white"), mask)
    exif = {"exif": b"Exif\0\0" + source.exif} if source.exif else {}
    with atomic_path(path) as temporary:
        image.save(temporary, "JPEG" if path.suffix == ".jpg" else "WEBP", quality=quality, subsampling=0,
                   icc_profile=_matching(source.icc_profile, gray=is_gray), **exif)
