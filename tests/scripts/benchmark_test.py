"""The benchmark's arithmetic, and one run of all parts that take seconds, on a tiny generator."""

import re
import time

import numpy as np
import pytest

from model.rrdbnet import rrdbnet_shapes
from scripts import benchmark
from scripts.benchmarks import timing, training
from tests.helpers.small_networks import small_generator
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


def test_operations_of_the_published_forward_are_counted_by_hand():
    params = {name: np.empty(shape) for name, shape in rrdbnet_shapes().items()}
    dense = 9 * (32 * (64 + 96 + 128 + 160) + 64 * 192)
    square = 9 * 64 * 64
    per_pixel = 9 * 3 * 64 + 69 * dense + square + 4 * square + 16 * (2 * square + 9 * 64 * 3)
    assert timing.generator_operations(params, 5, 7) == 2 * 35 * per_pixel


def test_best_of_several_durations_is_the_shortest():
    pauses = iter([0.3, 0.01, 0.3])
    assert 0.01 <= timing.best_seconds(lambda: time.sleep(next(pauses))) < 0.3


def test_psnr_of_a_tenth_is_twenty_decibels():
    assert timing.psnr(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.1)) == pytest.approx(20)


@pytest.mark.parametrize(("platform", "gib"), [("linux", 3.0), ("darwin", 3 / 1024)])
def test_peak_memory_is_counted_in_the_units_of_the_system(monkeypatch, platform, gib):
    import resource

    monkeypatch.setattr(timing.sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 3 * 2**20}))
    assert timing.peak_memory() == gib


def test_every_quick_part_prints_its_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "NUM_DEGRADATIONS", 2)
    monkeypatch.setattr(timing, "MATRIX_SIZE", 128)
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    quick = ["forward", "bfloat16", "adaptation", "overhead", "tiling", "degradation"]
    benchmark.main(["--model_dir", str(tmp_path / "model"), "--parts", *quick])
    rows = re.findall(r"^\| (.+?) \| ([\d.-]+)(%| dB| ms|) \|$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 8
    values = {name: float(value) for name, value, _ in rows}
    assert all(np.isfinite(value) for value in values.values())
    assert next(value for name, value in values.items() if name.startswith("bfloat16 against")) > 30
    assert next(value for name, value in values.items() if "tiles" in name) > 45
