"""The part `metrics` of the benchmark, on a few small images."""

import numpy as np
import skimage.data

from scripts.benchmarks import metrics as metrics_benchmark
from utils.metrics.suite import METRICS


def test_every_metric_has_a_rate(monkeypatch):
    monkeypatch.setattr(metrics_benchmark, "NUM_IMAGES", 3)
    monkeypatch.setattr(metrics_benchmark, "NUM_FEATURE_IMAGES", 1)
    rows = dict(metrics_benchmark.metrics(skimage.data.astronaut()[:96, :192].astype(np.float32) / 255))
    assert all(float(rate) > 0 for rate in rows.values())
    for name, metric in METRICS.items():
        assert metric.of_sets or any(name in what for what in rows)
    assert any("FID and KID: images of 192x96 per second" in what for what in rows)
