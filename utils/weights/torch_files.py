"""Read PyTorch's weight files (zip and legacy format) and pickles of NumPy arrays without running code from them.

A pickle is a program that may call any function it names. `_Unpickler` resolves only the names in `ALLOWED`, to
functions and classes of this module. Layouts: `torch/serialization.py`.
"""

import pickle
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from utils.errors import printable
from utils.weights.npz import check_expansion

Storage = tuple[np.ndarray, np.dtype]  # its bytes (uint8 [n]), and the type of its elements
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
DAMAGED = "The file is damaged or incomplete: download it again."

DTYPES = {name: np.dtype(name) for name in (
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
            "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
            "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8"}


class WeightFileError(Exception):
    """What is wrong with a weight file and what to do about it; `load_state_dict` adds the file's name."""

    def __init__(self, problem: str, advice: str = DAMAGED):
        super().__init__(f"{problem}. {advice}")


class _Function(NamedTuple):
    """A function that a pickle may call; immutable, because a pickle can set attributes of what it gets."""

    function: Callable

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class _TorchType(NamedTuple):
    """A type such as torch.float32 or torch.FloatStorage; immutable, unlike a dtype."""

    dtype: np.dtype


class _Dict(dict):
    """OrderedDict; ignores attributes, such as `_metadata` of a state dict."""

    def __setstate__(self, _: Any) -> None:
        pass


class _NumpyDtype:
    """numpy.dtype of plain numbers."""

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or np.dtype(code).kind not in "fiub":
            raise WeightFileError("holds an array of another type than numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class ArrayStandIn:
    """numpy.ndarray, which a pickle creates empty and then fills, or a tensor; `value` may share memory."""

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, is_fortran, data = state
        self.value = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")


def _are_ints(*values: Any) -> bool:
    """Whether these are integers: messages, comparisons and hashes of nested lists may take exponential time."""
    return all(type(value) is int for value in values)


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any,
                    dtype: np.dtype | None = None) -> ArrayStandIn:
    """Return a view of a storage; NumPy refuses one that reaches outside of it. Offset and strides are in elements."""
    data, storage_dtype = storage
    dtype = dtype or storage_dtype
    if not _are_ints(offset, *shape, *strides) or min(shape, default=0) < 0:  # which NumPy does not notice
        raise WeightFileError("a tensor has an impossible shape")
    if 0 in shape:
        return ArrayStandIn(np.empty(shape, dtype))
    # the stride of an axis of one element is arbitrary, and may be one that NumPy refuses
    steps = [stride * dtype.itemsize if size > 1 else 0 for size, stride in zip(shape, strides, strict=True)]
    return ArrayStandIn(np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps))


ALLOWED: dict[str, Callable | _TorchType] = {
    "collections.OrderedDict": _Dict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": lambda storage, offset, shape, strides, _grad, _hooks, torch_type, *_: (
        _rebuild_tensor(storage, offset, shape, strides, dtype=torch_type.dtype)),
    **dict.fromkeys(("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
                     "torch.nn.parameter.Parameter"), lambda tensor, *_: tensor),
    **{f"{module}.{name}": _TorchType(DTYPES[dtype])
       for module in ("torch", "torch.storage", "torch.cuda") for name, dtype in STORAGES.items()},
    **{f"torch.{name}": _TorchType(dtype) for name, dtype in DTYPES.items()},
    "numpy.dtype": _NumpyDtype,
    "numpy.ndarray": ArrayStandIn,
    "_codecs.encode": lambda text, _encoding: text.encode("latin1"),  # how pickle protocol 2 writes bytes
    **{f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in (
        ("multiarray._reconstruct", lambda *_: ArrayStandIn()),
        ("multiarray.scalar", lambda *_: None),  # such as the best score of a training run
        ("numeric._frombuffer", lambda data, dtype, shape, order: ArrayStandIn(
            np.frombuffer(data, dtype.dtype).reshape(shape, order=order))))},
}


class _Unpickler(pickle.Unpickler):
    """Resolves only the names in `ALLOWED`; `make_storage(key, bytes)` returns the bytes of a storage."""

    def __init__(self, stream: BinaryIO, make_storage: Callable[[str, int], np.ndarray]):
        super().__init__(stream)
        self._make_storage = make_storage
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in `ALLOWED`."""
        found = ALLOWED.get(f"{module}.{name}")
        if found is None:
            raise WeightFileError(
                f"refuses to load {printable(f'{module}.{name}')}, which a file of weights does not need",
                "If you trust the file, save its state dict alone with PyTorch and use that.")
        return found if isinstance(found, _TorchType) else _Function(found)

    def persistent_load(self, pid: Any) -> Storage:
        """Return a storage: ("storage", dtype, key, device, elements) and, in the legacy format, a view or None."""
        _kind, torch_type, key, _device, size, *view = pid
        if not isinstance(key, str) or not _are_ints(size):
            raise WeightFileError("a storage has an impossible key or size")
        dtype = torch_type.dtype
        if key not in self.storages:
            self.storages[key] = self._make_storage(key, size * dtype.itemsize)
        data = self.storages[key]
        if view and view[0]:
            _view_key, start, length = view[0]
            data = data[start * dtype.itemsize:(start + length) * dtype.itemsize]
        return data, dtype


def read_zip(file: BinaryIO, size: int) -> Any:
    """Read the zip format: ARCHIVE/data.pkl and one entry ARCHIVE/data/KEY per storage."""
    archive = zipfile.ZipFile(file)
    entries = archive.NameToInfo
    check_expansion(sum(entry.file_size for entry in archive.infolist()), size)
    roots = [name.removesuffix("data.pkl") for name in entries if name.split("/", 1)[-1] == "data.pkl"]
    if len(roots) != 1:
        raise WeightFileError("is a zip archive, but not one written by torch.save",
                              "Check that it is the file you mean.")
    [root] = roots
    if entries[f"{root}data.pkl"].CRC == 0:  # torch.serialization.set_crc32_options(False) writes zeros
        for entry in entries.values():
            del entry.CRC
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != sys.byteorder.encode():
        raise WeightFileError("was written on a machine of another byte order", "Save it again on one like this.")

    def read_storage(key: str, num_bytes: int) -> np.ndarray:
        data = np.frombuffer(archive.read(f"{root}data/{key}"), np.uint8)
        if len(data) != num_bytes:
            raise WeightFileError(f"its storage {printable(key)} does not have the stated {num_bytes} bytes")
        return data

    with archive.open(f"{root}data.pkl") as stream:
        return _Unpickler(stream, read_storage).load()


def read_pickles(file: BinaryIO, size: int) -> tuple[Any, bool]:
    """Read a plain pickle, or the legacy format: magic number, version, platform, object, storage keys, storages.

    Returns:
        The object, and whether the format is PyTorch's.
    """
    def new_storage(key: str, num_bytes: int) -> np.ndarray:
        if not 0 <= num_bytes <= size:
            raise WeightFileError(f"its storage {printable(key)} is stated to be larger than the file")
        return np.zeros(num_bytes, np.uint8)

    def load() -> tuple[Any, dict[str, np.ndarray]]:
        unpickler = _Unpickler(file, new_storage)
        return unpickler.load(), unpickler.storages

    tree, _ = load()
    if tree != LEGACY_MAGIC:
        return tree, False
    if load()[0] != LEGACY_VERSION:
        raise WeightFileError("is of an unknown version of PyTorch's legacy format")
    load()  # the writer's platform
    tree, storages = load()
    keys, _ = load()
    if not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise WeightFileError("its list of storages does not match its tensors")
    for key in keys:  # each storage: its number of elements (int64), the elements, little-endian on every platform
        if len(file.read(8)) != 8 or file.readinto(storages[key]) != len(storages[key]):
            raise WeightFileError(f"its storage {printable(key)} is cut off")
    return tree, True
