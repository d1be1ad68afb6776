"""The metrics, what each needs, and their values for every image of a folder."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError, require
from utils.image.io import quantize, read_image, to_float
from utils.image.listing import ImageGroup
from utils.metrics.fidelity import psnr_paper, psnr_rgb, psnr_y, ssim
from utils.metrics.niqe import NIQE_LUMAS, niqe
from utils.weights.manifest import find_weights

NUM_WORKERS = min(16, os.cpu_count() or 1)  # threads that decode and measure
FEWEST_IN_SET = 2  # images, for a covariance
OTHER = "_other"  # suffix of values that belong to --compare
STATUSES = MEASURED, PARTIAL, UNMEASURED, FAILED = "ok", "partial", "n/a", "error"  # of a row
PAIR_FUNCTIONS = {"psnr_y": psnr_y, "psnr_rgb": psnr_rgb, "psnr_paper": psnr_paper, "ssim": ssim}
Functions = dict[str, Callable[..., float]]  # by the metric's name


@dataclass(frozen=True)
class Metric:
    """`of_sets`: it compares two folders as a whole; `weights`: the manifest's name of the network it runs."""

    label: str
    higher_is_better: bool
    digits: int
    needs_truth: bool = False
    of_sets: bool = False
    weights: str = ""


METRICS = {
    "psnr_y": Metric("PSNR-Y (dB)", True, 4, needs_truth=True),
    "psnr_rgb": Metric("PSNR-RGB (dB)", True, 4, needs_truth=True),
    "psnr_paper": Metric("PSNR, original script (dB)", True, 4, needs_truth=True),
    "ssim": Metric("SSIM-Y", True, 4, needs_truth=True),
    "lpips": Metric("LPIPS", False, 4, needs_truth=True, weights="lpips"),
    "niqe": Metric("NIQE", False, 4),
    "fid": Metric("FID", False, 3, of_sets=True, weights="inception"),
    "kid": Metric("KID", False, 6, of_sets=True, weights="inception"),
}


def choose_metrics(wanted: str | None, *, has_truth: bool, num_images: int, num_reference: int,
                   weights_dir: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the metrics to measure, and why others are impossible: name -> reason.

    `wanted`: names separated by commas, None for whatever is possible; `num_images`: results; `num_reference`: images
    that FID and KID compare with. Raises a UserError if a wanted metric is impossible, or all are.
    """
    names = list(METRICS)
    if wanted is not None:
        names = list(dict.fromkeys(part.strip().lower() for part in wanted.strip(" ,").split(",")))
        require(set(names) <= METRICS.keys(), f"--metrics knows {','.join(METRICS)}", repr(wanted))
    obstacles = {}
    for name in names:
        metric = METRICS[name]
        if metric.needs_truth and not has_truth:
            obstacles[name] = "it compares with the ground truth: add --gt_dir"
        elif metric.of_sets and not num_reference:
            obstacles[name] = "it compares with a folder of good photographs: add --fid_ref_dir"
        elif metric.of_sets and min(num_images, num_reference) < FEWEST_IN_SET:
            obstacles[name] = f"it needs at least {FEWEST_IN_SET} images on each side"
        elif metric.weights:
            try:
                find_weights(metric.weights, weights_dir)
            except UserError as error:
                obstacles[name] = str(error)
    if obstacles and (wanted is not None or len(obstacles) == len(names)):
        name, reason = next(iter(obstacles.items()))
        raise UserError(f"{METRICS[name].label} cannot be measured: {reason}")
    return [name for name in names if name not in obstacles], obstacles


def load_functions(names: Sequence[str], weights_dir: Path | None = None, *, niqe_luma: str = "pyiqa") -> Functions:
    """Return the functions of those metrics among `names` that measure single images, in their order.

    They take uint8 RGB images [h, w, 3]: the result and, if the metric needs it, the ground truth; they raise
    ValueError where there is no such value.
    """
    functions = dict(PAIR_FUNCTIONS)
    if "niqe" in names:
        functions["niqe"] = lambda image: niqe(NIQE_LUMAS[niqe_luma](image))
    if "lpips" in names:
        from utils.metrics.lpips import load_lpips, make_lpips_distance

        distance = make_lpips_distance(load_lpips(weights_dir))
        functions["lpips"] = lambda image, truth: distance(to_float(image), to_float(truth))
    return {name: functions[name] for name in names if name in functions}


def measure_group(group: ImageGroup, functions: Functions, *, crop_to_common: bool = False) -> dict:
    """Measure the files of a group by functions of `load_functions`; alpha is ignored, 16 bits are rounded to 8.

    A file that fails affects only the values that need it. Ground truth is read only if a metric needs it. The row
    that is returned has the values that could be measured, and `unreadable`: the files that could not be read.
    `crop_to_common`: compare images of different sizes in their common upper left part.
    """
    row = {"file": group.result.name if group.result else group.key, "gt": group.truth.name if group.truth else ""}
    needs_truth = any(METRICS[name].needs_truth for name in functions)
    files = {"": group.result, OTHER: group.other, "truth": group.truth if needs_truth else None}
    images, errors, unreadable, values = {}, [], [], {}
    for role, source in files.items():
        try:
            if source:
                images[role] = quantize(read_image(source.path).pixels)
        except UserError as error:
            errors.append(str(error))
            unreadable.append(source.path)
    if "" in images:
        row["height"], row["width"] = images[""].shape[:2]
    reasons = ["no result."] * (group.result is None) + ["no ground truth."] * (needs_truth and group.truth is None)
    cropped = images
    if crop_to_common and "truth" in images:
        height, width = np.min([image.shape[:2] for image in images.values()], axis=0)
        cropped = {role: image[:height, :width] for role, image in images.items()}
    for suffix in (side for side in ("", OTHER) if side in images):
        pair = (cropped[suffix], cropped["truth"]) if "truth" in images else None
        if pair and pair[0].shape != pair[1].shape:
            errors.append(f"{files[suffix].path} is {_size(pair[0])}, its ground truth {_size(pair[1])}. Fix the "
                          "files, or compare their common upper left part with --crop_to_common.")
            pair = None
        for name, function in functions.items():
            arguments = pair if METRICS[name].needs_truth else (images[suffix],)
            try:
                if arguments:
                    values[name + suffix] = function(*arguments)
            except ValueError as error:  # the image is too small for it, or flat
                if str(error) not in reasons:  # both results may be too small
                    reasons.append(f"other: {error}" if suffix else str(error))
    status = FAILED if errors else MEASURED if not reasons else PARTIAL if values else UNMEASURED
    if any(cropped[role].shape != image.shape for role, image in images.items()):
        reasons.append(f"cropped to {_size(cropped['truth'])}.")
    return {**row, **values, "status": status, "reason": " ".join(errors + reasons), "unreadable": unreadable}


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def measure_all(groups: Sequence[ImageGroup], measure: Callable[[ImageGroup], dict]) -> Iterator[dict]:
    """Yield the rows of groups in order; a few groups at a time are in memory, measured in parallel."""
    pool, together = ThreadPoolExecutor(NUM_WORKERS), 4 * NUM_WORKERS
    try:
        for first in range(0, len(groups), together):
            yield from pool.map(measure, groups[first:first + together])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for pending images
