"""What an evaluation found: means, paired differences with their intervals, tables, and what it was made with."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.files import atomic_path
from utils.metrics.bootstrap import paired_difference
from utils.metrics.suite import METRICS

BASELINES = ("unadapted", "base", "bicubic")  # that rows are compared with
OWN_AND_OTHER = (("adapted", "other-faces"), ("oracle", "other-oracle"))
DIGITS = {"psnr_y": 2, "ssim": 4, "niqe": 2, "lpips": 4}
SMALL_DIGITS = {"psnr_y": 3, "ssim": 5, "niqe": 3, "lpips": 5}  # of differences between own and other faces
Summary = dict  # what summary.json holds of one set


@dataclass(frozen=True)
class Wording:
    """How things are called.

    `base` is the name of the row `base`. With `one_photo` all photos of a set are degradations of a single one, and so
    no sample of photos: there are no intervals.
    """

    base: str = "base"
    one_photo: bool = False

    @property
    def control(self) -> str:
        """Whose faces the control is adapted to."""
        return "the same face, degraded otherwise" if self.one_photo else "another photo's faces"

    def row(self, name: str) -> str:
        """Return what a row is called."""
        return self.base if name == "base" else name


def summarize_set(scores: Sequence[dict], metrics: Sequence[str], *, with_faces: Sequence[str],
                  paired: Sequence[str], intervals: bool = True) -> Summary:
    """Average the scores of one set and compare its rows, photo by photo.

    Args:
        scores: a dict per photo and row, with `photo`, `row` and values.
        metrics: names of the values.
        with_faces: the photos in which faces were found.
        paired: those that were also adapted to the faces of another photo.
        intervals: whether the photos are a sample, so that differences have intervals.
    """
    values: dict[str, dict[str, dict]] = {}  # by row and photo
    for score in scores:
        values.setdefault(score["row"], {})[score["photo"]] = score
    rows = {}
    for name, photos in values.items():
        means = {metric: _mean(photos, metric) for metric in metrics}
        against = {baseline: {metric: _compare(photos, values[baseline], metric, intervals) for metric in metrics}
                   for baseline in BASELINES if baseline in values and baseline != name}
        rows[name] = {"photos": len(photos), "means": means, "against": against}
    photos = sorted({score["photo"] for score in scores})
    own = {f"{row} - {other}": {metric: _compare(values[row], values[other], metric, intervals, only=paired)
                                for metric in metrics}
           for row, other in OWN_AND_OTHER if paired and row in values and other in values}
    return {"photos": len(photos), "photos_without_faces": [photo for photo in photos if photo not in with_faces],
            "rows": rows, "own_against_other": own}


def _mean(photos: Mapping[str, dict], metric: str) -> float | None:
    there = [score[metric] for score in photos.values() if metric in score]
    return float(np.mean(there)) if there else None


def _compare(photos: Mapping[str, dict], others: Mapping[str, dict], metric: str, intervals: bool, *,
             only: Sequence[str] | None = None) -> dict | None:
    """Compare two rows over the photos that have a value in both; None if there is none."""
    chosen = [photo for photo in photos if photo in others and metric in photos[photo] and metric in others[photo]
              and (only is None or photo in only)]
    if not chosen:
        return None
    found = paired_difference(*([side[photo][metric] for photo in chosen] for side in (photos, others)))
    low, high = (end if intervals and math.isfinite(end) else None for end in found[1:])
    return {"mean": found.mean, "low": low, "high": high, "photos": len(chosen)}


def format_made(made: Mapping[str, object]) -> str:
    """Return what an evaluation was made with as Markdown."""
    return "# Evaluation\n\n" + "\n".join(f"* {name}: {value}" for name, value in made.items()) + "\n"


def format_tables(summaries: Mapping[str, Summary], metrics: Sequence[str], wording: Wording) -> str:
    """Return the tables as Markdown: per set means and differences; and own faces against another photo's, of all."""
    parts = []
    for name, summary in summaries.items():
        without = summary["photos_without_faces"]
        remark = f"; in {len(without)} no face was found: {', '.join(without)}" if without else ""
        photos = "over {} degradations of one photo" if wording.one_photo else "{} photos"
        parts += [f"## {name}: {photos.format(summary['photos'])}{remark}", _means_table(summary, metrics, wording)]
        if any(row["against"] for row in summary["rows"].values()):
            parts += ["Mean differences over degradations of one photo:" if wording.one_photo else
                      "Differences, with 95 % bootstrap intervals over the photos:",
                      _differences_table(summary, metrics, wording)]
    parts += [f"## Own faces against {wording.control}", _own_table(summaries, metrics)]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that is legible as it is."""
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
                     for row in rows)


def _means_table(summary: Summary, metrics: Sequence[str], wording: Wording) -> str:
    header = ["row", "photos", *(_label(metric) for metric in metrics)]
    lines = [[wording.row(name), str(row["photos"]), *(
        "n/a" if row["means"][metric] is None else f"{row['means'][metric]:.{DIGITS[metric]}f}" for metric in metrics)]
        for name, row in summary["rows"].items()]
    return _table(header, lines)


def _label(metric: str) -> str:
    better = "" if METRICS[metric].higher_is_better else " (lower is better)"
    return f"{METRICS[metric].label}{better}"


def _differences_table(summary: Summary, metrics: Sequence[str], wording: Wording) -> str:
    baselines = [baseline for baseline in BASELINES if baseline in summary["rows"]]
    header = ["row", *(f"{METRICS[metric].label} - {wording.row(baseline)}"
                       for metric in metrics for baseline in baselines)]
    lines = [[wording.row(name), *(_cell(row["against"].get(baseline, {}).get(metric), DIGITS[metric])
                      for metric in metrics for baseline in baselines)] for name, row in summary["rows"].items()]
    return _table(header, lines)


def _own_table(summaries: Mapping[str, Summary], metrics: Sequence[str]) -> str:
    header = ["set", "difference", "photos", *(_label(metric) for metric in metrics)]
    lines = []
    for name, summary in summaries.items():
        for pair, found in summary["own_against_other"].items():
            count = max((difference["photos"] for difference in found.values() if difference), default=0)
            lines.append([name, pair, str(count), *(_cell(found[metric], SMALL_DIGITS[metric]) for metric in metrics)])
    return _table(header, lines) if lines else "There are no two photos with faces in a set, or no such rows."


def _cell(difference: dict | None, digits: int) -> str:
    if difference is None:
        return ""
    text = f"{difference['mean']:+.{digits}f}"
    if difference["low"] is None:
        return text
    return f"{text} [{difference['low']:+.{digits}f}, {difference['high']:+.{digits}f}]"


def write_scores(path: Path, scores: Sequence[dict], metrics: Sequence[str]) -> None:
    """Write a line per set, photo and row."""
    columns = ["set", "photo", "row", "num_faces", "partner", "partner_faces", *metrics]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in score.items()}
                         for score in scores)


def write_json(path: Path, content: object) -> None:
    """Write plain data as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
