import re

import numpy as np
import pytest

from model.discriminator import discriminator_params_from_torch, init_discriminator
from tests.helpers.reference_weights import reference_discriminator_state
from tests.helpers.torch_file_writers import write_state
from utils.errors import UserError
from utils.weights.checkpoints import write_tf1_checkpoint
from utils.weights.discriminator import load_discriminator, read_discriminator

FEATURES = 2
PUBLISHED_FILE = "RealESRGAN_x4plus_netD.pth"


@pytest.fixture
def state():
    """What a published file of a small discriminator holds."""
    return reference_discriminator_state(FEATURES)


def same(networks, expected):
    return all(params.keys() == others.keys() and all(np.array_equal(params[name], others[name]) for name in params)
               for params, others in zip(networks, expected, strict=True))


def test_a_file_and_published_weights_in_the_weights_folder_are_read(tmp_path, state):
    path = write_state(tmp_path / PUBLISHED_FILE, state)
    for source in (str(path), "realesrgan-netd"):
        networks = load_discriminator(source, tmp_path, num_features=FEATURES)
        assert same(networks, discriminator_params_from_torch(state))


def test_random_weights_are_drawn_by_the_seed():
    networks = load_discriminator("random", num_features=FEATURES, seed=5)
    assert same(networks, init_discriminator(5, num_features=FEATURES))
    assert not same(networks, init_discriminator(6, num_features=FEATURES))


def test_missing_published_weights_are_named_with_every_way_out(tmp_path):
    with pytest.raises(UserError, match=PUBLISHED_FILE) as error:
        load_discriminator("realesrgan-netd", tmp_path)
    for way in ("download_weights.py realesrgan-netd", "--gan_weight 0", "--set discriminator.init=random"):
        assert way in str(error.value)


def test_a_file_of_another_network_is_refused_by_name(tmp_path, state):
    path = write_state(tmp_path / "mine.pth", state)
    with pytest.raises(UserError, match=r"discriminator\.num_features=2"):
        load_discriminator(str(path))
    del state["conv4.weight_u"]
    write_state(path, state)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*conv4/u"):
        load_discriminator(str(path), num_features=FEATURES)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"random, realesrgan-netd .*rnadom"):
        load_discriminator("rnadom")


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of meta-training with a discriminator of seed 3; gives its prefix and its variables."""
    params, vectors = init_discriminator(3, num_features=FEATURES)
    tensors = {f"Discriminator/{name}": value for name, value in {**params, **vectors}.items()}
    tensors.update({f"Discriminator/{name}/{slot}": value + 1 for name, value in params.items()
                    for slot in ("Adam", "Adam_1")})
    tensors["MODEL/conv_last/bias"] = np.zeros(3, np.float32)
    write_tf1_checkpoint(tmp_path / "model-3", tensors)
    return tmp_path / "model-3", tensors


def test_the_discriminator_of_a_checkpoint_is_read_without_its_optimiser(checkpoint):
    for given in (checkpoint[0], checkpoint[0].parent):
        networks = read_discriminator(given, num_features=FEATURES)
        assert same(networks, init_discriminator(3, num_features=FEATURES))


def test_a_checkpoint_without_a_discriminator_and_an_npz_have_none(tmp_path):
    write_tf1_checkpoint(tmp_path / "model", {"MODEL/conv_last/bias": np.zeros(3, np.float32)})
    np.savez(tmp_path / "x.npz", **{"MODEL/conv_last/bias": np.zeros(3)})
    for name in ("model", "x.npz"):
        assert read_discriminator(tmp_path / name) is None


def test_a_discriminator_of_another_size_or_with_missing_variables_is_refused(checkpoint):
    prefix, tensors = checkpoint
    with pytest.raises(UserError, match=r"model-3 .*discriminator\.num_features"):
        read_discriminator(prefix, num_features=FEATURES + 1)
    del tensors["Discriminator/conv4/u"]
    write_tf1_checkpoint(prefix, tensors)
    with pytest.raises(UserError, match=r"model-3 .*conv4/u"):
        read_discriminator(prefix, num_features=FEATURES)
