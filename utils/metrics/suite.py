"""Which metrics there are, what they need, and their values for every image of a folder."""

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.image.io import quantize, read_image
from utils.image.listing import ImageGroup
from utils.metrics.fidelity import psnr_paper, psnr_rgb, psnr_y, ssim
from utils.weights.manifest import get_entry, how_to_get, load_manifest, status

NUM_WORKERS = min(16, os.cpu_count() or 1)  # threads that decode and measure
FEWEST_IN_SET = 2  # images, for a covariance
OTHER = "_other"  # suffix of values that belong to --compare
MEASURED, PARTIAL, UNMEASURED, FAILED = "ok", "partial", "n/a", "error"  # statuses of a row
PAIR_FUNCTIONS = {"psnr_y": psnr_y, "psnr_rgb": psnr_rgb, "psnr_paper": psnr_paper, "ssim": ssim}


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

    Args:
        wanted: names separated by commas; None: whatever is possible.
        has_truth: whether there is ground truth.
        num_images: results.
        num_reference: images that FID and KID compare with.
        weights_dir: where weights are looked up.

    Raises:
        UserError: a name is unknown, a wanted metric is impossible, or all are.
    """
    names = list(METRICS) if wanted is None else _parse_names(wanted)
    fewest = min(num_images, num_reference)
    reasons = {name: _obstacle(METRICS[name], has_truth, num_reference, fewest, weights_dir) for name in names}
    obstacles = {name: reason for name, reason in reasons.items() if reason}
    if obstacles and (wanted is not None or len(obstacles) == len(names)):
        name, reason = next(iter(obstacles.items()))
        raise UserError(f"{METRICS[name].label} cannot be measured: {reason}")
    return [name for name in names if name not in obstacles], obstacles


def _parse_names(text: str) -> list[str]:
    names = [part.strip().lower() for part in text.strip(" ,").split(",")]
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, n=1)
            guess = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"--metrics knows {','.join(METRICS)}. Received: {name!r}.{guess}")
    return list(dict.fromkeys(names))


def _obstacle(metric: Metric, has_truth: bool, num_reference: int, fewest: int, weights_dir: Path | None) -> str:
    """Return why a metric is impossible, or nothing. `fewest`: images on either side of FID and KID."""
    if metric.needs_truth and not has_truth:
        return "it compares with the ground truth: give --gt_dir"
    if metric.of_sets and not num_reference:
        return "it compares with a folder of good photographs: give --fid_ref_dir"
    if metric.of_sets and fewest < FEWEST_IN_SET:
        return f"it needs at least {FEWEST_IN_SET} images on each side"
    if metric.weights:
        entry = get_entry(load_manifest(), metric.weights)
        variants = status(entry, weights_dir)
        if not any(variant.complete for variant in variants):
            states = " and ".join(f"{file} ({state.value})" for file, state in variants[0].states.items())
            return f"it needs {states}. {how_to_get(entry, weights_dir)}"
    return ""


@dataclass(frozen=True)
class ImageMeter:
    """Measures images, one group of files at a time.

    `metrics`: names (those of sets are ignored); `crop_to_common`: compare images of different sizes in their common
    upper left part; `niqe` of uint8 RGB [h, w, 3] and `lpips` of two float32 RGB images in [0, 1], if they are among
    the metrics, raise ValueError for images without such a value.
    """

    metrics: Sequence[str]
    crop_to_common: bool = False
    niqe: Callable[[np.ndarray], float] | None = None
    lpips: Callable[[np.ndarray, np.ndarray], float] | None = None

    def columns(self, *, compare: bool) -> list[str]:
        """Return the names of the values in a row; with `compare` also those of the other result."""
        names = [name for name in self.metrics if not METRICS[name].of_sets]
        return names + [name + OTHER for name in names] * compare

    def measure(self, group: ImageGroup) -> dict:
        """Measure a group of files; alpha is ignored, 16 bits are rounded to 8.

        A file that fails affects only the values that need it. Ground truth is read only if a metric needs it.

        Returns:
            A row with `file`, `gt`, `status`, `width`, `height`, the values that could be measured, `reason`, and
            `unreadable`: the files that could not be read.
        """
        row = {"file": group.result.name if group.result else group.stem, "gt": group.truth.name if group.truth else ""}
        needs_truth = any(METRICS[name].needs_truth for name in self.metrics)
        files = {"": group.result, OTHER: group.other, "truth": group.truth if needs_truth else None}
        images, failures = _read_all(files)
        if "" in images:
            row["height"], row["width"] = images[""].shape[:2]
        errors, values = list(failures.values()), {}
        reasons = ["no result."] * (group.result is None)
        reasons += ["no ground truth."] * (needs_truth and group.truth is None)
        cropped = self._crop(images)
        for suffix in (side for side in ("", OTHER) if side in images):
            pair = (cropped[suffix], cropped["truth"]) if "truth" in images else None
            if pair and pair[0].shape != pair[1].shape:
                errors.append(_size_message(files[suffix], *pair))
                pair = None
            found, problems = self._measure(images[suffix], pair)
            values.update({name + suffix: value for name, value in found.items()})
            reasons += [f"other: {problem}" if suffix else problem for problem in problems if problem not in reasons]
        outcome = FAILED if errors else MEASURED if not reasons else PARTIAL if values else UNMEASURED
        if any(cropped[role].shape != image.shape for role, image in images.items()):
            reasons.append("cropped to {1}x{0}.".format(*cropped["truth"].shape))
        return {**row, **values, "status": outcome, "reason": " ".join(errors + reasons),
                "unreadable": [files[role] for role in failures]}

    def _crop(self, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self.crop_to_common or "truth" not in images:
            return images
        height, width = np.min([image.shape[:2] for image in images.values()], axis=0)
        return {role: image[:height, :width] for role, image in images.items()}

    def _measure(self, image: np.ndarray, pair: tuple[np.ndarray, np.ndarray] | None
                 ) -> tuple[dict[str, float], list[str]]:
        """Return the values, and why others are missing; without a `pair` only those of the image alone."""
        values, problems = {}, []
        for name in self.columns(compare=False):
            if METRICS[name].needs_truth and pair is None:
                continue
            try:
                if name == "niqe":
                    values[name] = self.niqe(image)
                elif name == "lpips":
                    values[name] = self.lpips(*(side.astype(np.float32) / np.float32(255) for side in pair))
                else:
                    values[name] = PAIR_FUNCTIONS[name](*pair)
            except ValueError as error:  # the image is too small for it, or flat
                problems.append(str(error))
        return values, problems


def _size_message(path: Path, image: np.ndarray, truth: np.ndarray) -> str:
    (height, width), (true_height, true_width) = image.shape[:2], truth.shape[:2]
    return (f"{path} is {width}x{height}, its ground truth {true_width}x{true_height}. Fix the files, or compare "
            "their common upper left part with --crop_to_common.")


def _read_all(files: dict[str, Path | None]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the images, uint8 RGB [h, w, 3], and why others cannot be read."""
    images, failures = {}, {}
    for role, path in files.items():
        try:
            if path is not None:
                images[role] = quantize(read_image(path).pixels)
        except UserError as error:
            failures[role] = str(error)
    return images, failures


def measure_all(groups: Sequence[ImageGroup], meter: ImageMeter) -> Iterator[dict]:
    """Yield the rows of `ImageMeter.measure` in order; a few groups at a time are in memory, measured in parallel."""
    pool, together = ThreadPoolExecutor(NUM_WORKERS), 4 * NUM_WORKERS
    try:
        for first in range(0, len(groups), together):
            yield from pool.map(meter.measure, groups[first:first + together])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for pending images
