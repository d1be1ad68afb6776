"""The reference arrays come from the original network in PyTorch, run with weights drawn by a recipe."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model import gpen as gpen_module
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
from tests.reference_faces import reference_face, reference_gpen_state

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "gpen.npz")
SMALL = GpenArchitecture(size=16, channel_multiplier=1, narrow=1 / 64)
DEMODULATED = ["generator/conv1", *(f"generator/convs/{index}" for index in range(4))]


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def small_state(seed=0):
    """Draw a published file of the small network in which nothing is zero."""
    rng = np.random.default_rng(seed)
    blurs = {name: value for name, value in reference_gpen_state(GPEN_256).items() if name.endswith(".kernel")}
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
def states():
    return {size: reference_gpen_state(architecture) for size, architecture in ((256, GPEN_256), (512, GPEN_512))}


@pytest.fixture(scope="module")
def results(states):
    """Everything the networks compute in the three reference cases, as arrays."""
    computed = {}
    for size, cases in ((256, ("g256_a", "g256_b")), (512, ("g512_a",))):
        params = gpen_params_from_torch(states[size])
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


@pytest.mark.parametrize("size", [256, 512])
def test_weights_are_those_the_reference_was_computed_with(states, size):
    values = [value.astype(np.float64) for value in states[size].values()]
    figures = [sum(map(np.size, values)), sum(map(np.sum, values)), sum(np.abs(value).sum() for value in values)]
    np.testing.assert_allclose(figures, REFERENCE[f"state_check_gpen{size}"], rtol=1e-6)


CASES = pytest.mark.parametrize("case", ["g256_a", "g256_b", "g512_a"])


def test_unclipped_input_is_the_one_the_reference_was_computed_with():
    face = reference_face(REFERENCE, "g256_b")
    np.testing.assert_allclose(face[::16, ::16], REFERENCE["g256_b_input_sub16"], atol=2e-3)
    assert face.min() < -20
    assert face.max() > 260


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


def test_a_batch_equals_its_faces_one_by_one(small_params, faces):
    single = np.concatenate([gpen(small_params, face[None]) for face in faces])
    np.testing.assert_allclose(gpen(small_params, faces), single, rtol=0, atol=1e-5)
    assert np.abs(single[0] - single[1]).max() > 0.01


def test_one_graph_serves_every_batch_size_and_repeats_itself(small_params, faces):
    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3])], autograph=False)
    def restore(images):
        return gpen(small_params, images)

    eager = gpen(small_params, faces).numpy()
    np.testing.assert_allclose(restore(faces), eager, rtol=0, atol=1e-5)
    np.testing.assert_allclose(restore(faces[:1]), eager[:1], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(restore(faces), restore(faces))
    assert restore.experimental_get_tracing_count() == 1


def test_colours_go_from_and_to_zero_to_one(small_params, faces):
    np.testing.assert_allclose(gpen(small_params, faces), gpen_outputs(small_params, faces).raw * 0.5 + 0.5, atol=1e-6)
    black, white = np.zeros((1, 16, 16, 3), np.float32), np.ones((1, 16, 16, 3), np.float32)
    kernel, bias = small_params["ecd0/0/0/weight"][0, 0], small_params["ecd0/0/1/bias"]
    for image, level in ((black, -1.0), (white, 1.0)):
        expected = tf.nn.leaky_relu(level * tf.reduce_sum(kernel, axis=0) + bias, 0.2)
        np.testing.assert_allclose(gpen_outputs(small_params, image).encoded[-1][0, 5, 7], expected, atol=1e-5)


def test_every_kernel_has_the_norm_one_whatever_the_style(small_params, faces):
    latent = gpen_outputs(small_params, faces).latent
    for name in DEMODULATED:
        style = latent @ small_params[f"{name}/conv/modulation/weight"] + small_params[f"{name}/conv/modulation/bias"]
        norms = tf.math.rsqrt(style**2 @ small_params[f"{name}/conv/energy"] + gpen_module.EPSILON)
        kernel = small_params[f"{name}/conv/weight"].numpy()
        if name in ("generator/convs/0", "generator/convs/2"):
            kernel = kernel.transpose(0, 1, 3, 2)
        scaled = kernel[None] * style.numpy()[:, None, None, :, None] * norms.numpy()[:, None, None, None, :]
        np.testing.assert_allclose((scaled**2).sum(axis=(1, 2, 3)), np.ones(norms.shape), rtol=1e-5)


def test_blur_keeps_a_constant_and_upsampling_a_ramp():
    constant = np.full((2, 9, 8, 5), 3.0, np.float32)
    blurred = gpen_module._blur(constant, padding=2).numpy()
    assert blurred.shape == (2, 10, 9, 5)
    np.testing.assert_allclose(blurred[:, 2:-2, 2:-2], 3.0, rtol=1e-6)
    np.testing.assert_allclose(blurred[:, 0, 0], 3 * (4 / 8) ** 2, rtol=1e-6)  # outside, under the other taps, is zero
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, None, :, None], (1, 6, 8, 3))
    upsampled = gpen_module._upsample_rgb(tf.constant(ramp)).numpy()
    half_pixel = np.broadcast_to((np.arange(16)[None, :, None] + 0.5) / 2 - 0.5, (12, 16, 3))
    np.testing.assert_allclose(upsampled[0, 1:-1, 1:-1], half_pixel[1:-1, 1:-1], atol=1e-5)
    np.testing.assert_allclose(upsampled[0, 0, 1:-1], 0.75 * half_pixel[0, 1:-1], atol=1e-5)


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


def test_wrong_parameters_are_listed_in_one_line():
    state = small_state()
    del state["generator.convs.1.activate.bias"]
    state["ecd1.0.1.weight"] = state["ecd1.0.1.weight"][:, :, :1]
    state["ecd3.0.1.weight"] = state["ecd2.0.1.weight"]
    with pytest.raises(ValueError, match=r"not those of GPEN. missing: generator\.convs\.1\.activate\.bias; "
                       r"extra: ecd3\.0\.1\.weight; wrong shape: ecd1\.0\.1\.weight \(8, 8, 1, 3\) instead of "
                       r"\(8, 8, 3, 3\)$") as error:
        gpen_params_from_torch(state)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^the parameters are not those of GPEN. missing: .* and 157 more; extra: a$"):
        gpen_params_from_torch({"a": np.zeros(3)})


def test_another_blur_is_refused():
    state = small_state()
    state["ecd2.0.0.kernel"] = np.full((4, 4), 1 / 16, np.float32)
    with pytest.raises(ValueError, match=r"^ecd2\.0\.0\.kernel must be GPEN's blur, .* Received: \[\[0\.0625, "):
        gpen_params_from_torch(state)


@pytest.mark.parametrize("shape", [(1, 16, 17, 3), (1, 32, 32, 3), (1, 16, 16, 4), (16, 16, 3)])
def test_images_of_another_size_are_refused(small_params, shape):
    with pytest.raises(ValueError, match=r"restores images of shape \[n, 16, 16, 3\]\. Received: "):
        gpen(small_params, tf.zeros(shape))
