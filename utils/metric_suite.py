"""Which metrics there are, what they need, and their values for every image of a folder."""

import difflib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.errors import FatalError, UserError
from utils.image_sets import ImageGroup
from utils.images import quantize, read_image
from utils.metrics import psnr_paper, psnr_rgb, psnr_y, ssim
from utils.weights import get_entry, how_to_get, load_manifest, status

NUM_WORKERS = min(16, os.cpu_count() or 1)  # threads that decode and measure
FEWEST_IN_SET = 2  # images, for a covariance
OTHER = "_other"  # behind the names of values that belong to --compare
MEASURED, PARTIAL, UNMEASURED, FAILED = "ok", "partial", "n/a", "error"  # statuses of a row


@dataclass(frozen=True)
class Metric:
    """How a metric is shown, and what it takes.

    `needs_truth`: it compares an image with its ground truth; `of_sets`: it compares two folders as a whole, not image
    by image; `weights`: names of the manifest; `uses_tensorflow`: it runs a network.
    """

    label: str
    higher_is_better: bool
    digits: int
    needs_truth: bool = False
    of_sets: bool = False
    weights: tuple[str, ...] = ()
    uses_tensorflow: bool = False


METRICS = {
    "psnr_y": Metric("PSNR-Y (dB)", True, 4, needs_truth=True),
    "psnr_rgb": Metric("PSNR-RGB (dB)", True, 4, needs_truth=True),
    "psnr_paper": Metric("PSNR, original script (dB)", True, 4, needs_truth=True),
    "ssim": Metric("SSIM-Y", True, 4, needs_truth=True),
    "lpips": Metric("LPIPS", False, 4, needs_truth=True, weights=("alexnet", "lpips"), uses_tensorflow=True),
    "niqe": Metric("NIQE", False, 4, weights=("niqe",)),
    "fid": Metric("FID", False, 3, of_sets=True, weights=("inception",), uses_tensorflow=True),
    "kid": Metric("KID", False, 6, of_sets=True, weights=("inception",), uses_tensorflow=True),
}


def choose_metrics(wanted: str | None, *, has_truth: bool, num_images: int, num_reference: int,
                   weights_dir: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Decide what is measured.

    Args:
        wanted: names with commas between them; None: whatever is possible.
        has_truth: whether there is ground truth.
        num_images: results.
        num_reference: images that FID and KID compare with.
        weights_dir: where weights are looked up.

    Returns:
        The metrics to measure, and why the others, if nothing was `wanted`, cannot be: name -> reason.

    Raises:
        UserError: a name is unknown, a wanted metric is not possible, or none is.
    """
    names = list(METRICS) if wanted is None else _parse_names(wanted)
    fewest = min(num_images, num_reference)
    reasons = {name: _obstacle(METRICS[name], has_truth, num_reference, fewest, weights_dir) for name in names}
    obstacles = {name: reason for name, reason in reasons.items() if reason}
    if obstacles and wanted is not None:
        name, reason = next(iter(obstacles.items()))
        raise UserError(f"{METRICS[name].label} cannot be measured: {reason}")
    if len(obstacles) == len(names):
        firsts = {reason: METRICS[name].label for name, reason in reversed(obstacles.items())}
        raise UserError("no metric can be measured. " + ". ".join(
            f"{label}: {reason}" for reason, label in reversed(firsts.items())))
    return [name for name in names if name not in obstacles], obstacles


def _parse_names(text: str) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, n=1)
            guess = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"--metrics knows {','.join(METRICS)}. Received: {name!r}.{guess}")
    return names


def _obstacle(metric: Metric, has_truth: bool, num_reference: int, fewest: int, weights_dir: Path | None) -> str:
    """Say why a metric is not possible; nothing if it is. `fewest`: images on either side of FID and KID."""
    if metric.needs_truth and not has_truth:
        return "it compares with the ground truth: give --gt_dir"
    if metric.of_sets and not num_reference:
        return "it compares with a folder of good photographs: give --fid_ref_dir"
    if metric.of_sets and fewest < FEWEST_IN_SET:
        return f"it needs at least {FEWEST_IN_SET} images on each side"
    return _missing_weights(metric.weights, weights_dir)


def _missing_weights(names: Sequence[str], weights_dir: Path | None) -> str:
    manifest = load_manifest()
    lacking, states = [], []
    for name in names:
        entry = get_entry(manifest, name)
        found = status(entry, weights_dir)
        if not any(variant.complete for variant in found):
            lacking.append(entry)
            states += [f"{file} ({state.value})" for file, state in found[0].states.items()]
    if not lacking:
        return ""
    together = replace(lacking[0], name=" ".join(entry.name for entry in lacking))  # one command for all
    return f"it needs {' and '.join(states)}. {how_to_get(together, weights_dir)}"


@dataclass(frozen=True)
class ImageMeter:
    """Measures images, one group of files at a time.

    `metrics`: names, those of sets are left out; `crop_to_common`: compare images of different sizes in their common
    upper left part; `niqe` of uint8 RGB [h, w, 3] and `lpips` of two float32 RGB images in [0, 1] are needed if they
    are among the metrics, and raise ValueError for images that have no such value.
    """

    metrics: Sequence[str]
    crop_to_common: bool = False
    niqe: Callable[[np.ndarray], float] | None = None
    lpips: Callable[[np.ndarray, np.ndarray], float] | None = None

    def columns(self, *, compare: bool) -> list[str]:
        """Give the names of the values in a row; with `compare` also those of the other result."""
        names = [name for name in self.metrics if not METRICS[name].of_sets]
        return names + [name + OTHER for name in names] * compare

    def measure(self, group: ImageGroup) -> dict:
        """Measure a group of files; they are decoded, alpha is left out, 16 bits are rounded to 8.

        Returns:
            A row with `file`, `gt`, `status`, `width`, `height`, the values that could be measured, and `reason`.
        """
        row = {"file": group.result.name if group.result else group.stem, "gt": group.truth.name if group.truth else ""}
        reasons, values = [], {}
        try:
            truth = _read(group.truth)
            for path, suffix in ((group.result, ""), (group.other, OTHER)):
                image = _read(path)
                if image is None:
                    continue
                if not suffix:
                    row["height"], row["width"] = image.shape[:2]
                found, problems = self._measure(image, truth, path)
                values.update({name + suffix: value for name, value in found.items()})
                reasons += [f"other: {problem}" if suffix else problem for problem in problems
                            if problem not in reasons]
        except FatalError:
            raise
        except UserError as error:
            return {**row, "status": FAILED, "reason": str(error)}
        if group.result is None:
            reasons.insert(0, "no result.")
        outcome = MEASURED if not reasons else PARTIAL if values else UNMEASURED
        return {**row, **values, "status": outcome, "reason": " ".join(reasons)}

    def _measure(self, image: np.ndarray, truth: np.ndarray | None, path: Path) -> tuple[dict[str, float], list[str]]:
        """Give the values, and why others are missing."""
        pair = None if truth is None else self._pair(image, truth, path)
        values, problems = {}, []
        for name in self.columns(compare=False):
            if METRICS[name].needs_truth and pair is None:
                continue
            try:
                values[name] = self._value(name, image, pair)
            except ValueError as error:  # the image is too small for it, or flat
                problems.append(str(error))
        if truth is None and any(METRICS[name].needs_truth for name in self.metrics):
            problems.append("no ground truth.")
        return values, problems

    def _pair(self, image: np.ndarray, truth: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
        if image.shape != truth.shape and not self.crop_to_common:
            (height, width), (true_height, true_width) = image.shape[:2], truth.shape[:2]
            raise UserError(f"{path} is {width}x{height}, its ground truth {true_width}x{true_height}. Mend the files, "
                            "or compare the upper left part they have in common with --crop_to_common.")
        height, width = np.minimum(image.shape, truth.shape)[:2]
        return image[:height, :width], truth[:height, :width]

    def _value(self, name: str, image: np.ndarray, pair: tuple[np.ndarray, np.ndarray] | None) -> float:
        if name == "niqe":
            return self.niqe(image)
        if name == "lpips":
            return self.lpips(*(side.astype(np.float32) / np.float32(255) for side in pair))
        return {"psnr_y": psnr_y, "psnr_rgb": psnr_rgb, "psnr_paper": psnr_paper, "ssim": ssim}[name](*pair)


def _read(path: Path | None) -> np.ndarray | None:
    """Give uint8 RGB [h, w, 3]."""
    return None if path is None else quantize(read_image(path).pixels)


def measure_all(groups: Sequence[ImageGroup], meter: ImageMeter, *, num_workers: int = NUM_WORKERS) -> Iterator[dict]:
    """Give the rows of `ImageMeter.measure` in order; a few groups at a time are in memory, measured in parallel."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        for group in groups:
            waiting.append(pool.submit(meter.measure, group))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
