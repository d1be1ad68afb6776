"""What TensorFlow is told before it starts: in a process of its own, since this one has it already."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils import tensorflow_setup
from utils.tensorflow_setup import cpu_has_bfloat16, start_tensorflow

REPOSITORY = Path(tensorflow_setup.__file__).resolve().parents[1]
SCRIPT = """
import json, os, sys
from utils.tensorflow_setup import start_tensorflow
assert "tensorflow" not in sys.modules
gpus = start_tensorflow("-1")
assert "tensorflow" in sys.modules
print("heard", file=sys.stderr)
import tensorflow as tf
tf.constant([1.0]) + 1
print(json.dumps({"gpus": gpus, **{name: os.environ.get(name) for name in
                  ("CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL", "CUDA_DEVICE_ORDER")}}))
"""


def test_tensorflow_starts_silently_on_the_chosen_device():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "0",
                   "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, "heard\n")  # nothing but our own line, which is not swallowed
    assert json.loads(done.stdout) == {"gpus": [], "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3",
                                       "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


def test_gpus_the_user_chose_stay_chosen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    tensorflow_setup.start_tensorflow()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    tensorflow_setup.start_tensorflow("0,1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_standard_error_comes_back_after_a_failure(capfd):
    def fail():
        with tensorflow_setup._stderr_dropped():
            os.write(2, b"unheard\n")
            raise ImportError("no tensorflow")

    with pytest.raises(ImportError):
        fail()
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_results_are_repeatable_and_not_rounded():
    import tensorflow as tf

    start_tensorflow()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    with pytest.raises(RuntimeError, match=r"(?i)determinism"):
        tf.random.normal([2])  # unseeded


@pytest.mark.parametrize(("flags", "expected"), [
    ("flags : fpu avx512f avx512_bf16 sse", True), ("flags\t: fpu amx_bf16", True), ("Features : fp asimd bf16", True),
    ("flags : fpu avx512f avx512_vnni", False), ("flags : xavx512_bf16x", False), ("", False)])
def test_bfloat16_is_read_from_the_processors_flags(monkeypatch, tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(tensorflow_setup, "open", lambda _, **options: (tmp_path / "cpuinfo").open(**options),
                        raising=False)
    assert cpu_has_bfloat16() is expected


def test_bfloat16_is_unknown_without_a_list_of_flags(monkeypatch, tmp_path):
    monkeypatch.setattr(tensorflow_setup, "open", lambda _, **options: (tmp_path / "none").open(**options),
                        raising=False)
    assert cpu_has_bfloat16() is None
