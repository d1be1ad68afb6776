import numpy as np
import pytest
import skimage.data
import tensorflow as tf

from model.rrdbnet import rrdbnet, rrdbnet_architecture, rrdbnet_shapes, to_half_precision
from tests.helpers.small_networks import SMALL, small_generator
from utils.image.io import to_float
from utils.weights.checkpoints import load_super_resolver


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_published_network_has_16697987_parameters():
    shapes = rrdbnet_shapes()
    assert len(shapes) == 702
    assert count(shapes) == 16_697_987


@pytest.mark.parametrize("architecture", [(23, 64, 32), (6, 64, 32), (1, 8, 4), (2, 16, 24)])
def test_architecture_follows_from_the_shapes(architecture):
    assert rrdbnet_architecture(rrdbnet_shapes(*architecture)) == architecture


def reference_forward(params, image):
    """Compute the network in NumPy, float64, for one image [h, w, 3]."""
    params = {name: value.astype(np.float64) for name, value in params.items()}

    def conv(name, x):
        h, w = x.shape[:2]
        padded, kernel = np.pad(x, ((1, 1), (1, 1), (0, 0))), params[f"{name}/weight"]
        return sum(padded[i:i + h, j:j + w] @ kernel[i, j] for i in range(3) for j in range(3)) + params[f"{name}/bias"]

    def leaky(x):
        return np.where(x > 0, x, 0.2 * x)

    first = features = conv("conv_first", image)
    for block in range(SMALL["num_blocks"]):
        outer = features
        for dense in (1, 2, 3):
            inner = grown = features
            for layer in (1, 2, 3, 4):
                grown = np.concatenate([grown, leaky(conv(f"body/{block}/rdb{dense}/conv{layer}", grown))], axis=2)
            features = inner + 0.2 * conv(f"body/{block}/rdb{dense}/conv5", grown)
        features = outer + 0.2 * features
    features = first + conv("conv_body", features)
    for name in ("conv_up1", "conv_up2"):
        features = leaky(conv(name, features.repeat(2, axis=0).repeat(2, axis=1)))
    return conv("conv_last", leaky(conv("conv_hr", features)))


def test_small_network_equals_numpy():
    params = small_generator()
    image = np.random.default_rng(1).random((7, 5, 3), np.float32)
    actual = rrdbnet({name: tf.constant(value) for name, value in params.items()}, tf.constant(image[None]))
    np.testing.assert_allclose(actual[0], reference_forward(params, image), atol=1e-5)


def test_every_parameter_matters():
    params = {name: tf.constant(value) for name, value in small_generator().items()}
    image = tf.constant(np.random.default_rng(2).random((1, 8, 8, 3), np.float32))
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = tf.reduce_sum(rrdbnet(params, image) ** 2)
    gradients = tape.gradient(loss, params)
    assert [name for name, gradient in gradients.items() if not np.abs(gradient).max() > 0] == []


@pytest.mark.parametrize("step", [0, 1e-6])  # of the weights' size, in one direction, as an adaptation takes it
def test_bfloat16_changes_a_photo_invisibly_and_its_brightness_not_at_all(step):
    params = {name: tf.constant(value + np.float32(step) * np.abs(value))
              for name, value in load_super_resolver("metaf2n-small").generator.items()}
    photo = tf.constant(to_float(skimage.data.astronaut()[100:148, 200:248])[None])
    half = to_half_precision(params, tf.bfloat16)
    assert {half[f"body/5/rdb3/conv5/{kind}"].dtype for kind in ("weight", "bias")} == {tf.bfloat16}
    exact, rounded = (np.clip(rrdbnet(values, photo), 0, 1) for values in (params, half))
    assert rounded.dtype == np.float32
    assert 0 < np.mean((rounded - exact)**2) < 10**-5.5  # 55 dB
    assert abs(float((rounded - exact).mean())) < 0.1 / 255
    kernels = [name for name in params if name.startswith("body/") and name.endswith("/weight")]
    errors = np.concatenate([np.ravel(tf.cast(half[name], tf.float32) - params[name]) for name in kernels])
    sizes = np.concatenate([np.ravel(np.abs(params[name])) for name in kernels])
    assert abs(errors.mean()) < 5e-5 * sizes.mean()  # 2e-4 where all that lie midway follow the step
