"""ncnn models written here, by hand, in ncnn's format."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.weights.ncnn import load_ncnn_convolutions, rrdbnet_state_from_ncnn

FLOAT16 = 0x01306B47
CONV = "Convolution c 1 1 a b 0=2 1=3 11=1 5=1 6=18"  # 2 outputs, 3 inputs, kernel 1 high and 3 wide
WEIGHT = np.arange(18, dtype=np.float32).reshape(2, 3, 1, 3) / 4 - 2  # exact in float16
BIAS = np.array([0.1, -70000.0], np.float32)  # neither is a float16


def packed(weight: np.ndarray, bias: np.ndarray | None = None, tag: int = 0) -> bytes:
    data = weight.astype("<f2" if tag == FLOAT16 else "<f4").tobytes()
    data += b"\0" * (-len(data) % 4)
    return struct.pack("<I", tag) + data + (b"" if bias is None else bias.astype("<f4").tobytes())


def write(folder: Path, layers: list[str], data: bytes) -> tuple[Path, Path]:
    param_path, bin_path = folder / "net.param", folder / "net.bin"
    param_path.write_text("\n".join(["7767517", f"{len(layers)} {len(layers)}", *layers]) + "\n")
    bin_path.write_bytes(data)
    return param_path, bin_path


def fails(paths: tuple[Path, Path], message: str, read=load_ncnn_convolutions) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(*paths)
    assert "\n" not in str(caught.value)
    assert str(paths[0].parent) in str(caught.value)


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
    return *write(folder, layers, data), weights


@pytest.mark.parametrize("tag", [0, FLOAT16])
def test_weights_are_the_stored_numbers_in_oihw(tmp_path, tag):
    [(_, weight, _)] = load_ncnn_convolutions(*write(tmp_path, [CONV], packed(WEIGHT, BIAS, tag)))
    np.testing.assert_array_equal(weight, WEIGHT)
    assert weight.dtype == np.float32


def test_bias_is_float32_beside_float16_weights(tmp_path):
    [(_, _, bias)] = load_ncnn_convolutions(*write(tmp_path, [CONV], packed(WEIGHT, BIAS, FLOAT16)))
    np.testing.assert_array_equal(bias, BIAS)


def test_a_convolution_without_bias_has_bias_zero(tmp_path):
    [(_, _, bias)] = load_ncnn_convolutions(*write(tmp_path, [CONV.replace("5=1", "5=0")], packed(WEIGHT)))
    np.testing.assert_array_equal(bias, np.zeros(2, np.float32))


def test_an_odd_number_of_float16_weights_is_padded_to_four_bytes(tmp_path):
    layer = "Convolution {} 1 1 a b 0=1 1=3 5=1 6=9"
    odd = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    data = packed(odd, BIAS[:1], FLOAT16) + packed(odd + 1, BIAS[1:], FLOAT16)
    first, second = load_ncnn_convolutions(*write(tmp_path, [layer.format("p"), layer.format("q")], data))
    np.testing.assert_array_equal(first[1], odd)
    np.testing.assert_array_equal(second[1], odd + 1)
    np.testing.assert_array_equal(second[2], BIAS[1:])


def test_convolutions_come_in_the_files_order_with_their_names(tmp_path):
    layers = ["Input in 0 1 a", CONV.replace(" c ", " z "), "Split s 1 2 b d e", CONV.replace(" c ", " y ")]
    data = packed(WEIGHT, BIAS) + packed(WEIGHT + 1, BIAS)
    read = load_ncnn_convolutions(*write(tmp_path, layers, data))
    assert [(name, weight[0, 0, 0, 0]) for name, weight, _ in read] == [("z", -2.0), ("y", -1.0)]


def test_arrays_are_writable(tmp_path):
    [(_, weight, bias)] = load_ncnn_convolutions(*write(tmp_path, [CONV], packed(WEIGHT, BIAS)))
    assert weight.flags.writeable
    assert bias.flags.writeable


@pytest.mark.parametrize(("tag", "name"), [(0x000D4B38, "int8"), (0x0002C056, "scaled float32"), (7, "unknown type")])
def test_other_storage_types_are_refused_by_name(tmp_path, tag, name):
    fails(write(tmp_path, [CONV], packed(WEIGHT, BIAS, tag)), name)


@pytest.mark.parametrize("tag", [0, FLOAT16])
def test_every_truncation_of_the_bin_file_is_refused(tmp_path, tag):
    data = packed(WEIGHT, BIAS, tag)
    for length in range(len(data)):
        fails(write(tmp_path, [CONV], data[:length]), "net.bin: ends before the numbers of c")


def test_left_over_bytes_are_refused(tmp_path):
    fails(write(tmp_path, [CONV], packed(WEIGHT, BIAS) + b"abc"), "net.bin: has 3 bytes more than net.param describes")


@pytest.mark.parametrize("layer", ["InnerProduct", "ConvolutionDepthWise", "Deconvolution", "PReLU", "MemoryData"])
def test_other_layers_with_weights_are_refused_by_type(tmp_path, layer):
    fails(write(tmp_path, [CONV.replace("Convolution", layer)], packed(WEIGHT, BIAS)), f"type {layer};")


@pytest.mark.parametrize("line", [
    "Convolution", "Convolution c x 1 a b", "Convolution c 1 1 a b 0=2", "Convolution c 1 1 a b 0=2 1=3 11=1 6=17",
    "Convolution c 1 1 a b 0=0 1=3 6=18", "Convolution c 1 1 a b 0=-2 1=3 11=1 6=18", "Convolution c 1 1 a b 0=2 word",
    "Convolution c 1 1 a b 0=2 1=3 11=1 6=18 8=1", "Convolution c 9 9 a b 0=2 1=3 11=1 6=18"])
def test_a_damaged_convolution_line_is_refused(tmp_path, line):
    fails(write(tmp_path, [line], packed(WEIGHT)), "layer 1")


@pytest.mark.parametrize("text", [b"", b"7767518\n1 1\n", b"7767517\n", b"7767517\n5 5\nInput a 0 1 b\n", b"\xff\xfe\0",
                                  b"7767517\nx\n", b"<html>"])
def test_a_damaged_param_file_is_refused(tmp_path, text):
    paths = write(tmp_path, [CONV], packed(WEIGHT, BIAS))
    paths[0].write_bytes(text)
    fails(paths, re.escape(str(paths[0])))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_named(tmp_path, missing):
    paths = write(tmp_path, [CONV], packed(WEIGHT, BIAS))
    paths[missing].unlink()
    fails(paths, f"cannot read {re.escape(str(paths[missing]))}: No such file")


def test_rrdbnet_names_follow_the_order_of_computation(tmp_path):
    state = rrdbnet_state_from_ncnn(*write_rrdbnet(tmp_path)[:2])
    convolutions = ["conv_first"] + [f"body.{block}.rdb{dense}.conv{index}" for block in range(2)
                                     for dense in (1, 2, 3) for index in (1, 2, 3, 4, 5)]
    convolutions += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    assert list(state) == [f"{name}.{part}" for name in convolutions for part in ("weight", "bias")]


def test_rrdbnet_weights_are_those_of_the_convolution_at_that_place(tmp_path):
    *paths, weights = write_rrdbnet(tmp_path)
    state = rrdbnet_state_from_ncnn(*paths)
    for name, index in (("conv_first", 0), ("body.0.rdb1.conv1", 1), ("body.0.rdb2.conv5", 10),
                        ("body.1.rdb3.conv5", 30), ("conv_body", 31), ("conv_up1", 32), ("conv_up2", 33),
                        ("conv_hr", 34), ("conv_last", 35)):
        np.testing.assert_array_equal(state[f"{name}.weight"], weights[index])
        np.testing.assert_array_equal(state[f"{name}.bias"], np.arange(len(weights[index])) + index)


def test_the_number_of_blocks_is_inferred(tmp_path):
    state = rrdbnet_state_from_ncnn(*write_rrdbnet(tmp_path, num_blocks=3)[:2])
    assert {name.split(".")[1] for name in state if name.startswith("body.")} == {"0", "1", "2"}


@pytest.mark.parametrize("count", [0, 1, 6, 20, 22, 35])
def test_another_number_of_convolutions_is_not_an_rrdbnet(tmp_path, count):
    paths = write(tmp_path, [CONV] * count, packed(WEIGHT, BIAS) * count)
    fails(paths, f"Received: {count} convolutions", rrdbnet_state_from_ncnn)


@pytest.mark.parametrize("index", range(21))
def test_a_convolution_that_breaks_the_channel_chain_is_refused(tmp_path, index):
    def widen(at, shape):
        return (shape[0] + 1, shape[1] + 1, 3, 3) if at == index else shape

    fails(write_rrdbnet(tmp_path, num_blocks=1, change=widen)[:2], "not an RRDBNet of", rrdbnet_state_from_ncnn)
