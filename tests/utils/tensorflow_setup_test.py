"""The environment of TensorFlow, Keras and matplotlib: in a process of its own, since this one has imported them."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

from utils import tensorflow_setup
from utils.tensorflow_setup import cpu_has_bfloat16, release_memory, start_tensorflow

REPOSITORY = Path(tensorflow_setup.__file__).resolve().parents[1]
SCRIPT = """
import json, os, sys
from utils.tensorflow_setup import load_pyplot, start_tensorflow
assert "tensorflow" not in sys.modules
gpus = start_tensorflow("-1")
print("heard", file=sys.stderr)
import keras
import tensorflow as tf
tf.constant([1.0]) + 1
pyplot = load_pyplot()
print(json.dumps({"gpus": gpus, "backend": keras.backend.backend(), "float": keras.backend.floatx(),
                  "format": keras.backend.image_data_format(), "plots": pyplot.get_backend().lower(),
                  "legacy": tf.keras.__name__.startswith("tf_keras"), "font": pyplot.rcParams["font.size"],
                  "order": os.environ["CUDA_DEVICE_ORDER"], "devices": os.environ["CUDA_VISIBLE_DEVICES"]}))
"""


def test_tensorflow_starts_silently_and_whatever_surrounds_the_process_does_not_matter(tmp_path):
    """A notebook's plotting backend, a user's keras.json and matplotlibrc, other Keras backends."""
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps({
        "backend": "theano", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 1e-7}))
    (tmp_path / "matplotlibrc").write_text("font.size: 33\nbackend: nonsense\nunknown.key: 1\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "0", "LC_ALL": "C",
                   "CUDA_DEVICE_ORDER": "FASTEST_FIRST", "HOME": str(tmp_path), "TF_USE_LEGACY_KERAS": "1",
                   "KERAS_BACKEND": "torch", "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                   "MPLCONFIGDIR": matplotlib.get_cachedir()}  # its list of fonts takes seconds to make
    for name in ("TF_CPP_MIN_LOG_LEVEL", "KERAS_HOME"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=180, env=environment,
                          cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "heard\n")  # our own line alone
    assert json.loads(done.stdout) == {
        "gpus": [], "backend": "tensorflow", "float": "float32", "format": "channels_last", "plots": "agg",
        "legacy": False, "font": 10.0, "order": "FASTEST_FIRST", "devices": "-1"}


def test_gpus_the_user_chose_stay_chosen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    start_tensorflow()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    start_tensorflow("0,1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_results_are_repeatable_and_not_rounded():
    import tensorflow as tf

    start_tensorflow()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    with pytest.raises(RuntimeError, match=r"(?i)determinism"):
        tf.random.normal([2])  # unseeded


@pytest.mark.parametrize("error", [TypeError, OSError])
def test_memory_is_released_where_the_c_library_can_and_nothing_happens_elsewhere(monkeypatch, error):
    """Windows raises TypeError for CDLL(None)."""
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=calls.append))
    release_memory()
    assert calls == [0]

    def refuse(_):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    release_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # musl and macOS have no malloc_trim
    release_memory()


@pytest.mark.parametrize(("flags", "expected"), [
    ("flags : fpu avx512f avx512_bf16 sse", True), ("flags\t: fpu amx_bf16", True), ("Features : fp asimd bf16", True),
    ("flags : fpu avx512f xavx512_bf16x", False), (None, None)])
def test_bfloat16_is_read_from_the_processors_flags(monkeypatch, tmp_path, flags, expected):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(tensorflow_setup, "open", lambda _, **options: (tmp_path / "cpuinfo").open(**options),
                        raising=False)
    assert cpu_has_bfloat16() is expected
