"""TFRecord files of training images: uint8 RGB of one size, in one file or in shards.

A record is a tf.train.Example whose feature `label` is one byte string, the samples of an image [size, size, 3], as in
the published records. Images of one size make records of one length, so record i begins at byte i * length.
TensorFlow is imported by the first call that needs it.
"""

import os
import re
import struct
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import google_crc32c
import numpy as np

from utils.errors import UserError, require
from utils.files import atomic_path

USUAL_SIZES = {256: "face", 400: "scene"}  # pixels; of the published records
HEADER_SIZE, FOOTER_SIZE = 12, 4  # bytes around the data of a record: its length with a checksum, its own checksum
REMEDY = "Fetch or make it again, or train with --skip_corrupt, which leaves damaged images out."


class DamagedImageError(UserError):
    """A checksum contradicts the bytes of a record."""


def _checksum(data: bytes) -> bytes:
    """Return the CRC-32C of `data`, masked as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _header(data_size: int) -> bytes:
    length = struct.pack("<Q", data_size)
    return length + _checksum(length)


def _encode(image: np.ndarray) -> bytes:
    """Return the record of an image."""
    import tensorflow as tf

    label = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
    data = tf.train.Example(features=tf.train.Features(feature={"label": label})).SerializeToString()
    return _header(len(data)) + data + _checksum(data)


def _decode(data: bytes, name: str) -> bytes:
    """Return the samples in the data of a record; `name` is the record's, for messages."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        [label] = tf.train.Example.FromString(data).features.feature["label"].bytes_list.value
    except (DecodeError, ValueError) as error:
        raise UserError(f"{name} must be a tf.train.Example with one byte string `label`. Check the path.") from error
    return label


def shard_path(path: Path, index: int, count: int) -> Path:
    """Return the path of a shard, as `x.tfrecord-00002-of-00008`."""
    return path.with_name(f"{path.name}-{index:05d}-of-{count:05d}")


def record_files(path: Path) -> list[Path]:
    """List the existing files of a record: `path` itself and its shards, sorted."""
    if not path.parent.is_dir():
        return []
    name = re.compile(re.escape(path.name) + r"(-\d{5}-of-\d{5})?")
    return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))


def _complete_files(path: Path, size: int | None) -> list[Path]:
    """Return the files of a record; `size` is for the message only.

    Raises:
        UserError: there are none, or shards are missing or of different divisions.
    """
    files = record_files(path)
    if not files:
        kind = f"{USUAL_SIZES.get(size, 'face' if 'face' in path.name else 'scene')}s"
        raise UserError(f"there is no record {path}. Fetch a published one (see README.md), or make one: python "
                        f"scripts/generate_tfrecord.py {kind} --input_dir PHOTOS --output {path}"
                        + f" --size {size}" * (size is not None))
    if files[0] == path:
        return [path]
    count = int(files[0].name[-5:])
    expected = [shard_path(path, index, count) for index in range(count)]
    require(files == expected, f"{path} must have exactly the shards {expected[0].name} to {expected[-1].name}",
            ", ".join(file.name for file in files[:20]))
    return expected


def _read(path: Path, start: int, num_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions."
                        ) from error


class ImageRecords:
    """Random access to the images of a record. Reading is thread-safe.

    Attributes:
        size: side of the images in pixels.
        faults: a line for each truncated file; empty without `skip_corrupt`.
    """

    def __init__(self, path: Path | str, size: int | None = None, *, skip_corrupt: bool = False):
        """Open a record and check its first image.

        Args:
            path: the file or, if it does not exist, the name of the shards without `-00000-of-00008`.
            size: side of the images in pixels; None: that of the first image.
            skip_corrupt: leave out a truncated last image, and let `read_or_next` leave out damaged ones.

        Raises:
            UserError: a file is missing, no TFRecord, truncated (without `skip_corrupt`), or holds images of another
                size.
        """
        self.path, self.size, self._skip_corrupt = Path(path), size, skip_corrupt
        self._files = _complete_files(self.path, size)
        self._header = _read(self._files[0], 0, HEADER_SIZE)  # of every record
        if len(self._header) < HEADER_SIZE or self._header[8:] != _checksum(self._header[:8]):
            raise UserError(f"{self._files[0]} is no TFRecord, or begins damaged. Check the path, or fetch it again.")
        self._record_size = HEADER_SIZE + struct.unpack_from("<Q", self._header)[0] + FOOTER_SIZE
        counts, surplus = np.divmod([file.stat().st_size for file in self._files], self._record_size)
        self._firsts = np.cumsum([0, *counts])
        self.faults = [f"{file} is truncated: image {count} (at byte {count * self._record_size}) lacks "
                       f"{self._record_size - num_bytes} bytes."
                       for file, count, num_bytes in zip(self._files, counts, surplus, strict=True) if num_bytes]
        if self.faults and not skip_corrupt:
            raise UserError(f"{self.faults[0]} {REMEDY}")
        self._damaged: set[int] = set()
        self.size = len(self.read_or_next(0))

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def num_skipped(self) -> int:
        """How many damaged images have been left out so far; each counts once."""
        return len(self.faults) + len(self._damaged)

    def read(self, index: int) -> np.ndarray:
        """Read image `index`, 0 <= index < len: uint8 RGB [size, size, 3].

        Raises:
            UserError: it is damaged, of another size, or no image. Names file and byte.
        """
        number = int(np.searchsorted(self._firsts, index, side="right")) - 1
        file, place = self._files[number], index - int(self._firsts[number])
        stored = _read(file, place * self._record_size, self._record_size)
        data, name = stored[HEADER_SIZE:-FOOTER_SIZE], f"{file}: image {place} (at byte {place * self._record_size})"
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
        """Read image `index`; with `skip_corrupt`, in place of a damaged one the next that is intact.

        Args:
            index: in `within`.
            within: the consecutive images that may be taken; after the last one comes the first. None: all.

        Raises:
            UserError: as for `read`; with `skip_corrupt` also when no image there is intact.
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


def write_image_records(path: Path | str, images: Iterable[np.ndarray], size: int, *, num_shards: int = 1,
                        shuffle_seed: int | None = None) -> int:
    """Write images as a record, atomically; it replaces a record of this name, whatever its number of shards.

    Args:
        path: the file or, of several shards, their name without numbers.
        images: uint8 RGB [size, size, 3] each. Consumed one by one.
        size: side of the images in pixels.
        num_shards: number of files, filled one after the other with equally many images.
        shuffle_seed: of the order; None keeps that of `images`. A shuffled or divided record takes its size twice on
            the disk while it is written.

    Returns:
        The number of images.

    Raises:
        UserError: there are fewer images than files, or a file cannot be written.
        ValueError: an image has another shape or type.
    """
    path, count, record_size = Path(path), 0, 0
    files = [path] if num_shards == 1 else [shard_path(path, index, num_shards) for index in range(num_shards)]
    with ExitStack() as stack:
        temporary = [stack.enter_context(atomic_path(file)) for file in files]
        copied = num_shards > 1 or shuffle_seed is not None
        # an unnamed temporary file vanishes even if the process is killed
        spool = stack.enter_context(tempfile.TemporaryFile(dir=path.parent) if copied  # noqa: SIM115
                                    else temporary[0].open("wb"))
        for image in images:
            if image.shape != (size, size, 3) or image.dtype != np.uint8:
                raise ValueError(f"images must be uint8 [{size}, {size}, 3]. Received: {image.dtype} {image.shape}.")
            record_size = spool.write(_encode(image))
            count += 1
        if count < num_shards:
            raise UserError(f"{path} would get {count} images, too few for {num_shards} file(s). Give more images or "
                            "fewer shards.")
        spool.flush()
        order = np.arange(count) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(count)
        for part, target in zip(np.array_split(order, num_shards), temporary, strict=True) if copied else ():
            with target.open("wb") as file:
                for index in part.tolist():
                    file.write(os.pread(spool.fileno(), record_size, index * record_size))
        if num_shards > 1:  # renamed last: a process killed meanwhile leaves too few shards, never a mixture
            files[0].unlink(missing_ok=True)
    for stale in set(record_files(path)) - set(files):
        stale.unlink()
    return count
