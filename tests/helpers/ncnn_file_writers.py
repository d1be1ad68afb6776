"""ncnn models, written by hand in ncnn's format."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

FLOAT16 = 0x01306B47


def packed(weight: np.ndarray, bias: np.ndarray, tag: int = 0) -> bytes:
    data = weight.astype("<f2" if tag == FLOAT16 else "<f4").tobytes()
    return struct.pack("<I", tag) + data + b"\0" * (-len(data) % 4) + bias.astype("<f4").tobytes()


def write_rrdbnet(folder: Path, num_blocks: int = 2, features: int = 4, growth: int = 2, inputs: int = 3, *,
                  tag: int = FLOAT16, change: Callable = lambda index, shape: shape
                  ) -> tuple[Path, Path, list[np.ndarray]]:
    """Write a generator whose every convolution is filled with numbers of its own."""
    dense = [(growth, features + growth * index, 3, 3) for index in range(4)]
    dense.append((features, features + 4 * growth, 3, 3))
    square = (features, features, 3, 3)
    shapes = [(features, inputs, 3, 3), *dense * 3 * num_blocks, square, square, square, square, (3, features, 3, 3)]
    shapes = [change(index, shape) for index, shape in enumerate(shapes)]
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float16).astype(np.float32) for shape in shapes]
    layers = ["Input in 0 1 data"]
    for index, weight in enumerate(weights):
        layers.append(f"Convolution conv_{index} 1 1 x y 0={len(weight)} 1=3 4=1 5=1 6={weight.size} -23310=1,0.2")
        layers.append("Split split 1 2 y z w")
    param_path, bin_path = folder / "net.param", folder / "net.bin"
    param_path.write_text("\n".join(["7767517", f"{len(layers)} {len(layers)}", *layers]) + "\n")
    bin_path.write_bytes(b"".join(packed(weight, bias(index, weight), tag) for index, weight in enumerate(weights)))
    return param_path, bin_path, weights


def bias(index: int, weight: np.ndarray) -> np.ndarray:
    """Return what `write_rrdbnet` writes as the bias: no float16."""
    return np.arange(len(weight)) + index + 70000.1
