"""How the benchmark measures: durations, rates relative to `tf.matmul`, counts of operations."""

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

Rows = Iterator[tuple[str, str]]  # what was measured, and its value

MATRIX_SIZE = 2048
PIXELS_PER_LQ_PIXEL = {"conv_up1": 4, "conv_up2": 16, "conv_hr": 16, "conv_last": 16}  # the other layers: 1


def best_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest of several durations: the one least disturbed by other work on the machine."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return min(durations)


def time_ratio(first: Callable[[], object], second: Callable[[], object], repeats: int = 3) -> float:
    """Return the time of one function over another's; they alternate, so that a slow minute meets both."""
    seconds = [[best_seconds(function, 1) for function in (first, second)] for _ in range(repeats)]
    return min(pair[0] for pair in seconds) / min(pair[1] for pair in seconds)


def relative_rate(operations: float, function: Callable[[], object]) -> float:
    """Return the operations per second of a function over those of `tf.matmul`, measured before and after it."""
    before, seconds, after = _matmul_rate(), best_seconds(function), _matmul_rate()
    return operations / seconds / ((before + after) / 2)


def _matmul_rate() -> float:
    import tensorflow as tf

    matrix = tf.random.stateless_normal([MATRIX_SIZE, MATRIX_SIZE], seed=[0, 0])
    multiply = tf.function(tf.matmul)
    multiply(matrix, matrix)
    return 2 * MATRIX_SIZE**3 / best_seconds(lambda: multiply(matrix, matrix).numpy(), repeats=5)


def generator_operations(params: dict, height: int, width: int) -> float:
    """Count the multiplications and additions of one forward pass of the generator over an LQ image."""
    weights = {name: value for name, value in params.items() if name.endswith("/weight")}
    return 2 * height * width * sum(int(np.prod(value.shape)) * PIXELS_PER_LQ_PIXEL.get(name.split("/")[0], 1)
                                    for name, value in weights.items())


def psnr(left: np.ndarray, right: np.ndarray) -> float:
    """Return the PSNR of images in [0, 1], in dB."""
    return float(-10 * np.log10(np.mean((np.clip(left, 0, 1) - np.clip(right, 0, 1)) ** 2)))


def peak_memory(*, of_children: bool = False) -> float:
    """Return the peak resident memory of this process, or of its largest child, in GiB (Linux and macOS)."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF)
    return usage.ru_maxrss * unit / 2**30
