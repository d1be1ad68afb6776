"""Pictures of what an evaluation found."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import compose_exact
from utils.tensorflow_setup import load_pyplot

PANEL_INCHES = (4.2, 4.0)  # inches
GAIN_METRIC, GAIN_BASELINE = "psnr_y", "unadapted"
PICTURES = {"bicubic": "bicubic", "base": "", "unadapted": "not adapted", "adapted": "adapted",
            "other-faces": "other faces"}  # variant -> label; the base network has its name
PICTURES_PER_ROW = 3


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
