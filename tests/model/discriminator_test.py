"""The reference arrays come from the original code in TF1, run with weights drawn by a recipe (rounded images)."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.discriminator import (
    discriminate,
    discriminator,
    discriminator_params_from_torch,
    discriminator_shapes,
    init_discriminator,
    normalize,
    vector_shapes,
)
from model.losses import discriminator_loss, gan_loss
from tests.helpers.reference_weights import reference_discriminator_state

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "discriminator.npz")
NORMALIZED = [f"conv{layer}" for layer in range(1, 9)]


@pytest.fixture(scope="module")
def state():
    return reference_discriminator_state()


@pytest.fixture(scope="module")
def networks(state):
    return discriminator_params_from_torch(state)


@pytest.fixture(scope="module")
def reference_step(networks):
    """Losses of two tasks and the gradients of their mean."""
    params, vectors = networks
    with tf.GradientTape() as tape:
        tape.watch(params)
        weights, _ = normalize(params, vectors)
        losses = [discriminator_loss(*(discriminate(weights, REFERENCE[name][task:task + 1])
                                       for name in ("real", "fake_tuned"))) for task in range(2)]
        mean = tf.add_n(losses) / 2
    return np.array(losses), {name: value.numpy() for name, value in tape.gradient(mean, params).items()}


def test_network_has_4376897_trained_parameters():
    assert sum(int(np.prod(shape)) for shape in discriminator_shapes().values()) == 4_376_897
    assert len(discriminator_shapes()) == 12


def test_generator_losses_are_those_of_the_original_code(networks):
    images = np.concatenate([REFERENCE["fake_start"], REFERENCE["fake_tuned"]])
    logits = discriminator(*networks, tf.constant(images))
    expected = [REFERENCE["gan"][0, 0], *REFERENCE["gan"][1]]
    np.testing.assert_allclose([gan_loss(image) for image in logits], expected, rtol=1e-5)


def test_discriminator_losses_are_those_of_the_original_code(reference_step):
    np.testing.assert_allclose(reference_step[0], REFERENCE["losses"], rtol=1e-5)


@pytest.mark.parametrize("name", ["conv0/weight", "conv4/weight", "conv9/weight", "conv9/bias"])
def test_gradients_are_those_of_the_original_code(reference_step, name):
    expected = REFERENCE[f"gradient/{name}"]
    actual = reference_step[1][name].ravel()[:expected.size]
    np.testing.assert_allclose(actual, expected, atol=5e-5 * np.abs(expected).max(), rtol=0)


def test_norms_of_all_gradients_are_those_of_the_original_code(reference_step):
    norms = np.array([np.linalg.norm(reference_step[1][name].astype(np.float64)) for name in REFERENCE["names"]])
    np.testing.assert_allclose(norms, REFERENCE["gradient_l2"], atol=5e-5 * norms.max(), rtol=0)
    np.testing.assert_allclose(np.linalg.norm(norms), REFERENCE["gradient_global_norm"], rtol=5e-5)


def test_vectors_advance_by_one_power_iteration(networks):
    params, vectors = networks
    once = normalize(params, vectors)[1]
    twice = normalize(params, once)[1]
    for name in NORMALIZED:
        np.testing.assert_allclose(once[f"{name}/u"], REFERENCE[f"u_power1/{name}/u"], atol=1e-6)
        np.testing.assert_allclose(twice[f"{name}/u"], REFERENCE[f"u_power2/{name}/u"], atol=1e-6)


def test_after_many_advances_every_normalized_kernel_has_spectral_norm_one():
    params, vectors = init_discriminator(0, num_features=4)
    advance = tf.function(normalize)
    for _ in range(300):
        _, vectors = advance(params, vectors)
    weights, _ = normalize(params, vectors)
    for name in NORMALIZED:
        kernel = weights[f"{name}/weight"].numpy()
        assert np.linalg.norm(kernel.reshape(-1, kernel.shape[3]), 2) == pytest.approx(1, abs=2e-4)


def test_first_and_last_layer_are_not_normalized():
    params, vectors = init_discriminator(0, num_features=4)
    weights, _ = normalize(params, vectors)
    changed = {name for name in params if not np.array_equal(params[name], weights[name])}
    assert changed == {f"{name}/weight" for name in NORMALIZED}


def test_sides_that_cannot_be_halved_three_times_are_refused():
    networks = init_discriminator(0, num_features=4)
    with pytest.raises(ValueError, match=r"divisible by 8. Received: \(1, 16, 20, 3\)"):
        discriminator(*networks, tf.zeros((1, 16, 20, 3)))


def test_random_kernels_have_variance_two_over_fan_in_and_vectors_norm_one():
    params, vectors = init_discriminator(0, num_features=16)
    assert params["conv3/weight"].numpy().var() * 16 * 64 / 2 == pytest.approx(1, abs=0.03)
    assert not params["conv0/bias"].numpy().any()
    assert {name: value.shape for name, value in vectors.items()} == vector_shapes(16)
    for value in vectors.values():
        assert np.linalg.norm(value) == pytest.approx(1, abs=1e-6)


def test_the_number_of_features_follows_from_the_file(state):
    small = {name: value[tuple(slice(size // 8 if size >= 64 else size) for size in value.shape)]
             for name, value in state.items()}
    params, vectors = discriminator_params_from_torch(small)
    assert {name: value.shape for name, value in params.items()} == discriminator_shapes(8)
    np.testing.assert_array_equal(params["conv2/weight"][1, 2, 3, 4], state["conv2.weight_orig"][4, 3, 1, 2])
    np.testing.assert_array_equal(vectors["conv5/u"][0], state["conv5.weight_u"][:16])


def test_right_singular_vectors_are_not_needed(state):
    params, _ = discriminator_params_from_torch({name: value for name, value in state.items()
                                                 if not name.endswith("_v")})
    assert set(params) == set(discriminator_shapes())


def test_another_networks_file_is_refused_with_what_differs(state):
    wrong = dict(state, **{"conv9.weight": np.zeros((2, 64, 3, 3), np.float32), "conv10.bias": np.zeros(1)})
    del wrong["conv3.weight_u"]
    with pytest.raises(ValueError, match=r"missing: conv3/u; extra: conv10/bias; wrong shape: conv9/weight \(3, 3, 64, "
                                         r"2\) instead of \(3, 3, 64, 1\)"):
        discriminator_params_from_torch(wrong)
