"""Load networks from state dicts in files of PyTorch, NumPy (pickles) and safetensors, recognised by their content."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import safetensors

from utils.errors import UserError, printable
from utils.weights.manifest import find_weights, is_file_name
from utils.weights.npz import check_expansion
from utils.weights.torch_files import DAMAGED, DTYPES, ArrayStandIn, WeightFileError, read_pickles, read_zip

# where training scripts keep the weights inside a checkpoint, the best ones first
STATE_DICT_KEYS = ("params_ema", "params", "state_dict", "g_ema", "model", "model_state_dict", "net")
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # prefixes of torch.nn.DataParallel and torch.compile
MAX_VALUES = 100_000  # in nested dictionaries; a dictionary may contain another, or itself, any number of times
MAX_NAME_LENGTH = 1000
USE_ANOTHER = "Use a file that holds a state dict alone."
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
                      "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
                      "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"}
Params = TypeVar("Params")


def load_params(source: Path | str, convert: Callable[[Mapping[str, np.ndarray]], Params], *,
                weights_dir: Path | str | None = None, advice: str = "", alternative: str = "") -> Params:
    """Return the converted state dict of an entry of the manifest, or of a file, which is not compared with a hash.

    `convert` takes the arrays of all files of the entry by name, and raises ValueError for those of another network;
    `advice` is a sentence on what to do then, `alternative` one on how to do without these weights.
    """
    by_path = isinstance(source, Path) or is_file_name(source)
    try:
        paths = [Path(source)] if by_path else list(find_weights(source, weights_dir).values())
    except UserError as error:
        raise UserError(f"{error}. {alternative}" if alternative else str(error)) from error
    state = {name: array for path in paths for name, array in load_state_dict(path).items()}
    try:
        return convert(state)
    except ValueError as error:
        advice = advice or ("Give a file of this network." if by_path else f"Fetch {source} again.")
        raise UserError(f"{' + '.join(map(str, paths))} does not fit: {str(error).rstrip('.')}. {advice}") from error


def load_state_dict(path: Path | str, key: str | None = None) -> dict[str, np.ndarray]:
    """Read a file: name -> array in C order with its own memory (bfloat16 as `ml_dtypes.bfloat16`), in its order.

    `key` is the entry of a PyTorch file's dictionary that holds the weights. Without it, the first of
    `STATE_DICT_KEYS` that has tensors is taken, the dictionary itself if it has some, or the only entry that has.
    Names of nested dictionaries of a NumPy pickle are joined by "/".
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            tree, is_torch = _read(file, size)
            if not isinstance(tree, dict):
                raise WeightFileError("does not hold a dictionary of arrays", USE_ANOTHER)
            arrays = _flatten(_choose(tree, key) if is_torch else tree)
            check_expansion(sum(array.nbytes for array in arrays.values()), size)
            return {name: np.array(array, order="C") for name, array in arrays.items()}
    except WeightFileError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions."
                        ) from error
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


def _choose(tree: dict, key: str | None) -> dict[str, Any]:
    """Return the state dict in a PyTorch file's dictionary."""
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
        raise WeightFileError("holds no weights", f"It has: {_listed(tree)}. {USE_ANOTHER}")
    return {name: value for name, value in chosen.items() if not isinstance(value, dict)}


def _has_arrays(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, ArrayStandIn) for item in value.values())


def _listed(keys: Iterable) -> str:
    return ", ".join(printable(_name(key)) for key in list(keys)[:20]) or "nothing"


def _name(key: Any) -> str:
    """Return a key as text; of nested objects, whose text may be of exponential length, the type."""
    return str(key) if isinstance(key, (str, int)) else f"({type(key).__name__})"


def _flatten(tree: dict) -> dict[str, np.ndarray]:
    """Return the arrays of nested dictionaries, their keys joined by "/"."""
    arrays: dict[str, np.ndarray] = {}
    pending, num_values = [("", tree)], 0
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            num_values += len(value)
            if num_values > MAX_VALUES or len(name) > MAX_NAME_LENGTH:
                raise WeightFileError("holds too many values, or too deep", USE_ANOTHER)
            prefix = f"{name}/" if name else ""
            pending += reversed([(prefix + WRAPPERS.sub("", _name(key)), item) for key, item in value.items()])
        elif isinstance(value, ArrayStandIn):
            if name in arrays:
                raise WeightFileError(f"has two arrays under the name {printable(name)}")
            arrays[name] = value.value
    if not arrays:
        raise WeightFileError("holds no arrays", USE_ANOTHER)
    return arrays
