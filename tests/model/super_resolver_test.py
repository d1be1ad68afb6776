"""The published networks, run once, against arrays made with the original code (deterministic weights); graphs."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.adaptation import Support, support_loss
from model.rrdbnet import rrdbnet
from model.super_resolver import SuperResolver
from tests.helpers.reference_weights import reference_generator, reference_masknet
from tests.helpers.small_networks import small_generator, small_masknet
from tests.helpers.tracing import untraced

REFERENCE = Path(__file__).parents[1] / "data" / "test_time.npz"


def as_float(samples):
    return samples.astype(np.float32) / np.float32(255)


def as_tensors(params):
    return {name: tf.constant(value) for name, value in params.items()}


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def run(reference):
    """Adapt for three steps and upscale after 0, 1 and 3."""
    resolver, calls = SuperResolver(as_tensors(reference_generator()), as_tensors(reference_masknet())), []
    differentiate = resolver.loss_and_gradients

    def record(params, support):
        calls.append((params, differentiate(params, support)))
        return calls[-1][1]

    resolver.loss_and_gradients = record
    support = resolver.weigh_patches(as_float(reference["face_lq"]), as_float(reference["face_hq"]))
    adapted = resolver.adapt([support], learning_rate=0.01, num_steps=3)
    params = {0: calls[0][0], 1: calls[1][0], 3: adapted.params}
    outputs = {steps: resolver.upscaler(value)(as_float(reference["lq"])[None]) for steps, value in params.items()}
    return support, adapted, outputs, calls[0][1][1]


def test_mask_weights_equal_the_original(run, reference):
    np.testing.assert_allclose(run[0].weights, reference["W"], atol=1e-5)


def test_losses_equal_the_original(run, reference):
    np.testing.assert_allclose(run[1].losses, reference["loss"], rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_outputs_equal_the_original(run, reference, steps):
    np.testing.assert_allclose(run[2][steps][0, ::2, ::2], reference[f"output{steps}"], atol=2e-5)


def test_gradients_equal_the_original(run, reference):
    gradients = {name: gradient.numpy() for name, gradient in run[3].items()}
    norms = np.array([np.linalg.norm(gradients[name].astype(np.float64)) for name in reference["grad_names"]])
    np.testing.assert_allclose(norms, reference["grad_l2"], atol=2e-4 * reference["grad_l2"].max())
    assert np.sqrt((norms**2).sum()) == pytest.approx(float(reference["grad_global_norm"]), rel=5e-5)
    keys = [key for key in reference if key.startswith("grad/")]
    assert len(keys) == 5
    for key in keys:
        expected = reference[key]
        actual = gradients[key.removeprefix("grad/")].ravel()[:64]
        np.testing.assert_allclose(actual, expected, atol=1e-3 * np.abs(expected).max())


def test_adapted_parameters_equal_the_original(run, reference):
    keys = [key for key in reference if key.startswith("after3/")]
    assert len(keys) == 5
    for key in keys:
        actual = run[1].params[key.removeprefix("after3/")].numpy().ravel()[:64]
        np.testing.assert_allclose(actual, reference[key], atol=1e-7)


def small_faces(rng, count, height, width):
    return (rng.random((count, height, width, 3), np.float32),
            rng.random((count, 4 * height, 4 * width, 3), np.float32))


def test_last_loss_is_estimated_from_every_fourth_patch():
    resolver = SuperResolver(as_tensors(small_generator()), as_tensors(small_masknet()))
    support = resolver.weigh_patches(*small_faces(np.random.default_rng(0), 6, 8, 8))
    adapted = resolver.adapt([support], learning_rate=0.01, num_steps=2, probe_every=4)
    before, after = (np.mean([support_loss(rrdbnet, params, Support(*(part[i:i + 1] for part in support)))
                              for i in (0, 4)]) for params in (resolver.generator, adapted.params))
    assert adapted.losses[2] == pytest.approx(adapted.losses[0] * after / before, rel=1e-5)


def test_graphs_are_traced_once_for_photos_of_five_sizes():
    resolver = SuperResolver(as_tensors(small_generator()), as_tensors(small_masknet()))
    rng, counts = np.random.default_rng(0), []
    for size in ((8, 8), (9, 16), (16, 5), (20, 21), (3, 40)):
        support = resolver.weigh_patches(*small_faces(rng, size[0] % 3 + 1, *size))
        held_out = resolver.weigh_patches(*small_faces(rng, 1, size[1], size[0]))
        result = resolver.adapt([support], learning_rate=0.01, num_steps=2, holdout=[held_out], max_halvings=5)
        resolver.upscaler(result.params)(rng.random((1, *size, 3), np.float32))
        counts.append(resolver.num_traces())
    assert counts == [4] * 5  # MaskNet, loss, gradient, forward


@pytest.mark.parametrize(("precision", "difference", "step"), [("bfloat16", 0.02, 0.02), ("float16", 0.002, 0)])
def test_half_precision_changes_the_upscaling_slightly_and_bfloat16_the_step(precision, difference, step):
    rng = np.random.default_rng(3)
    faces, photo = small_faces(rng, 2, 8, 8), rng.random((1, 12, 12, 3), np.float32)
    outputs, adapted = [], []
    for kind in ("float32", precision):
        resolver = SuperResolver(as_tensors(small_generator()), None, precision=kind)
        with untraced():
            adapted.append(resolver.adapt([resolver.weigh_patches(*faces)], learning_rate=0.01, num_steps=1).params)
        outputs.append(resolver.upscaler(adapted[-1])(photo))
    moved, between = (tf.linalg.global_norm([adapted[0][name] - other[name] for name in other])
                      for other in (resolver.generator, adapted[1]))
    assert (between == 0) if not step else (0 < between < step * moved)
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < difference


def test_traced_and_compiled_graphs_give_the_same_as_single_operations_for_photos_of_two_sizes():
    rng = np.random.default_rng(5)
    faces, photos = small_faces(rng, 2, 8, 6), [rng.random((*size, 3), np.float32) for size in ((2, 8, 6), (1, 5, 4))]

    def results(xla=False):
        resolver = SuperResolver(small_generator(), small_masknet(), xla=xla)
        support = resolver.weigh_patches(*faces)
        adapted = resolver.adapt([support], learning_rate=0.5, num_steps=2)
        return [support.weights, *adapted.params.values(), adapted.losses,
                *map(resolver.upscaler(adapted.params), photos)]

    with untraced():
        expected = results()
    for found in (results(), results(xla=True)):
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-6)


def test_other_weights_of_the_same_architecture_take_over_without_another_trace():
    rng = np.random.default_rng(4)
    faces, photo = small_faces(rng, 1, 8, 8), rng.random((1, 6, 7, 3), np.float32)
    other = {name: value * np.float32(1.1) for name, value in small_generator().items()}
    other_mask = {**small_masknet(), "conv8/bias": np.full(1, 0.75, np.float32)}

    def results(resolver):
        support = resolver.weigh_patches(*faces)
        adapted = resolver.adapt([support], learning_rate=0.01, num_steps=1)
        return [support.weights, resolver.upscaler(resolver.generator)(photo), adapted.losses,
                resolver.upscaler(adapted.params)(photo)]

    resolver = SuperResolver(small_generator(), small_masknet())
    first, traces = results(resolver), resolver.num_traces()
    resolver.set_weights(other, as_tensors(other_mask))
    second = results(resolver)
    resolver.set_weights(small_generator(), small_masknet())
    again = results(resolver)
    for value, expected, changed in zip(again, first, second, strict=True):
        np.testing.assert_array_equal(value, expected)
        assert np.abs(np.subtract(value, changed)).max() > 1e-3
    for value, expected in zip(second, results(SuperResolver(other, other_mask)), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert resolver.num_traces() == traces
