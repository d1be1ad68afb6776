"""Weights of this project's own networks as NumPy's .npz in half precision: small enough to be part of a repository."""

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path, read_bytes

Shapes = Mapping[str, tuple[int, ...]]

# how far compressed arrays may expand
EXPANSION_LIMIT = 4  # times the file's size
EXPANSION_FLOOR = 64 * 2**20  # bytes
MANTISSA, SINGLE_MANTISSA = 10, 23  # bits of float16's and float32's
LONGEST_REASON = 300  # characters


def read_npz_weights(path: Path | str, *, holds: str, check: Callable[[Shapes], object]) -> dict[str, np.ndarray]:
    """Read the arrays of a file: name -> float32. No code that a file may contain is run.

    Args:
        path: the file.
        holds: what it should hold, for the message.
        check: takes the shapes by name and raises ValueError when they are those of another network.

    Raises:
        UserError: the file cannot be read, is damaged, holds something else or values that are not finite.
    """
    content = read_bytes(path)
    try:
        arrays = _read_arrays(content)
        check({name: value.shape for name, value in arrays.items()})
        if wrong := not_finite(arrays):
            raise ValueError(f"{wrong[0]} has values that are not finite")
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for what is damaged
        raise UserError(f"{path} holds no {holds}: {one_line(error)}. Fetch or make it again.") from error
    return arrays


def one_line(error: Exception) -> str:
    """Give an error's message, which may quote a file, as one short printable line without a full stop."""
    reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in reason).rstrip(".")


def _read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Read the arrays of an archive. `numpy.load` would allocate whatever size the archive claims."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > EXPANSION_LIMIT * len(content) + EXPANSION_FLOOR:
            raise ValueError("its arrays expand far beyond the file's size")
        return {entry.filename.removesuffix(".npy"): _read_array(archive.read(entry)) for entry in entries}


def _read_array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array has the unknown format {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of the parser on headers that it then refuses
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
    if dtype.kind not in "fiu":
        raise ValueError(f"an array is of the type {dtype.name}, not of numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array has the impossible shape {shape}")
    values = np.frombuffer(content, dtype, math.prod(shape), stream.tell())
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return values.reshape(shape, order="F" if is_fortran else "C").astype(np.float32)


def write_npz_weights(path: Path | str, arrays: Mapping[str, np.ndarray], *, mantissa_bits: int = MANTISSA) -> None:
    """Write arrays as float16, sorted by name: equal ones give equal bytes, whatever their order or layout in memory.

    Arrays of uint8 are codes: they stay as they are.

    Args:
        path: the file.
        arrays: name -> values.
        mantissa_bits: with fewer than 10, values are rounded to so many and the file is compressed: with 7 it is 22 %
            smaller. A file with codes is compressed in any case. The bytes of what is compressed depend on the version
            of zlib, its values do not.

    Raises:
        UserError: the file cannot be written, or a value is not finite or too large for float16.
    """
    kept = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    codes = {name for name, values in kept.items() if values.dtype == np.uint8}
    if mantissa_bits < MANTISSA:
        kept |= {name: _round_mantissas(kept[name], mantissa_bits) for name in kept.keys() - codes}
    with np.errstate(over="ignore"):
        kept |= {name: kept[name].astype(np.float16) for name in kept.keys() - codes}
    if wrong := not_finite(kept):
        largest = (2 - 2**-mantissa_bits) * 2**15
        raise UserError(f"these weights cannot be written as float16: {wrong[0]} has values that are not finite or "
                        f"beyond {largest:.0f}. Take an earlier checkpoint"
                        f"{', or more bits of mantissa' * (mantissa_bits < MANTISSA)}.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        (np.savez_compressed if codes or mantissa_bits < MANTISSA else np.savez)(file, **kept)


def _round_mantissas(values: np.ndarray, bits: int) -> np.ndarray:
    """Round to so many bits of mantissa, as float32; ties to even. What is not finite stays so."""
    values = np.asarray(values, np.float32)
    dropped = SINGLE_MANTISSA - bits
    codes = values.view(np.uint32).astype(np.uint64)
    half = (1 << (dropped - 1)) - 1 + (codes >> dropped & 1)
    rounded = ((codes + half) >> dropped << dropped).astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Give the names of the arrays in which a value is infinite or NaN."""
    return [name for name, value in arrays.items() if not np.isfinite(value).all()]
