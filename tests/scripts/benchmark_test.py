"""Memory of processes, and one run of all parts that take seconds, on a tiny generator."""

import re
import subprocess
import sys

import numpy as np
import pytest

from scripts import benchmark
from tests.helpers.small_networks import small_generator
from tests.helpers.tracing import untraced
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


def test_peak_memory_is_that_of_the_process():
    program = ("import sys; from scripts.benchmark import run_process\n"
               "print(run_process([sys.executable, '-c', 'bytes = b\"x\" * (512 << 20)'])[1])")
    found = subprocess.run([sys.executable, "-c", program], cwd=benchmark.ROOT, check=True, capture_output=True).stdout
    assert float(found) == pytest.approx(0.51, abs=0.03)


def test_every_quick_part_prints_its_figures(tmp_path, capsys, monkeypatch):
    for name, value in (("NUM_DEGRADATIONS", 2), ("SIDE", 80)):
        monkeypatch.setattr(benchmark, name, value)
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    quick = ["bfloat16", "degradation"]
    with untraced():
        benchmark.main(["--model_dir", str(tmp_path / "model"), "--parts", *quick])
    rows = re.findall(r"^\| (.+?) \| ([\d.-]+)(%| dB| ms|) \|$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 4
    values = {name: float(value) for name, value, _ in rows}
    assert all(np.isfinite(value) for value in values.values())
    assert next(value for name, value in values.items() if name.startswith("bfloat16 against")) > 30
