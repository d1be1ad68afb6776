import numpy as np
import tensorflow as tf

from model.layers import conv2d, leaky_relu, resize_bicubic_legacy, upsample_nearest, variance_scaling


def test_convolution_equals_a_sum_over_shifted_zero_padded_images():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 5, 6, 2)).astype(np.float32)
    kernel, bias = rng.normal(size=(3, 3, 2, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(padded[:, i:i + 5, j:j + 6] @ kernel[i, j] for i in range(3) for j in range(3)) + bias
    actual = conv2d({"c/weight": tf.constant(kernel), "c/bias": tf.constant(bias)}, "c", tf.constant(image))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_leaky_relu_has_slope_one_fifth():
    np.testing.assert_allclose(leaky_relu(tf.constant([-1.0, 0.0, 2.0])), [-0.2, 0.0, 2.0])


def test_nearest_upsampling_repeats_each_pixel():
    image = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(upsample_nearest(tf.constant(image), 3), image.repeat(3, axis=1).repeat(3, axis=2))


def test_nearest_upsampling_has_a_second_derivative():
    x = tf.constant(np.linspace(0.1, 1, 4, dtype=np.float32).reshape(1, 2, 2, 1))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = tf.reduce_sum(upsample_nearest(x) ** 3)
        gradient = inner.gradient(value, x)
    np.testing.assert_allclose(outer.gradient(gradient, x), 4 * 6 * x, rtol=1e-5)


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
