"""Deterministic weights and inputs that the restorer's reference arrays (tests/data/gpen.npz) were made with.

The weights are those of a published file: PyTorch's names and layout, blur buffers included. Each array depends on its
name and shape alone; the scales keep latent, features and colours near 1, so that every layer shows in the result.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from model.gpen import GpenArchitecture, gpen_torch_shapes
from tests.helpers.reference_weights import draw

COLOUR_SCALES = {256: 0.8, 512: 0.25}  # of the kernels that project to RGB, by the size of the network


def reference_gpen_state(architecture: GpenArchitecture) -> dict[str, np.ndarray]:
    """Return the state dict of GPEN-256 or GPEN-512 with drawn values."""
    return {name: _value(name, shape, architecture.size) for name, shape in gpen_torch_shapes(architecture).items()}


def _value(name: str, shape: tuple[int, ...], size: int) -> np.ndarray:
    if name.endswith(".kernel"):
        taps = np.array([1, 3, 3, 1], np.float32)
        return np.outer(taps, taps) / np.float32(16 if name.startswith("generator.") else 64)
    normal = draw(f"gpen{size}/{name}", shape, 1.0)
    if name.endswith("modulation.bias"):
        return np.float32(1) + np.float32(0.1) * normal
    return np.float32(_scale(name, size)) * normal


def _scale(name: str, size: int) -> float:
    is_bias = name.endswith("bias")
    if name.startswith("generator.style."):
        return 5.0 if is_bias else 100.0  # its learning rate of 0.01 divides it again
    if name.endswith("modulation.weight"):
        return 0.5
    if name.endswith("noise.weight"):
        return 0.3
    if ".to_rgb" in name:
        return 0.05 if is_bias else COLOUR_SCALES[size]
    return 0.1 if is_bias else 1.0


def reference_face(reference: Mapping[str, np.ndarray], case: str) -> np.ndarray:
    """Return the input of a case, "g256_a", "g256_b" or "g512_a": [s, s, 3] float32 RGB, in range 255.

    The pictures are bicubic upscales; that of "g256_b" is neither rounded nor clipped.
    """
    size = int(case[1:4])
    source = reference["g256_b_lr"].astype(np.float32) if case == "g256_b" else reference["face"]
    face = cv2.resize(source, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    if case == "g256_a":
        face[145, 188, 0] = 225  # 224.50001, which OpenCV rounds down on some processors
    return face
