import re
from pathlib import Path

import numpy as np
import pytest

from tests.ncnn_file_writers import FLOAT16, packed, write_ncnn, write_rrdbnet
from utils.errors import UserError
from utils.weights.ncnn import load_ncnn_convolutions, rrdbnet_state_from_ncnn

CONV = "Convolution c 1 1 a b 0=2 1=3 11=1 5=1 6=18"  # 2 outputs, 3 inputs, kernel 1 high and 3 wide
WEIGHT = np.arange(18, dtype=np.float32).reshape(2, 3, 1, 3) / 4 - 2  # exact in float16
BIAS = np.array([0.1, -70000.0], np.float32)  # neither is a float16


def fails(paths: tuple[Path, Path], message: str, read=load_ncnn_convolutions) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(*paths)
    assert "\n" not in str(caught.value)
    assert str(paths[0].parent) in str(caught.value)


@pytest.mark.parametrize("tag", [0, FLOAT16])
def test_weights_are_the_stored_numbers_in_oihw_and_biases_float32(tmp_path, tag):
    [(name, weight, bias)] = load_ncnn_convolutions(*write_ncnn(tmp_path, [CONV], packed(WEIGHT, BIAS, tag)))
    assert name == "c"
    np.testing.assert_array_equal(weight, WEIGHT, strict=True)
    np.testing.assert_array_equal(bias, BIAS, strict=True)


def test_a_convolution_without_bias_has_bias_zero(tmp_path):
    [(_, _, bias)] = load_ncnn_convolutions(*write_ncnn(tmp_path, [CONV.replace("5=1", "5=0")], packed(WEIGHT)))
    np.testing.assert_array_equal(bias, np.zeros(2, np.float32))


def test_an_odd_number_of_float16_weights_is_padded_to_four_bytes(tmp_path):
    layer = "Convolution {} 1 1 a b 0=1 1=3 5=1 6=9"
    odd = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    data = packed(odd, BIAS[:1], FLOAT16) + packed(odd + 1, BIAS[1:], FLOAT16)
    first, second = load_ncnn_convolutions(*write_ncnn(tmp_path, [layer.format("p"), layer.format("q")], data))
    np.testing.assert_array_equal(first[1], odd)
    np.testing.assert_array_equal(second[1], odd + 1)
    np.testing.assert_array_equal(second[2], BIAS[1:])


def test_convolutions_come_in_the_files_order_with_their_names(tmp_path):
    layers = ["Input in 0 1 a", CONV.replace(" c ", " z "), "Split s 1 2 b d e", CONV.replace(" c ", " y ")]
    read = load_ncnn_convolutions(*write_ncnn(tmp_path, layers, packed(WEIGHT, BIAS) + packed(WEIGHT + 1, BIAS)))
    assert [(name, weight[0, 0, 0, 0]) for name, weight, _ in read] == [("z", -2.0), ("y", -1.0)]


@pytest.mark.parametrize("data", [
    packed(WEIGHT, BIAS, 0x000D4B38), packed(WEIGHT, BIAS, 7), packed(WEIGHT, BIAS) + b"abc", b"",
    *(packed(WEIGHT, BIAS, FLOAT16)[:length] for length in (3, 5, 39, 43, 47))])
def test_a_bin_file_that_is_quantised_or_of_another_length_is_refused(tmp_path, data):
    fails(write_ncnn(tmp_path, [CONV], data), r"net\.bin: ")


@pytest.mark.parametrize("layer", ["InnerProduct", "ConvolutionDepthWise", "Deconvolution", "PReLU", "MemoryData"])
def test_other_layers_with_weights_are_refused_by_type(tmp_path, layer):
    fails(write_ncnn(tmp_path, [CONV.replace("Convolution", layer)], packed(WEIGHT, BIAS)), rf"net\.param.*{layer}\.")


@pytest.mark.parametrize("line", [
    "Convolution", "Convolution c x 1 a b", "Convolution c 1 1 a b 0=2", "Convolution c 1 1 a b 0=2 1=3 11=1 6=17",
    "Convolution c 1 1 a b 0=0 1=3 6=18", "Convolution c 1 1 a b 0=-2 1=3 11=1 6=18", "Convolution c 1 1 a b 0=2 word",
    "Convolution c 1 1 a b 0=2 1=3 11=1 6=18 8=1"])
def test_a_damaged_convolution_line_is_refused(tmp_path, line):
    fails(write_ncnn(tmp_path, [line], packed(WEIGHT)), r"net\.param: ")


@pytest.mark.parametrize("text", [b"", b"7767518\n1 1\n", b"7767517\n", b"7767517\n5 5\nInput a 0 1 b\n", b"\xff\xfe\0",
                                  b"7767517\nx\n", b"<html>"])
def test_a_damaged_param_file_is_refused(tmp_path, text):
    paths = write_ncnn(tmp_path, [CONV], packed(WEIGHT, BIAS))
    paths[0].write_bytes(text)
    fails(paths, re.escape(str(paths[0])))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_named(tmp_path, missing):
    paths = write_ncnn(tmp_path, [CONV], packed(WEIGHT, BIAS))
    paths[missing].unlink()
    fails(paths, f"{re.escape(str(paths[missing]))}: No such file")


def test_rrdbnet_names_follow_the_order_of_computation(tmp_path):
    *paths, weights = write_rrdbnet(tmp_path)
    state = rrdbnet_state_from_ncnn(*paths)
    names = ["conv_first", *(f"body.{block}.rdb{dense}.conv{index}" for block in range(2) for dense in (1, 2, 3)
                             for index in (1, 2, 3, 4, 5)), "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    assert list(state) == [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    for index, name in enumerate(names):
        np.testing.assert_array_equal(state[f"{name}.weight"], weights[index])
        np.testing.assert_array_equal(state[f"{name}.bias"], np.arange(len(weights[index])) + index)


@pytest.mark.parametrize("count", [0, 6, 20, 22])
def test_another_number_of_convolutions_is_not_an_rrdbnet(tmp_path, count):
    paths = write_ncnn(tmp_path, [CONV] * count, packed(WEIGHT, BIAS) * count)
    fails(paths, f"{count} convolutions", rrdbnet_state_from_ncnn)


@pytest.mark.parametrize("index", [0, 3, 15, 20])
def test_a_convolution_that_breaks_the_channel_chain_is_refused(tmp_path, index):
    def widen(at, shape):
        return (shape[0] + 1, shape[1] + 1, 3, 3) if at == index else shape

    fails(write_rrdbnet(tmp_path, num_blocks=1, change=widen)[:2], "not an RRDBNet of", rrdbnet_state_from_ncnn)
