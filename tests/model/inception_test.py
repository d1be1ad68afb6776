"""FID's Inception-v3 against pytorch-fid.

The arrays in tests/data/inception.npz come from pytorch-fid with the weights of `reference_inception_state`; `image`
is a crop of scikit-image's astronaut.
"""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.inception import (
    feature_maps,
    inception_params_from_torch,
    inception_shapes,
    pool3,
    resize_to_input,
)
from tests.helpers.reference_weights import reference_inception_state


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "data" / "inception.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def params():
    return inception_params_from_torch(reference_inception_state())


@pytest.fixture(scope="module")
def image(golden):
    return tf.constant(golden["image"][None].astype(np.float32) / 255)


def test_parameters_have_the_listed_names_and_shapes(params):
    assert {name: tuple(value.shape) for name, value in params.items()} == inception_shapes()
    assert list(params) == list(inception_shapes())
    assert sum(int(np.prod(shape)) for shape in inception_shapes().values()) == 21_768_352


def test_resized_image_is_that_of_pytorch_fid(image, golden):
    np.testing.assert_allclose(resize_to_input(image)[0, ::13, ::13], golden["resized_sub13"], atol=1e-6)


def test_a_larger_image_is_resized_without_looking_at_more_than_four_pixels():
    stripes = np.zeros((1, 299 * 8, 4, 3), np.float32)
    stripes[:, 3::8] = stripes[:, 4::8] = 1  # the two rows around the centre of eight
    assert resize_to_input(stripes).numpy().min() == 1


def test_maps_and_features_are_those_of_pytorch_fid(params, image, golden):
    maps = feature_maps(params, image)
    features = pool3(params, image)
    for number, values in enumerate([*maps[:3], features[:, None, None]]):
        values = values[0].numpy()
        statistics = [values.mean(dtype=np.float64), values.std(dtype=np.float64, ddof=1)]
        np.testing.assert_allclose(statistics, golden[f"block{number}_mean_std"], rtol=1e-5, err_msg=str(number))
        centre = values[values.shape[0] // 2, values.shape[1] // 2, :8]
        np.testing.assert_allclose(centre, golden[f"block{number}_centre8"], atol=1e-5, err_msg=str(number))
    np.testing.assert_allclose(features[0, ::4], golden["features_a_sub4"][0], atol=1e-5)
    np.testing.assert_allclose(maps[3].numpy().mean(axis=(1, 2)), features, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 700)])
def test_features_of_small_and_flat_images_are_finite(params, height, width):
    features = pool3(params, np.full((1, height, width, 3), 0.25, np.float32)).numpy()
    assert np.isfinite(features).all()
    assert features.min() >= 0 < features.max()
    np.testing.assert_allclose(features, pool3(params, np.full((1, 299, 299, 3), 0.25, np.float32)), atol=1e-5)
