"""TFRecord files of training images: uint8 RGB of one size.

An image is a tf.train.Example whose feature `label` is one byte string, the samples [size, size, 3], as in the
published records. All of a file have one length, so image i begins at byte i * length. TensorFlow is imported by the
first call that needs it.
"""

import struct
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from utils.errors import UserError, require
from utils.files import atomic_path, read_errors

USUAL_SIZES = {256: "face", 400: "scene"}  # pixels; of the published records
HEADER_SIZE, FOOTER_SIZE = 12, 4  # bytes around the data of a record: its length with a checksum, its own checksum
REMEDY = "Fetch or make it again, or train with --skip_corrupt, which leaves damaged images out."


class DamagedImageError(UserError):
    """A checksum contradicts the bytes of a record."""


def _checksum(data: bytes) -> bytes:
    """Return the CRC-32C of `data`, masked as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _encode(image: np.ndarray) -> bytes:
    """Return the record of an image."""
    import tensorflow as tf

    example = tf.train.Example()
    example.features.feature["label"].bytes_list.value.append(image.tobytes())
    data = example.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _decode(data: bytes, name: str) -> bytes:
    """Return the samples in the data of a record; `name` is the record's, for messages."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        [label] = tf.train.Example.FromString(data).features.feature["label"].bytes_list.value
    except (DecodeError, ValueError) as error:
        raise UserError(f"{name} must be a tf.train.Example with one byte string `label`. Check the path.") from error
    return label


def _read(path: Path, start: int, num_bytes: int) -> bytes:
    with read_errors(path), path.open("rb") as file:
        file.seek(start)
        return file.read(num_bytes)


class ImageRecords:
    """Random access to the images of a record, of side `size`. Reading is thread-safe.

    `faults` has a line for a truncated file; it is empty without `skip_corrupt`.
    """

    def __init__(self, path: Path | str, size: int | None = None, *, skip_corrupt: bool = False):
        """Open a record and check its first image.

        `size` None: that of the first image. `skip_corrupt`: leave out a truncated last image, and let `read_or_next`
        leave out damaged ones.
        """
        self.path, self.size, self._skip_corrupt = Path(path), size, skip_corrupt
        if not self.path.exists():
            kind = "faces" if "face" in self.path.name else "scenes"
            raise UserError(f"there is no record {path}. Fetch a published one (see README.md), or make one: python "
                            f"scripts/generate_tfrecord.py {kind} --input_dir PHOTOS --output {path}")
        self._header = _read(self.path, 0, HEADER_SIZE)  # of every image
        if len(self._header) < HEADER_SIZE or self._header[8:] != _checksum(self._header[:8]):
            raise UserError(f"{path} is no TFRecord, or begins damaged. Check the path, or fetch it again.")
        self._record_size = HEADER_SIZE + struct.unpack_from("<Q", self._header)[0] + FOOTER_SIZE
        self._count, surplus = divmod(self.path.stat().st_size, self._record_size)
        self.faults = [f"{path} is truncated: image {self._count} (at byte {self._count * self._record_size}) lacks "
                       f"{self._record_size - surplus} bytes."] * bool(surplus)
        if self.faults and not skip_corrupt:
            raise UserError(f"{self.faults[0]} {REMEDY}")
        self._damaged: set[int] = set()
        self.size = len(self.read_or_next(0))

    def __len__(self) -> int:
        return self._count

    @property
    def num_skipped(self) -> int:
        """How many damaged images have been left out so far; each counts once."""
        return len(self.faults) + len(self._damaged)

    def read(self, index: int) -> np.ndarray:
        """Read image `index`, 0 <= index < len: uint8 RGB [size, size, 3]. UserErrors name file and byte."""
        start = index * self._record_size
        stored = _read(self.path, start, self._record_size)
        data, name = stored[HEADER_SIZE:-FOOTER_SIZE], f"{self.path}: image {index} (at byte {start})"
        if stored != self._header + data + _checksum(data):
            raise DamagedImageError(f"{name} is damaged: its bytes contradict its checksums. {REMEDY}")
        samples = np.frombuffer(_decode(data, name), np.uint8)
        side = round((len(samples) / 3) ** 0.5)
        if 3 * side**2 != len(samples) or side != (self.size or side):
            raise UserError(f"{name} has {len(samples)} bytes ({side}x{side}) instead of {self.size}x{self.size}: "
                            f"is this the {USUAL_SIZES.get(side, 'right')} record? data.scene_size and data.face_size "
                            "(--set) state the sizes.")
        return samples.reshape(side, side, 3).copy()  # a view of bytes is read-only

    def read_or_next(self, index: int, *, within: range | None = None) -> np.ndarray:
        """Read image `index`; with `skip_corrupt`, instead of a damaged one the next intact one.

        That is searched cyclically in the range `within`; None: in all images.
        """
        within = range(len(self)) if within is None else within
        for step in range(len(within)):
            place = within.start + (index - within.start + step) % len(within)
            if place in self._damaged:
                continue
            try:
                return self.read(place)
            except DamagedImageError:
                if not self._skip_corrupt:
                    raise
                self._damaged.add(place)
        raise UserError(f"{self.path} has no intact image. Fetch or make it again.")


class Images(NamedTuple):
    """A range of the images of a record: `count` images from `start` on."""

    records: ImageRecords
    start: int
    count: int

    def read(self, index: int) -> np.ndarray:
        """Return image `index`, uint8 RGB."""
        return self.records.read_or_next(self.start + index, within=range(self.start, self.start + self.count))

    def shuffled(self, position: int, seed: tuple[int, ...]) -> np.ndarray:
        """Return the image at a position of an endless sequence of epochs, each a permutation of all images."""
        epoch, place = divmod(position, self.count)
        return self.read(int(_order(self.count, (*seed, epoch))[place]))


def divide_record(path: str, validation_path: str, size: int, data: Any) -> tuple[Images, Images]:
    """Open a record; return its images for training, and those for validation.

    Validation images are those of `validation_path` or, if that is empty, the last `data.num_validation` of `path`.
    `size` is the side of the images in pixels, `data` as `config.DataConfig`.
    """
    records = ImageRecords(path, size, skip_corrupt=data.skip_corrupt)
    if validation_path:
        kept = ImageRecords(validation_path, size, skip_corrupt=data.skip_corrupt)
        return Images(records, 0, len(records)), Images(kept, 0, len(kept))
    count = data.num_validation
    require(0 < count < len(records), f"data.num_validation must be at least 1 and less than the number of images of "
            f"{path}, unless there is a validation record", f"{count} of {len(records)} images")
    return Images(records, 0, len(records) - count), Images(records, len(records) - count, count)


@lru_cache(maxsize=8)
def _order(count: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


def write_image_records(path: Path | str, images: Iterable[np.ndarray], size: int, *,
                        shuffle_seed: int | None = None) -> int:
    """Write images, uint8 RGB [size, size, 3], as one file, atomically; return their number.

    With a `shuffle_seed` their order is random, and while it is written the record takes its size twice on the disk.
    Raises a ValueError if an image has another shape or type.
    """
    path, count, record_size = Path(path), 0, 0
    with (atomic_path(path) as temporary, temporary.open("wb") as file,
          # unnamed, so that it vanishes even if the process is killed
          tempfile.TemporaryFile(dir=path.parent) as spool):
        target = file if shuffle_seed is None else spool
        for image in images:
            if image.shape != (size, size, 3) or image.dtype != np.uint8:
                raise ValueError(f"images must be uint8 [{size}, {size}, 3]. Received: {image.dtype} {image.shape}.")
            record_size = target.write(_encode(image))
            count += 1
        require(count > 0, f"{path} must get at least one image", count)
        if shuffle_seed is not None:
            for index in np.random.default_rng(shuffle_seed).permutation(count).tolist():
                spool.seek(index * record_size)
                file.write(spool.read(record_size))
    return count
