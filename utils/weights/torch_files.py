"""Reads PyTorch's weight files (.pth) without PyTorch and without executing the code they may contain.

Both formats PyTorch ever wrote: the zip archive (since 1.6) and the legacy stream of pickles and raw numbers. Layouts
after `torch/serialization.py`. Every fault of a file is a `UserError`.
"""

import io
import math
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError, printable
from utils.weights.torch_unpickler import (
    SCALARS,
    BadTorchFileError,
    TensorView,
    TorchDtype,
    load_pickle,
)

# where training scripts keep the weights inside a checkpoint, the best ones first
STATE_DICT_KEYS = ("params_ema", "params", "state_dict", "g_ema", "model", "model_state_dict", "net")
FOREIGN_ADVICE = "torch.save writes no such files: get it from another place."
PARALLEL_PREFIX = "module."  # put before each name by torch.nn.DataParallel

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_DEPTH = 50
MAX_ENTRIES = 100_000  # of all dicts, lists and tuples together
MAX_SHORT_PICKLE = 1000  # instructions of the legacy format's magic number, version and platform
MAX_DIRECTORY = 8 * 2**20  # bytes of a zip archive's table of contents; 1000 tensors need about 0.1 MiB
# how much memory the arrays may take: expanded tensors (stride 0) and tied weights are larger than what is stored
EXPANSION_LIMIT = 4  # times the file's size
EXPANSION_FLOOR = 64 * 2**20  # bytes


class _Contents(NamedTuple):
    """An opened file: its object without numbers, and how to get at them."""

    tree: Any
    read_storage: Callable[[str], bytes]  # key of a storage -> all of it
    byte_order: str  # of the storages: "little" or "big"


class _Reader(io.BufferedReader):
    """A file that is never asked for more than is left of it: a length in a file is a claim, not a reason to allocate.

    `limit` is the most that may be read at once, in bytes.
    """

    def __init__(self, raw: io.RawIOBase):
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size
        self.limit = sys.maxsize

    def read(self, count: int | None = -1, /) -> bytes:
        if count is not None and count > io.DEFAULT_BUFFER_SIZE:  # nearly all of the calls are for a byte or two
            count = max(0, min(count, self.size - self.tell()))
            if count > self.limit:
                raise BadTorchFileError("its table of contents is far larger than that of a weight file")
        return super().read(count)


def load_torch_file(path: Path | str) -> dict:
    """Read all of a .pth file.

    Returns:
        The dictionary as stored: nested dicts (OrderedDict becomes dict), lists and tuples; numbers, texts and None;
        tensors and parameters as NumPy arrays in C order, each with memory of its own (bfloat16 as
        `ml_dtypes.bfloat16`); a torch dtype as its name ("torch.float32"). Attributes such as `_metadata` are dropped.

    Raises:
        UserError: the file cannot be read, is not one of PyTorch's, is damaged, or contains more than data.
    """
    return _load(Path(path), lambda tree: tree)


def load_state_dict(path: Path | str, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the weights of a .pth file: name -> array, in the file's order, the prefix "module." removed from names.

    Args:
        path: the file.
        key: the entry of the file's dictionary that holds the weights. Without it, the dictionary itself if it has
            tensors and no dictionaries in it, otherwise the first of "params_ema", "params", "state_dict", "g_ema",
            "model", "model_state_dict", "net" that the file has.

    Returns:
        Arrays as from `load_torch_file`. Numbers, texts and None beside the tensors are left out. Nothing else of the
        file than these arrays is brought into memory.

    Raises:
        UserError: as `load_torch_file`; `key` is missing; no weights are found; names are not unique.
    """
    return _load(Path(path), lambda tree: _choose(tree, key))


def _choose(tree: dict, key: str | None) -> dict[str, TensorView]:
    """Find the state dict in a file's dictionary whose tensors are not yet read."""
    there = ", ".join(printable(str(name)) for name in list(tree)[:20]) or "nothing"
    if key is not None:
        if key not in tree:
            raise BadTorchFileError(f"has no entry {key!r}", f"It has: {there}.")
        chosen = tree[key]
    elif any(type(value) is TensorView for value in tree.values()) and dict not in map(type, tree.values()):
        chosen = tree
    else:
        chosen = next((tree[name] for name in STATE_DICT_KEYS if name in tree), None)
    if type(chosen) is not dict or not any(type(value) is TensorView for value in chosen.values()):
        raise BadTorchFileError("holds no dictionary of tensors" + (f" under {key!r}" if key else ""),
                                f"Name the entry that has the weights; the file has: {there}.")
    state = {}
    for full_name, value in chosen.items():
        if type(value) is not TensorView and type(value) in SCALARS:
            continue
        name = str(full_name).removeprefix(PARALLEL_PREFIX)
        if type(full_name) is not str or type(value) is not TensorView or name in state:
            raise BadTorchFileError(f"its entry {printable(str(full_name))} is not one tensor under a name of its own",
                                    "Name the entry of the file that has the weights.")
        state[name] = value
    return state


def _load(path: Path, choose: Callable[[dict], dict]) -> dict:
    """Open `path`, let `choose` pick from its dictionary, read the tensors of what was picked."""
    try:
        with _Reader(path.open("rb", buffering=0)) as file:
            contents = _open(file)
            if type(contents.tree) is not dict:
                raise BadTorchFileError("does not hold a dictionary", "Use a file that holds a state dict.")
            return _read_tensors(choose(contents.tree), contents, EXPANSION_LIMIT * file.size + EXPANSION_FLOOR)
    except BadTorchFileError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions, "
                        "or download the file again.") from error
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory for it. Close other programs, or download it again "
                        "if it should be small.") from error
    except Exception as error:  # whatever else a parser meets in hostile bytes is a fault of those bytes
        raise UserError(f"{path}: is not a readable PyTorch file ({type(error).__name__}: "
                        f"{printable(str(error))}). The file is damaged or incomplete: download it again.") from error


def _open(file: _Reader) -> _Contents:
    """Recognise the format and read everything but the numbers."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(file)
    if head.startswith(b"\x80"):
        return _open_legacy(file)
    if head[257:262] == b"ustar":
        raise BadTorchFileError("is in PyTorch's tar format from before version 0.2",
                                "Load it and save it again with PyTorch.")
    if head.lstrip()[:1] == b"<":
        raise BadTorchFileError("is a web page", "The link led to a page instead of the file: download it again.")
    raise BadTorchFileError("is empty" if file.size == 0 else "is not a file written by torch.save",
                            "Download it again, or check that it is the file you mean.")


def _open_zip(file: _Reader) -> _Contents:
    """The zip format: ARCHIVE/data.pkl, one entry ARCHIVE/data/KEY per storage, uncompressed."""
    file.limit = MAX_DIRECTORY
    archive = zipfile.ZipFile(file)
    file.limit = sys.maxsize
    _check_entries(archive.infolist(), file.size)
    entries = archive.NameToInfo
    roots = [name.removesuffix("data.pkl") for name in entries if name.split("/", 1)[-1] == "data.pkl"]
    if len(roots) != 1:
        raise BadTorchFileError("is a zip archive, but not one written by torch.save",
                                "Check that it is the file you mean.")
    root = roots[0]
    if f"{root}constants.pkl" in entries or any(name.startswith(f"{root}code/") for name in entries):
        raise BadTorchFileError("is a TorchScript archive, which holds a program",
                                "Load it with torch.jit.load and save its state_dict() with torch.save.")
    without_checksums = entries[f"{root}data.pkl"].CRC == 0

    def read(name: str) -> bytes:
        if name not in entries:
            raise BadTorchFileError(f"its part {printable(name)} is missing")
        entry = entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise BadTorchFileError("is compressed, which PyTorch's files are not", "Use the file as it was published.")
        if entry.file_size > file.size or entry.file_size != entry.compress_size:
            raise BadTorchFileError(f"its part {printable(name)} claims to be larger than the file")
        if without_checksums:  # torch.serialization.set_crc32_options(False) writes zeros
            del entry.CRC
        data = archive.read(entry)
        if len(data) != entry.file_size:
            raise BadTorchFileError(f"its part {printable(name)} is cut off")
        return data

    byte_order = read(f"{root}byteorder").decode() if f"{root}byteorder" in entries else "little"
    if byte_order not in ("little", "big"):
        raise BadTorchFileError("has an unknown byte order")

    tree, storages = load_pickle(io.BytesIO(read(f"{root}data.pkl")))

    def read_storage(key: str) -> bytes:
        data = read(f"{root}data/{key}")
        if len(data) != storages[key].size * storages[key].dtype.itemsize:
            raise BadTorchFileError(f"its storage {printable(key)} does not have the stated "
                                    f"{storages[key].size} elements")
        return data

    return _Contents(tree, read_storage, byte_order)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse archives that other programs could take for something else than what is read here."""
    seen = set()
    for entry in entries:
        if entry.filename.startswith("/") or ".." in entry.filename.replace("\\", "/").split("/"):
            raise BadTorchFileError(f"its part {printable(entry.filename)} lies outside of the archive", FOREIGN_ADVICE)
        if entry.filename in seen:
            raise BadTorchFileError(f"its part {printable(entry.filename)} is there twice", FOREIGN_ADVICE)
        seen.add(entry.filename)
    if sum(entry.compress_size for entry in entries) > size:
        raise BadTorchFileError("its parts claim to be larger than the file, or overlap")


def _open_legacy(file: _Reader) -> _Contents:
    """The legacy format: five pickles (magic number, version, platform, object, storage keys), then the storages.

    Each storage is its number of elements (int64) and the elements, little-endian on every platform.
    """
    if load_pickle(file, max_instructions=MAX_SHORT_PICKLE)[0] != LEGACY_MAGIC:
        raise BadTorchFileError("is a pickle, but not one written by torch.save", "Check that it is the file you mean.")
    if load_pickle(file, max_instructions=MAX_SHORT_PICKLE)[0] != LEGACY_PROTOCOL:
        raise BadTorchFileError("is of an unknown version of PyTorch's legacy format")
    load_pickle(file, max_instructions=MAX_SHORT_PICKLE)  # the writer's platform, which tells nothing needed
    tree, storages = load_pickle(file)
    keys, _ = load_pickle(file)
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise BadTorchFileError("its list of storages does not match its tensors")
    positions = {}
    position = file.tell()
    for key in keys:
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        positions[key] = position + 8
        position += 8 + storage.size * storage.dtype.itemsize
        if count != storage.size or position > file.size:
            raise BadTorchFileError(f"its storage {printable(key)} does not have the stated {storage.size} elements")

    def read_storage(key: str) -> bytes:
        file.seek(positions[key])
        return file.read(storages[key].size * storages[key].dtype.itemsize)

    return _Contents(tree, read_storage, "little")


def _read_tensors(tree: dict, contents: _Contents, max_bytes: int) -> dict:
    """Copy `tree` with an array for each tensor. One storage at a time is held beside the arrays."""
    entries = 0
    total_bytes = 0
    pending: dict[str, list[tuple[TensorView, np.ndarray]]] = {}

    def convert(value: Any, depth: int) -> Any:
        nonlocal entries, total_bytes
        entries += 1
        if depth > MAX_DEPTH or entries > MAX_ENTRIES:
            raise BadTorchFileError("is nested too deeply or repeats itself without end")
        if type(value) is dict:
            return {key: convert(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)([convert(item, depth + 1) for item in value])
        if type(value) is TorchDtype:
            return f"torch.{value.name}"
        if type(value) is not TensorView:
            if type(value) not in SCALARS:
                raise BadTorchFileError(f"holds a bare {type(value).__name__} where a tensor or a number should be",
                                        "Use a file that holds a plain state dict.")
            return value
        total_bytes += math.prod(value.shape) * value.dtype.itemsize
        if total_bytes > max_bytes:
            raise BadTorchFileError(f"its tensors expand to more than {max_bytes // 2**20} MiB, far beyond the file's "
                                    "size", "Save it again with contiguous tensors.")
        array = np.empty(value.shape, value.dtype)
        if array.size:
            pending.setdefault(value.storage.key, []).append((value, array))
        return array

    result = convert(tree, 0)
    for key, views in pending.items():
        data = contents.read_storage(key)
        for view, array in views:
            _fill(array, view, data, contents.byte_order)
    return result


def _fill(array: np.ndarray, view: TensorView, data: bytes, byte_order: str) -> None:
    """Copy the elements of a view of a storage's bytes into an array of the view's shape and dtype."""
    size = view.dtype.itemsize
    # the stride of an axis of one element is free, and files have used that freedom beyond what NumPy takes
    strides = [stride * size if length > 1 else 0 for length, stride in zip(view.shape, view.strides, strict=True)]
    is_bool = view.dtype == np.bool_
    source = np.ndarray(view.shape, np.uint8 if is_bool else view.dtype, data, view.offset * size, strides)
    array[...] = source != 0 if is_bool else source  # a bool with other bits set is not one NumPy can compute with
    if byte_order != sys.byteorder and size > 1:
        array.view(f"u{size}").byteswap(inplace=True)
