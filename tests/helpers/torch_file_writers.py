"""PyTorch's weight files, written by hand: any pickle, sound or hostile, in either of the two formats."""

import pickle
import zipfile
from pathlib import Path

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
SIX = np.arange(6, dtype=np.float32)


def literal(value) -> bytes:
    """The pickle instructions that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def storage_code(size=6, kind="FloatStorage", key="0", view=b"") -> bytes:
    return (b"(" + literal("storage") + f"ctorch\n{kind}\n".encode() + literal(key) + literal("cpu") + literal(size)
            + view + b"tQ")


def tensor_code(storage=None, offset=0, shape=(6,), strides=(1,)) -> bytes:
    """The pickle instructions that push a tensor."""
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + (storage or storage_code()) + literal(offset) + literal(shape)
            + literal(strides) + b"\x89}tR")


def dict_code(**values: bytes) -> bytes:
    """A whole pickle: a dictionary of what the instructions push."""
    return b"\x80\x02}" + b"".join(literal(name) + code + b"s" for name, code in values.items()) + b"."


def write_zip(path: Path, code: bytes, storages=None, compression=zipfile.ZIP_STORED, extra=()) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", code)
        for key, data in ({"0": SIX.tobytes()} if storages is None else storages).items():
            file.writestr(f"archive/data/{key}", data)
        for name, data in extra:
            file.writestr(f"archive/{name}", data)
    return path


def write_legacy(path: Path, code: bytes, storages=None, keys=None, counts=None) -> Path:
    storages = {"0": SIX.tobytes()} if storages is None else storages
    data = b"".join(pickle.dumps(item, 2) for item in (MAGIC, 1001, {"little_endian": True})) + code
    data += pickle.dumps(list(storages) if keys is None else keys, 2)
    for key, numbers in storages.items():
        data += int((counts or {}).get(key, len(numbers) // 4)).to_bytes(8, "little", signed=True) + numbers
    path.write_bytes(data)
    return path


def write_state(path: Path, state: dict[str, np.ndarray]) -> Path:
    """Write float32 arrays as PyTorch would: name -> array."""
    tensors, storages = {}, {}
    for key, (name, value) in enumerate(state.items()):
        value = np.ascontiguousarray(value, np.float32)
        strides = tuple(stride // value.itemsize for stride in value.strides)
        tensors[name] = tensor_code(storage_code(value.size, key=str(key)), 0, value.shape, strides)
        storages[str(key)] = value.tobytes()
    return write_zip(path, dict_code(**tensors), storages)
