import numpy as np

from model.masknet import init_masknet, masknet, masknet_shapes


def test_network_has_225665_parameters():
    assert sum(int(np.prod(shape)) for shape in masknet_shapes().values()) == 225_665


def test_weights_are_never_negative_and_reach_zero():
    params = init_masknet(0)
    rng = np.random.default_rng(0)
    weights = masknet(params, rng.random((1, 16, 16, 3), np.float32), rng.random((1, 64, 64, 3), np.float32)).numpy()
    assert weights.shape == (1, 64, 64, 1)
    assert weights.min() == 0
    assert weights.max() > 0


def test_untrained_weights_begin_close_to_the_bias():
    rng = np.random.default_rng(0)
    lq, hq = rng.random((1, 8, 8, 3), np.float32), rng.random((1, 32, 32, 3), np.float32)
    for seed in range(3):
        weights = masknet(init_masknet(seed, last_bias=1.0), lq, hq).numpy()
        assert 0.7 < weights.min() <= weights.max() < 1.3
