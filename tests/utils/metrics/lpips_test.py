import pickle
import re

import numpy as np
import pytest

from model.lpips import TORCHVISION_INDICES, lpips_params_from_torch
from tests.helpers.reference_weights import reference_lpips_states
from tests.helpers.torch_file_writers import write_state
from utils.errors import UserError
from utils.metrics.lpips import load_lpips, make_lpips_distance


@pytest.fixture(scope="module")
def published():
    """Drawn weights in the published forms: file name -> state; NumPy's form has kernels HWIO and nested names."""
    alexnet, heads = reference_lpips_states()
    nested = {}
    for layer, index in enumerate(TORCHVISION_INDICES):
        nested["AlexNet_0"] = nested.get("AlexNet_0", {}) | {f"Conv_{layer}": {
            "kernel": alexnet[f"features.{index}.weight"].transpose(2, 3, 1, 0),
            "bias": alexnet[f"features.{index}.bias"]}}
        nested[f"NetLinLayer_{layer}"] = {"Conv_0": {
            "kernel": heads[f"lin{layer}.model.1.weight"].transpose(2, 3, 1, 0)}}
    return nested, {**alexnet, "classifier.6.bias": np.zeros(10)}, heads


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_either_published_form_gives_the_same_parameters(unhashed, tmp_path, published, form):
    nested, alexnet, heads = published
    if form == "numpy":
        (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(nested))
    else:
        write_state(tmp_path / "alexnet-owt-7be5be79.pth", alexnet)
        write_state(tmp_path / "alex.pth", heads)
    params = load_lpips(tmp_path)
    expected = lpips_params_from_torch(*reference_lpips_states())
    assert list(params) == list(expected)
    assert all(np.array_equal(params[name], expected[name]) for name in params)


def test_files_of_other_networks_are_refused_by_name(unhashed, tmp_path):
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps({"AlexNet_0": {"other": np.zeros(3)}}))
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "alexnet.ckpt")) + ".*missing: conv1/weight"):
        load_lpips(tmp_path)


def test_images_below_the_size_of_the_network_are_refused():
    distance = make_lpips_distance(lpips_params_from_torch(*reference_lpips_states()))
    assert distance(*np.zeros((2, 31, 40, 3), np.float32)) == 0
    with pytest.raises(ValueError, match="40x30"):
        distance(*np.zeros((2, 30, 40, 3), np.float32))
