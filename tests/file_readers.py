"""Every reader of files that others made: sound files to begin with, and what has to hold of any file whatever.

Used by the property-based tests (tests/utils/damaged_files_test.py) and by the fuzzer (tests/fuzz).
"""

import csv
import io
import json
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.torch_file_writers import SIX, dict_code, literal, storage_code, tensor_code, write_legacy, write_zip
from utils.data.tfrecords import ImageRecords, _checksum, write_image_records
from utils.errors import UserError
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS, LARGEST_COORDINATE, read_boxes
from utils.image.io import image_size, read_image
from utils.weights.ncnn import load_ncnn_convolutions
from utils.weights.npz import read_npz_weights, write_npz_weights
from utils.weights.torch_files import load_state_dict

LONGEST_MESSAGE = 1000  # characters beside the path
LONGEST_TIME = 2.0  # CPU seconds; the files here are small, and a hostile one takes a second at most
RECORD_SIDE = 4  # pixels of the images in records
PARAM = (b"7767517\n3 3\nInput in 0 1 a\nConvolution c 1 1 a b 0=2 1=3 11=1 5=1 6=18\n"
         b"Convolution d 1 1 b c 0=1 1=1 5=0 6=3 -23310=1,0.2\n")
FLOAT16_TAG = 0x01306B47


class FileReader(NamedTuple):
    """A reader of one kind of files.

    `seeds` are sound files, made by `make_seeds`; `read` gives their content after checking what it must always be;
    `wrap` turns what is to be damaged into a file, where a checksum would otherwise refuse nearly everything; `beside`
    are files that lie beside it, by ending. The content of a damaged file is `unchanged`, where checksums make it so.
    """

    suffix: str
    make_seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    wrap: Callable[[bytes], bytes] = bytes
    beside: dict[str, bytes] = {}  # noqa: RUF012
    unchanged: bool = False


class Examination(NamedTuple):
    """What came of a file: `content`, or `refusal` in one line."""

    content: Any
    refusal: str | None


def examine(reader: FileReader, data: bytes, folder: Path) -> Examination:
    """Read `data` as a file in `folder`, and check that it is read in time or refused in one line that names it."""
    path = folder / f"file{reader.suffix}"
    path.write_bytes(reader.wrap(data))
    for suffix, content in reader.beside.items():
        path.with_suffix(suffix).write_bytes(content)
    started = time.process_time()
    try:
        content, refusal = reader.read(path), None
    except UserError as error:
        content, refusal = None, str(error)
        assert refusal.isprintable(), f"not one line of plain text: {refusal!r}"
        assert str(path.with_suffix("")) in refusal, f"names no file: {refusal}"
        assert len(refusal) < LONGEST_MESSAGE + len(str(path)), f"too long: {refusal[:200]}..."
    seconds = time.process_time() - started
    assert seconds < LONGEST_TIME, f"took {seconds:.1f} s: {refusal}"
    return Examination(content, refusal)


# PyTorch


def _torch_code() -> bytes:
    shared = tensor_code(storage_code(6), 1, (2, 2), (2, 1))
    nested = b"}" + literal("list") + b"](" + literal(3) + tensor_code() + b"es"
    half = tensor_code(storage_code(3, "HalfStorage", "1"), 0, (3,))
    return dict_code(a=tensor_code(), b=shared, c=nested, d=half, epoch=literal(12), size=literal((2, 3.5, None)))


STORAGES = {"0": SIX.tobytes(), "1": SIX[:3].astype(np.float16).tobytes()}


def _torch_zip(folder: Path, code: bytes | None = None) -> bytes:
    return write_zip(folder / "seed.pth", _torch_code() if code is None else code, STORAGES).read_bytes()


def _torch_legacy(folder: Path) -> bytes:
    return write_legacy(folder / "seed.pth", _torch_code(), STORAGES, counts={"1": 3}).read_bytes()


def _zip_around(name: str, others: dict[str, bytes]) -> Callable[[bytes], bytes]:
    """Give what writes a part into an archive, with the checksum that belongs to it."""
    def wrap(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for part, content in {name: data, **others}.items():
                archive.writestr(part, content)
        return buffer.getvalue()

    return wrap


# ncnn


def _ncnn_bin() -> bytes:
    weights = np.arange(18)
    return (struct.pack("<I", FLOAT16_TAG) + weights.astype("<f2").tobytes() + np.ones(2, "<f4").tobytes()
            + struct.pack("<I", 0) + np.ones(3, "<f4").tobytes())


def _read_ncnn(path: Path) -> list:
    convolutions = load_ncnn_convolutions(path.with_suffix(".param"), path.with_suffix(".bin"))
    for _, weight, bias in convolutions:
        assert weight.dtype == bias.dtype == np.float32
        assert weight.ndim == 4
        assert bias.shape == weight.shape[:1]
    return convolutions


# records


def record_images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (4, RECORD_SIDE, RECORD_SIDE, 3), np.uint8))


def _records(folder: Path) -> bytes:
    write_image_records(folder / "seed.tfrecord", record_images(), RECORD_SIDE)
    return (folder / "seed.tfrecord").read_bytes()


def _example(folder: Path) -> list[bytes]:
    return [_records(folder)[12:12 + 17 + 3 * RECORD_SIDE**2]]


def _record_around(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _read_records(path: Path, *, skip_corrupt: bool = False) -> list[bytes]:
    records = ImageRecords(path, RECORD_SIDE, skip_corrupt=skip_corrupt)
    images = [records.read_or_next(index) for index in range(len(records))]
    assert all(image.shape == (RECORD_SIDE, RECORD_SIDE, 3) and image.dtype == np.uint8 for image in images)
    return [image.tobytes() for image in images]


def _read_intact_records(path: Path) -> list[bytes]:
    return _read_records(path, skip_corrupt=True)


# images


def picture(height: int = 11, width: int = 13) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.rint(255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8)


def _images(_: Path) -> list[bytes]:
    colour = Image.fromarray(picture())
    tags = Image.Exif()
    tags[274] = 6
    variants = [(colour, "PNG", {}), (colour.convert("P"), "PNG", {"transparency": 3}),
                (colour, "JPEG", {"exif": tags}),
                (colour.convert("1"), "PNG", {}), (colour, "JPEG", {"progressive": True}), (colour, "BMP", {}),
                (colour.convert("CMYK"), "JPEG", {}), (colour.convert("LA"), "PNG", {}), (colour, "WEBP", {}),
                (colour, "WEBP", {"lossless": True}), (colour, "TIFF", {"compression": "tiff_lzw"}),
                (colour, "TIFF", {}), (Image.fromarray(picture()[:, :, 0].astype(np.uint16) * 257), "PNG", {}),
                (Image.fromarray(picture()[:, :, 0].astype(np.uint16) * 257), "TIFF", {}), (colour, "GIF", {})]
    encoded = []
    for image, kind, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded.append(buffer.getvalue())
    return encoded


def _read_image(path: Path) -> None:
    try:
        height, width = image_size(path)
        if height * width > 2**20:  # a picture may be that large, and then takes its time and memory
            return
    except UserError:
        pass  # the message of decoding it is examined
    photo = read_image(path)
    assert photo.pixels.dtype == np.float32
    assert photo.pixels.ndim == photo.pixels.shape[2] == 3
    assert photo.pixels.min() >= 0
    assert photo.pixels.max() <= 1
    assert photo.alpha is None or photo.alpha.shape == photo.pixels.shape[:2]


# boxes


FACES = [("a.png", [1.5, 2, 30, 40.25], list(range(10)), 0.75), ("b ü.png", [-3, 0, 9, 9], [0.5] * 10, 1.0)]


def _boxes_json(_: Path) -> list[bytes]:
    return [json.dumps([{"file": file, "box": box, "landmarks": np.reshape(points, (5, 2)).tolist(), "score": score}
                        for file, box, points, score in FACES]).encode()]


def _boxes_csv(_: Path) -> list[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["file", *BOX_COLUMNS, *LANDMARK_COLUMNS, "score"])
    writer.writerows([file, *box, *points, score] for file, box, points, score in FACES)
    writer.writerow(["none.png"])
    return [buffer.getvalue().encode()]


def _read_boxes(path: Path) -> dict:
    faces = read_boxes(path)
    for file, found in faces.items():
        assert type(file) is str
        for box, landmarks, score in found:
            assert box.shape == (4,)
            assert landmarks.shape == (5, 2)
            assert np.abs([*box, *landmarks.ravel(), score]).max() < LARGEST_COORDINATE
            assert (box[2:] >= box[:2]).all()
    return faces


# our own weights


def _npz(folder: Path) -> list[bytes]:
    write_npz_weights(folder / "seed.npz", {"a/kernel": np.arange(24).reshape(2, 3, 4) / 8, "b": np.float32(0.5)})
    return [(folder / "seed.npz").read_bytes()]


def _npy(_: Path) -> list[bytes]:
    buffers = [io.BytesIO() for _ in range(2)]
    np.save(buffers[0], np.arange(6, dtype=np.float16).reshape(2, 3))
    np.save(buffers[1], np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    return [buffer.getvalue() for buffer in buffers]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = read_npz_weights(path, holds="net", check=lambda shapes: None)
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
    return arrays


READERS = {
    "pth zip": FileReader(".pth", lambda folder: [_torch_zip(folder)], load_state_dict, unchanged=True),
    "pth pickle": FileReader(".pth", lambda _: [_torch_code()], load_state_dict, _zip_around(
        "archive/data.pkl", {f"archive/data/{key}": data for key, data in STORAGES.items()})),
    "pth legacy": FileReader(".pth", lambda folder: [_torch_legacy(folder)], load_state_dict),
    "ncnn param": FileReader(".param", lambda _: [PARAM], _read_ncnn, beside={".bin": _ncnn_bin()}),
    "ncnn bin": FileReader(".bin", lambda _: [_ncnn_bin()], _read_ncnn, beside={".param": PARAM}),
    "tfrecord": FileReader(".tfrecord", lambda folder: [_records(folder)], _read_records),
    "tfrecord, corrupt skipped": FileReader(".tfrecord", lambda folder: [_records(folder)], _read_intact_records),
    "tfrecord example": FileReader(".tfrecord", _example, _read_records, _record_around),
    "image": FileReader(".png", _images, _read_image),
    "boxes csv": FileReader(".csv", _boxes_csv, _read_boxes),
    "boxes json": FileReader(".json", _boxes_json, _read_boxes),
    "npz": FileReader(".npz", _npz, _read_npz, unchanged=True),
    "npz array": FileReader(".npz", _npy, _read_npz, _zip_around("a.npy", {})),
}


def same(left, right) -> bool:
    """Whether two read objects are equal in types, order and values."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return left == right
