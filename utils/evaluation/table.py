"""Summaries and tables of an evaluation: means, and paired differences with bootstrap intervals."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.files import atomic_path
from utils.metrics.bootstrap import paired_difference
from utils.metrics.suite import METRICS

BASELINES = ("unadapted", "base", "bicubic")  # in the table of differences
OWN_AND_OTHER = (("adapted", "other-faces"), ("oracle", "other-oracle"))
DIGITS = {"psnr_y": 2, "ssim": 4, "niqe": 2, "lpips": 4}
SMALL_DIGITS = {"psnr_y": 3, "ssim": 5, "niqe": 3, "lpips": 5}  # of differences between own and other faces
Summary = dict  # of one set, as in summary.json


def summarize_set(scores: Sequence[dict], metrics: Sequence[str], *, with_faces: Sequence[str],
                  paired: Sequence[str], intervals: bool = True) -> Summary:
    """Average the scores of one set and compare its variants, photo by photo.

    Args:
        scores: a dict per photo and variant, with `photo`, `variant` and values.
        metrics: names of the values.
        with_faces: the photos in which faces were found.
        paired: photos that were also adapted to another photo's faces.
        intervals: False if all photos are degradations of a single one, and so no sample of photos.
    """
    values: dict[str, dict[str, dict]] = {}  # by variant and photo
    for score in scores:
        values.setdefault(score["variant"], {})[score["photo"]] = score
    variants = {}
    for name, photos in values.items():
        means = {metric: _mean(photos, metric) for metric in metrics}
        against = {baseline: {metric: _compare(photos, values[baseline], metric, intervals) for metric in metrics}
                   for baseline in BASELINES if baseline in values and baseline != name}
        variants[name] = {"photos": len(photos), "means": means, "against": against}
    photos = sorted({score["photo"] for score in scores})
    own = {f"{name} - {other}": {metric: _compare(values[name], values[other], metric, intervals, only=paired)
                                 for metric in metrics}
           for name, other in OWN_AND_OTHER if paired and name in values and other in values}
    return {"photos": len(photos), "photos_without_faces": [photo for photo in photos if photo not in with_faces],
            "variants": variants, "own_against_other": own}


def _mean(photos: Mapping[str, dict], metric: str) -> float | None:
    there = [score[metric] for score in photos.values() if metric in score]
    return float(np.mean(there)) if there else None


def _compare(photos: Mapping[str, dict], others: Mapping[str, dict], metric: str, intervals: bool, *,
             only: Sequence[str] | None = None) -> dict | None:
    """Compare two variants over the photos that have a value in both; None if there is none."""
    chosen = [photo for photo in photos if photo in others and metric in photos[photo] and metric in others[photo]
              and (only is None or photo in only)]
    if not chosen:
        return None
    found = paired_difference(*([side[photo][metric] for photo in chosen] for side in (photos, others)))
    low, high = (end if intervals and math.isfinite(end) else None for end in found[1:])
    return {"mean": found.mean, "low": low, "high": high, "photos": len(chosen)}


def format_made(made: Mapping[str, object]) -> str:
    """Return the inputs and settings of an evaluation as Markdown."""
    return "# Evaluation\n\n" + "\n".join(f"* {name}: {value}" for name, value in made.items()) + "\n"


def format_tables(summaries: Mapping[str, Summary], metrics: Sequence[str], *, one_photo: bool = False) -> str:
    """Return Markdown tables: per set means and differences, then own against other faces of all sets.

    With `one_photo` all photos of a set are degradations of a single one.
    """
    parts, control = [], "the same face, degraded differently" if one_photo else "another photo's faces"
    for name, summary in summaries.items():
        without = summary["photos_without_faces"]
        remark = f"; in {len(without)} no face was found: {', '.join(without)}" if without else ""
        photos = "over {} degradations of one photo" if one_photo else "{} photos"
        parts += [f"## {name}: {photos.format(summary['photos'])}{remark}", _means_table(summary, metrics)]
        if any(found["against"] for found in summary["variants"].values()):
            parts += ["Mean differences over degradations of one photo:" if one_photo else
                      "Differences, with 95 % bootstrap intervals over the photos:",
                      _differences_table(summary, metrics)]
    parts += [f"## Own faces against {control}", _own_table(summaries, metrics)]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
                     for row in rows)


def _means_table(summary: Summary, metrics: Sequence[str]) -> str:
    header = ["variant", "photos", *(_label(metric) for metric in metrics)]
    lines = [[name, str(found["photos"]), *(
        "n/a" if found["means"][metric] is None else f"{found['means'][metric]:.{DIGITS[metric]}f}"
        for metric in metrics)] for name, found in summary["variants"].items()]
    return _table(header, lines)


def _label(metric: str) -> str:
    better = "" if METRICS[metric].higher_is_better else " (lower is better)"
    return f"{METRICS[metric].label}{better}"


def _differences_table(summary: Summary, metrics: Sequence[str]) -> str:
    baselines = [baseline for baseline in BASELINES if baseline in summary["variants"]]
    header = ["variant", *(f"{METRICS[metric].label} - {baseline}" for metric in metrics for baseline in baselines)]
    lines = [[name, *(_cell(found["against"].get(baseline, {}).get(metric), DIGITS[metric])
                      for metric in metrics for baseline in baselines)] for name, found in summary["variants"].items()]
    return _table(header, lines)


def _own_table(summaries: Mapping[str, Summary], metrics: Sequence[str]) -> str:
    header = ["set", "difference", "photos", *(_label(metric) for metric in metrics)]
    lines = []
    for name, summary in summaries.items():
        for pair, found in summary["own_against_other"].items():
            count = max((difference["photos"] for difference in found.values() if difference), default=0)
            lines.append([name, pair, str(count), *(_cell(found[metric], SMALL_DIGITS[metric]) for metric in metrics)])
    return _table(header, lines) if lines else "There are no two photos with faces in a set, or no such variants."


def _cell(difference: dict | None, digits: int) -> str:
    if difference is None:
        return ""
    text = f"{difference['mean']:+.{digits}f}"
    if difference["low"] is None:
        return text
    return f"{text} [{difference['low']:+.{digits}f}, {difference['high']:+.{digits}f}]"


def write_scores(path: Path, scores: Sequence[dict], metrics: Sequence[str]) -> None:
    """Write a line per set, photo and variant."""
    columns = ["set", "photo", "variant", "num_faces", "partner", "partner_faces", *metrics]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in score.items()}
                         for score in scores)


def write_json(path: Path, content: object) -> None:
    """Write plain data as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
