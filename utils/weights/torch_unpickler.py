"""The pickle half of PyTorch's weight files, read by a small machine of our own that cannot run foreign code.

A pickle is a program, and Python's `pickle` is an interpreter that runs whatever the program names. This one knows only
the instructions that describe data, looks every name up in a table of our own functions, and gives attributes to
nothing. Tensors stay descriptions (`TensorView`) until `utils.weights.torch_files` fetches their numbers.

A subclass of `pickle.Unpickler` with an allow-list would be shorter, but hostile pickles exhaust the memory or the
stack of the C implementation, which ends the process instead of raising.
"""

import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from utils.errors import printable

MAX_INSTRUCTIONS = 300_000  # a checkpoint of 1000 tensors needs about 30,000
MAX_DIMENSIONS = 32
SCALARS = (str, bytes, int, float, bool, type(None))

DTYPES = {name: np.dtype(name) for name in (
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
            "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
            "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8"}


class BadTorchFileError(Exception):
    """What is wrong with a weight file and what to do about it; the reader of the file adds which file."""

    def __init__(self, what: str, advice: str = "The file is damaged or incomplete: download it again."):
        super().__init__(f"{what}. {advice}")


@dataclasses.dataclass(frozen=True)
class TorchDtype:
    """A `torch.float32` or the like."""

    name: str


@dataclasses.dataclass(frozen=True)
class StorageType:
    """A `torch.FloatStorage` or the like."""

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Storage:
    """`size` elements of `dtype` from element `start` of the run of numbers that the file keeps under `key`."""

    key: str
    dtype: np.dtype
    start: int
    size: int


@dataclasses.dataclass(frozen=True)
class TensorView:
    """A tensor as the file describes it: offset and strides in elements of `dtype`, inside its storage (checked)."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Builder:
    """One of our functions, standing for a name that files may call."""

    function: Callable


def load_pickle(stream: BinaryIO, *, max_instructions: int = MAX_INSTRUCTIONS) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle from where `stream` stands and leave it behind the pickle's end.

    Args:
        stream: a file whose `read` allocates no more than there is, whatever it is asked for.
        max_instructions: a longer pickle is refused.

    Returns:
        The object, made of dict, list, tuple, scalars and this module's classes (it may be shared, deep or cyclic: the
        caller bounds its walk), and every storage it speaks of, whole, by key.

    Raises:
        BadTorchFileError: the pickle wants something that no weight file needs, or is damaged. Any other exception
            means that it is damaged, too.
    """
    machine = _Machine()
    return machine.run(stream, max_instructions), machine.storages


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None) -> TensorView:
    """A view, after checking that all of it lies inside its storage."""
    if type(storage) is not Storage:
        raise BadTorchFileError("a tensor has no storage")
    dtype = storage.dtype if dtype is None else dtype
    sizes = [offset, *shape, *strides] if type(shape) is tuple and type(strides) is tuple else [None]
    if not all(map(_is_size, sizes)) or not len(shape) == len(strides) <= MAX_DIMENSIONS:
        raise BadTorchFileError("a tensor has an impossible shape, stride or offset")
    start_bytes, room_bytes = (count * storage.dtype.itemsize for count in (storage.start, storage.size))
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if (0 not in shape and end * dtype.itemsize > room_bytes) or start_bytes % dtype.itemsize:
        raise BadTorchFileError(f"a tensor of shape {printable(str(shape))} reaches outside its storage "
                                f"of {room_bytes} bytes")
    if math.prod(size or 1 for size in shape) * dtype.itemsize >= 2**63:  # NumPy takes no such shape, even of nothing
        raise BadTorchFileError(f"a tensor of shape {printable(str(shape))} is larger than any memory")
    return TensorView(storage, dtype, start_bytes // dtype.itemsize + offset, shape, strides)


def _rebuild_v2(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorView:
    return _tensor(storage, offset, shape, strides)


def _rebuild_v3(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any,
                *_: Any) -> TensorView:
    if type(dtype) is not TorchDtype:
        raise BadTorchFileError("a tensor has no number type")
    return _tensor(storage, offset, shape, strides, DTYPES[dtype.name])


def _parameter(data: Any, *_: Any) -> TensorView:
    """nn.Parameter, which adds only training state to its tensor."""
    if type(data) is not TensorView:
        raise BadTorchFileError("a parameter has no tensor")
    return data


def _dictionary(pairs: Any = ()) -> dict:
    """OrderedDict, as a dict: Python's dicts keep the order."""
    result = {}
    for key, value in list(pairs):
        _set_item(result, key, value)
    return result


def _size(items: Any = ()) -> tuple:
    return tuple(items)


def _set_item(target: Any, key: Any, value: Any) -> None:
    # only scalars: hashing a tuple nested a million deep would overflow the interpreter's own stack
    if type(target) is not dict or type(key) not in SCALARS:
        raise BadTorchFileError("a dictionary has a key that is neither text nor a number")
    target[key] = value


ALLOWED: dict[str, Builder | StorageType | TorchDtype] = {
    "collections.OrderedDict": Builder(_dictionary),
    "torch.Size": Builder(_size),
    "torch._utils._rebuild_tensor": Builder(_rebuild_v2),
    "torch._utils._rebuild_tensor_v2": Builder(_rebuild_v2),
    "torch._utils._rebuild_tensor_v3": Builder(_rebuild_v3),
    "torch._utils._rebuild_parameter": Builder(_parameter),
    "torch._utils._rebuild_parameter_with_state": Builder(_parameter),
    "torch.nn.parameter.Parameter": Builder(_parameter),  # as written before PyTorch 0.4
    **{f"{module}.{name}": StorageType(DTYPES[dtype])
       for module in ("torch", "torch.storage", "torch.cuda") for name, dtype in STORAGES.items()},
    **{f"torch.{name}": TorchDtype(name) for name in DTYPES},
}


class _Machine:
    """A stack machine for the data instructions of pickle protocols 1 to 5."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, stream: BinaryIO, max_instructions: int) -> Any:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= max_instructions:
                raise BadTorchFileError("its pickle is far longer than that of a weight file")
            if instruction.name in _LITERALS:
                self.stack.append(argument)
            elif instruction.name in _ACTIONS:
                _ACTIONS[instruction.name](self, argument)
            else:
                raise BadTorchFileError(f"refuses the pickle instruction {instruction.name}",
                                        "Weight files have none such: use a file that holds a plain state dict.")
        return self.stack.pop()

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise BadTorchFileError("its pickle is inconsistent")
        items = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return items

    def pop_to_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def drop(self, _: Any = None) -> None:
        """POP, which also takes a mark when one is on top."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise BadTorchFileError("its pickle is inconsistent")
        full_name = f"{module}.{name}"
        if full_name not in ALLOWED:
            raise BadTorchFileError(f"refuses to load {printable(full_name)}, which a file of weights does not need",
                                    "If you trust the file, save its state dict alone with PyTorch and use that.")
        self.stack.append(ALLOWED[full_name])

    def reduce(self, _: Any) -> None:
        function, arguments = self.pop(2)
        if type(function) is not Builder or type(arguments) is not tuple:
            raise BadTorchFileError("refuses to call what is not one of PyTorch's rebuilding functions")
        self.stack.append(function.function(*arguments))

    def build(self, _: Any) -> None:
        """BUILD: the attributes (`_metadata` of a state dict, gradient flags of a parameter) are dropped unread."""
        target, _state = self.pop(2)
        if type(target) not in (dict, TensorView):
            raise BadTorchFileError("refuses to set the attributes of an object")
        self.stack.append(target)

    def persistent(self, _: Any) -> None:
        """BINPERSID: ("storage", type, key, device, elements) and, in the legacy format, a view or None."""
        kind, storage_type, key, _device, size, *view = self.stack.pop()
        if kind != "storage" or type(storage_type) is not StorageType or type(key) is not str or not _is_size(size):
            raise BadTorchFileError("a storage is not described as PyTorch does")
        whole = Storage(key, storage_type.dtype, 0, size)
        if self.storages.setdefault(key, whole) != whole:
            raise BadTorchFileError(f"storage {printable(key)} is described in two ways")
        if view and view[0] is not None:
            _view_key, start, length = view[0]
            if not _is_size(start) or not _is_size(length) or start + length > size:
                raise BadTorchFileError(f"a view reaches outside storage {printable(key)}")
            whole = Storage(key, storage_type.dtype, start, length)
        self.stack.append(whole)

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise BadTorchFileError("its pickle is inconsistent")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set_item(self.stack[-1], key, value)

    def make_dictionary(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.set_items(items)


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make(machine))


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
             "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
             "SHORT_BINBYTES", "BINBYTES8"}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, length: None,
    "STOP": lambda machine, _: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": _Machine.drop,
    "POP_MARK": lambda machine, _: machine.pop_to_mark() and None,
    "DUP": _push(lambda machine: machine.stack[-1]),
    "NONE": _push(lambda machine: None),
    "NEWTRUE": _push(lambda machine: True),
    "NEWFALSE": _push(lambda machine: False),
    "EMPTY_TUPLE": _push(lambda machine: ()),
    "EMPTY_LIST": _push(lambda machine: []),
    "EMPTY_DICT": _push(lambda machine: {}),
    "TUPLE1": _push(lambda machine: tuple(machine.pop(1))),
    "TUPLE2": _push(lambda machine: tuple(machine.pop(2))),
    "TUPLE3": _push(lambda machine: tuple(machine.pop(3))),
    "TUPLE": _push(lambda machine: tuple(machine.pop_to_mark())),
    "LIST": _push(lambda machine: machine.pop_to_mark()),
    "DICT": _Machine.make_dictionary,
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, names: machine.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find(*machine.pop(2)),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
    "PUT": _put, "BINPUT": _put, "LONG_BINPUT": _put,
    "GET": _get, "BINGET": _get, "LONG_BINGET": _get,
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
}
