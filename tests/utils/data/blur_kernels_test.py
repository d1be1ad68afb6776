"""Blur kernels and filtering, against Real-ESRGAN's own code; and how often each kind is drawn."""

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
    filter_separably,
    sample_final_sinc,
    sample_kernel,
)
from utils.errors import UserError

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


@pytest.mark.parametrize("kernel", [
    GaussianKernel("aniso", 21, 3.0, 0.7, 0.6), GaussianKernel("plateau_aniso", 15, 0.4, 2.0, -3.0, 1.7),
    SincKernel(13, 1.0)])
def test_kernels_have_sum_1_and_are_symmetric_about_their_middle(kernel):
    weights = kernel.weights()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(weights, np.rot90(weights, 2), atol=1e-15)


def test_rotation_goes_from_x_towards_y():
    flat = GaussianKernel("aniso", 21, 3.0, 1.0).weights()
    x, y = np.meshgrid(np.arange(-10, 11), np.arange(-10, 11))
    assert (flat * x**2).sum() > 4 * (flat * y**2).sum()
    diagonal = GaussianKernel("aniso", 21, 3.0, 1.0, np.pi / 4).weights()
    assert (diagonal * x * y).sum() > 1
    upright = GaussianKernel("aniso", 21, 3.0, 1.0, np.pi / 2).weights()
    np.testing.assert_allclose(upright, np.rot90(flat, 1), atol=1e-12)


def test_sinc_passes_what_is_below_its_cutoff_and_stops_what_is_above():
    response = np.abs(np.fft.fft2(SincKernel(21, np.pi / 2).weights(), (64, 64)))
    assert response[0, :12] == pytest.approx(1, abs=0.2)
    assert response[0, 22:33].max() < 0.2


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


def test_separable_filter_takes_rows_and_columns_alike():
    profile = np.array([0.2, 0.7, 0.1])
    expected = ndimage.correlate(IMAGE.astype(float), np.outer(profile, profile)[:, :, None], mode="mirror")
    np.testing.assert_allclose(filter_separably(IMAGE, profile), expected, atol=1e-6)


def test_no_kernel_leaves_the_image_alone():
    assert apply_kernel(IMAGE, None) is IMAGE


@pytest.mark.parametrize(("arguments", "message"), [
    (("gauss", 7, 1.0, 1.0), "iso, aniso"), (("iso", 8, 1.0, 1.0), "odd"), (("iso", -1, 1.0, 1.0), "odd"),
    (("iso", 7, 0.0, 0.0), "sigma_x"), (("aniso", 7, 1.0, float("nan")), "sigma_y"), (("iso", 7, 1.0, 2.0), "sigma_x"),
    (("aniso", 7, 1.0, 2.0, float("inf")), "rotation"), (("plateau_iso", 7, 1.0, 1.0, 0.0, 0.0), "beta"),
    ((7, 0.0), "cutoff"), ((7, 3.2), "cutoff"), ((7, float("nan")), "cutoff")])
def test_impossible_kernel_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        (GaussianKernel if isinstance(arguments[0], str) else SincKernel)(*arguments)


def test_point_becomes_the_turned_kernel_without_ripples():
    """Taps are summed one by one: with a Fourier transform what is 0 would become 1e-9, and take ten times as long."""
    point = np.zeros((64, 64, 3), np.float32)
    point[32, 32] = 1
    weights = np.random.default_rng(0).random((21, 21))
    result = filter_image(point, weights)
    np.testing.assert_array_equal(result[22:43, 22:43, 1], np.rot90(weights, 2).astype(np.float32))
    assert np.count_nonzero(result[:, :, 1]) == 21 * 21


def draw(count, stage, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_kernel(rng, stage) for _ in range(count)]


def kind_of(kernel):
    return {type(None): "none", SincKernel: "sinc"}.get(type(kernel)) or kernel.kind


def test_kinds_are_drawn_with_their_probabilities():
    probabilities = dict(zip(FIRST.kernel_kinds, FIRST.kernel_probs, strict=True))
    drawn = draw(8000, DegradationConfig().second)
    expected = {kind: 0.8 * 0.9 * probability for kind, probability in probabilities.items()}
    check_frequencies(map(kind_of, drawn), {**expected, "none": 0.2, "sinc": 0.8 * 0.1})
    assert set(probabilities) == set(GAUSSIAN_KINDS)
    assert None not in draw(1000, FIRST)


def test_sizes_are_equally_likely():
    check_frequencies((kernel.size for kernel in draw(4000, FIRST)), dict.fromkeys(range(7, 22, 2), 1 / 8))


def test_sigmas_and_rotations_fill_their_ranges():
    drawn = [kernel for kernel in draw(6000, FIRST) if isinstance(kernel, GaussianKernel)]
    check_uniform([kernel.sigma_x for kernel in drawn], 0.2, 3.0)
    narrow = [kernel for kernel in drawn if kernel.kind.endswith("aniso")]
    check_uniform([kernel.sigma_y for kernel in narrow], 0.2, 3.0)
    check_uniform([kernel.rotation for kernel in narrow], -np.pi, np.pi)
    assert abs(np.corrcoef([(kernel.sigma_x, kernel.sigma_y) for kernel in narrow], rowvar=False)[0, 1]) < 0.1
    for kernel in drawn:
        if not kernel.kind.endswith("aniso"):
            assert (kernel.sigma_y, kernel.rotation) == (kernel.sigma_x, 0)


def test_shapes_are_as_often_below_1_as_above():
    stage = DegradationStage(kernel_kinds=("generalized_iso", "plateau_iso"), kernel_probs=(0.5, 0.5), sinc_prob=0.0,
                             betap_range=(0.8, 2.0))
    drawn = draw(6000, stage)
    for kind, low, high in (("generalized_iso", 0.5, 4.0), ("plateau_iso", 0.8, 2.0)):
        betas = [kernel.beta for kernel in drawn if kernel.kind == kind]
        below = [beta for beta in betas if beta < 1]
        check_frequencies((beta < 1 for beta in betas), {True: 0.5, False: 0.5})
        check_uniform(below, low, 1.0)
        check_uniform([beta for beta in betas if beta >= 1], 1.0, high)


def test_cutoff_of_small_sinc_kernels_begins_higher():
    drawn = draw(4000, DegradationStage(sinc_prob=1.0))
    check_uniform([kernel.cutoff for kernel in drawn if kernel.size < 13], np.pi / 3, np.pi)
    check_uniform([kernel.cutoff for kernel in drawn if kernel.size >= 13], np.pi / 5, np.pi)
    assert min(kernel.cutoff for kernel in drawn if kernel.size == 13) < 0.7


def test_final_sinc_has_one_range_for_all_sizes():
    rng = np.random.default_rng(0)
    drawn = [sample_final_sinc(rng, (7, 21)) for _ in range(3000)]
    check_frequencies((kernel.size for kernel in drawn), {7: 0.5, 21: 0.5})
    for size in (7, 21):
        check_uniform([kernel.cutoff for kernel in drawn if kernel.size == size], np.pi / 3, np.pi)
