"""Fine-tuned weights as their difference from published ones, a trit a value: in a tenth of what float16 takes.

What fine-tuning changes is small and much like noise, so it need not be kept finely. Of a large kernel [h, w, in, out]
each value's difference is rounded to -s, 0 or s with one step s per output channel, as weights are in ternary weight
networks (Li et al., 2016); of all else it stays as it is. The base is rounded to float16 first, kernels towards zero as
in ncnn's files: Real-ESRGAN's float32 and float16 files then stand for the same weights.
"""

from collections.abc import Mapping

import numpy as np

from model.layers import check_shapes

CODES, STEPS, PLAIN = "CODES", "STEPS", "PLAIN"  # packed trits; the steps of their channels; other differences
ARRAYS = (CODES, STEPS, PLAIN)
SMALLEST_KERNEL = 4096  # values; rounding smaller ones would gain nothing
# standard deviations of a channel's differences, below which one becomes 0: of normal ones 30 % of the square is lost,
# at 1.1 bits each; 0.6 loses least, 19 %, at 1.5 bits
THRESHOLD = 1.1
TRITS_PER_BYTE = 5  # 3^5 = 243
DIGITS = 3 ** np.arange(TRITS_PER_BYTE)


def encode_difference(weights: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Express weights as what is to be added to others of the same names and shapes.

    Args:
        weights: name -> float32.
        base: likewise.

    Returns:
        `CODES` uint8, of five trits each, `STEPS` and `PLAIN` float32: of one dimension, in the order of sorted names.

    Raises:
        ValueError: names or shapes differ.
    """
    check_shapes(*({name: value.shape for name, value in arrays.items()} for arrays in (weights, base)),
                 network="the base")
    trits, steps, plain = [], [], []
    for name in sorted(base):
        difference = weights[name].astype(np.float32) - _half(base[name])
        if _is_large_kernel(difference):
            rounded, channels = _round_to_trits(difference)
            trits.append(rounded.ravel())
            steps.append(channels)
        else:
            plain.append(difference.ravel())
    return {CODES: pack_trits(_join(trits)), STEPS: _join(steps), PLAIN: _join(plain)}


def decode_difference(encoded: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add what `encode_difference` gave to the base: name -> float32.

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


def pack_trits(trits: np.ndarray) -> np.ndarray:
    """Pack values of -1, 0 and 1, five to a byte, the first lowest: uint8 [ceil(size / 5)]. What is missing is 0."""
    digits = np.ones(-(-trits.size // TRITS_PER_BYTE) * TRITS_PER_BYTE, np.int64)
    digits[:trits.size] += trits.ravel().astype(np.int64)
    return (digits.reshape(-1, TRITS_PER_BYTE) @ DIGITS).astype(np.uint8)


def unpack_trits(codes: np.ndarray, count: int) -> np.ndarray:
    """Undo `pack_trits`: float32 [count].

    Raises:
        ValueError: a code is none of 0 to 242.
    """
    if not ((codes >= 0) & (codes < 3**TRITS_PER_BYTE) & (codes == np.floor(codes))).all():
        raise ValueError("a code is none of 0 to 242")
    digits = codes.astype(np.uint8)[:, None] // DIGITS.astype(np.uint8) % np.uint8(3)
    return digits.ravel()[:count].astype(np.float32) - 1


class _Reader:
    """Gives the values of an array one piece after the other."""

    def __init__(self, values: np.ndarray):
        self._values, self._position = values, 0

    def take(self, count: int) -> np.ndarray:
        self._position += count
        return self._values[self._position - count:self._position]


def _round_to_trits(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give trits of the same shape and the step of each output channel that makes the squared error smallest."""
    inputs = tuple(range(difference.ndim - 1))
    size = np.abs(difference)
    # where all changed alike, as after a single step of Adam, the deviation is as large as any
    kept = size > np.minimum(THRESHOLD * difference.std(axis=inputs), size.max(axis=inputs) / 2)
    steps = np.where(kept, size, 0).sum(inputs) / np.maximum(kept.sum(inputs), 1)
    return np.sign(difference) * kept, steps.astype(np.float32)


def _is_large_kernel(value: np.ndarray) -> bool:
    return value.ndim == 4 and value.size >= SMALLEST_KERNEL


def _join(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def _half(value: np.ndarray) -> np.ndarray:
    half = value.astype(np.float16)
    if value.ndim == 4:
        half = np.where(np.abs(half.astype(np.float32)) > np.abs(value), np.nextafter(half, np.float16(0)), half)
    return half.astype(np.float32)
