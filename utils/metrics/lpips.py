"""Loads the weights of LPIPS, which are in two files of the weights manifest."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.layers import Params
from model.lpips import lpips, lpips_params_from_torch
from utils.errors import UserError
from utils.weights.manifest import find_weights
from utils.weights.torch_files import load_state_dict

BACKBONE = "alexnet"
HEADS = "lpips"


def load_lpips(weights_dir: Path | str | None = None, *, alternative: str = "") -> dict[str, tf.Tensor]:
    """Load LPIPS v0.1 with AlexNet.

    Args:
        weights_dir: where the weights are looked up.
        alternative: a sentence on how to do without them, put behind the message when they are missing.

    Raises:
        UserError: a file is missing, damaged or of another network.
    """
    try:
        paths = [path for name in (BACKBONE, HEADS) for path in find_weights(name, weights_dir).values()]
    except UserError as error:
        raise UserError(f"{error}. {alternative}" if alternative else str(error)) from error
    states = [load_state_dict(path) for path in paths]
    try:
        return lpips_params_from_torch(*states)
    except ValueError as error:
        raise UserError(f"{' and '.join(map(str, paths))} do not fit: {error}. Download them again.") from error


def make_lpips_distance(params: Params) -> Callable[[np.ndarray, np.ndarray], float]:
    """Compile LPIPS of two images, float32 RGB [h, w, 3] in [0, 1]; traced once for all sizes."""
    image = tf.TensorSpec([1, None, None, 3], tf.float32)
    run = tf.function(lambda left, right: lpips(params, left, right), input_signature=[image, image])
    return lambda left, right: float(run(tf.constant(left[None]), tf.constant(right[None]))[0])
