"""Deterministic weights that the detector's reference arrays (tests/data/retinaface.npz) were made with.

They are a published file's: PyTorch's names and layout, batch norm and its counters. Each array depends on its name
and shape alone; features keep their magnitude through the layers, and some anchors score above 0.9.
"""

import numpy as np

from model.retinaface import retinaface_torch_shapes
from tests.helpers.reference_weights import draw

HEAD_SCALES = {"BboxHead": 0.05, "ClassHead": 0.48, "LandmarkHead": 0.08}
INPUT_RANGE = 9000.0  # variance that the first batch norm takes away: images come in range 255


def reference_detector_state() -> dict[str, np.ndarray]:
    """Return the state dict of the published RetinaFace with drawn values."""
    state: dict[str, np.ndarray] = {}
    for name, shape in retinaface_torch_shapes().items():
        state[name] = _value(name, shape)
        if name.endswith(".running_var"):
            state[name.replace(".running_var", ".num_batches_tracked")] = np.array(100, np.int64)
    return state


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    head = name.split(".")[0]
    if len(shape) == 4:
        scale = HEAD_SCALES.get(head, float(np.sqrt(2.0 / np.prod(shape[1:]))))
        return draw(f"retinaface/{name}", shape, scale)
    normal = draw(f"retinaface/{name}", shape, 1.0)
    is_first = name.startswith("body.bn1.")
    if name.endswith("running_var"):
        return (np.float32(1) + np.float32(0.3) * np.abs(normal)) * np.float32(INPUT_RANGE if is_first else 1.0)
    if name.endswith("running_mean"):
        return normal * np.float32(10.0 if is_first else 0.1)
    if name.endswith("weight"):  # gains; smaller where a residual block ends
        gain = 0.5 if "bn3" in name or "downsample" in name else 1.0
        return np.float32(gain) * (np.float32(1) + np.float32(0.1) * normal)
    bias = np.float32(0.1) * normal
    if head == "ClassHead":  # pairs of (background, face), leaning to the background
        bias += np.tile(np.array([1.0, -1.0], np.float32), shape[0] // 2)
    return bias
