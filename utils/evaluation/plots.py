"""Plots and comparison pictures of an evaluation."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.evaluation.table import OWN_AND_OTHER, Summary
from utils.files import atomic_path
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import compose_exact
from utils.tensorflow_setup import load_pyplot

PANEL = (4.2, 4.0)  # inches
GAIN_METRIC, GAIN_BASELINE = "psnr_y", "unadapted"
PICTURES = ("bicubic", "base", "unadapted", "adapted", "other-faces")
PICTURES_PER_ROW = 3


def plot_gains(path: Path, summaries: Mapping[str, Summary]) -> None:
    """Plot each variant's gain in PSNR-Y over the un-adapted network with its interval, one panel per set, as PNG."""
    pyplot = load_pyplot()
    figure, panels = pyplot.subplots(1, len(summaries), figsize=(PANEL[0] * len(summaries), PANEL[1]),
                                     constrained_layout=True, squeeze=False, sharey=True)
    for panel, (name, summary) in zip(panels[0], summaries.items(), strict=True):
        gains = {variant: found["against"].get(GAIN_BASELINE, {}).get(GAIN_METRIC)
                 for variant, found in reversed(summary["variants"].items()) if variant != GAIN_BASELINE}
        for variant, gain in gains.items():
            ends = [[0], [0]]
            if gain and gain["low"] is not None:
                ends = [[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]]
            colour = "tab:red" if variant.startswith("other") else "tab:blue"
            panel.errorbar([gain["mean"] if gain else np.nan], [variant], xerr=ends, fmt="o", color=colour,
                           markersize=4, capsize=3)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set(title=name, xlabel="PSNR-Y over un-adapted (dB)")
        panel.grid(alpha=0.3)
    _save(figure, path)


def plot_own_and_other(path: Path, scores: Sequence[dict], summaries: Mapping[str, Summary],
                       paired: Mapping[str, Sequence[str]]) -> None:
    """Plot each photo's PSNR-Y gain with its own faces against that with another photo's, as PNG.

    Args:
        path: the PNG.
        scores: of all sets, with `set`.
        summaries: by set.
        paired: the photos of each set that were adapted to both.
    """
    pyplot = load_pyplot()
    values = {(score["set"], score["variant"], score["photo"]): score.get(GAIN_METRIC) for score in scores}
    variants = {score["variant"] for score in scores}
    pairs = [pair for pair in OWN_AND_OTHER if variants.issuperset(pair)] or OWN_AND_OTHER[:1]
    figure, [panels] = pyplot.subplots(1, len(pairs), figsize=(1.2 * PANEL[0] * len(pairs), PANEL[1]), squeeze=False,
                                       constrained_layout=True)
    for panel, (own, other) in zip(panels, pairs, strict=True):
        for name, summary in summaries.items():
            triples = [[values.get((name, variant, photo)) for variant in (GAIN_BASELINE, own, other)]
                       for photo in paired[name]]
            points = np.array([triple for triple in triples if None not in triple]).reshape(-1, 3)
            found = summary["own_against_other"].get(f"{own} - {other}", {}).get(GAIN_METRIC)
            panel.scatter(points[:, 2] - points[:, 0], points[:, 1] - points[:, 0], s=14, alpha=0.7,
                          label=f"{name}: {_describe(found)}" if found else name)
        ends = np.array([panel.get_xlim(), panel.get_ylim()])
        panel.axline((ends.max(), ends.max()), slope=1, color="black", linewidth=0.8)
        panel.set(title=f"{own} against {other}", xlabel="other faces: gain in PSNR-Y (dB)",
                  ylabel="own faces: gain in PSNR-Y (dB)")
        panel.legend(*panel.get_legend_handles_labels(), fontsize=8, title="own - other [95 % interval]",
                     title_fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))  # points may lie anywhere
        panel.grid(alpha=0.3)
    _save(figure, path)


def _describe(found: dict) -> str:
    interval = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{found['mean']:+.3f}{interval} dB"


def write_pictures(path: Path, photos: Mapping[str, tuple[Path, str]]) -> None:
    """Write the results of one photo per set beside its ground truth, at 100 %; missing or damaged ones are left out.

    Args:
        path: the PNG.
        photos: label -> folder of the set, stem.
    """
    blocks = []
    for label, (folder, stem) in photos.items():
        files = {f"{label}: {name}": folder / name / f"{stem}.png" for name in PICTURES}
        truth = quantize(read_image(folder / "GT" / f"{stem}.png").pixels)
        versions = {}
        for name, file in files.items():
            with contextlib.suppress(UserError):  # a damaged file is named when results are scored
                versions[name] = quantize(read_image(file).pixels)
        versions = {name: image for name, image in versions.items() if image.shape == truth.shape}
        blocks.append(compose_exact({**versions, f"{label}: ground truth": truth}, columns=PICTURES_PER_ROW))
    if not blocks:
        return
    width = max(block.shape[1] for block in blocks)
    padded = [np.pad(block, ((0, 0), (0, width - block.shape[1]), (0, 0)), constant_values=255) for block in blocks]
    write_png(path, np.concatenate(padded))


def _save(figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    load_pyplot().close(figure)
