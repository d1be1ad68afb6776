"""Means of what was measured, as a table for people and as files for programs."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.files import atomic_path
from utils.metrics.bootstrap import Difference, paired_difference
from utils.metrics.fidelity import PAPER_PSNR_OF_EQUAL
from utils.metrics.suite import METRICS, OTHER

Rows = Sequence[dict]
NOTHING_MEASURED = "no image could be measured, see the column `reason` of metrics.csv"


@dataclass(frozen=True)
class Summary:
    """One metric over a folder.

    `mean` over `count` images (for FID and KID: of the sets) is None when there is nothing to measure, and `reason`
    says why. `deviation` is KID's over its subsets. `other`, `other_count` and `other_reason` are those of --compare.
    `difference` is the result's mean less the other's, over `pairs` images; that leaves out `unpaired` images, which
    have a value on one side only, and `infinite` ones, which have an infinite value on either.
    """

    mean: float | None = None
    count: int = 0
    deviation: float | None = None
    reason: str = ""
    other: float | None = None
    other_count: int = 0
    other_reason: str = ""
    difference: Difference | None = None
    pairs: int = 0
    unpaired: int = 0
    infinite: int = 0


def summarize(name: str, rows: Rows, *, compare: bool = False, seed: int = 0) -> Summary:
    """Average the values of a metric; with `compare` also the other result's, and the differences.

    PSNR of equal images is inf, and so is then the mean; differences leave such images out.
    """
    values, others = ([row[column] for row in rows if column in row] for column in (name, name + OTHER))
    summary = Summary(mean=float(np.mean(values)) if values else None, count=len(values),
                      reason="" if values else NOTHING_MEASURED)
    if not compare:
        return summary
    pairs = [(row[name], row[name + OTHER]) for row in rows if name in row and name + OTHER in row]
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return replace(summary, other=float(np.mean(others)) if others else None, other_count=len(others),
                   other_reason="" if others else NOTHING_MEASURED,
                   difference=paired_difference(*zip(*finite, strict=True), seed=seed) if finite else None,
                   pairs=len(finite), unpaired=len(values) + len(others) - 2 * len(pairs),
                   infinite=len(pairs) - len(finite))


def format_table(summaries: dict[str, Summary], *, num_reference: int = 0, compare: bool = False) -> str:
    """Return a table of the metrics, and below it why some have no value.

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
    remarks = [remark for name, summary in summaries.items() for remark in _remarks(METRICS[name].label, summary)]
    return "\n".join([*table, *remarks])


def _remarks(label: str, summary: Summary) -> list[str]:
    remarks = [f"{label}: n/a: {summary.reason}"] if summary.mean is None else []
    if summary.other_reason not in ("", summary.reason):
        remarks.append(f"{label}: n/a for the other result: {summary.other_reason}")
    left_out = [f"{count} with {what}" for count, what in ((summary.unpaired, "a value on one side only"),
                                                           (summary.infinite, "an infinite value")) if count]
    if left_out:
        remarks.append(f"{label}: the difference is that of {summary.pairs} image{'s' * (summary.pairs != 1)}; left "
                       f"out: {', '.join(left_out)}")
    return remarks


def _cells(name: str, summary: Summary, num_reference: int, compare: bool) -> list[str]:
    metric = METRICS[name]

    def shown(value: float | None, *, sign: str = "") -> str:
        if value is None or math.isnan(value):
            return "n/a"
        return f"{round(value, metric.digits) + 0.0:{sign}.{metric.digits}f}"  # no negative zeros

    result = shown(summary.mean)
    if summary.deviation is not None:
        result += f" ± {shown(summary.deviation)}"
    count = f"{summary.count} : {num_reference}" if metric.of_sets and summary.count else str(summary.count)
    if compare and summary.other_count != summary.count:
        count += f" (other: {summary.other_count})"
    cells = [metric.label, "higher" if metric.higher_is_better else "lower", result, count]
    if not compare:
        return cells
    if summary.difference is None:
        return [*cells, shown(summary.other), "n/a", ""]
    mean, low, high = summary.difference
    interval = f"[{shown(low, sign='+')}, {shown(high, sign='+')}]" if math.isfinite(low) else ""
    return [*cells, shown(summary.other), shown(mean, sign="+"), interval]


def equality_remarks(rows: Rows) -> list[str]:
    """Say how many images have the PSNR of equal ones, for each PSNR and side where there are some."""
    remarks = []
    for suffix, what in (("", "results"), (OTHER, "other results")):
        for name, equal in (("psnr_y", math.inf), ("psnr_rgb", math.inf), ("psnr_paper", PAPER_PSNR_OF_EQUAL)):
            count = sum(row.get(name + suffix) == equal for row in rows)
            if count:
                remarks.append(f"{METRICS[name].label}: {count} of {len(rows)} {what} do not differ from the ground "
                               f"truth in it: {equal:.0f} dB")
    return remarks


def write_json(path: Path, summaries: dict[str, Summary], *, settings: dict, counts: dict[str, int]) -> None:
    """Write what the table shows. Values that are not finite are the texts `inf` and `nan`; null: not measured.

    Raises:
        UserError: the file cannot be written.
    """
    metrics = {}
    for name, summary in summaries.items():
        entry = {"label": METRICS[name].label, "higher_is_better": METRICS[name].higher_is_better,
                 "mean": _number(summary.mean), "images": summary.count}
        if name == "kid":
            entry["deviation"] = summary.deviation
        if summary.reason:
            entry["reason"] = summary.reason
        if summary.other is not None:
            entry |= {"other_mean": _number(summary.other), "other_images": summary.other_count}
        elif summary.other_reason:
            entry |= {"other_mean": None, "other_images": 0, "other_reason": summary.other_reason}
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
        writer = csv.DictWriter(file, ["file", "gt", "status", "width", "height", *columns, "reason"], restval="",
                                extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
