"""The vocabulary the networks are written in.

Feature maps are NHWC floating-point tensors, convolution weights HWIO. Everything here but `resize_bicubic_legacy` is
differentiable twice, which the second-order meta-gradient needs (the second derivative of `tf.image.resize` is missing
or silently wrong).
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

Params = Mapping[str, tf.Tensor]
LEAKY_SLOPE = 0.2


def conv2d(params: Params, name: str, inputs: tf.Tensor, *, weight: str = "weight") -> tf.Tensor:
    """Convolve with stride 1 and zero padding, and add the bias.

    The arithmetic runs in the type of the weights: with bfloat16 weights the inputs are rounded to bfloat16 too.

    Args:
        params: holds `NAME/WEIGHT` [k, k, c_in, c_out] and `NAME/bias` [c_out].
        name: the layer.
        inputs: [n, h, w, c_in].
        weight: what the weight tensor is called (`weight` in the generator, `kernel` in MaskNet).

    Returns:
        [n, h, w, c_out] in the type of the weights.
    """
    kernel = params[f"{name}/{weight}"]
    features = tf.nn.conv2d(tf.cast(inputs, kernel.dtype), kernel, strides=1, padding="SAME")
    return _add_bias(features, params[f"{name}/bias"])


def upsampled_conv2d(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    """Compute `conv2d(params, name, upsample_nearest(inputs))` for a 3x3 kernel in half the time, without upsampling.

    As each pixel is repeated in both directions, the nine taps cover only 2x2 different pixels, so the weights of one
    pixel can be added first. That is a transposed convolution of stride 2, whose 4x4 kernel is the 3x3 one, rotated by
    180 degrees and convolved with 2x2 ones. The other order of sums changes the last bits.

    Args:
        params: as for `conv2d`.
        name: the layer.
        inputs: [n, h, w, c_in].

    Returns:
        [n, 2h, 2w, c_out] in the type of the weights.
    """
    kernel = params[f"{name}/weight"]
    exact = tf.cast(kernel, tf.float32) if kernel.dtype.size < 4 else kernel  # the sums of weights are rounded once
    padded = tf.pad(exact[::-1, ::-1], [[1, 1], [1, 1], [0, 0], [0, 0]])
    spread = padded[:-1, :-1] + padded[:-1, 1:] + padded[1:, :-1] + padded[1:, 1:]
    spread = tf.cast(tf.transpose(spread, [0, 1, 3, 2]), kernel.dtype)
    batch, height, width = tf.unstack(tf.shape(inputs)[:3])
    features = tf.nn.conv2d_transpose(tf.cast(inputs, kernel.dtype), spread,
                                      [batch, 2 * height, 2 * width, kernel.shape[3]], strides=2, padding="SAME")
    return _add_bias(features, params[f"{name}/bias"])


def _add_bias(features: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    if features.dtype == tf.bfloat16:  # bias_add's gradient adds up in bfloat16 there, which loses most of the sum
        return features + bias
    return tf.nn.bias_add(features, bias)


def leaky_relu(features: tf.Tensor) -> tf.Tensor:
    """Leaky ReLU of slope 0.2, the only activation of Real-ESRGAN's networks."""
    return tf.nn.leaky_relu(features, LEAKY_SLOPE)


def upsample_nearest(features: tf.Tensor, factor: int = 2) -> tf.Tensor:
    """Repeat every pixel `factor` times in both directions: [n, h, w, c] -> [n, factor*h, factor*w, c]."""
    return tf.repeat(tf.repeat(features, factor, axis=1), factor, axis=2)


@tf.custom_gradient
def upsample_bilinear(features: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Double both sides by linear interpolation with half-pixel centres: [n, h, w, c] -> [n, 2h, 2w, c], float32.

    An output pixel is 3/4 of the nearest input pixel and 1/4 of the next, per direction; edges are repeated.
    """
    # TensorFlow lacks the derivative of its fast gradient; the gradient is linear, so that is the interpolation again
    @tf.custom_gradient
    def adjoint(upstream: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        gradient = tf.raw_ops.ResizeBilinearGrad(grads=upstream, original_image=features, half_pixel_centers=True)
        return gradient, upsample_bilinear

    size = 2 * tf.shape(features)[1:3]
    return tf.raw_ops.ResizeBilinear(images=features, size=size, half_pixel_centers=True), adjoint


def spectral_norm(weight: tf.Tensor, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Divide a kernel by its largest singular value, as one power iteration estimates it (Miyato et al., 2018).

    The kernel counts as the matrix [k * k * c_in, c_out]. The singular vectors are constants to gradients, the singular
    value is not.

    Args:
        weight: [k, k, c_in, c_out].
        u: [1, c_out], the vector after the iterations so far.

    Returns:
        The divided kernel, and `u` after this iteration, of norm one.
    """
    matrix = tf.reshape(weight, [-1, weight.shape[-1]])
    v = tf.stop_gradient(tf.math.l2_normalize(tf.matmul(u, matrix, transpose_b=True)))
    u = tf.stop_gradient(tf.math.l2_normalize(tf.matmul(v, matrix)))
    sigma = tf.reduce_sum(tf.matmul(v, matrix) * u)
    return weight / sigma, u


def resize_bicubic_legacy(images: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resize as TF1's `resize_bicubic(align_corners=False)`: the source of pixel i is i/scale; a = -0.75.

    There are no half-pixel centres. A published MaskNet was trained on inputs made by exactly this. Its second
    derivative does not exist in TensorFlow.

    Args:
        images: [n, h, w, c] float32.
        size: the new (height, width), int32 [2].
    """
    return tf.raw_ops.ResizeBicubic(images=images, size=size, align_corners=False, half_pixel_centers=False)


def variance_scaling(rng: np.random.Generator, shape: tuple[int, int, int, int], gain: float = 2.0, *,
                     truncated: bool = False) -> tf.Tensor:
    """Draw a normal HWIO kernel of variance gain / fan_in.

    `truncated` cuts the normal at two of its own standard deviations and keeps the variance, as TF1's default
    initialiser does.
    """
    scale = np.sqrt(gain / (shape[0] * shape[1] * shape[2]))
    if truncated:
        from scipy.stats import truncnorm  # a quarter of a second, which only new networks need

        values = truncnorm.rvs(-2, 2, size=shape, random_state=rng) / truncnorm.std(-2, 2)
    else:
        values = rng.normal(size=shape)
    return tf.constant((scale * values).astype(np.float32))


def fold_batch_norm(kernel: np.ndarray, gain: np.ndarray, offset: np.ndarray, mean: np.ndarray,
                    variance: np.ndarray, *, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Merge a convolution without bias and the batch norm after it, as inference applies it, into one convolution.

    Args:
        kernel: [c_out, c_in, k, k], PyTorch's order.
        gain: [c_out], as the others: gain * (features - mean) / sqrt(variance + epsilon) + offset.
        offset: what is added.
        mean: the running mean.
        variance: the running variance.
        epsilon: keeps the root away from zero.

    Returns:
        Kernel [k, k, c_in, c_out] and bias [c_out], float32, computed in float64.
    """
    scale = np.asarray(gain, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    folded = np.asarray(kernel, np.float64).transpose(2, 3, 1, 0) * scale
    return folded.astype(np.float32), (np.asarray(offset, np.float64) - mean * scale).astype(np.float32)


def check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *,
                 network: str) -> None:
    """Compare a parameter set with what a network expects.

    Raises:
        ValueError: in one line, the missing names, the extra names and the names whose shapes differ.
    """
    missing = [name for name in expected if name not in shapes]
    extra = [name for name in shapes if name not in expected]
    wrong = [f"{name} {tuple(shapes[name])} instead of {tuple(expected[name])}" for name in expected
             if name in shapes and tuple(shapes[name]) != tuple(expected[name])]
    faults = [f"{kind}: {_some(names)}" for kind, names in
              (("missing", missing), ("extra", extra), ("wrong shape", wrong)) if names]
    if faults:
        raise ValueError(f"the parameters are not those of {network}. " + "; ".join(faults))


def _some(names: list[str], most: int = 6) -> str:
    """Join at most `most` names and say how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
