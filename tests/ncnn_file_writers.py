"""ncnn models, written by hand in ncnn's format."""

import struct
from pathlib import Path

import numpy as np

FLOAT16 = 0x01306B47


def packed(weight: np.ndarray, bias: np.ndarray | None = None, tag: int = 0) -> bytes:
    data = weight.astype("<f2" if tag == FLOAT16 else "<f4").tobytes()
    data += b"\0" * (-len(data) % 4)
    return struct.pack("<I", tag) + data + (b"" if bias is None else bias.astype("<f4").tobytes())


def write_ncnn(folder: Path, layers: list[str], data: bytes) -> tuple[Path, Path]:
    param_path, bin_path = folder / "net.param", folder / "net.bin"
    param_path.write_text("\n".join(["7767517", f"{len(layers)} {len(layers)}", *layers]) + "\n")
    bin_path.write_bytes(data)
    return param_path, bin_path


def write_rrdbnet(folder: Path, num_blocks: int = 2, features: int = 4, growth: int = 2, inputs: int = 3,
                  change=lambda index, shape: shape) -> tuple[Path, Path, list[np.ndarray]]:
    """A generator whose every convolution is filled with numbers of its own."""
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
    data = b"".join(packed(weight, np.arange(len(weight)) + index, FLOAT16) for index, weight in enumerate(weights))
    return *write_ncnn(folder, layers, data), weights
