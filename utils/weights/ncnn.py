"""Read Real-ESRGAN's generator from ncnn models (.param and .bin) made of convolutions.

Format after ncnn's "param and model file structure" page and `src/modelbin.cpp`: .param is text, one layer per line;
.bin is the weights of the layers in that order, without names or shapes.
"""

import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.rrdbnet import rrdbnet_shapes
from utils.errors import UserError, printable
from utils.files import read_bytes

PARAM_MAGIC = "7767517"
TAG_FLOAT32 = 0
TAG_FLOAT16 = 0x01306B47
# layers without weights in the .bin file; any other that is no convolution would shift what follows
LAYERS_WITHOUT_WEIGHTS = {"BinaryOp", "Clip", "Concat", "Crop", "Dropout", "Eltwise", "Flatten", "Input", "Interp",
                          "Noop", "Padding", "Permute", "PixelShuffle", "Pooling", "ReLU", "Reorg", "Reshape",
                          "Sigmoid", "Slice", "Softmax", "Split", "TanH", "UnaryOp"}

CONVOLUTIONS_PER_BLOCK = 15  # 3 dense blocks of 5
CONVOLUTIONS_OUTSIDE = 6


class _Convolution(NamedTuple):
    """What a .param line states of a convolution."""

    name: str
    shape: tuple[int, int, int, int]  # OIHW
    has_bias: bool


def is_ncnn_param(path: Path | str) -> bool:
    """Return whether a file is a .param file, by its content."""
    with Path(path).open("rb") as file:
        return file.read(len(PARAM_MAGIC)) == PARAM_MAGIC.encode()


def load_ncnn_convolutions(param_path: Path | str, bin_path: Path | str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Read every `Convolution` of an ncnn model.

    Args:
        param_path: the network's structure, text.
        bin_path: its weights, stored as float16 or float32.

    Returns:
        For each convolution in the file's order: its name, its weights (float32, OIHW), its bias (float32, O; zeros if
        the layer has none).

    Raises:
        UserError: a file cannot be read, is damaged or not ncnn's, does not fit the other, or has weights of other
            layers or another type.
    """
    param_path, bin_path = Path(param_path), Path(bin_path)
    text, data = read_bytes(param_path), read_bytes(bin_path)
    try:
        convolutions = _parse_param(text.decode())
    except (ValueError, LookupError, ZeroDivisionError) as error:
        raise UserError(f"{param_path}: is not a .param file of ncnn, or damaged: {printable(str(error))}. Use that of "
                        "a model made of convolutions.") from error
    position, result = 0, []
    try:
        for convolution in convolutions:
            weight, position = _read_weight(data, position, math.prod(convolution.shape))
            bias = np.zeros(convolution.shape[0], np.float32)
            if convolution.has_bias:
                bias, position = _read_array(data, position, len(bias), "<f4")
            result.append((convolution.name, weight.reshape(convolution.shape), bias))
        if position != len(data):
            raise ValueError(f"it has {len(data)} bytes instead of {position}")
    except (ValueError, struct.error) as error:
        raise UserError(f"{bin_path}: does not fit {param_path.name}: {error}. Use the .param and the .bin file of the "
                        "same model, not quantised.") from error
    return result


def rrdbnet_state_from_ncnn(param_path: Path | str, bin_path: Path | str) -> dict[str, np.ndarray]:
    """Read Real-ESRGAN's generator (RRDBNet) of any number of blocks from an ncnn model.

    Returns:
        Weights (float32, OIHW) and biases under the names of Real-ESRGAN's .pth files: `conv_first.weight`,
        `conv_first.bias`, `body.0.rdb1.conv1.weight`, ..., `conv_last.bias`.

    Raises:
        UserError: as `load_ncnn_convolutions`; the convolutions are not those of an RRDBNet.
    """
    convolutions = load_ncnn_convolutions(param_path, bin_path)
    num_blocks, rest = divmod(len(convolutions) - CONVOLUTIONS_OUTSIDE, CONVOLUTIONS_PER_BLOCK)
    if rest or num_blocks < 1:
        raise UserError(f"{param_path}: is not an RRDBNet, which has {CONVOLUTIONS_PER_BLOCK} convolutions per block "
                        f"and {CONVOLUTIONS_OUTSIDE} others. Received: {len(convolutions)} convolutions. Use "
                        "realesrgan-x4plus or realesrgan-x4plus-anime.")
    features, growth = len(convolutions[0][1]), len(convolutions[1][1])
    shapes = {name.removesuffix("/weight").replace("/", "."): shape
              for name, shape in rrdbnet_shapes(num_blocks, features, growth).items() if name.endswith("/weight")}
    state = {}
    for (name, (height, width, inputs, outputs)), (layer, weight, bias) in zip(shapes.items(), convolutions,
                                                                               strict=True):
        if weight.shape != (outputs, inputs, height, width):
            raise UserError(f"{param_path}: is not an RRDBNet of {features} features: {name} must have the shape "
                            f"{(outputs, inputs, height, width)}. Received: {weight.shape} in layer "
                            f"{printable(layer)}. Use realesrgan-x4plus or realesrgan-x4plus-anime.")
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return state


def _parse_param(text: str) -> list[_Convolution]:
    """Return the convolutions that a .param file lists; an error states what is wrong with it."""
    magic, (count, *_), *layers = (line.split() for line in text.splitlines() if line.strip())
    if magic != [PARAM_MAGIC] or int(count) != len(layers):
        raise ValueError(f"it must begin with {PARAM_MAGIC} and the number of its layers")
    if other := [words[0] for words in layers if words[0] not in {"Convolution", *LAYERS_WITHOUT_WEIGHTS}]:
        raise ValueError(f"it has a layer of the type {other[0]}")
    return [_parse_convolution(words) for words in layers if words[0] == "Convolution"]


def _parse_convolution(words: list[str]) -> _Convolution:
    """Parse a line `Convolution NAME INPUTS OUTPUTS BLOB... KEY=VALUE...`."""
    first_parameter = 4 + int(words[2]) + int(words[3])
    settings = dict(word.split("=", 1) for word in words[first_parameter:])
    outputs, width, size = (int(settings[key]) for key in ("0", "1", "6"))
    height = int(settings.get("11", width))
    if min(outputs, width, height, size) < 1 or size % (outputs * width * height):
        raise ValueError(f"{words[1]} has {size} weights for {outputs} outputs and a {height}x{width} kernel")
    if int(settings.get("8", 0)) or int(settings.get("19", 0)):
        raise ValueError(f"{words[1]} has int8 or dynamic weights")
    shape = (outputs, size // (outputs * width * height), height, width)
    return _Convolution(words[1], shape, bool(int(settings.get("5", 0))))


def _read_weight(data: bytes, position: int, size: int) -> tuple[np.ndarray, int]:
    """Return the weights that begin at `position` (flat, float32) and the position after them."""
    (tag,) = struct.unpack_from("<I", data, position)
    if tag == TAG_FLOAT32:
        return _read_array(data, position + 4, size, "<f4")
    if tag == TAG_FLOAT16:
        weight, position = _read_array(data, position + 4, size, "<f2")
        return weight, position + size % 2 * 2  # padded to 4 bytes
    raise ValueError(f"weights of the type 0x{tag:08X}, neither float16 nor float32")


def _read_array(data: bytes, position: int, size: int, dtype: str) -> tuple[np.ndarray, int]:
    return np.frombuffer(data, dtype, size, position).astype(np.float32), position + size * np.dtype(dtype).itemsize
