"""The checkpoint that comes as its difference from Real-ESRGAN's weights, which need not be there."""

from types import SimpleNamespace

import numpy as np
import pytest

from model.masknet import masknet_shapes
from model.rrdbnet import rrdbnet_shapes
from tests.helpers.reference_weights import reference_generator
from utils.errors import UserError
from utils.weights import checkpoints
from utils.weights.checkpoints import load_super_resolver
from utils.weights.manifest import find_weights


@pytest.fixture(scope="module")
def base():
    """Return weights of Real-ESRGAN's size, as float16 holds them."""
    return {name: value.astype(np.float16).astype(np.float32) for name, value in reference_generator().items()}


@pytest.fixture(scope="module")
def weights(base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "load_super_resolver",
                      lambda name, weights_dir: SimpleNamespace(generator={"realesrgan": base}[name]))
        return load_super_resolver("metaf2n-x4plus")


def test_it_is_a_meta_trained_generator_of_23_blocks_with_a_masknet(weights):
    assert {name: value.shape for name, value in weights.generator.items()} == rrdbnet_shapes()
    assert {name: value.shape for name, value in weights.mask.items()} == masknet_shapes()
    assert weights.meta_trained


def test_without_real_esrgans_weights_it_says_how_to_get_them(tmp_path):
    assert find_weights("metaf2n-x4plus")["metaf2n-x4plus.npz"].is_file()
    match = r"needed by .*metaf2n-x4plus.*\. Get it with: python scripts/download_weights\.py realesrgan --weights_dir"
    with pytest.raises(UserError, match=match):
        load_super_resolver("metaf2n-x4plus", weights_dir=tmp_path)
