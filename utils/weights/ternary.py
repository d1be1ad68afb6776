"""Fine-tuned weights as their difference from published ones, a trit a value: in a tenth of what float16 takes.

Of a large kernel [h, w, in, out] each value's difference is -s, 0 or s with one step s per output channel; of all else
it is stored as it is. The base is rounded to float16 first, kernels towards zero as in ncnn's files: Real-ESRGAN's
float32 and float16 files then are the same weights. Differences are read, and no longer written.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from model.layers import check_shapes
from utils.errors import UserError, printable
from utils.weights.manifest import MissingWeightsError

BASE_SCOPE = "BASE/"  # before the name of the weights from which it is the difference
FORMAT = np.uint8(1)
CODES, STEPS, PLAIN = "CODES", "STEPS", "PLAIN"  # packed trits; the steps of their channels; other differences
SMALLEST_KERNEL = 4096  # values
TRITS_PER_BYTE = 5  # 3^5 = 243
DIGITS = 3 ** np.arange(TRITS_PER_BYTE)


def add_to_base(tensors: Mapping[str, np.ndarray], file: Path,
                load_base: Callable[[str], dict[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
    """Return the generator of which a file holds the difference from another; None where that is not in it.

    `load_base` takes the other's name. Raises a UserError, or a MissingWeightsError where that is missing.
    """
    bases = {name.removeprefix(BASE_SCOPE): value for name, value in tensors.items() if name.startswith(BASE_SCOPE)}
    if not bases:
        return None
    try:
        [(base, version)] = bases.items()
        if version != FORMAT:
            raise ValueError(f"it is of format {version}")
        return decode_difference({name: value for name, value in tensors.items() if not name.startswith(BASE_SCOPE)},
                                 load_base(base))
    except ValueError as error:
        text = f"{file} cannot be added to {printable(' + '.join(bases))}: {error}"
        if isinstance(error, MissingWeightsError):
            raise MissingWeightsError(error.entry, text) from error
        raise UserError(text) from error


def decode_difference(encoded: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add a difference to its base: name -> float32.

    Args:
        encoded: `CODES` of five trits each, `STEPS` and `PLAIN`: of one dimension, in the order of sorted names.
        base: name -> float32.

    Raises:
        ValueError: it is not a difference from weights of these shapes, or codes are none.
    """
    large = [value for value in base.values() if _is_large_kernel(value)]
    num_trits = sum(value.size for value in large)
    expected = {CODES: (-(-num_trits // TRITS_PER_BYTE),), STEPS: (sum(value.shape[-1] for value in large),),
                PLAIN: (sum(value.size for value in base.values()) - num_trits,)}
    check_shapes({name: value.shape for name, value in encoded.items()}, expected, network="a difference from the base")
    trits = _Reader(unpack_trits(encoded[CODES], num_trits))
    steps, plain = (_Reader(encoded[name].astype(np.float32)) for name in (STEPS, PLAIN))
    weights = {}
    for name in sorted(base):
        value = base[name]
        if _is_large_kernel(value):
            difference = trits.take(value.size).reshape(value.shape) * steps.take(value.shape[-1])
        else:
            difference = plain.take(value.size).reshape(value.shape)
        weights[name] = _half(value) + difference
    return weights


def unpack_trits(codes: np.ndarray, count: int) -> np.ndarray:
    """Unpack values of -1, 0 and 1, five to a code, the first lowest: float32 [count].

    Raises:
        ValueError: a code is none of 0 to 242.
    """
    if not ((codes >= 0) & (codes < 3**TRITS_PER_BYTE) & (codes == np.floor(codes))).all():
        raise ValueError("a code is none of 0 to 242")
    digits = codes.astype(np.uint8)[:, None] // DIGITS.astype(np.uint8) % np.uint8(3)
    return digits.ravel()[:count].astype(np.float32) - 1


class _Reader:
    """Reads the values of an array one piece after the other."""

    def __init__(self, values: np.ndarray):
        self._values, self._position = values, 0

    def take(self, count: int) -> np.ndarray:
        self._position += count
        return self._values[self._position - count:self._position]


def _is_large_kernel(value: np.ndarray) -> bool:
    return value.ndim == 4 and value.size >= SMALLEST_KERNEL


def _half(value: np.ndarray) -> np.ndarray:
    half = value.astype(np.float16)
    if value.ndim == 4:
        half = np.where(np.abs(half.astype(np.float32)) > np.abs(value), np.nextafter(half, np.float16(0)), half)
    return half.astype(np.float32)
