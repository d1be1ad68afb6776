"""Means and differences of what was measured, as a table for people and as files for programs."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.files import write_text
from utils.metrics.bootstrap import Difference, paired_difference
from utils.metrics.suite import METRICS, OTHER

Rows = Sequence[dict]
NOTHING_MEASURED = "no image could be measured, see the column `reason` of metrics.csv"


@dataclass(frozen=True)
class Summary:
    """One metric over a folder.

    `mean` over `count` images (for FID and KID: of the sets) is None when there is nothing to measure, and `reason`
    says why. `deviation` is KID's over its subsets. `other` is the summary of --compare, `difference` the result's mean
    less the other's over `pairs` images; `left_out` images have no finite value on both sides.
    """

    mean: float | None = None
    count: int = 0
    deviation: float | None = None
    reason: str = ""
    other: "Summary | None" = None
    difference: Difference | None = None
    pairs: int = 0
    left_out: int = 0


def summarize(name: str, rows: Rows, *, compare: bool = False, seed: int = 0) -> Summary:
    """Average the values of a metric; with `compare` also the other result's, and the differences.

    PSNR of equal images is inf, and so is then the mean; differences leave such images out.
    """
    summary = _average(rows, name)
    if not compare:
        return summary
    either = [(row.get(name, math.nan), row.get(name + OTHER, math.nan)) for row in rows
              if name in row or name + OTHER in row]
    pairs = [pair for pair in either if all(map(math.isfinite, pair))]
    return replace(summary, other=_average(rows, name + OTHER), pairs=len(pairs), left_out=len(either) - len(pairs),
                   difference=paired_difference(*zip(*pairs, strict=True), seed=seed) if pairs else None)


def _average(rows: Rows, column: str) -> Summary:
    values = [row[column] for row in rows if column in row]
    return Summary(mean=float(np.mean(values)), count=len(values)) if values else Summary(reason=NOTHING_MEASURED)


def format_table(summaries: dict[str, Summary], *, num_reference: int = 0, compare: bool = False) -> str:
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
        label = METRICS[name].label
        if summary.reason:
            table.append(f"{label}: n/a: {summary.reason}")
        if summary.other and summary.other.reason not in ("", summary.reason):
            table.append(f"{label}: n/a for the other result: {summary.other.reason}")
        if summary.left_out:
            table.append(f"{label}: the difference leaves out {summary.left_out} images without a finite value on both "
                         "sides")
    return "\n".join(table)


def _cells(name: str, summary: Summary, num_reference: int, compare: bool) -> list[str]:
    metric = METRICS[name]

    def shown(value: float | None, sign: str = "") -> str:
        return "n/a" if value is None else f"{round(value, metric.digits) + 0.0:{sign}.{metric.digits}f}"  # no -0.0

    result = shown(summary.mean)
    if summary.deviation is not None:
        result += f" ± {shown(summary.deviation)}"
    count = f"{summary.count} : {num_reference}" if metric.of_sets and summary.count else str(summary.count)
    other = summary.other or Summary()
    if compare and other.count != summary.count:
        count += f" (other: {other.count})"
    cells = [metric.label, "higher" if metric.higher_is_better else "lower", result, count]
    if not compare:
        return cells
    mean, low, high = summary.difference or (None, None, None)
    interval = "" if low is None else f"[{shown(low, '+')}, {shown(high, '+')}]"
    return [*cells, shown(other.mean), shown(mean, "+"), interval]


def write_json(path: Path, summaries: dict[str, Summary], *, settings: dict, counts: dict[str, int]) -> None:
    """Write what the table shows. Values that are not finite are the texts `inf` and `nan`; null: not measured."""
    metrics = {}
    for name, summary in summaries.items():
        entry = {"label": METRICS[name].label, "higher_is_better": METRICS[name].higher_is_better,
                 "mean": _number(summary.mean), "images": summary.count}
        if name == "kid":
            entry["deviation"] = summary.deviation
        if summary.reason:
            entry["reason"] = summary.reason
        if summary.other:
            entry |= {"other_mean": _number(summary.other.mean), "other_images": summary.other.count}
            if summary.other.reason:
                entry["other_reason"] = summary.other.reason
        if summary.difference:
            mean, low, high = map(_number, summary.difference)
            entry["difference"] = {"mean": mean, "interval": [low, high], "images": summary.pairs}
        metrics[name] = entry
    content = {"settings": settings, "counts": counts, "metrics": metrics}
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
