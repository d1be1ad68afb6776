"""What the networks have in common: drawn parameters follow from the seed, other networks' weights are refused."""

from functools import partial

import numpy as np
import pytest

from model.gpen import GpenArchitecture, gpen_params_from_torch, gpen_torch_shapes, init_gpen
from model.inception import inception_params_from_torch, inception_torch_shapes
from model.lpips import init_lpips
from model.masknet import init_masknet
from model.retinaface import retinaface_params_from_torch, retinaface_torch_shapes
from model.rrdbnet import init_rrdbnet, rrdbnet_architecture, rrdbnet_shapes
from tests.helpers.small_networks import SMALL

SMALL_GPEN = GpenArchitecture(size=16, channel_multiplier=1, narrow=1 / 64)


@pytest.mark.parametrize("init", [partial(init_gpen, architecture=SMALL_GPEN), init_lpips, init_masknet,
                                  partial(init_rrdbnet, **SMALL)])
def test_initial_parameters_depend_on_the_seed_alone(init):
    one, same, other = init(0), init(0), init(1)
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])
        assert np.isfinite(value).all()
    assert any((value != other[name]).numpy().any() for name, value in one.items())


@pytest.mark.parametrize(("convert", "shapes", "missing", "wrong"), [
    (gpen_params_from_torch, gpen_torch_shapes(SMALL_GPEN), "generator.convs.1.activate.bias", "ecd1.0.1.weight"),
    (retinaface_params_from_torch, retinaface_torch_shapes(), "body.bn1.running_var", "ClassHead.0.conv1x1.bias"),
    (inception_params_from_torch, inception_torch_shapes(), "Mixed_5b.branch_pool.bn.running_var", "fc.bias"),
    (lambda state: rrdbnet_architecture({name: value.shape for name, value in state.items()}),
     rrdbnet_shapes(2, 16, 8), "body/1/rdb2/conv3/bias", "conv_hr/weight")])
def test_other_weights_are_refused_with_all_that_differs(convert, shapes, missing, wrong):
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items() if name != missing}
    state |= {"extra.bias": np.zeros(1000), wrong: np.zeros((7, 7))}
    with pytest.raises(ValueError, match=rf"missing: {missing}; extra: extra.bias; wrong shape: {wrong} \(7, 7\) "
                                         "instead of") as error:
        convert(state)
    assert "\n" not in str(error.value)
