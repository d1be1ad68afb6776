"""Weights of this project's own networks as NumPy's .npz in float16."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path

Shapes = Mapping[str, tuple[int, ...]]

# compressed arrays and tensors of stride 0 could expand to any size
EXPANSION_LIMIT = 4  # times the file's size
EXPANSION_FLOOR = 64 * 2**20  # bytes
LONGEST_REASON = 300  # characters


def is_npz(path: Path | str) -> bool:
    """Return whether a file is an archive of NumPy arrays, by its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_npz_weights(path: Path | str, *, holds: str, check: Callable[[Shapes], object] | None = None
                     ) -> dict[str, np.ndarray]:
    """Read the arrays of a file without running code from it: name -> float32.

    `holds`: what it should hold, for the message. `check` takes the shapes by name and raises ValueError for those of
    another network.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_expansion(sum(entry.file_size for entry in archive.infolist()), Path(path).stat().st_size)
        with np.load(path, allow_pickle=False) as file, np.errstate(over="ignore"):  # what overflows is refused below
            stored = dict(file)
            if wrong := [name for name, value in stored.items() if value.dtype.kind not in "fiu"]:
                raise ValueError(f"{wrong[0]} is of the type {stored[wrong[0]].dtype.name}, not of numbers")
            arrays = {name: value.astype(np.float32) for name, value in stored.items()}
        if check:
            check({name: value.shape for name, value in arrays.items()})
        if wrong := not_finite(arrays):
            raise ValueError(f"{wrong[0]} has values that are not finite")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions."
                        ) from error
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for damaged files
        raise UserError(f"{path} holds no {holds}: {one_line(error)}. Fetch or make it again.") from error
    return arrays


def write_npz_weights(path: Path | str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as float16, sorted by name: equal ones give equal bytes, whatever their order or layout in memory.

    Raises a UserError if a value is not finite or too large for float16.
    """
    with np.errstate(over="ignore"):
        halves = {name: np.asarray(arrays[name], order="C").astype(np.float16) for name in sorted(arrays)}
    if wrong := not_finite(halves):
        raise UserError(f"these weights cannot be written as float16: {wrong[0]} has values that are not finite or "
                        f"beyond {np.finfo(np.float16).max:.0f}. Take an earlier checkpoint.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **halves)


def check_expansion(num_bytes: int, file_size: int) -> None:
    """Raise a ValueError if arrays of `num_bytes` are much larger than the file that holds them."""
    if num_bytes > EXPANSION_LIMIT * file_size + EXPANSION_FLOOR:
        raise ValueError("its arrays expand far beyond the file's size")


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the arrays in which a value is infinite or NaN."""
    return [name for name, value in arrays.items() if not np.isfinite(value).all()]


def one_line(error: Exception) -> str:
    """Return an error's message, which may quote a file, as one short printable line without a full stop."""
    reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in reason).rstrip(".")
