"""Blur kernels and filtering, against Real-ESRGAN's own code; and how often each kind is drawn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from config import DegradationConfig, DegradationStage
from tests.helpers.degradations import IMAGE, REFERENCE, check_frequencies, check_uniform, thin
from utils.data.blur_kernels import (
    GAUSSIAN_KINDS,
    GaussianKernel,
    SincKernel,
    apply_kernel,
    filter_image,
    sample_kernel,
)

FIRST = DegradationConfig().first


def reference_kernel(index):
    size, sigma_x, sigma_y, rotation, beta = REFERENCE["kernel_params"][index].tolist()
    return GaussianKernel(str(REFERENCE["kernel_kind"][index]), int(size), sigma_x, sigma_y or sigma_x, rotation,
                          beta or 1.0)


def reference_sinc(index):
    cutoff, size = REFERENCE["sinc_params"][index].tolist()
    return SincKernel(int(size), cutoff)


@pytest.mark.parametrize(("make", "name", "count"), [(reference_kernel, "kernels", 23),
                                                     (reference_sinc, "sinc_kernels", 6)])
def test_kernels_equal_the_original(make, name, count):
    """The reference is padded to 21 taps, of which it has the rows down to the middle one."""
    for index in range(count):
        kernel = make(index)
        padded = np.pad(kernel.weights(), (21 - kernel.size) // 2)[:11]
        np.testing.assert_allclose(padded, REFERENCE[name][index], atol=1e-7)


@pytest.mark.parametrize(("make", "name"), [(reference_kernel, "filtered"), (reference_sinc, "filtered_sinc")])
def test_filtered_image_equals_the_original(make, name):
    for kernel, expected in zip(REFERENCE[f"{name}_kernel"].tolist(), REFERENCE[name], strict=True):
        np.testing.assert_allclose(thin(apply_kernel(IMAGE, make(kernel)), 4), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [
    GaussianKernel("iso", 21, 3.0, 3.0), GaussianKernel("iso", 7, 0.2, 0.2), GaussianKernel("aniso", 21, 2.9, 1.7, 1.0),
    GaussianKernel("generalized_aniso", 17, 2.0, 1.0, 0.3, 0.5), SincKernel(21, 0.7), SincKernel(41, 0.5)])
@pytest.mark.parametrize("shape", [(96, 112, 3), (9, 40, 3), (40, 9, 3)])
def test_filtering_is_correlation_with_a_mirrored_border(kernel, shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = ndimage.correlate(image.astype(float), kernel.weights()[:, :, None], mode="mirror")
    np.testing.assert_allclose(apply_kernel(image, kernel), expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 11, 13, 21, 51])
def test_weights_without_any_symmetry_are_not_turned(size):
    weights = np.random.default_rng(size).random((size, size)) / size**2
    expected = ndimage.correlate(IMAGE.astype(float), weights[:, :, None], mode="mirror")
    np.testing.assert_allclose(filter_image(IMAGE, weights), expected, atol=1e-5)


def draw(count, stage):
    rng = np.random.default_rng(0)
    return [sample_kernel(rng, stage) for _ in range(count)]


def kind_of(kernel):
    return {type(None): "none", SincKernel: "sinc"}.get(type(kernel)) or kernel.kind


def test_kinds_and_sizes_are_drawn_with_their_probabilities():
    probabilities = dict(zip(FIRST.kernel_kinds, FIRST.kernel_probs, strict=True))
    drawn = draw(8000, DegradationConfig().second)
    expected = {kind: 0.8 * 0.9 * probability for kind, probability in probabilities.items()}
    check_frequencies(map(kind_of, drawn), {**expected, "none": 0.2, "sinc": 0.8 * 0.1})
    check_frequencies((kernel.size for kernel in drawn if kernel), dict.fromkeys(range(7, 22, 2), 1 / 8))
    assert set(probabilities) == set(GAUSSIAN_KINDS)
    assert None not in draw(1000, FIRST)


def test_parameters_of_gaussians_fill_their_ranges():
    stage = replace(FIRST, betap_range=(0.8, 2.0))
    drawn = [kernel for kernel in draw(9000, stage) if isinstance(kernel, GaussianKernel)]
    check_uniform([kernel.sigma_x for kernel in drawn], 0.2, 3.0)
    narrow = [kernel for kernel in drawn if kernel.kind.endswith("aniso")]
    check_uniform([kernel.sigma_y for kernel in narrow], 0.2, 3.0)
    check_uniform([kernel.rotation for kernel in narrow], -np.pi, np.pi)
    for kind, low, high in (("generalized", 0.5, 4.0), ("plateau", 0.8, 2.0)):
        betas = [kernel.beta for kernel in drawn if kernel.kind.startswith(kind)]
        check_frequencies((beta < 1 for beta in betas), {True: 0.5, False: 0.5})
        check_uniform([beta for beta in betas if beta < 1], low, 1.0)
        check_uniform([beta for beta in betas if beta >= 1], 1.0, high)


def test_cutoff_of_small_sinc_kernels_begins_higher():
    drawn = draw(4000, DegradationStage(sinc_prob=1.0))
    check_uniform([kernel.cutoff for kernel in drawn if kernel.size < 13], np.pi / 3, np.pi)
    check_uniform([kernel.cutoff for kernel in drawn if kernel.size >= 13], np.pi / 5, np.pi)
