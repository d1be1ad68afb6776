"""Deterministic weights that the reference arrays in tests/data were made with.

Each array depends on its name, shape and scale alone: the seed is the CRC-32 of the name, the generator NumPy's frozen
legacy RandomState, so every NumPy version gives the same values.
"""

import zlib

import numpy as np

from model.discriminator import discriminator_shapes, vector_shapes
from model.inception import inception_torch_shapes
from model.lpips import TORCHVISION_INDICES, lpips_shapes
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


def reference_discriminator_state(num_features: int = 64) -> dict[str, np.ndarray]:
    """The state dict of a published discriminator file: PyTorch's names, OIHW, singular vectors of norm one."""
    state = {}
    for name, shape in discriminator_shapes(num_features).items():
        layer, part = name.split("/")
        normalized = f"{layer}/u" in vector_shapes(num_features)
        torch_name = f"{layer}.{part}_orig" if normalized else f"{layer}.{part}"
        if part == "bias":
            state[torch_name] = draw(f"netD.{torch_name}", shape, 0.01)
            continue
        height, width, c_in, c_out = shape
        gain = 4.0 if layer == "conv9" else 1.0
        scale = gain * float(np.sqrt(2.0 / (height * width * c_in)))
        state[torch_name] = draw(f"netD.{torch_name}", (c_out, c_in, height, width), scale)
        for vector, size in (("u", c_out), ("v", height * width * c_in)) if normalized else ():
            value = draw(f"netD.{layer}.weight_{vector}", (size,), 1.0)
            norm = np.linalg.norm(value.astype(np.float64))
            state[f"{layer}.weight_{vector}"] = (value / norm).astype(np.float32)
    return state


def reference_lpips_states() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """AlexNet's features and LPIPS heads, as two files hold them, of the training step's reference arrays."""
    alexnet, heads = {}, {}
    for name, shape in _alexnet_shapes().items():
        scale = 0.01 if len(shape) == 1 else float(np.sqrt(2.0 / np.prod(shape[1:])))
        alexnet[name] = draw(f"alex.{name}", shape, scale)
    for index in range(len(TORCHVISION_INDICES)):
        shape = (1, *lpips_shapes()[f"lin{index + 1}/weight"], 1, 1)
        heads[f"lin{index}.model.1.weight"] = np.abs(draw(f"alex.lin{index}", shape, 0.5))
    return alexnet, heads


def reference_alexnet_state() -> dict[str, np.ndarray]:
    """AlexNet's features of the metrics' reference arrays: filters without response to a constant image."""
    state = {}
    for name, shape in _alexnet_shapes().items():
        if len(shape) == 1:
            state[name] = draw(f"alexnet/{name}", shape, 0.1)
        else:
            state[name] = _balanced_filters(f"alexnet/{name}", shape, 2.4)
    return state


def reference_inception_state() -> dict[str, np.ndarray]:
    """The state dict of FID's published file, with batch norm's counters: the same kind of filters, lively norms."""
    state = {}
    for name, shape in inception_torch_shapes().items():
        if len(shape) == 4:
            state[name] = _balanced_filters(f"inception/{name}", shape, 1.65)
            continue
        normal = draw(f"inception/{name}", shape, 1.0)
        if name.endswith(".running_var"):
            state[name] = np.float32(1) + np.float32(0.3) * np.abs(normal)
            state[name.replace(".running_var", ".num_batches_tracked")] = np.array(100, np.int64)
        elif name.startswith("fc."):
            state[name] = np.float32(0.02) * normal
        elif name.endswith(".bn.weight"):
            state[name] = np.float32(1) + np.float32(0.2) * normal
        else:
            state[name] = np.float32(0.1) * normal
    return state


def _balanced_filters(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """Draw kernels OIHW whose sum is zero, so that features follow the picture and not its brightness."""
    value = draw(name, shape, 1.0).astype(np.float64)
    value -= value.mean(axis=(1, 2, 3), keepdims=True)
    return (value * (gain / np.sqrt(np.prod(shape[1:])))).astype(np.float32)


def _alexnet_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of torchvision's `features.*`, kernels OIHW."""
    shapes = {}
    for layer, index in enumerate(TORCHVISION_INDICES, start=1):
        height, width, c_in, c_out = lpips_shapes()[f"conv{layer}/weight"]
        shapes[f"features.{index}.weight"] = (c_out, c_in, height, width)
        shapes[f"features.{index}.bias"] = (c_out,)
    return shapes
