import re

import numpy as np
import pytest

from tests.helpers.ncnn_file_writers import FLOAT16, bias, write_rrdbnet
from utils.errors import UserError
from utils.weights.ncnn import rrdbnet_state_from_ncnn


def fails(paths, message):
    with pytest.raises(UserError, match=message) as caught:
        rrdbnet_state_from_ncnn(*paths[:2])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tag", "num_blocks", "features"), [(0, 1, 4), (FLOAT16, 2, 4), (FLOAT16, 1, 3)])
def test_weights_and_biases_are_the_stored_numbers_under_the_names_in_the_order_of_computation(
        tmp_path, tag, num_blocks, features):
    # with 3 features and an odd growth numbers of float16 weights are odd, and padded
    *paths, weights = write_rrdbnet(tmp_path, num_blocks, features, features - 2, tag=tag)
    state = rrdbnet_state_from_ncnn(*paths)
    names = ["conv_first", *(f"body.{block}.rdb{dense}.conv{index}" for block in range(num_blocks)
                             for dense in (1, 2, 3) for index in (1, 2, 3, 4, 5)),
             "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    assert list(state) == [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    for index, name in enumerate(names):
        np.testing.assert_array_equal(state[f"{name}.weight"], weights[index], strict=True)
        np.testing.assert_array_equal(state[f"{name}.bias"], bias(index, weights[index]).astype(np.float32))


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:3], lambda data: data[:50], lambda data: data[:-1], lambda data: data + b"abc",
    lambda data: b"\x38\x4b\x0d\0" + data[4:]], ids=["empty", "tag", "weights", "bias", "longer", "int8"])
def test_a_bin_file_that_is_quantised_or_of_another_length_is_refused(tmp_path, damage):
    paths = write_rrdbnet(tmp_path)
    paths[1].write_bytes(damage(paths[1].read_bytes()))
    fails(paths, r"net\.bin: ")


@pytest.mark.parametrize(("old", "new"), [
    ("7767517\n", "<html>"), ("Convolution conv_5 1 1 x y", "Convolution conv_5 x 1 x y"), ("0=2", "0=x"), ("0=2", "2"),
    ("Split split 1 2 y z w\n", ""), ("", "\xff")])
def test_a_damaged_param_file_is_refused(tmp_path, old, new):
    paths = write_rrdbnet(tmp_path)
    paths[0].write_text(paths[0].read_text().replace(old, new, 1), encoding="latin1")
    fails(paths, r"net\.param: ")


@pytest.mark.parametrize("index", [0, 3, 15, 20])
def test_convolutions_of_another_network_are_refused_by_name(tmp_path, index):
    def widen(at, shape):
        return (shape[0] + 1, shape[1] + 1, 3, 3) if at == index else shape

    fails(write_rrdbnet(tmp_path, num_blocks=1, change=widen), r"net\.param: .*(conv|body)")


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_named(tmp_path, missing):
    paths = write_rrdbnet(tmp_path)
    paths[missing].unlink()
    fails(paths, f"{re.escape(str(paths[missing]))}: No such file")
