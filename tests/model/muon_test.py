"""The steps of Muon against singular value decompositions and momenta by hand."""

import numpy as np
import pytest
import tensorflow as tf

from model.muon import muon, orthogonalise


@pytest.mark.parametrize("shape", [(4, 90, 7), (1, 16, 16)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    left, _, right = np.linalg.svd(matrices, full_matrices=False)
    found = np.swapaxes(left, 1, 2) @ orthogonalise(tf.constant(matrices)).numpy() @ np.swapaxes(right, 1, 2)
    diagonal = np.eye(shape[2], dtype=bool)
    np.testing.assert_allclose(found[:, ~diagonal], 0, atol=1e-4)
    assert 0.6 < found[:, diagonal].min() < found[:, diagonal].max() < 1.25


def test_momenta_by_hand_and_steps_of_the_size_of_adams_for_kernels_of_several_shapes():
    rng = np.random.default_rng(1)
    shapes = {"a": (3, 3, 8, 4), "b": (3, 3, 4, 4), "c": (3, 3, 8, 4)}
    first, second = ({name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()} for _ in range(2))
    momenta, _ = muon({name: tf.zeros(shape) for name, shape in shapes.items()}, first)
    momenta, steps = muon(momenta, second)
    for name, shape in shapes.items():
        np.testing.assert_allclose(momenta[name], 0.95 * first[name] + second[name], rtol=1e-5, atol=1e-6)
        direction = np.reshape(second[name] + 0.95 * momenta[name], (-1, shape[3]))
        left, _, right = np.linalg.svd(direction, full_matrices=False)
        step = steps[name].numpy().reshape(-1, shape[3])
        assert np.sum(step * (left @ right)) / np.linalg.norm(step) / shape[3]**0.5 > 0.95
        assert np.sqrt(np.mean(step**2)) == pytest.approx(0.2, rel=0.2)
