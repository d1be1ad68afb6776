"""Face restorers of tiny size."""

import numpy as np

from config import GeneratorConfig
from model.face_restorer import POSITION_WEIGHT
from tests.helpers.reference_weights import draw, reference_generator

SMALL_RESTORER = GeneratorConfig(num_blocks=2, num_features=8, growth=4)


def small_restorer():
    """Return deterministic arrays of 2 blocks, 8 features, growth 4."""
    params = reference_generator(SMALL_RESTORER.num_blocks, SMALL_RESTORER.num_features, SMALL_RESTORER.growth)
    return params | {POSITION_WEIGHT: draw("conv_position.weight", (3, 3, 8, 8), 0.05)}


def nearest_restorer():
    """Return the parameters of a network that repeats every pixel 4x4 times."""
    params = {name: np.zeros_like(value) for name, value in small_restorer().items()}
    for layer in ("conv_first", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        params[f"{layer}/weight"][1, 1, :3, :3] = np.eye(3)
    return params
