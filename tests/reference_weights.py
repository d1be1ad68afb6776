"""Deterministic weights that the reference arrays in tests/data were made with.

Each array depends on its name, shape and scale alone: the seed is the CRC-32 of the name, the generator NumPy's frozen
legacy RandomState, so every NumPy version gives the same values.
"""

import zlib

import numpy as np

from model.masknet import masknet_shapes
from model.rrdbnet import rrdbnet_shapes


def draw(name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Draw a float32 array of standard deviation `scale`, seeded by its name."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    return random.standard_normal(shape).astype(np.float32) * np.float32(scale)


def reference_generator(num_blocks: int = 23, num_features: int = 64, growth: int = 32) -> dict[str, np.ndarray]:
    """RRDBNet parameters under our names, kernels HWIO; drawn as OIHW under PyTorch's names."""
    gains = {"conv_first": 0.2, "conv_last": 0.4}
    params = {}
    for name, shape in rrdbnet_shapes(num_blocks, num_features, growth).items():
        torch_name = name.replace("/", ".")
        if name.endswith("/bias"):
            params[name] = draw(torch_name, shape, 0.01)
        else:
            oihw = (shape[3], shape[2], shape[0], shape[1])
            gain = gains.get(name.split("/")[0], 0.3)
            kernel = draw(torch_name, oihw, gain * float(np.sqrt(2.0 / (shape[0] * shape[1] * shape[2]))))
            params[name] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
    # mid-grey output, so that residuals have both signs and SGD at 1e-2 is stable
    params["conv_last/bias"] = params["conv_last/bias"] + np.float32(0.45)
    return params


def reference_masknet() -> dict[str, np.ndarray]:
    """MaskNet parameters under our names."""
    params = {}
    for name, shape in masknet_shapes().items():
        if name.endswith("/bias"):
            params[name] = draw(f"Mask/{name}", shape, 0.01)
        else:
            gain = 0.25 if name.startswith("conv8/") else 1.0
            params[name] = draw(f"Mask/{name}", shape, gain * float(np.sqrt(2.0 / (9 * shape[2]))))
    params["conv8/bias"] = np.full((1,), 0.5, np.float32)
    return params
