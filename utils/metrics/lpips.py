"""LPIPS v0.1 with AlexNet: its weights, and the distance of two images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.layers import Params
from model.lpips import SMALLEST_SIDE, lpips, lpips_params
from utils.weights.state_dicts import load_params

LPIPS_WEIGHTS = "lpips"  # name in the manifest


def load_lpips(weights_dir: Path | str | None = None, *, alternative: str = "") -> dict[str, tf.Tensor]:
    """Load LPIPS v0.1 with AlexNet; `alternative` and errors as of `load_params`."""
    return load_params(LPIPS_WEIGHTS, lpips_params, weights_dir=weights_dir, alternative=alternative)


def make_lpips_distance(params: Params) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return a function of two images of one size, float32 RGB [h, w, 3] in [0, 1]; traced once for all sizes.

    It raises ValueError for images below 31x31.
    """
    image = tf.TensorSpec([1, None, None, 3], tf.float32)
    run = tf.function(lambda left, right: lpips(params, left, right), input_signature=[image, image])

    def measure(left: np.ndarray, right: np.ndarray) -> float:
        height, width = left.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(f"LPIPS needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels. Received: "
                             f"{width}x{height}.")
        return float(run(tf.constant(left[None]), tf.constant(right[None]))[0])

    return measure
