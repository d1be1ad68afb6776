"""Arrays that Real-ESRGAN's own degradation gave, and the rule by which they were thinned out."""

from pathlib import Path

import numpy as np

REFERENCE = np.load(Path(__file__).parent / "data" / "degrade.npz")
IMAGE = (REFERENCE["img"] / 255).astype(np.float32)


def thin(image, step):
    """Keep every `step`-th row and column, and the last ones."""
    rows, columns = (np.union1d(np.arange(0, side, step), [side - 1]) for side in image.shape[:2])
    return image[rows][:, columns]
