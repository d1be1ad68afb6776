"""TFRecord files: where their records are, and what is in them.

A TFRecord file repeats: length of the data (uint64), checksum of these 8 bytes (uint32), data, checksum of the data
(uint32), little-endian. Checksums are CRC-32C, masked.
"""

import array
import math
import os
import struct
import weakref
from pathlib import Path

import google_crc32c
import numpy as np

from utils.errors import UserError

LENGTH = struct.Struct("<Q")
CHECKSUM_SIZE = 4  # bytes
HEADER_SIZE = LENGTH.size + CHECKSUM_SIZE
MASK_DELTA = 0xA282EAD8
SEARCH_CHUNK = 2**18  # bytes
MAX_FAULTS = 1000  # per file: each costs a search, and more of them leave little worth training with
REMEDY = "Fetch or make it again, or train with --skip_corrupt, which leaves damaged images out."


def pack_checksum(checksum: int) -> bytes:
    """Mask a CRC-32C and give the bytes that are stored."""
    masked = (checksum >> 15 | checksum << 17) + MASK_DELTA
    return struct.pack("<I", masked & 0xFFFFFFFF)


def record_header(length: int) -> bytes:
    """Give what stands before data of this length."""
    packed = LENGTH.pack(length)
    return packed + pack_checksum(google_crc32c.value(packed))


class DamagedImageError(UserError):
    """The checksum of an image's data contradicts it."""


def _place(index: int, position: int) -> str:
    return f"image {index} (at byte {position})"


class RecordFile:
    """One TFRecord file: where its records are, and their data. Reading is thread-safe."""

    def __init__(self, path: Path, *, usual_header: bytes, skip_corrupt: bool):
        """Read the framing.

        Args:
            path: the file.
            usual_header: what the records' headers are expected to be.
            skip_corrupt: collect `faults` and go on where the next record begins, instead of raising them.

        Raises:
            UserError: the file cannot be read, is empty, no TFRecord or (without skip_corrupt) damaged.
        """
        self.path = path
        self.faults: list[str] = []  # a line each
        self.num_lost = 0  # images, by these faults
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            self.num_bytes = os.fstat(self._descriptor).st_size
            offsets, lengths = self._scan(usual_header, skip_corrupt)
        except OSError as error:
            raise self._unreadable(error) from error
        self.offsets, self.lengths = np.array(offsets, np.int64), np.array(lengths, np.int64)

    def _unreadable(self, error: OSError) -> UserError:
        return UserError(f"cannot read {self.path}: {error.strerror or error}. Check the path and its permissions.")

    def _scan(self, usual_header: bytes, skip_corrupt: bool) -> tuple[array.array, array.array]:
        """Give the offset and the length of the data of every record."""
        if not self.num_bytes:
            raise UserError(f"{self.path} is empty. Fetch or make it again.")
        offsets, lengths, header, position = array.array("q"), array.array("q"), usual_header, 0
        while position < self.num_bytes:
            found = os.pread(self._descriptor, HEADER_SIZE, position)
            intact = found == header or self._is_header(found)
            header = found if intact else header
            length = LENGTH.unpack_from(header)[0]
            record_size = HEADER_SIZE + length + CHECKSUM_SIZE
            missing = position + record_size - self.num_bytes
            if intact and missing <= 0:
                offsets.append(position + HEADER_SIZE)
                lengths.append(length)
                position += record_size
                continue
            following = None
            truncated = missing > 0 and (intact or len(found) < HEADER_SIZE)
            if not truncated and skip_corrupt:
                # where bytes were lost, the next header lies inside the data that the last one announced
                following = self._find(header, offsets[-1] if offsets else 1)
            if not intact and not offsets and following is None:
                raise UserError(f"{self.path} is no TFRecord: it does not begin with a record's header. Check the "
                                "path, or fetch it again.")
            where = _place(len(offsets), position)
            what = (f"is truncated: {where} lacks {missing} bytes" if truncated else
                    f"is damaged: {where} has a header that its checksum contradicts")
            if not skip_corrupt:
                raise UserError(f"{self.path} {what}. {REMEDY}")
            lost = ((following or self.num_bytes) - position) / record_size
            if len(self.faults) == MAX_FAULTS:
                raise UserError(f"{self.path} is damaged in more than {MAX_FAULTS} places. Fetch or make it again.")
            self.faults.append(f"{self.path} {what}.")
            self.num_lost += math.ceil(lost) if following is None else max(0, round(lost))
            position = following or self.num_bytes
        return offsets, lengths

    @staticmethod
    def _is_header(found: bytes) -> bool:
        return len(found) == HEADER_SIZE and found == record_header(*LENGTH.unpack_from(found))

    def _find(self, header: bytes, start: int) -> int | None:
        """Give the offset of the first record with this header at or after `start`."""
        for position in range(start, self.num_bytes, SEARCH_CHUNK):
            place = os.pread(self._descriptor, SEARCH_CHUNK + HEADER_SIZE - 1, position).find(header)
            if place >= 0:
                return position + place
        return None

    def place(self, index: int) -> str:
        """Say where a record is: its number, and the byte where its header begins."""
        return _place(index, self.offsets[index] - HEADER_SIZE)

    def read(self, index: int) -> bytes:
        """Read a record's data.

        Raises:
            DamagedImageError: its checksum contradicts it.
            UserError: it cannot be read.
        """
        length = int(self.lengths[index])
        try:
            stored = os.pread(self._descriptor, length + CHECKSUM_SIZE, self.offsets[index])
        except OSError as error:
            raise self._unreadable(error) from error
        data = stored[:length]
        if stored[length:] != pack_checksum(google_crc32c.value(data)):
            raise DamagedImageError(f"{self.path} is damaged: {self.place(index)} has data that its checksum "
                                    f"contradicts. {REMEDY}")
        return data
