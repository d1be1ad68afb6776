"""The reference arrays come from the original network in PyTorch, run with weights drawn by a recipe."""

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.gpen import (
    GPEN_256,
    GPEN_512,
    GpenArchitecture,
    gpen,
    gpen_architecture,
    gpen_outputs,
    gpen_params_from_torch,
    gpen_shapes,
    gpen_size,
    gpen_torch_shapes,
)
from tests.helpers.reference_faces import reference_face, reference_gpen_state

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "gpen.npz")
SMALL = GpenArchitecture(size=16, channel_multiplier=1, narrow=1 / 64)


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def small_state(seed=0):
    """Draw a published file of the small network in which nothing is zero."""
    rng = np.random.default_rng(seed)
    of_this_width = reference_gpen_state(replace(SMALL, size=256))
    blurs = {name: value for name, value in of_this_width.items() if name.endswith(".kernel")}
    state = {}
    for name, shape in gpen_torch_shapes(SMALL).items():
        scale = 100 if name.startswith("generator.style.") else 1
        offset = 1 if name.endswith("modulation.bias") else 0
        state[name] = blurs.get(name, (offset + scale * rng.normal(0, 0.5, shape)).astype(np.float32))
    return state


@pytest.fixture(scope="module")
def small_params():
    return gpen_params_from_torch(small_state())


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(1).random((3, 16, 16, 3), np.float32)


@pytest.fixture(scope="module")
def results():
    """Everything the networks compute in the three reference cases, as arrays."""
    computed = {}
    for architecture, cases in ((GPEN_256, ("g256_a", "g256_b")), (GPEN_512, ("g512_a",))):
        params = gpen_params_from_torch(reference_gpen_state(architecture))
        for case in cases:
            outputs = gpen_outputs(params, reference_face(REFERENCE, case)[None] / np.float32(255))
            computed[case] = tf.nest.map_structure(lambda tensor: tensor.numpy(), outputs)
    return computed


@pytest.mark.parametrize(("architecture", "parameters", "arrays", "in_file"), [
    (GPEN_512, 71_005_223, 157, 163), (GPEN_256, 18_879_010, 139, 144)])
def test_published_networks_have_their_number_of_parameters(architecture, parameters, arrays, in_file):
    shapes = gpen_shapes(*astuple(architecture))
    energies = {name: shape for name, shape in shapes.items() if name.endswith("/energy")}
    blurs = {name: shape for name, shape in gpen_torch_shapes(architecture).items() if name.endswith(".kernel")}
    assert count(shapes) - count(energies) == parameters
    assert len(shapes) == arrays
    assert count(gpen_torch_shapes(architecture)) - count(blurs) == parameters
    assert len(gpen_torch_shapes(architecture)) == in_file


CASES = pytest.mark.parametrize("case", ["g256_a", "g256_b", "g512_a"])


@CASES
def test_result_equals_the_original(results, case):
    raw = results[case].raw[0]
    size = len(raw)
    step, centre = size // 64, slice(size // 2 - 32, size // 2 + 32)
    np.testing.assert_allclose(raw[::step, ::step], REFERENCE[f"{case}_raw_sub{step}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(raw[centre, centre], REFERENCE[f"{case}_raw_crop64"], rtol=0, atol=1e-5)
    truncated = (np.clip((raw[centre, centre] + 1) / 2, 0, 1) * 255).astype(np.uint8)
    as_stored = truncated[..., ::-1] if case == "g512_a" else truncated  # that one is BGR
    difference = np.abs(as_stored.astype(int) - REFERENCE[f"{case}_u8_crop64"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


@CASES
def test_intermediates_equal_the_original(results, case):
    result = results[case]
    np.testing.assert_allclose(result.latent[0], REFERENCE[f"{case}_latent"], rtol=0, atol=1e-4)
    noise = [features[0].astype(np.float64) for features in result.encoded for _ in range(2)]
    skips = [image[0].astype(np.float64) for image in result.skips]
    for name, maps in (("noise", noise), ("skip", skips)):
        np.testing.assert_allclose([(values.mean(), values.std()) for values in maps],
                                   REFERENCE[f"{case}_{name}_mean_std"], rtol=1e-4)
    centres = [values[len(values) // 2, len(values) // 2, :8] for values in noise]
    np.testing.assert_allclose(centres, REFERENCE[f"{case}_noise_first8"], rtol=0, atol=1e-4)


def test_one_graph_serves_every_batch_size_and_returns_colours_from_zero_to_one(small_params, faces):
    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3])], autograph=False)
    def restore(images):
        return gpen(small_params, images)

    eager = gpen(small_params, faces).numpy()
    np.testing.assert_allclose(restore(faces), eager, rtol=0, atol=1e-5)
    np.testing.assert_allclose(restore(faces[:1]), eager[:1], rtol=0, atol=1e-5)
    assert restore.experimental_get_tracing_count() == 1
    np.testing.assert_allclose(eager, gpen_outputs(small_params, faces).raw * 0.5 + 0.5, atol=1e-6)


def test_every_parameter_matters(small_params, faces):
    with tf.GradientTape() as tape:
        tape.watch(small_params)
        loss = tf.reduce_sum(gpen(small_params, faces) ** 2)
    gradients = tape.gradient(loss, small_params)
    assert [name for name, gradient in gradients.items() if not np.abs(gradient).max() > 0] == []


@pytest.mark.parametrize("architecture", [GPEN_512, GPEN_256, GpenArchitecture(64, 2, 1 / 64), GpenArchitecture(
    128, 0.5, 1 / 32)])
def test_architecture_follows_from_names_and_shapes(architecture):
    assert gpen_architecture(gpen_torch_shapes(architecture)) == architecture


def test_parameters_have_the_stated_shapes_and_tell_the_size(small_params):
    assert {name: tuple(value.shape) for name, value in small_params.items()} == gpen_shapes(*astuple(SMALL))
    assert gpen_size(small_params) == 16


def test_another_blur_is_refused():
    state = small_state()
    state["ecd2.0.0.kernel"] = np.full((4, 4), 1 / 16, np.float32)
    with pytest.raises(ValueError, match=r"^ecd2\.0\.0\.kernel must be GPEN's blur, .* Received: \[\[0\.0625, "):
        gpen_params_from_torch(state)


@pytest.mark.parametrize("shape", [(1, 16, 17, 3), (1, 32, 32, 3), (1, 16, 16, 4), (16, 16, 3)])
def test_images_of_another_size_are_refused(small_params, shape):
    with pytest.raises(ValueError, match=r"restores images of shape \[n, 16, 16, 3\]\. Received: "):
        gpen(small_params, tf.zeros(shape))
