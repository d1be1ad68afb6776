"""The metrics that run networks, ready for `calculate_metrics.py`: LPIPS of images, FID and KID of folders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.lpips import SMALLEST_SIDE
from utils.errors import UserError, require
from utils.metrics.fid import (
    cached_features,
    extract_features,
    frechet_distance,
    kernel_distance,
    load_inception,
    make_feature_extractor,
)
from utils.metrics.lpips import load_lpips, make_lpips_distance
from utils.metrics.suite import FEWEST_IN_SET


def open_lpips(weights_dir: Path | None = None) -> Callable[[np.ndarray, np.ndarray], float]:
    """Load and compile LPIPS.

    Returns:
        A function of two images of one size, float32 RGB [h, w, 3] in [0, 1], that raises ValueError below 31x31.

    Raises:
        UserError: a weight file is missing, damaged or of another network.
    """
    distance = make_lpips_distance(load_lpips(weights_dir))

    def measure(image: np.ndarray, reference: np.ndarray) -> float:
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(f"LPIPS needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels. Received: "
                             f"{width}x{height}.")
        return distance(image, reference)

    return measure


class SetValue(NamedTuple):
    """A distance of two sets, and its standard deviation over subsets where there are some; or why there is none."""

    value: float | None
    deviation: float | None = None
    reason: str = ""


class SetMeter:
    """Measures FID and KID of folders against one reference folder, whose features are kept for later runs."""

    def __init__(self, reference: Sequence[Path], cache_dir: Path, *, weights_dir: Path | None = None, seed: int = 0,
                 advance: Callable[[int], object] | None = None):
        """Load the network and get the reference's features.

        Args:
            reference: its images.
            cache_dir: where features are kept.
            weights_dir: where the network's weights are.
            seed: of KID's subsets.
            advance: called with numbers of images as their features are computed; not for those that were kept.

        Raises:
            UserError: the weights are missing or damaged, an image cannot be read, or the cache not be written.
        """
        self._seed = seed
        self._extract = make_feature_extractor(load_inception(weights_dir))
        self._reference = cached_features(reference, self._extract, cache_dir, advance=advance)

    def measure(self, files: Sequence[Path], names: Sequence[str], *,
                advance: Callable[[int], object] | None = None) -> dict[str, SetValue]:
        """Measure `fid` and `kid`, or what `names` has of them; `advance` as above.

        Too few files, or one that cannot be read, are the reason why there is no value.
        """
        try:
            require(len(files) >= FEWEST_IN_SET, f"it needs at least {FEWEST_IN_SET} images that can be read",
                    len(files))
            features = extract_features(files, self._extract, advance=advance)
        except UserError as error:
            return dict.fromkeys(names, SetValue(None, reason=str(error)))
        return {name: self._distance(name, features) for name in names}

    def _distance(self, name: str, features: np.ndarray) -> SetValue:
        if name == "kid":
            return SetValue(*kernel_distance(features, self._reference, seed=self._seed))
        try:
            return SetValue(frechet_distance(features, self._reference))
        except UserError as error:  # the root of some sets cannot be computed
            return SetValue(None, reason=str(error))
