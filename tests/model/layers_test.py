import numpy as np
import pytest
import tensorflow as tf

from model.layers import (
    conv2d,
    resize_bicubic_legacy,
    spectral_norm,
    upsample_bilinear,
    upsample_nearest,
    upsampled_conv2d,
    variance_scaling,
)


def test_convolution_equals_a_sum_over_shifted_zero_padded_images():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 5, 6, 2)).astype(np.float32)
    kernel, bias = rng.normal(size=(3, 3, 2, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(padded[:, i:i + 5, j:j + 6] @ kernel[i, j] for i in range(3) for j in range(3)) + bias
    actual = conv2d({"c/weight": tf.constant(kernel), "c/bias": tf.constant(bias)}, "c", tf.constant(image))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def drawn_layer(dtype=tf.float64, channels=(3, 5)):
    rng = np.random.default_rng(0)
    return {"c/weight": tf.cast(rng.normal(size=(3, 3, *channels)), dtype),
            "c/bias": tf.cast(rng.normal(size=channels[1]), dtype)}


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 2), (6, 7)])
def test_convolution_of_repeated_pixels_equals_repeating_and_convolving(size):
    image = tf.constant(np.random.default_rng(1).normal(size=(2, *size, 3)))
    expected = conv2d(drawn_layer(), "c", upsample_nearest(image))
    np.testing.assert_allclose(upsampled_conv2d(drawn_layer(), "c", image), expected, atol=1e-13)


def test_derivatives_of_the_convolution_of_repeated_pixels_are_right_up_to_the_second():
    image, direction = (tf.constant(np.random.default_rng(seed).normal(size=(2, 4, 3, 3))) for seed in (1, 2))

    def derivatives(layer):
        params = drawn_layer()
        with tf.GradientTape() as outer:
            outer.watch([image, params])
            with tf.GradientTape() as inner:
                inner.watch([image, params])
                value = tf.reduce_sum(layer(params, image) ** 3)
            first = inner.gradient(value, [image, params])
            slope = tf.reduce_sum(first[0] * direction) + tf.reduce_sum(first[1]["c/weight"] ** 2)
        return tf.nest.flatten([first, outer.gradient(slope, [image, params])])

    found = derivatives(lambda params, x: upsampled_conv2d(params, "c", x))
    expected = derivatives(lambda params, x: conv2d(params, "c", upsample_nearest(x)))
    assert len(found) == 6
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-9)


def doubling_matrix(size):
    """Linear interpolation at the half-pixel centres of twice as many pixels, as a matrix."""
    places = (np.arange(2 * size) + 0.5) / 2 - 0.5
    return np.stack([np.interp(places, np.arange(size), pixel) for pixel in np.eye(size)], axis=1)


def test_bilinear_upsampling_interpolates_at_half_pixel_centres():
    image = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    expected = np.einsum("yi,xj,nijc->nyxc", doubling_matrix(3), doubling_matrix(4), image)
    np.testing.assert_allclose(upsample_bilinear(tf.constant(image)), expected, atol=1e-6)


def test_bilinear_upsampling_has_a_second_derivative():
    x = tf.constant(np.random.default_rng(0).random((1, 3, 4, 1), np.float32))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = tf.reduce_sum(upsample_bilinear(x) ** 3)
        gradient = inner.gradient(value, x)
    matrix = np.kron(doubling_matrix(3), doubling_matrix(4))  # of which every row sums to one
    flat = x.numpy().ravel()
    np.testing.assert_allclose(tf.reshape(gradient, [-1]), 3 * matrix.T @ (matrix @ flat) ** 2, rtol=1e-5)
    np.testing.assert_allclose(tf.reshape(outer.gradient(gradient, x), [-1]), 6 * matrix.T @ matrix @ flat, rtol=1e-5)


def test_spectral_norm_divides_by_the_largest_singular_value_once_its_vector_is_found():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, 4)))[0] for size in (18, 4))
    kernel = ((left * [5.0, 2.0, 1.0, 0.5]) @ right.T).reshape(3, 3, 2, 4).astype(np.float32)
    normalized, u = spectral_norm(tf.constant(kernel), tf.constant(right[:, :1].T.astype(np.float32)))
    np.testing.assert_allclose(normalized, kernel / 5, atol=1e-6)
    np.testing.assert_allclose(u, right[:, :1].T, atol=1e-6)


def test_gradient_through_spectral_norm_keeps_the_singular_vectors_constant():
    rng = np.random.default_rng(1)
    kernel, u = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=(1, 4))  # u is far from a singular vector
    factors = rng.normal(size=kernel.shape)
    weight = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(weight)
        value = tf.reduce_sum(spectral_norm(weight, tf.constant(u))[0] * factors)
    matrix = kernel.reshape(18, 4)
    v = matrix @ u[0] / np.linalg.norm(matrix @ u[0])
    sigma = np.linalg.norm(v @ matrix)
    after = v @ matrix / sigma
    expected = factors / sigma - (factors * kernel).sum() / sigma**2 * np.outer(v, after).reshape(kernel.shape)
    np.testing.assert_allclose(tape.gradient(value, weight), expected, atol=1e-10)


def test_legacy_bicubic_samples_at_i_over_4_with_a_of_minus_three_quarters():
    signal = np.array([0.1, 0.9, 0.4, 0.7, 0.2], np.float32)
    a = -0.75

    def weight(distance):
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    expected = [sum(weight(i / 4 - tap) * signal[np.clip(tap, 0, 4)] for tap in range(i // 4 - 1, i // 4 + 3))
                for i in range(20)]
    actual = resize_bicubic_legacy(tf.constant(signal.reshape(1, 1, 5, 1)), [4, 20])
    np.testing.assert_allclose(actual[0, 0, :, 0], expected, atol=2e-3)  # TensorFlow tabulates the kernel


def test_variance_scaling_has_variance_gain_over_fan_in():
    kernel = variance_scaling(np.random.default_rng(0), (3, 3, 64, 64), gain=2.0).numpy()
    assert abs(kernel.var() * 9 * 64 / 2 - 1) < 0.03
    assert abs(kernel.mean()) < 1e-3
