"""Draws what was measured image by image."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.files import atomic_path
from utils.metrics.suite import METRICS, OTHER
from utils.tensorflow_setup import load_pyplot

PANEL_SIZE = 3.6  # inches
PANELS_PER_ROW = 4


def plot_images(path: Path, rows: Sequence[dict], names: Sequence[str], *, compare: bool = False) -> None:
    """Write a PNG with a panel per metric and a point per image; what is not finite is left out.

    Without `compare` the points are spread sideways and a line marks their mean. With it, the result is drawn over the
    other result; on the diagonal both are equal.
    """
    pyplot = load_pyplot()
    columns = min(PANELS_PER_ROW, len(names))
    lines = math.ceil(len(names) / columns)
    figure, panels = pyplot.subplots(lines, columns, figsize=(PANEL_SIZE * columns, PANEL_SIZE * lines),
                                     constrained_layout=True, squeeze=False)
    for panel in panels.flat[len(names):]:
        panel.set_visible(False)
    for panel, name in zip(panels.flat, names, strict=False):
        points = [(row[name], row.get(name + OTHER, math.nan) if compare else 0) for row in rows if name in row]
        points = np.array([point for point in points if all(map(math.isfinite, point))]).reshape(-1, 2)
        values = points[:, 0]
        if compare:
            panel.scatter(points[:, 1], values, s=12, alpha=0.6)
            panel.set(xlabel="other", ylabel="result")
        else:
            panel.scatter(np.random.default_rng(0).uniform(-1, 1, len(values)), values, s=12, alpha=0.6)
            panel.set(xlim=(-2, 2), xticks=[], xlabel=f"{len(values)} images")
        if len(values):
            ends = [points.min(), points.max()] if compare else [values.mean()] * 2
            panel.plot(ends if compare else [-2, 2], ends, color="black", linewidth=0.8)
        better = "higher" if METRICS[name].higher_is_better else "lower"
        panel.set_title(f"{METRICS[name].label}, {better} is better", fontsize=9)
        panel.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    pyplot.close(figure)
