import numpy as np
import tensorflow as tf

from model.adam import AdamState, adam

SETTINGS = {"learning_rate": 3e-5, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def test_the_first_update_divides_by_the_gradient_and_a_larger_epsilon():
    """By hand: m = 0.1 g, v = 0.001 g^2, so the step is lr * g / (|g| + epsilon / sqrt(0.001))."""
    gradient = np.array([2.0, -1e-7, 0.0])
    state = adam(AdamState(tf.ones(3, tf.float64), *[tf.zeros(3, tf.float64)] * 2), tf.constant(gradient),
                 update=tf.constant(1.0, tf.float64), **SETTINGS)
    np.testing.assert_allclose(1 - state.value, 3e-5 * gradient / (np.abs(gradient) + 1e-8 / np.sqrt(0.001)), rtol=1e-9)
    np.testing.assert_allclose(state.m, 0.1 * gradient)
    np.testing.assert_allclose(state.v, 0.001 * gradient**2)


def test_equals_tensorflow_1_over_several_updates():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(5, 7)) * 10.0 ** rng.integers(-9, 1, 7)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("x", initializer=np.ones(7), use_resource=True)
        gradient = tf.compat.v1.placeholder(tf.float64, 7)
        update = tf.compat.v1.train.AdamOptimizer(3e-5).apply_gradients([(gradient, variable)])
        session.run(tf.compat.v1.global_variables_initializer())
        for value in gradients:
            session.run(update, {gradient: value})
        expected = session.run(variable)
    state = AdamState(tf.ones(7, tf.float64), *[tf.zeros(7, tf.float64)] * 2)
    for number, value in enumerate(gradients, start=1):
        state = adam(state, tf.constant(value), update=tf.constant(float(number), tf.float64), **SETTINGS)
    np.testing.assert_allclose(state.value, expected, rtol=1e-9)
