"""Prepares TensorFlow before its first use: quiet, on the chosen device, repeatable."""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator

from utils.errors import UserError


def start_tensorflow(gpu: str | None = None, *, deterministic: bool = True) -> list[str]:
    """Import TensorFlow quietly and set it up. Call before anything else imports it: it reads its environment then.

    GPU memory grows as needed, and convolutions are not rounded to TF32: adaptation is compared at 1e-4.

    Args:
        gpu: which GPUs may be used, as for CUDA_VISIBLE_DEVICES (`0`, `0,1`; `-1` for none). None leaves that variable
            as the user set it.
        deterministic: make equal runs give equal bits; operations without a seed and without such a kernel raise.

    Returns:
        The names of the GPUs TensorFlow uses; none on a CPU.

    Raises:
        UserError: `gpu` is something else.
    """
    if gpu is not None and not re.fullmatch(r"-1|\d+(,\d+)*", gpu):
        raise UserError(f"--gpu is a number, as 0, or -1 for the CPU. Received: {gpu}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with _stderr_dropped():
        import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for device in gpus:
        with contextlib.suppress(RuntimeError):  # already in use, as in a notebook: its setting stays
            tf.config.experimental.set_memory_growth(device, True)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return [device.name for device in gpus]


@contextlib.contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drop what is written to standard error: at import TensorFlow's C++ logs before its log level is in force."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def release_memory() -> None:
    """Give freed memory back to the system where the C library keeps it (glibc).

    TensorFlow's own pool keeps most of what a gradient step used; this returns what lies outside it, measured at 20 to
    160 MB in the 23-block generator.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def cpu_has_bfloat16() -> bool | None:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16, AMX, Arm BF16); None if it cannot be told."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            words = set(file.read().split())
    except OSError:
        return None
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
