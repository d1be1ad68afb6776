"""Read Real-ESRGAN's generator from an ncnn model: a .param file (text, a layer per line) and a .bin file.

The .bin file holds the convolutions in the order of the .param file, without names or shapes: a tag, the weights OIHW
in float16 or float32 as the tag states, the biases in float32. After ncnn's "param and model file structure" page and
`src/modelbin.cpp`.
"""

import math
import struct
from pathlib import Path

import numpy as np

from model.rrdbnet import rrdbnet_shapes
from utils.errors import UserError, printable
from utils.files import read_bytes

PARAM_MAGIC = "7767517"
WEIGHT_TYPES = {0: "<f4", 0x01306B47: "<f2"}  # by their tags
CONVOLUTIONS_PER_BLOCK = 15  # 3 dense blocks of 5
CONVOLUTIONS_OUTSIDE = 6


def is_ncnn_param(path: Path | str) -> bool:
    """Return whether a file is a .param file, by its content."""
    with Path(path).open("rb") as file:
        return file.read(len(PARAM_MAGIC)) == PARAM_MAGIC.encode()


def rrdbnet_state_from_ncnn(param_path: Path | str, bin_path: Path | str) -> dict[str, np.ndarray]:
    """Read an RRDBNet of any number of blocks: float32, kernels OIHW, under the names of Real-ESRGAN's .pth files."""
    text, data = read_bytes(param_path), read_bytes(bin_path)
    try:
        shapes = _rrdbnet_shapes(_parse_param(text.decode()))
    except (ValueError, LookupError) as error:
        raise UserError(f"{param_path}: is not the .param file of an RRDBNet, or damaged: {printable(str(error))}. Use "
                        "realesrgan-x4plus or realesrgan-x4plus-anime.") from error
    try:
        return _read_convolutions(data, shapes)
    except (ValueError, LookupError, struct.error) as error:
        raise UserError(f"{bin_path}: does not fit {Path(param_path).name}: {error}. Use the .param and the .bin file "
                        "of the same model, not quantised.") from error


def _parse_param(text: str) -> list[tuple[int, int]]:
    """Return the numbers of outputs and of weights of the convolutions that a .param file lists, in its order."""
    magic, (count, *_), *layers = (line.split() for line in text.splitlines() if line.strip())
    if magic != [PARAM_MAGIC] or int(count) != len(layers):
        raise ValueError(f"it must begin with {PARAM_MAGIC} and the number of its layers")
    convolutions = []
    for kind, _name, inputs, outputs, *words in layers:
        if kind == "Convolution":
            # after the names of the blobs: 0=outputs 6=weights ...
            settings = dict(word.split("=", 1) for word in words[int(inputs) + int(outputs):])
            convolutions.append((int(settings["0"]), int(settings["6"])))
    return convolutions


def _rrdbnet_shapes(convolutions: list[tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Return name -> OIHW shape of the convolutions of the RRDBNet that has these outputs and numbers of weights."""
    num_blocks, rest = divmod(len(convolutions) - CONVOLUTIONS_OUTSIDE, CONVOLUTIONS_PER_BLOCK)
    if rest or num_blocks < 1:
        raise ValueError(f"it has {len(convolutions)} convolutions")
    hwio = rrdbnet_shapes(num_blocks, convolutions[0][0], convolutions[1][0])
    shapes = {name.removesuffix("/weight").replace("/", "."): (shape[3], shape[2], *shape[:2])
              for name, shape in hwio.items() if name.endswith("/weight")}
    for (name, shape), found in zip(shapes.items(), convolutions, strict=True):
        if found != (shape[0], math.prod(shape)):
            raise ValueError(f"{name} has {found[1]} weights for {found[0]} outputs, expected {shape}")
    return shapes


def _read_convolutions(data: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    state, position = {}, 0
    for name, shape in shapes.items():
        (tag,) = struct.unpack_from("<I", data, position)
        if tag not in WEIGHT_TYPES:
            raise ValueError(f"the weights of {name} are of the type 0x{tag:08X}, neither float16 nor float32")
        weight = np.frombuffer(data, WEIGHT_TYPES[tag], math.prod(shape), position + 4)
        position += 4 + -(-weight.nbytes // 4) * 4  # padded to 4 bytes
        bias = np.frombuffer(data, "<f4", shape[0], position)
        position += bias.nbytes
        state |= {f"{name}.weight": weight.reshape(shape).astype(np.float32), f"{name}.bias": bias.astype(np.float32)}
    if position != len(data):
        raise ValueError(f"it has {len(data)} bytes instead of {position}")
    return state
