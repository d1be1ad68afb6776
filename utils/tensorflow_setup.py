"""The environment of TensorFlow, Keras and matplotlib, set before their first import; memory and the processor."""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType

import psutil

from utils.console import note_once
from utils.errors import require

# What a notebook, a user's ~/.keras/keras.json or shell may set otherwise; results must not depend on it.
PINNED = {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0", "MPLBACKEND": "agg",
          "KERAS_HOME": os.devnull}  # no folder: Keras reads no keras.json and takes its defaults
DEFAULTS = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "GRPC_VERBOSITY": "ERROR"}


def prepare_environment() -> None:
    """Set the environment variables that TensorFlow, Keras and matplotlib read at import."""
    os.environ.update(DEFAULTS | dict(os.environ) | PINNED)


def start_tensorflow(gpu: str | None = None, *, deterministic: bool = True) -> list[str]:
    """Import TensorFlow quietly, configure it and return its GPUs' names. Call before anything else imports it.

    GPU memory grows as needed, and convolutions are not rounded to TF32: adaptation is compared at 1e-4.

    Args:
        gpu: GPUs to use, as for CUDA_VISIBLE_DEVICES (`0`, `0,1`; `-1` for none). None keeps the user's setting.
        deterministic: make equal runs return equal bits; operations without a seed or such a kernel raise.
    """
    require(gpu is None or re.fullmatch(r"-1|\d+(,\d+)*", gpu), "--gpu is a number, as 0, or -1 for the CPU", gpu)
    prepare_environment()
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
    if gpu not in (None, "-1") and not gpus:
        note_once(f"no GPU for --gpu {gpu}: running on the CPU")
    return [device.name for device in gpus]


@contextlib.contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drop what is written to standard error: TensorFlow's C++ logs at import before its log level is in force."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_pyplot() -> ModuleType:
    """Import matplotlib, which takes a second, and return its pyplot: no display, the default style."""
    prepare_environment()
    import matplotlib
    from matplotlib import pyplot

    matplotlib.rcdefaults()
    pyplot.switch_backend("agg")
    return pyplot


def release_memory() -> None:
    """Return freed memory to the system where the C library keeps it (glibc): 20 to 160 MB after a gradient step."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other C libraries; Windows has no CDLL(None)
        ctypes.CDLL(None).malloc_trim(0)


def free_memory_gib() -> float:
    """Return the memory that processes can still take without swapping, in GiB."""
    return psutil.virtual_memory().available / 2**30


def cpu_has_bfloat16() -> bool | None:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16, AMX, Arm BF16); None if unknown."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(file.read().split())
    return None
