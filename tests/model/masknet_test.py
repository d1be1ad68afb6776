import numpy as np
import tensorflow as tf

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


def test_a_bias_on_the_last_layer_shifts_the_weights_where_they_are_positive():
    params = init_masknet(1)
    rng = np.random.default_rng(0)
    lq, hq = rng.random((1, 8, 9, 3), np.float32), rng.random((1, 32, 36, 3), np.float32)
    raised = masknet({**params, "conv8/bias": tf.constant([100.0])}, lq, hq)
    raised_more = masknet({**params, "conv8/bias": tf.constant([103.0])}, lq, hq)
    np.testing.assert_allclose(raised_more - raised, np.full(raised.shape, 3.0), atol=1e-4)


def test_start_weights_depend_on_the_bias_in_the_last_layer_alone():
    params, raised = init_masknet(2, num_features=8), init_masknet(2, num_features=8, last_bias=1.5)
    np.testing.assert_array_equal(raised["conv8/bias"], [1.5])
    for name in params.keys() - {"conv8/bias"}:
        np.testing.assert_array_equal(params[name], raised[name])


def test_untrained_weights_begin_close_to_the_bias():
    rng = np.random.default_rng(0)
    lq, hq = rng.random((1, 8, 8, 3), np.float32), rng.random((1, 32, 32, 3), np.float32)
    for seed in range(3):
        weights = masknet(init_masknet(seed, last_bias=1.0), lq, hq).numpy()
        assert 0.7 < weights.min() <= weights.max() < 1.3
