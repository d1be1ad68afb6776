"""The reference distances come from the lpips package (real heads) and from the original training code (drawn ones)."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model import lpips as lpips_module
from model.lpips import (
    NUM_LAYERS,
    init_lpips,
    lpips,
    lpips_features,
    lpips_from_features,
    lpips_params_from_torch,
)
from tests.helpers.reference_weights import reference_alexnet_state, reference_lpips_states

DATA = Path(__file__).parents[1] / "data"
REFERENCE = np.load(DATA / "lpips.npz")
NUM_PAIRS = 3
HEADS = {f"lin{index}.model.1.weight": REFERENCE[f"lin{index}"].reshape(1, -1, 1, 1) for index in range(NUM_LAYERS)}


@pytest.fixture(scope="module")
def params():
    return lpips_params_from_torch(reference_alexnet_state(), HEADS)


def pair(index):
    return [tf.constant(REFERENCE[f"pair{index}_{side}"][None].astype(np.float32) / 255) for side in "ab"]


def only_head(params, layer):
    """Parameters whose distance is that of one layer."""
    return {name: tf.zeros_like(value) if name.startswith("lin") and name != f"lin{layer}/weight" else value
            for name, value in params.items()}


@pytest.mark.parametrize("index", range(NUM_PAIRS))
def test_distances_and_their_layers_are_those_of_the_lpips_package(params, index):
    sides = [lpips_features(params, image) for image in pair(index)]
    layers = [lpips_from_features(only_head(params, layer), *sides)[0] for layer in range(1, NUM_LAYERS + 1)]
    total = lpips(params, *pair(index))[0]
    np.testing.assert_allclose([total, *layers], REFERENCE["distances"][index], rtol=1e-5)


def test_distances_are_those_of_the_original_training_code():
    discriminator_images = np.load(DATA / "discriminator.npz")
    params = lpips_params_from_torch(*reference_lpips_states())
    outputs = np.concatenate([discriminator_images["fake_start"], discriminator_images["fake_tuned"][:1]])
    scenes = np.repeat(REFERENCE["scene"], 2, axis=0)
    np.testing.assert_allclose(lpips(params, tf.constant(scenes), tf.constant(outputs)), REFERENCE["scene_distances"],
                               rtol=1e-5)


@pytest.mark.parametrize("side", [0, 1])
def test_gradient_equals_a_float64_directional_difference(params, side):
    params = {name: tf.cast(value, tf.float64) for name, value in params.items()}
    images = [tf.cast(image, tf.float64) for image in pair(0)]
    direction = tf.constant(np.random.default_rng(0).normal(size=images[side].shape))

    def distance(shift):
        moved = list(images)
        moved[side] = images[side] + shift * direction
        return lpips(params, *moved)[0]

    shift = tf.constant(0.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(shift)
        value = distance(shift)
    step = 1e-7
    difference = (distance(step) - distance(-step)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(value, shift), difference, rtol=1e-4)
    assert abs(difference) > 1e-4


@pytest.mark.parametrize("value", [0.0, 1e-25])  # of which the square is zero in float32
def test_gradient_is_finite_where_features_have_no_length(value):
    features = tf.fill([1, 1, 1, 4], value)
    with tf.GradientTape() as tape:
        tape.watch(features)
        distance = tf.reduce_sum(tf.square(lpips_module._unit_length(features) - 0.5))
    assert np.isfinite(tape.gradient(distance, features)).all()


def test_smallest_image_has_a_distance_and_a_smaller_one_is_refused():
    params = init_lpips(0)
    images = tf.constant(np.random.default_rng(0).random((2, 31, 31, 3), np.float32))
    assert np.isfinite(lpips(params, images[:1], images[1:])).all()
    with pytest.raises(ValueError, match=r"at least 31x31 pixels. Received: \(1, 31, 30, 3\)"):
        lpips_features(params, images[:1, :, :30])


def test_other_networks_are_refused_with_what_differs():
    alexnet, heads = reference_lpips_states()
    del alexnet["features.8.bias"]
    heads["lin4.model.1.weight"] = np.zeros((1, 512, 1, 1), np.float32)
    with pytest.raises(ValueError, match=r"missing: conv4/bias; extra: features.12.bias; wrong shape: lin5/weight "
                                         r"\(512,\) instead of \(256,\)"):
        lpips_params_from_torch({**alexnet, "features.12.bias": np.zeros(3)}, heads)
