"""Means and differences of what was measured, as a table and a plot for people and as a file for programs.

The summary of a metric is plain data, as in metrics.json: `mean` over so many `images` (for FID and KID: of the sets;
None when there is nothing to measure, and `reason` says why), KID's `deviation` over its subsets. With --compare also
`other_mean` and so on, and the `difference`: the result's mean less the other's over pairs of images, of which
`left_out` have no finite value on both sides.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.files import atomic_path, write_text
from utils.metrics.bootstrap import paired_difference
from utils.metrics.suite import METRICS, OTHER
from utils.tensorflow_setup import load_pyplot

Rows = Sequence[dict]
PANEL_SIZE = 3.6  # inches, of the plot
PANELS_PER_ROW = 4
NOTHING_MEASURED = "no image could be measured, see the column `reason` of metrics.csv"


def summarize(name: str, rows: Rows, *, compare: bool = False, seed: int = 0) -> dict:
    """Average the values of a metric; with `compare` also the other result's, and the differences.

    PSNR of equal images is inf, and so is then the mean; differences leave such images out.
    """
    summary = _average(rows, name)
    if not compare:
        return summary
    summary |= of_other(_average(rows, name + OTHER))
    either = [(row.get(name, math.nan), row.get(name + OTHER, math.nan)) for row in rows
              if name in row or name + OTHER in row]
    pairs = [pair for pair in either if all(map(math.isfinite, pair))]
    if pairs:
        mean, *interval = paired_difference(*zip(*pairs, strict=True), seed=seed)
        summary["difference"] = {"mean": mean, "interval": interval, "images": len(pairs)}
    return summary | ({"left_out": len(either) - len(pairs)} if len(either) > len(pairs) else {})


def _average(rows: Rows, column: str) -> dict:
    values = [row[column] for row in rows if column in row]
    return {"mean": float(np.mean(values)), "images": len(values)} if values else not_measured(NOTHING_MEASURED)


def not_measured(reason: str) -> dict:
    """Return the summary of a metric that has no value."""
    return {"mean": None, "images": 0, "reason": reason}


def of_other(summary: dict) -> dict:
    """Return what the summary of the other result adds to the result's."""
    return {f"other_{key}": value for key, value in summary.items()}


def format_table(summaries: dict[str, dict], *, num_reference: int = 0, compare: bool = False) -> str:
    """Return a table of the metrics, and below it why some have no value.

    `num_reference`: images FID and KID compare with; `compare`: show the other result, the difference, its interval.
    """
    header = ["metric", "better", "result", "images"]
    header += ["other", "result - other", "95 % interval"] if compare else []
    lines = [header, *(_cells(name, summary, num_reference, compare) for name, summary in summaries.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) if index < 2 else cell.rjust(width)
                       for index, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
             for line in lines]
    table.insert(1, "-" * max(map(len, table)))
    for name, summary in summaries.items():
        label, reason, of_others = METRICS[name].label, summary.get("reason"), summary.get("other_reason")
        if reason:
            table.append(f"{label}: n/a: {reason}")
        if of_others and of_others != reason:
            table.append(f"{label}: n/a for the other result: {of_others}")
        if "left_out" in summary:
            table.append(f"{label}: the difference leaves out {summary['left_out']} images without a finite value on "
                         "both sides")
    return "\n".join(table)


def _cells(name: str, summary: dict, num_reference: int, compare: bool) -> list[str]:
    metric, num_others = METRICS[name], summary.get("other_images", 0)

    def shown(value: float | None, sign: str = "") -> str:
        return "n/a" if value is None else f"{round(value, metric.digits) + 0.0:{sign}.{metric.digits}f}"  # no -0.0

    result, count = shown(summary["mean"]), str(summary["images"])
    if summary.get("deviation") is not None:
        result += f" ± {shown(summary['deviation'])}"
    if metric.of_sets and summary["images"]:
        count += f" : {num_reference}"
    if compare and num_others != summary["images"]:
        count += f" (other: {num_others})"
    cells = [metric.label, "higher" if metric.higher_is_better else "lower", result, count]
    if not compare:
        return cells
    difference = summary.get("difference", {"mean": None, "interval": [None, None]})
    interval = "" if None in difference["interval"] else f"[{', '.join(shown(e, '+') for e in difference['interval'])}]"
    return [*cells, shown(summary.get("other_mean")), shown(difference["mean"], "+"), interval]


def write_json(path: Path, summaries: dict[str, dict], *, settings: dict, counts: dict[str, int]) -> None:
    """Write what the table shows. Infinite means are the text `inf`; null: not measured."""
    metrics = {name: {"label": METRICS[name].label, "higher_is_better": METRICS[name].higher_is_better,
                      **{key: "inf" if value == math.inf else value for key, value in summary.items()}}
               for name, summary in summaries.items()}
    content = {"settings": settings, "counts": counts, "metrics": metrics}
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


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
