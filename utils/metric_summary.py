"""Means of what was measured, as a table for people and as files for programs."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.bootstrap import Difference, paired_difference
from utils.files import atomic_path
from utils.metric_suite import METRICS, OTHER

Rows = Sequence[dict]


@dataclass(frozen=True)
class Summary:
    """One metric over a folder.

    `mean` over `count` images (for FID and KID: of the sets) is None when there is nothing to measure, and `reason`
    says why. `deviation` is KID's over its subsets. `other` and `other_count` are those of --compare, `difference` is
    the result's mean less the other's, over `pairs` images.
    """

    mean: float | None = None
    count: int = 0
    deviation: float | None = None
    reason: str = ""
    other: float | None = None
    other_count: int = 0
    difference: Difference | None = None
    pairs: int = 0


def summarize(name: str, rows: Rows, *, seed: int = 0) -> Summary:
    """Average the values of a metric, and compare them with the other result's where there are any.

    PSNR of equal images is inf, and so is then the mean; differences leave such images out.
    """
    values = [row[name] for row in rows if name in row]
    others = [row[name + OTHER] for row in rows if name + OTHER in row]
    if not values:
        return Summary(reason="no image could be measured, see the column `reason` of metrics.csv")
    pairs = [(row[name], row[name + OTHER]) for row in rows if name in row and name + OTHER in row]
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return Summary(mean=float(np.mean(values)), count=len(values),
                   other=float(np.mean(others)) if others else None, other_count=len(others),
                   difference=paired_difference(*zip(*finite, strict=True), seed=seed) if finite else None,
                   pairs=len(finite))


def format_table(summaries: dict[str, Summary], *, num_reference: int = 0, compare: bool = False) -> str:
    """Give a table of the metrics, and below it why some have no value.

    Args:
        summaries: of the metrics, by name.
        num_reference: images FID and KID compare with.
        compare: show the other result, the difference and its interval.
    """
    header = ["metric", "better", "result", "images"]
    header += ["other", "result - other", "95 % interval"] if compare else []
    lines = [header, *(_cells(name, summary, num_reference, compare) for name, summary in summaries.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) if index < 2 else cell.rjust(width)
                       for index, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
             for line in lines]
    table.insert(1, "-" * max(map(len, table)))
    remarks = [_remark(METRICS[name].label, summary) for name, summary in summaries.items()]
    return "\n".join([*table, *filter(None, remarks)])


def _remark(label: str, summary: Summary) -> str:
    if summary.mean is None:
        return f"{label}: n/a: {summary.reason}"
    if summary.other is not None and 0 < summary.pairs < max(summary.count, summary.other_count):
        return f"{label}: the difference is that of the {summary.pairs} images where both values are finite"
    return ""


def _cells(name: str, summary: Summary, num_reference: int, compare: bool) -> list[str]:
    metric = METRICS[name]

    def shown(value: float | None, *, sign: str = "") -> str:
        return "n/a" if value is None or math.isnan(value) else f"{value:{sign}.{metric.digits}f}"

    result = shown(summary.mean)
    if summary.deviation:
        result += f" ± {shown(summary.deviation)}"
    count = f"{summary.count} : {num_reference}" if metric.of_sets and summary.count else str(summary.count)
    cells = [metric.label, "higher" if metric.higher_is_better else "lower", result, count]
    if not compare:
        return cells
    if summary.difference is None:
        return [*cells, shown(summary.other), "n/a", ""]
    mean, low, high = summary.difference
    interval = f"[{shown(low, sign='+')}, {shown(high, sign='+')}]" if math.isfinite(low) else ""
    return [*cells, shown(summary.other), shown(mean, sign="+"), interval]


def write_json(path: Path, summaries: dict[str, Summary], *, settings: dict, counts: dict[str, int]) -> None:
    """Write what the table shows. Values that are not finite are the texts `inf` and `nan`; null: not measured.

    Raises:
        UserError: the file cannot be written.
    """
    metrics = {}
    for name, summary in summaries.items():
        entry = {"label": METRICS[name].label, "higher_is_better": METRICS[name].higher_is_better,
                 "mean": _number(summary.mean), "images": summary.count}
        if summary.deviation is not None:
            entry["deviation"] = summary.deviation
        if summary.reason:
            entry["reason"] = summary.reason
        if summary.other is not None:
            entry |= {"other_mean": _number(summary.other), "other_images": summary.other_count}
        if summary.difference is not None:
            mean, low, high = map(_number, summary.difference)
            entry["difference"] = {"mean": mean, "interval": [low, high], "images": summary.pairs}
        metrics[name] = entry
    text = json.dumps({"settings": settings, "counts": counts, "metrics": metrics}, indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def write_csv(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    """Write a row per image, with the metrics' `columns`; values that could not be measured stay empty.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8",
                                                        errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["file", "gt", "status", "width", "height", *columns, "reason"], restval="")
        writer.writeheader()
        writer.writerows(rows)
