"""Read the weights in files of PyTorch, NumPy (pickles) and safetensors, which are recognised by their content."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors

from utils.errors import UserError, printable
from utils.weights.torch_files import (
    DAMAGED,
    DTYPES,
    EXPANSION_FLOOR,
    EXPANSION_LIMIT,
    ArrayStandIn,
    WeightFileError,
    read_pickles,
    read_zip,
)

# where training scripts keep the weights inside a checkpoint, the best ones first
STATE_DICT_KEYS = ("params_ema", "params", "state_dict", "g_ema", "model", "model_state_dict", "net")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # of torch.nn.DataParallel and torch.compile
MAX_DEPTH = 50  # of nested dictionaries
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
                      "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
                      "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"}


def load_state_dict(path: Path | str, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the weights of a file.

    Args:
        path: the file.
        key: the entry of a PyTorch file's dictionary that holds the weights. Without it, the first of
            `STATE_DICT_KEYS` that has tensors, the dictionary itself if it has some, or the only entry that has.

    Returns:
        Name -> array in C order with memory of its own (bfloat16 as `ml_dtypes.bfloat16`), in the file's order. Names
        lose the prefixes of wrappers. Nested dictionaries of a NumPy pickle are joined by "/". Numbers, texts and None
        are left out.

    Raises:
        UserError: the file cannot be read, is damaged, contains more than data, or holds no weights.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            tree, is_torch = _read(file, size)
            arrays = _flatten(_choose(tree, key) if is_torch else tree)
            if sum(array.nbytes for array in arrays.values()) > EXPANSION_LIMIT * size + EXPANSION_FLOOR:
                raise WeightFileError("its arrays expand far beyond the file's size",
                                      "Save it again with contiguous tensors.")
            return {name: np.array(array, order="C") for name, array in arrays.items()}
    except WeightFileError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions, "
                        "or download the file again.") from error
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory for it. Close other programs, or download it again "
                        "if it should be small.") from error
    except Exception as error:  # pickle, zipfile and NumPy raise a dozen kinds for damaged files
        raise UserError(f"{path}: is not a readable weight file ({type(error).__name__}: "
                        f"{printable(str(error))}). {DAMAGED}") from error


def _read(file: BinaryIO, size: int) -> tuple[Any, bool]:
    """Return the object in a file, and whether it has PyTorch's structure."""
    head = file.read(16)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return read_zip(file, size), True
    if head.startswith(b"\x80"):
        return read_pickles(file, size)
    if head[8:9] == b"{":  # after the length of the header
        return _read_safetensors(file.read()), True
    if head.lstrip()[:1] == b"<":
        raise WeightFileError("is a web page", "The link led to a page instead of the file: download it again.")
    raise WeightFileError("is not a file of weights" if size else "is empty",
                          "Download it again, or check that it is the file you mean.")


def _read_safetensors(content: bytes) -> dict[str, ArrayStandIn]:
    arrays = {}
    for name, entry in safetensors.deserialize(content):  # its NumPy interface knows no bfloat16
        values = np.frombuffer(entry["data"], DTYPES[SAFETENSORS_DTYPES[entry["dtype"]]])
        arrays[name] = ArrayStandIn(values.reshape(entry["shape"]))
    return arrays


def _choose(tree: Any, key: str | None) -> dict[str, Any]:
    """Return the state dict in a PyTorch file's dictionary."""
    if not isinstance(tree, dict):
        raise WeightFileError("does not hold a dictionary", "Use a file that holds a state dict.")
    candidates = [name for name, value in tree.items() if _has_arrays(value)]
    known = [name for name in STATE_DICT_KEYS if name in candidates]
    if key is not None:
        if key not in candidates:
            raise WeightFileError(f"has no weights under {printable(key)!r}", f"It has: {_listed(candidates or tree)}.")
        chosen = tree[key]
    elif known or (len(candidates) == 1 and not _has_arrays(tree)):
        chosen = tree[(known or candidates)[0]]
    elif _has_arrays(tree):
        chosen = tree
    elif candidates:
        raise WeightFileError(f"has weights under several names: {_listed(candidates)}",
                              "Choose one with --weights_key (test.py, scripts/export_checkpoint.py).")
    else:
        raise WeightFileError("holds no weights", f"It has: {_listed(tree)}. Use a file that holds a state dict.")
    return {name: value for name, value in chosen.items() if not isinstance(value, dict)}


def _has_arrays(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, ArrayStandIn) for item in value.values())


def _listed(names: Iterable) -> str:
    return ", ".join(printable(str(name)) for name in list(names)[:20]) or "nothing"


def _flatten(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, np.ndarray]:
    """Return the arrays of nested dictionaries, their keys joined by "/"."""
    if not isinstance(tree, dict) or depth > MAX_DEPTH:
        raise WeightFileError("does not hold a dictionary of arrays", "Use a file that holds weights alone.")
    arrays = {}
    for key, value in tree.items():
        name = prefix + _without_wrappers(str(key))
        if isinstance(value, dict):
            found = _flatten(value, f"{name}/", depth + 1)
        else:
            found = {name: value.value} if isinstance(value, ArrayStandIn) else {}
        if duplicates := found.keys() & arrays.keys():
            raise WeightFileError(f"has two arrays under the name {printable(min(duplicates))}")
        arrays |= found
    if not arrays and not prefix:
        raise WeightFileError("holds no arrays", "Check that it is the file you mean.")
    return arrays


def _without_wrappers(name: str) -> str:
    while stripped := next((prefix for prefix in WRAPPER_PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(stripped)
    return name
