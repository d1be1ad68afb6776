"""Scores of an evaluation's results outside of the faces, their means and differences, as tables, plot and pictures.

Images are uint8 RGB [h, w, 3]. With fewer than two pairs a difference has no interval.
"""

import contextlib
import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.face.alignment import intersect_box
from utils.files import atomic_path
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import compose_exact
from utils.metrics.bootstrap import Difference, paired_difference
from utils.metrics.fidelity import psnr_y, ssim
from utils.metrics.suite import METRICS
from utils.report import TEXT
from utils.tensorflow_setup import load_pyplot

FACE_MARGIN = 0.1  # of a face's box, on each side: left out of scores with it
BASELINES = ("unadapted", "base", "bicubic")  # that variants are compared with
OWN_AND_OTHER = (("adapted", "other-faces"), ("oracle", "other-oracle"))
DECIMALS = {"psnr_y": 2, "ssim": 4, "niqe": 2, "lpips": 4}  # one more for differences between own and other faces
PANEL_INCHES = (4.2, 4.0)  # inches
GAIN_METRIC, GAIN_BASELINE = "psnr_y", "unadapted"
PICTURES = {"bicubic": "bicubic", "base": "", "unadapted": "not adapted", "adapted": "adapted",
            "other-faces": "other faces"}  # variant -> label; the base network has its name
PICTURES_PER_ROW = 3
Boxes = Sequence[Sequence[float]]  # [n, 4]: x0, y0, x1, y1


def measure(image: np.ndarray, truth: np.ndarray, faces: Boxes,
            functions: Mapping[str, Callable[..., float]]) -> dict[str, float]:
    """Measure one result; what has no value is left out.

    PSNR and SSIM leave the pixels of `faces` out. The `functions` of `load_functions` need whole images: there the
    faces are the truth's. Raises a ValueError if sizes differ, or faces leave nothing.
    """
    keep = outside(faces, *truth.shape[:2])
    values = {"psnr_y": psnr_y(image, truth, keep=keep), "ssim": ssim(image, truth, keep=keep)}
    filled = np.where(keep[:, :, None], image, truth)
    for name, function in functions.items():
        with contextlib.suppress(ValueError):  # too small or too flat
            values[name] = function(filled, truth) if METRICS[name].needs_truth else function(filled)
    return {name: value for name, value in values.items() if math.isfinite(value)}


def outside(faces: Boxes, height: int, width: int) -> np.ndarray:
    """Return which pixels lie outside of all faces and of the margin around them: bool [height, width]."""
    keep = np.ones((height, width), bool)
    for face in faces:
        if box := intersect_box(face, height, width, margin=FACE_MARGIN):
            top, left, rows, columns = box
            keep[top:top + rows, left:left + columns] = False
    return keep


def score_photo(truth: Path, results: Mapping[str, Path], faces: Boxes,
                functions: Mapping[str, Callable[..., float]]) -> tuple[list[dict], list[str]]:
    """Return a dict of values for each existing result of a photo, and a line for each that has none.

    `results`: files by variant; `faces` and `functions` as for `measure`.
    """
    try:
        clean = quantize(read_image(truth).pixels)
        ssim(clean, clean, keep=outside(faces, *clean.shape[:2]))
    except UserError as error:
        return [], [str(error)]
    except ValueError:
        return [], [f"{truth} has no scores: its faces leave nothing of it"]
    scores, errors = [], []
    for name, path in results.items():
        try:
            if path.exists():
                values = measure(quantize(read_image(path).pixels), clean, faces, functions)
                scores.append({"photo": truth.stem, "variant": name, **values})
        except UserError as error:
            errors.append(str(error))
        except ValueError as error:  # of another size
            errors.append(f"{path} has no score: {error}")
    return scores, errors


def summarize_set(scores: Sequence[dict], metrics: Sequence[str], *, with_faces: Sequence[str],
                  paired: Sequence[str], intervals: bool = True) -> dict:
    """Average the scores of one set and compare its variants, photo by photo; return plain data, as in summary.json.

    `scores`: a dict per photo and variant, with `photo`, `variant` and values. `with_faces`: the photos in which faces
    were found; `paired`: those that were also adapted to the faces of another photo. `intervals`: whether the photos
    are a sample, so that differences have intervals.
    """
    values: dict[str, dict[str, dict]] = {}  # by variant and photo
    for score in scores:
        values.setdefault(score["variant"], {})[score["photo"]] = score

    def compare(variant: str, other: str, only: Sequence[str]) -> dict[str, dict | None]:
        return {metric: _compare(values[variant], values[other], metric, only, intervals) for metric in metrics}

    rows, photos = {}, sorted({score["photo"] for score in scores})
    for name, own in values.items():
        found = {metric: [score[metric] for score in own.values() if metric in score] for metric in metrics}
        rows[name] = {"photos": len(own),
                      "means": {metric: float(np.mean(there)) if there else None for metric, there in found.items()},
                      "against": {baseline: compare(name, baseline, photos) for baseline in BASELINES
                                  if baseline in values and baseline != name}}
    own_and_other = {f"{variant} - {other}": compare(variant, other, paired) for variant, other in OWN_AND_OTHER
                     if paired and variant in values and other in values}
    return {"photos": len(photos), "photos_without_faces": [photo for photo in photos if photo not in with_faces],
            "variants": rows, "own_against_other": own_and_other}


def _compare(scores: Mapping[str, dict], others: Mapping[str, dict], metric: str, only: Sequence[str],
             intervals: bool) -> dict | None:
    """Compare two variants over those photos that have a value in both; None if there is none."""
    pairs = [(scores[photo][metric], others[photo][metric]) for photo in scores
             if photo in only and photo in others and metric in scores[photo] and metric in others[photo]]
    if not pairs:
        return None
    difference = paired_difference(*zip(*pairs, strict=True))
    return {**(difference if intervals else Difference(difference.mean))._asdict(), "photos": len(pairs)}


def format_tables(summaries: Mapping[str, dict], metrics: Sequence[str], base: str) -> str:
    """Return Markdown tables: means and differences of every set; own faces against another photo's, of all sets.

    `summaries`: of `summarize_set`, by set; `base`: the name of the base network.
    """
    names = {"base": base}
    labels = [METRICS[metric].label + " (lower is better)" * (not METRICS[metric].higher_is_better)
              for metric in metrics]
    parts, own = [], []
    for preset, summary in summaries.items():
        rows, without = summary["variants"], summary["photos_without_faces"]
        remark = f"; in {len(without)} no face was found: {', '.join(without)}" if without else ""
        means = [[names.get(name, name), str(row["photos"]), *(_mean(row["means"], metric) for metric in metrics)]
                 for name, row in rows.items()]
        parts += [f"## {preset}: {summary['photos']} photos{remark}",
                  markdown_table(["variant", "photos", *labels], means)]
        columns = [(metric, baseline) for metric in metrics for baseline in BASELINES if baseline in rows]
        if any(row["against"] for row in rows.values()):
            header = [f"{METRICS[metric].label} - {names.get(baseline, baseline)}" for metric, baseline in columns]
            lines = [[names.get(name, name), *(_difference(row["against"].get(baseline, {}), metric)
                                               for metric, baseline in columns)] for name, row in rows.items()]
            parts += ["Differences [95 % bootstrap intervals over the photos]:",
                      markdown_table(["variant", *header], lines)]
        for pair, found in summary["own_against_other"].items():
            count = max((difference["photos"] for difference in found.values() if difference), default=0)
            own.append([preset, pair, str(count), *(_difference(found, metric, more_digits=1) for metric in metrics)])
    parts += ["## Own faces against another photo's faces",
              markdown_table(["set", "difference", "photos", *labels], own)]
    return "\n\n".join(parts) + "\n"


def _mean(means: Mapping[str, float | None], metric: str) -> str:
    return "n/a" if means[metric] is None else f"{means[metric]:.{DECIMALS[metric]}f}"


def _difference(found: Mapping[str, dict | None], metric: str, *, more_digits: int = 0) -> str:
    if not found.get(metric):
        return ""
    return Difference(*map(found[metric].get, Difference._fields)).text(DECIMALS[metric] + more_digits)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def write_scores(path: Path, scores: Sequence[dict], metrics: Sequence[str]) -> None:
    """Write a line per set, photo and variant."""
    with atomic_path(path) as temporary, temporary.open("w", **TEXT) as file:
        writer = csv.DictWriter(file, ["set", "photo", "variant", "num_faces", "partner", "partner_faces", *metrics])
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in score.items()}
                         for score in scores)


def plot_gains(path: Path, summaries: Mapping[str, dict], base: str) -> None:
    """Draw, per set, each variant's gain in PSNR-Y over the un-adapted network, with its interval, as PNG."""
    pyplot = load_pyplot()
    figure, panels = pyplot.subplots(1, len(summaries), figsize=(PANEL_INCHES[0] * len(summaries), PANEL_INCHES[1]),
                                     constrained_layout=True, squeeze=False, sharey=True)
    for panel, (name, summary) in zip(panels[0], summaries.items(), strict=True):
        for variant, found in reversed(summary["variants"].items()):
            if variant == GAIN_BASELINE:
                continue
            gain = found["against"].get(GAIN_BASELINE, {}).get(GAIN_METRIC) or {"mean": np.nan, "low": None}
            ends = None if gain["low"] is None else [[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]]
            panel.errorbar([gain["mean"]], [base if variant == "base" else variant], xerr=ends, fmt="o", markersize=4,
                           capsize=3, color="tab:red" if variant.startswith("other") else "tab:blue")
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set(title=name, xlabel="PSNR-Y over un-adapted (dB)")
        panel.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    pyplot.close(figure)


def write_pictures(path: Path, photos: Mapping[str, tuple[Path, str]], base: str) -> None:
    """Write results beside each other and the truth, a pixel for a pixel, as PNG; damaged ones are left out.

    `photos`: label -> folder of the set, stem.
    """
    blocks = []
    for label, (folder, stem) in photos.items():
        truth, versions = quantize(read_image(folder / "GT" / f"{stem}.png").pixels), {}
        for name, description in PICTURES.items():
            with contextlib.suppress(UserError):  # missing, or named when results are scored
                image = quantize(read_image(folder / name / f"{stem}.png").pixels)
                if image.shape == truth.shape:
                    versions[f"{label}: {description or base}"] = image
        blocks.append(compose_exact({**versions, f"{label}: ground truth": truth}, columns=PICTURES_PER_ROW))
    width = max((block.shape[1] for block in blocks), default=0)
    padded = [np.pad(block, ((0, 0), (0, width - block.shape[1]), (0, 0)), constant_values=255) for block in blocks]
    if padded:
        write_png(path, np.concatenate(padded))
