"""Reads the convolutions of ncnn models (.param and .bin), and Real-ESRGAN's generator out of them.

Format after ncnn's "param and model file structure" page and `src/modelbin.cpp`: .param is text, one layer per line;
.bin is the weights of the layers in that order, without names or shapes.
"""

import dataclasses
import math
import struct
from pathlib import Path

import numpy as np

from model.rrdbnet import rrdbnet_shapes
from utils.errors import UserError, printable
from utils.files import read_bytes

PARAM_MAGIC = "7767517"
TAG_FLOAT32 = 0
TAG_FLOAT16 = 0x01306B47
REFUSED_TAGS = {0x000D4B38: "int8", 0x0002C056: "scaled float32"}
# layers that have nothing in the .bin file; a layer that is neither these nor a convolution would shift what follows
LAYERS_WITHOUT_WEIGHTS = {"BinaryOp", "Clip", "Concat", "Crop", "Dropout", "Eltwise", "Flatten", "Input", "Interp",
                          "Noop", "Padding", "Permute", "PixelShuffle", "Pooling", "ReLU", "Reorg", "Reshape",
                          "Sigmoid", "Slice", "Softmax", "Split", "TanH", "UnaryOp"}

CONVOLUTIONS_PER_BLOCK = 15  # 3 dense blocks of 5
CONVOLUTIONS_OUTSIDE = 6


@dataclasses.dataclass(frozen=True)
class _Convolution:
    """What a .param line says of a convolution."""

    name: str
    shape: tuple[int, int, int, int]  # OIHW
    has_bias: bool


def load_ncnn_convolutions(param_path: Path | str, bin_path: Path | str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Read every `Convolution` of an ncnn model.

    Args:
        param_path: the network's structure, text.
        bin_path: its weights, stored as float16 or float32.

    Returns:
        For each convolution in the file's order: its name, its weights (float32, OIHW), its bias (float32, O; zeros if
        the layer has none).

    Raises:
        UserError: a file cannot be read, is not ncnn's, or does not fit the other; the network has layers with weights
            that are not convolutions; weights are stored in another type.
    """
    param_path, bin_path = Path(param_path), Path(bin_path)
    convolutions = _parse_param(param_path)
    data = read_bytes(bin_path)
    result = []
    position = 0
    for convolution in convolutions:
        weight, position = _read_weight(data, position, convolution, bin_path)
        bias = np.zeros(convolution.shape[0], np.float32)
        if convolution.has_bias:
            bias, position = _read_array(data, position, len(bias), "<f4", convolution, bin_path)
        result.append((convolution.name, weight.reshape(convolution.shape), bias))
    if position != len(data):
        raise UserError(f"{bin_path}: has {len(data) - position} bytes more than {param_path.name} describes. Use the "
                        ".param and the .bin file of the same model.")
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
        state[f"{name}.weight"] = weight
        state[f"{name}.bias"] = bias
    return state


def _parse_param(path: Path) -> list[_Convolution]:
    """The convolutions a .param file lists."""
    try:
        lines = read_bytes(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text .param file of ncnn (the binary .param.bin is not read). Use the "
                        ".param file.") from error
    lines = [line.split() for line in lines if line.strip()]
    if not lines or lines[0] != [PARAM_MAGIC]:
        raise UserError(f"{path}: is not a .param file of ncnn, whose first line is {PARAM_MAGIC}. Check that it is "
                        "the file you mean.")
    if len(lines) < 2 or lines[1][0] != str(len(lines) - 2):
        raise UserError(f"{path}: is damaged: it has {max(len(lines) - 2, 0)} layers and not the number that its "
                        "second line states. Download it again.")
    convolutions = []
    for number, words in enumerate(lines[2:], 1):
        if words[0] == "Convolution":
            try:
                convolutions.append(_parse_convolution(words))
            except (ValueError, IndexError, KeyError, ZeroDivisionError) as error:
                raise UserError(f"{path}: layer {number} (Convolution) is damaged or of an unknown kind "
                                f"({printable(str(error))}). Download the file again.") from error
        elif words[0] not in LAYERS_WITHOUT_WEIGHTS:
            raise UserError(f"{path}: layer {number} is of the type {printable(words[0])}; convolutions are the only "
                            "layers with weights that are read. Use a model made of convolutions.")
    return convolutions


def _parse_convolution(words: list[str]) -> _Convolution:
    """A line `Convolution NAME INPUTS OUTPUTS BLOB... KEY=VALUE...`; a ValueError says what is wrong with it."""
    first_parameter = 4 + int(words[2]) + int(words[3])
    settings = dict(word.split("=", 1) for word in words[first_parameter:])
    outputs, width, size = (int(settings[key]) for key in ("0", "1", "6"))
    height = int(settings.get("11", width))
    if min(outputs, width, height, size) < 1 or size % (outputs * width * height):
        raise ValueError(f"{size} weights for {outputs} outputs and a {height}x{width} kernel")
    if int(settings.get("8", 0)) or int(settings.get("19", 0)):
        raise ValueError("int8 or dynamic weights")
    shape = (outputs, size // (outputs * width * height), height, width)
    return _Convolution(words[1], shape, bool(int(settings.get("5", 0))))


def _read_weight(data: bytes, position: int, convolution: _Convolution, path: Path) -> tuple[np.ndarray, int]:
    """The weights that begin at `position` (flat, float32) and the position behind them."""
    size = math.prod(convolution.shape)
    if position + 4 > len(data):
        raise _too_short(convolution, path)
    (tag,) = struct.unpack_from("<I", data, position)
    position += 4
    if tag == TAG_FLOAT32:
        return _read_array(data, position, size, "<f4", convolution, path)
    if tag == TAG_FLOAT16:
        weight, position = _read_array(data, position, size, "<f2", convolution, path)
        position += size % 2 * 2  # padded to 4 bytes
        if position > len(data):
            raise _too_short(convolution, path)
        return weight, position
    raise UserError(f"{path}: the weights of {printable(convolution.name)} are stored as "
                    f"{REFUSED_TAGS.get(tag, 'an unknown type')} (tag 0x{tag:08X}), not as float16 or float32. Use a "
                    "model that is not quantised, with the .param and the .bin file of the same model.")


def _read_array(data: bytes, position: int, size: int, dtype: str, convolution: _Convolution,
                path: Path) -> tuple[np.ndarray, int]:
    """`size` numbers from `position` as float32, and the position behind them."""
    end = position + size * np.dtype(dtype).itemsize
    if end > len(data):
        raise _too_short(convolution, path)
    return np.frombuffer(data, dtype, size, position).astype(np.float32), end


def _too_short(convolution: _Convolution, path: Path) -> UserError:
    return UserError(f"{path}: ends before the numbers of {printable(convolution.name)}. Download it again, and use "
                     "the .param and the .bin file of the same model.")
