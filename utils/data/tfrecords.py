"""Records of training images: TFRecord files of uint8 RGB images of one size, written, and read at random.

The data of each of a file's records is a tf.train.Example whose single feature `label` is one byte string: the samples
of an image [size, size, 3], as in the published records.
"""

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from utils.data.tfrecord_files import (
    CHECKSUM_SIZE,
    HEADER_SIZE,
    DamagedImageError,
    RecordFile,
    pack_checksum,
    record_header,
)
from utils.errors import UserError, printable
from utils.files import atomic_path
from utils.tensorflow_setup import start_tensorflow

USUAL_SIZES = {256: "face", 400: "scene"}  # of the published records


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


@lru_cache
def _example_prefix(size: int) -> bytes:
    """Give what stands before the samples in the example of an image: everything but the samples."""
    prefix = b""
    # from the inside: BytesList.value, Feature.bytes_list, the map's entry (key, value), Features.feature, its Example
    for field in (b"\x0a", b"\x0a", b"\x0a\x05label\x12", b"\x0a", b"\x0a"):
        prefix = field + _varint(len(prefix) + 3 * size**2) + prefix
    return prefix


def shard_path(path: Path, index: int, count: int) -> Path:
    """Give the path of a record's shard, as `x.tfrecord-00002-of-00008`."""
    return path.with_name(f"{path.name}-{index:05d}-of-{count:05d}")


def record_files(path: Path) -> list[Path]:
    """List the files of a record that exist: `path` itself and its shards, sorted."""
    if not path.parent.is_dir():
        return []
    name = re.compile(re.escape(path.name) + r"(-\d{5}-of-\d{5})?")
    return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))


def _complete_files(path: Path, size: int | None = None) -> list[Path]:
    """Give the files of a record; `size` is for the message alone.

    Raises:
        UserError: there are none, or not all shards, or those of two divisions.
    """
    files = record_files(path)
    if not files:
        kind = f"{USUAL_SIZES.get(size, 'face' if 'face' in path.name else 'scene')}s"
        raise UserError(f"there is no record {path}. The published ones are called whole_face.tfrecord and "
                        "back400.tfrecord (the README says where they are); or make one: python "
                        f"scripts/generate_tfrecord.py {kind} --input_dir PHOTOS --output {path}"
                        + f" --size {size}" * (size is not None))
    if files[0] == path:
        return [path]
    counts = sorted({int(file.name[-5:]) for file in files})
    if len(counts) > 1:
        raise UserError(f"{path} has shards of different divisions, {' and '.join(map(str, counts))}. Remove all but "
                        "those of one.")
    wanted = [shard_path(path, index, counts[0]) for index in range(counts[0])]
    missing = [file.name for file in wanted if file not in files]
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of {counts[0]} shards, as {missing[0]}. Fetch or make them.")
    return wanted


class ImageRecords:
    """Random access to the images of a record: one TFRecord file, or shards. Reading is thread-safe.

    Opening reads the framing alone, 12 bytes per image, and checks the size of the first image.
    """

    def __init__(self, path: Path | str, size: int, *, skip_corrupt: bool = False):
        """Open a record.

        Args:
            path: the file or, if it does not exist, what the shards `NAME-00000-of-00008` are called without their
                numbers.
            size: side of the images in pixels.
            skip_corrupt: leave damaged images out. A broken header costs the images up to the next header that is
                like the one before it, a truncated end the last image.

        Raises:
            UserError: a file is missing, empty, no TFRecord, damaged in its framing (without skip_corrupt), or holds
                images of another size.
        """
        self.path, self.size = Path(path), size
        self._skip_corrupt = skip_corrupt
        usual_header = record_header(len(_example_prefix(size)) + 3 * size**2)
        self._files = [RecordFile(file, usual_header=usual_header, skip_corrupt=skip_corrupt)
                       for file in _complete_files(self.path, size)]
        self._firsts = np.cumsum([0] + [len(file.offsets) for file in self._files])
        self._damaged: set[int] = set()
        self.read_or_next(0)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def faults(self) -> list[str]:
        """What was found damaged on opening, a line each; empty without skip_corrupt."""
        return [fault for file in self._files for fault in file.faults]

    @property
    def num_skipped(self) -> int:
        """How many damaged images have been left out so far; each counts once."""
        return sum(file.num_lost for file in self._files) + len(self._damaged)

    def read(self, index: int) -> np.ndarray:
        """Read image `index`, 0 <= index < len: uint8 RGB [size, size, 3].

        Raises:
            UserError: it is damaged, of another size, or no image. Names file and byte.
        """
        number = int(np.searchsorted(self._firsts, index, side="right")) - 1
        file, place = self._files[number], index - int(self._firsts[number])
        samples = _label(file.read(place), file, place)
        if len(samples) != 3 * self.size**2:
            side = _side(samples)
            stored = f"{side}x{side} images" if side else f"{len(samples)} bytes per image"
            usual = USUAL_SIZES.get(side)
            fitting = f"is this the right record? Then set data.scene_size or data.face_size to {side}"
            hint = f"is this the {usual} record?" if usual else f"{fitting} (--set)."
            raise UserError(f"{file.path} has {stored} instead of {self.size}x{self.size}: {hint}")
        return np.frombuffer(samples, np.uint8).reshape(self.size, self.size, 3).copy()  # a view of bytes is read-only

    def read_or_next(self, index: int, *, within: range | None = None) -> np.ndarray:
        """Read image `index`; with skip_corrupt, in place of a damaged one the next that is intact.

        An intact image of another size is an error in any case.

        Args:
            index: in `within`.
            within: the consecutive images that may be taken, after the last of which comes the first; None: all.

        Raises:
            UserError: as for `read`; with skip_corrupt also when no image there is intact.
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


def _label(data: bytes, file: RecordFile, index: int) -> memoryview:
    """Give the samples inside an example: at once if it is laid out as here, whatever the size of the image.

    Raises:
        UserError: it is no example, or has no such feature.
    """
    size = math.isqrt(len(data) // 3)  # but for tiny images, the other bytes are fewer than a row
    prefix = _example_prefix(size)
    if len(data) == len(prefix) + 3 * size**2 and data.startswith(prefix):
        return memoryview(data)[len(prefix):]
    start_tensorflow()  # takes seconds, and only records of other programs need it
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError as error:
        raise UserError(f"{file.path} is no record of images: {file.place(index)} is no tf.train.Example. Check the "
                        "path.") from error
    values = features["label"].bytes_list.value if "label" in features else ()
    if len(values) != 1:
        names = ", ".join(sorted(map(printable, features))[:20]) or "none"
        raise UserError(f"{file.path} is no record of images: {file.place(index)} must have a feature `label` with one "
                        f"byte string. Its features: {names}.")
    return memoryview(values[0])


def _side(samples: memoryview) -> int:
    """Give the side of a square RGB image of that many samples; 0 if there is none."""
    side = math.isqrt(len(samples) // 3)
    return side if 3 * side**2 == len(samples) else 0


def stored_size(path: Path) -> int:
    """Give the side in pixels of the first intact image of a record.

    Raises:
        UserError: a file is missing or no TFRecord, or holds no square images.
    """
    file = RecordFile(_complete_files(path)[0], usual_header=record_header(0), skip_corrupt=True)
    for index in range(len(file.offsets)):
        with contextlib.suppress(DamagedImageError):
            side = _side(_label(file.read(index), file, index))
            if side:
                return side
            break
    raise UserError(f"{path} holds no square RGB images. Check the path.")


def write_image_records(path: Path | str, images: Iterable[np.ndarray], size: int, *, num_shards: int = 1,
                        shuffle_seed: int | None = None) -> int:
    """Write images as a record, atomically; it replaces a record of this name, however that was divided.

    The bytes are those that tf.io.TFRecordWriter writes.

    Args:
        path: the file or, of several shards, what they are called without their numbers.
        images: uint8 RGB [size, size, 3] each. Consumed one by one.
        size: side of the images in pixels.
        num_shards: number of files, filled one after the other with equally many images.
        shuffle_seed: of the order; None keeps that of `images`. A shuffled or divided record takes its size twice on
            the disk while it is written.

    Returns:
        How many images were written.

    Raises:
        UserError: there are fewer images than files, or a file cannot be written.
        ValueError: an image has another shape or type.
    """
    path = Path(path)
    files = [path] if num_shards == 1 else [shard_path(path, index, num_shards) for index in range(num_shards)]
    with contextlib.ExitStack() as stack:
        temporary = [stack.enter_context(atomic_path(file)) for file in files]
        if num_shards == 1 and shuffle_seed is None:
            with temporary[0].open("wb") as file:
                count = _write_images(file, images, size)
        else:
            # its directory entry is gone at once: whatever happens, it does not stay
            spool = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            count = _write_images(spool, images, size)
            spool.flush()
            order = np.arange(count) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(count)
            for part, target in zip(np.array_split(order, num_shards), temporary, strict=True):
                _copy_records(spool, target, part, size)
        if count < num_shards:
            raise UserError(f"{path} would get {count} images, too few for {num_shards} file(s). Give more images or "
                            "fewer shards.")
        if num_shards > 1:  # renamed last: a process killed meanwhile leaves too few shards, not some of each record
            files[0].unlink(missing_ok=True)
    for stale in set(record_files(path)) - set(files):
        stale.unlink()
    return count


def _write_images(file: BinaryIO, images: Iterable[np.ndarray], size: int) -> int:
    prefix = _example_prefix(size)
    header, checksum = record_header(len(prefix) + 3 * size**2), google_crc32c.value(prefix)
    count = 0
    for image in images:
        if image.shape != (size, size, 3) or image.dtype != np.uint8:
            raise ValueError(f"images must be uint8 [{size}, {size}, 3]. Received: {image.dtype} {image.shape}.")
        samples = image.tobytes()
        file.writelines((header, prefix, samples, pack_checksum(google_crc32c.extend(checksum, samples))))
        count += 1
    return count


def _copy_records(source: BinaryIO, path: Path, order: np.ndarray, size: int) -> None:
    record_size = HEADER_SIZE + len(_example_prefix(size)) + 3 * size**2 + CHECKSUM_SIZE
    with path.open("wb") as file:
        for index in order:
            file.write(os.pread(source.fileno(), record_size, int(index) * record_size))
