import numpy as np
import pytest
import tensorflow as tf

from config import GeneratorConfig
from model.face_restorer import (
    POSITION_WEIGHT,
    add_positions,
    face_restorer,
    face_restorer_architecture,
    face_restorer_shapes,
    first_informed_block,
    init_face_restorer,
)
from model.rrdbnet import residual_blocks, rrdbnet, rrdbnet_shapes, upsample
from tests.helpers.face_restorer import SMALL_RESTORER, nearest_restorer, small_restorer
from tests.helpers.reference_weights import reference_generator


def tensors(params, dtype=tf.float32):
    return {name: tf.cast(value, dtype) for name, value in params.items()}


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return tf.constant(rng.random((2, 9, 7, 3), np.float32)), tf.constant(rng.normal(size=(2, 9, 7, 8)), tf.float32)


def test_without_weights_of_the_positions_it_equals_the_rrdbnet(inputs):
    generator = tensors(reference_generator(2, 8, 4))
    np.testing.assert_array_equal(face_restorer(add_positions(generator), *inputs), rrdbnet(generator, inputs[0]))


@pytest.mark.parametrize(("num_blocks", "informed"), [(1, 0), (2, 0), (12, 2), (23, 13)])
def test_positions_enter_before_the_last_ten_blocks(inputs, num_blocks, informed):
    """Through the middle tap alone they are a product with a matrix."""
    images, positions = inputs
    params = tensors(reference_generator(num_blocks, 8, 4))
    kernel = np.zeros((3, 3, 8, 8), np.float32)
    kernel[1, 1] = np.random.default_rng(1).normal(size=(8, 8))
    restored = face_restorer({**params, POSITION_WEIGHT: tf.constant(kernel)}, images, positions)
    first = tf.nn.conv2d(images, params["conv_first/weight"], 1, "SAME") + params["conv_first/bias"]
    features = residual_blocks(params, first, range(informed)) + positions @ kernel[1, 1]
    expected = upsample(params, first, residual_blocks(params, features, range(informed, num_blocks)))
    assert first_informed_block(params) == informed
    np.testing.assert_allclose(restored, expected, atol=1e-5)
    assert np.abs(restored - rrdbnet(params, images)).mean() > 1e-3


def test_a_network_by_hand_repeats_pixels(inputs):
    restored = face_restorer(tensors(nearest_restorer()), *inputs)
    np.testing.assert_allclose(restored, np.repeat(np.repeat(inputs[0], 4, 1), 4, 2), atol=1e-6)


def test_every_parameter_matters(inputs):
    params = tensors(small_restorer())
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = tf.reduce_sum(face_restorer(params, *inputs) ** 2)
    assert [name for name, gradient in tape.gradient(loss, params).items() if not np.abs(gradient).max() > 0] == []


def test_the_network_has_the_generators_parameters_and_those_of_the_positions():
    count = sum(int(np.prod(shape)) for shape in face_restorer_shapes(GeneratorConfig()).values())
    assert count == 16_697_987 + 9 * 8 * 64
    drawn = init_face_restorer(3, SMALL_RESTORER)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == face_restorer_shapes(SMALL_RESTORER)
    assert not np.any(drawn[POSITION_WEIGHT])


def test_architecture_follows_from_the_shapes():
    for architecture in (GeneratorConfig(), SMALL_RESTORER, GeneratorConfig(1, 6, 3)):
        assert face_restorer_architecture(face_restorer_shapes(architecture)) == architecture


@pytest.mark.parametrize(("shapes", "named"), [
    (rrdbnet_shapes(2, 8, 4), POSITION_WEIGHT), ({}, "conv_first/weight"),
    (face_restorer_shapes(SMALL_RESTORER) | {"x": (3,)}, "x"),
    (face_restorer_shapes(SMALL_RESTORER) | {POSITION_WEIGHT: (3, 3, 2, 8)}, POSITION_WEIGHT)],
    ids=["RRDBNet", "nothing", "extra", "shape"])
def test_what_does_not_fit_is_named_in_one_line(shapes, named):
    with pytest.raises(ValueError, match=named) as caught:
        face_restorer_architecture(shapes)
    assert "\n" not in str(caught.value)
