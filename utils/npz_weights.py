"""Weights of this project's own networks as NumPy's .npz in half precision: small enough to be part of a repository."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path, read_bytes

Shapes = Mapping[str, tuple[int, ...]]


def read_npz_weights(path: Path | str, *, holds: str, check: Callable[[Shapes], object]) -> dict[str, np.ndarray]:
    """Read the arrays of a file: name -> float32. No code that a file may contain is run.

    Args:
        path: the file.
        holds: what it should hold, for the message.
        check: takes the shapes by name and raises ValueError when they are those of another network.

    Raises:
        UserError: the file cannot be read, is damaged, holds something else or values that are not finite.
    """
    content = io.BytesIO(read_bytes(path))
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in file.files}
        check({name: value.shape for name, value in arrays.items()})
        if wrong := not_finite(arrays):
            raise ValueError(f"{wrong[0]} has values that are not finite")
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for what is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} holds no {holds}: {reason.rstrip('.')}. Fetch or make it again.") from error
    return arrays


def write_npz_weights(path: Path | str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as float16, sorted by name: equal ones give equal bytes, whatever their order or layout in memory.

    Raises:
        UserError: the file cannot be written, or a value is not finite or too large for float16.
    """
    with np.errstate(over="ignore"):
        halves = {name: np.asarray(arrays[name]).astype(np.float16, order="C") for name in sorted(arrays)}
    if wrong := not_finite(halves):
        raise UserError(f"these weights cannot be written as float16: {wrong[0]} has values that are not finite or "
                        f"beyond {np.finfo(np.float16).max:.0f}. Take an earlier checkpoint.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **halves)


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Give the names of the arrays in which a value is infinite or NaN."""
    return [name for name, value in arrays.items() if not np.isfinite(value).all()]
