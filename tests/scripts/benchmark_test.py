"""The units of the benchmark, and one run of all parts that take seconds, on a tiny generator."""

import re
import resource
from types import SimpleNamespace

import numpy as np
import pytest

from scripts import benchmark
from tests.helpers.small_networks import small_generator
from tests.helpers.tracing import untraced
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


@pytest.mark.parametrize(("platform", "gib"), [("linux", 3.0), ("darwin", 3 / 1024)])
def test_peak_memory_is_counted_in_the_units_of_the_system(monkeypatch, platform, gib):
    monkeypatch.setattr(benchmark.sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    assert benchmark.peak_memory_of_children() == gib


def test_every_quick_part_prints_its_figures(tmp_path, capsys, monkeypatch):
    for name, value in (("NUM_DEGRADATIONS", 2), ("MATRIX_SIZE", 128), ("SIDE", 80)):
        monkeypatch.setattr(benchmark, name, value)
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    quick = ["forward", "bfloat16", "adaptation", "overhead", "tiling", "degradation"]
    with untraced():
        benchmark.main(["--model_dir", str(tmp_path / "model"), "--parts", *quick])
    rows = re.findall(r"^\| (.+?) \| ([\d.-]+)(%| dB| ms|) \|$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 8
    values = {name: float(value) for name, value, _ in rows}
    assert all(np.isfinite(value) for value in values.values())
    assert next(value for name, value in values.items() if name.startswith("bfloat16 against")) > 30
    assert next(value for name, value in values.items() if "tiles" in name) > 45
