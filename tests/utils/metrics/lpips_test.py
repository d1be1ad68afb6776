import re
from pathlib import Path

import numpy as np
import pytest

import utils.metrics.lpips as module
from model.lpips import lpips_params_from_torch
from tests.reference_weights import reference_lpips_states
from tests.torch_file_writers import dict_code, storage_code, tensor_code, write_zip
from utils.errors import UserError
from utils.metrics.lpips import load_lpips


def write_state(path: Path, state: dict[str, np.ndarray]) -> Path:
    """Write float32 arrays as PyTorch would."""
    tensors, storages = {}, {}
    for key, (name, value) in enumerate(state.items()):
        value = np.ascontiguousarray(value, np.float32)
        strides = tuple(stride // value.itemsize for stride in value.strides)
        tensors[name] = tensor_code(storage_code(value.size, key=str(key)), 0, value.shape, strides)
        storages[str(key)] = value.tobytes()
    return write_zip(path, dict_code(**tensors), storages)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the manifest's entries would be."""
    alexnet, heads = reference_lpips_states()
    folder = tmp_path_factory.mktemp("weights")
    return {"alexnet": write_state(folder / "backbone.pth", {**alexnet, "classifier.6.bias": np.zeros(10)}),
            "lpips": write_state(folder / "heads.pth", heads)}


def test_backbone_and_heads_are_read_from_the_two_files_of_the_manifest(monkeypatch, tmp_path, files):
    asked = []
    monkeypatch.setattr(module, "find_weights", lambda *entry: asked.append(entry) or {"file": files[entry[0]]})
    params = load_lpips(tmp_path)
    expected = lpips_params_from_torch(*reference_lpips_states())
    assert params.keys() == expected.keys()
    assert all(np.array_equal(params[name], expected[name]) for name in params)
    assert asked == [("alexnet", tmp_path), ("lpips", tmp_path)]


def test_files_of_other_networks_are_refused_by_name(monkeypatch, files):
    monkeypatch.setattr(module, "find_weights", lambda *_: {"file": files["lpips"]})
    with pytest.raises(UserError, match=re.escape(f"{files['lpips']} do not fit: ") + ".*missing: conv1/weight"):
        load_lpips()


def test_missing_weights_are_named_with_the_command_that_fetches_them(tmp_path):
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth not found in .*download_weights\.py alexnet "
                                        r"--weights_dir [^ ]*$"):
        load_lpips(tmp_path)


def test_the_alternative_stands_behind_the_message_of_missing_weights(tmp_path):
    with pytest.raises(UserError, match=r"download_weights\.py alexnet .*\. Or leave the term out\.$") as error:
        load_lpips(tmp_path, alternative="Or leave the term out.")
    assert "\n" not in str(error.value)
