"""Finding out whether the compressed data of a JPEG end before its picture does.

libjpeg fills what is missing with gray and says so to nobody. But what stands between the data of the last block and
the end mark is ignored: so bytes put in there change the picture only if a block is missing.
"""

import re

import numpy as np

MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # but for the restart marks that stand inside the data (T.81, B.1.1)
END, START_OF_SCAN = 0xD9, 0xDA
# SOF3 and those of hierarchical and arithmetic coding; the latter may leave out zeros at its end, which a decoder adds
OTHER_CODING = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
ANY_CODES = bytes(range(1, 128))
# one of the restart marks is the one that is awaited, if the data end where there must be one
FILLER = ANY_CODES + b"".join(bytes([0xFF, mark]) + ANY_CODES for mark in range(0xD0, 0xD8))
GRAY = (127, 128)  # of what is missing, the former where values are stored inverted


def ends_in_gray(corner: int | tuple[int, ...]) -> bool:
    """Whether the lower right pixel, as Pillow gives it, is what libjpeg puts in for a missing block."""
    return bool(np.isin(corner, GRAY).all())


def lengthened(data: bytes) -> bytes | None:
    """Give a file with more data than its picture needs before the end mark, or None where that cannot be done.

    If it shows the same picture, no whole block was missing.
    """
    position, scanned = 2, False
    while match := MARKER.search(data, position):
        kind = data[match.end() - 1]
        if kind == END and scanned:
            return data[:match.start()] + FILLER + data[match.start():]
        if kind == END or kind in OTHER_CODING:
            return None
        scanned = scanned or kind == START_OF_SCAN
        position = match.end() + int.from_bytes(data[match.end():match.end() + 2], "big")
    return None
