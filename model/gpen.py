"""GPEN: restores a face that is aligned to the five reference points (Yang et al., CVPR 2021), inference only.

An encoder halves the face down to 4x4. Its coarsest features become the style of a StyleGAN2 generator. Its other
feature maps replace StyleGAN2's noise: they are concatenated with the features of each layer instead of added to them.

Parameter names are those of the published files with `/` for `.`; the values differ: every constant factor is folded
into them at load. GPEN itself maps [-1, 1] to [-1, 1]; `gpen` converts from and to [0, 1], that is input
(x / 255 - 0.5) / 0.5 of an 8-bit face x, and result (raw + 1) / 2.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model.layers import Params, check_shapes, leaky_relu

STYLE_SIZE = 512
STYLE_LAYERS = 8
STYLE_LEARNING_RATE = 0.01  # relative; multiplies the mapping network's weights and biases
CONSTANT_SIZE = 4  # pixels, where the generator starts
COARSE_CHANNELS = 512  # up to 32x32 pixels, times `narrow`
FINE_CHANNELS = 16384  # above 32x32 pixels, times `narrow` and the channel multiplier, divided by the size
LARGEST_SIZE = 2048  # pixels, of the published networks
ACTIVATION_GAIN = float(np.sqrt(2.0))
EPSILON = 1e-8
FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
UPSAMPLING_GAIN = 4  # of the FIR after zeros were put between the pixels: three of four are zero


@dataclass(frozen=True)
class GpenArchitecture:
    """What distinguishes GPEN networks: side in pixels (a power of two), and two factors on the number of channels."""

    size: int
    channel_multiplier: float
    narrow: float

    @property
    def channels(self) -> list[int]:
        """The numbers of channels of the encoder's feature maps, 4x4 to size x size."""
        sizes = [2**power for power in range(CONSTANT_SIZE.bit_length() - 1, self.size.bit_length())]
        fine = FINE_CHANNELS * self.channel_multiplier
        return [round(self.narrow * (COARSE_CHANNELS if size <= 32 else fine / size)) for size in sizes]


GPEN_512 = GpenArchitecture(size=512, channel_multiplier=2, narrow=1)
GPEN_256 = GpenArchitecture(size=256, channel_multiplier=1, narrow=0.5)


class GpenOutputs(NamedTuple):
    """All intermediate results of GPEN, for comparison with other implementations."""

    raw: tf.Tensor  # [n, s, s, 3], the restored face in [-1, 1], not clipped
    latent: tf.Tensor  # [n, 512], the style after the mapping network
    encoded: list[tf.Tensor]  # the encoder's feature maps, 4x4 to s x s; all but the first serve two layers as noise
    skips: list[tf.Tensor]  # the face as RGB, 4x4 to s x s; the last is `raw`


def gpen_shapes(size: int, channel_multiplier: float, narrow: float) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter, in the order of the published checkpoint.

    Kernels are HWIO, but [3, 3, c_out, c_in] in layers that upsample, as `tf.nn.conv2d_transpose` takes them; matrices
    are [in, out]. `.../conv/energy` [c_in, c_out] is not in published files: the kernel's square, summed over its taps.
    """
    shapes = {}
    for torch_name, torch_shape in gpen_torch_shapes(GpenArchitecture(size, channel_multiplier, narrow)).items():
        if not torch_name.endswith(".kernel"):
            name = torch_name.replace(".", "/")
            shapes[name] = _relaid(torch_name, np.broadcast_to(np.float32(0), torch_shape)).shape
            if _is_demodulated(torch_name):
                shapes[name.replace("weight", "energy")] = (torch_shape[2], torch_shape[1])
    return shapes


def gpen_torch_shapes(architecture: GpenArchitecture) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of everything in a published file, buffers included, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, c_in: int, c_out: int) -> None:
        shapes.update({f"{name}.weight": (c_out, c_in), f"{name}.bias": (c_out,)})

    def styled(name: str, c_in: int, c_out: int, *blur: str) -> None:
        shapes.update({f"{name}.conv.weight": (1, c_out, c_in, 3, 3), **dict.fromkeys(blur, FIR.shape)})
        linear(f"{name}.conv.modulation", STYLE_SIZE, c_in)
        shapes.update({f"{name}.noise.weight": (1,), f"{name}.activate.bias": (2 * c_out,)})

    def to_rgb(name: str, c_in: int, *blur: str) -> None:
        shapes.update({f"{name}.bias": (1, 3, 1, 1), **dict.fromkeys(blur, FIR.shape),
                       f"{name}.conv.weight": (1, 3, c_in, 1, 1)})
        linear(f"{name}.conv.modulation", STYLE_SIZE, c_in)

    channels = architecture.channels
    pairs = list(itertools.pairwise(channels))  # of coarse and next finer
    for layer in range(1, STYLE_LAYERS + 1):
        linear(f"generator.style.{layer}", STYLE_SIZE, STYLE_SIZE)
    shapes["generator.input.input"] = (1, channels[0], CONSTANT_SIZE, CONSTANT_SIZE)
    styled("generator.conv1", channels[0], channels[0])
    to_rgb("generator.to_rgb1", 2 * channels[0])
    for level, (coarse, fine) in enumerate(pairs):
        styled(f"generator.convs.{2 * level}", 2 * coarse, fine, f"generator.convs.{2 * level}.conv.blur.kernel")
        styled(f"generator.convs.{2 * level + 1}", 2 * fine, fine)
    for level, (_, fine) in enumerate(pairs):
        to_rgb(f"generator.to_rgbs.{level}", 2 * fine, f"generator.to_rgbs.{level}.upsample.kernel")
    shapes.update({"ecd0.0.0.weight": (channels[-1], 3, 1, 1), "ecd0.0.1.bias": (channels[-1],)})
    for level, (coarse, fine) in enumerate(reversed(pairs), start=1):
        shapes.update({f"ecd{level}.0.0.kernel": FIR.shape, f"ecd{level}.0.1.weight": (coarse, fine, 3, 3),
                       f"ecd{level}.0.2.bias": (coarse,)})
    linear("final_linear.0", channels[0] * CONSTANT_SIZE**2, STYLE_SIZE)
    return shapes


def gpen_architecture(torch_shapes: Mapping[str, tuple[int, ...]]) -> GpenArchitecture:
    """Infer the architecture from the names and shapes of a published file.

    Raises:
        ValueError: they are not those of a GPEN; lists in one line what is missing, extra and of another shape.
    """
    levels = sum(name.endswith(".activate.bias") for name in torch_shapes) // 2  # 2 * levels + 1, or one missing
    size = min(CONSTANT_SIZE * 2**levels, LARGEST_SIZE) if levels else GPEN_512.size
    coarse = tuple(torch_shapes.get("generator.conv1.activate.bias", ()))
    fine = tuple(torch_shapes.get("ecd0.0.1.bias", ()))
    narrow = coarse[0] / (2 * COARSE_CHANNELS) if coarse and coarse[0] else GPEN_512.narrow
    multiplier = fine[0] * size / (FINE_CHANNELS * narrow) if fine else GPEN_512.channel_multiplier
    architecture = GpenArchitecture(size, multiplier, narrow)
    check_shapes(torch_shapes, gpen_torch_shapes(architecture), network="GPEN")
    return architecture


def gpen_params_from_torch(state: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """Make parameters of a published state dict, and fold into them every factor that is constant.

    Args:
        state: name -> array, as from `utils.weights.state_dicts.load_state_dict`.

    Returns:
        Parameters as `gpen` takes them, float32.

    Raises:
        ValueError: in one line, names or shapes that are not GPEN's, or a blur other than the one GPEN has.
    """
    gpen_architecture({name: value.shape for name, value in state.items()})
    params = {}
    for torch_name, published in state.items():
        if torch_name.endswith(".kernel"):
            if not np.allclose(published, _blur_kernel(torch_name), rtol=1e-4, atol=0):
                raise ValueError(f"{torch_name} must be GPEN's blur, [1, 3, 3, 1] in both directions with a sum of "
                                 f"{_blur_kernel(torch_name).sum():g}. Received: {published.tolist()}.")
            continue
        factor = np.float32(_constant_factor(torch_name, published.shape))
        value = factor * np.ascontiguousarray(_relaid(torch_name, published), np.float32)
        name = torch_name.replace(".", "/")
        params[name] = tf.constant(value)
        if _is_demodulated(torch_name):
            energy = factor**2 * np.square(published, dtype=np.float32).sum(axis=(0, 3, 4)).T
            params[name.replace("weight", "energy")] = tf.constant(energy)
    return params


def init_gpen(seed: int, architecture: GpenArchitecture = GPEN_512) -> dict[str, tf.Tensor]:
    """Draw random parameters as StyleGAN2 is initialised, but with weights of the noise that are not zero."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in gpen_torch_shapes(architecture).items():
        if name.endswith(".kernel"):
            state[name] = _blur_kernel(name)
        elif name.endswith("bias"):
            state[name] = np.full(shape, 1 if ".modulation." in name else 0, np.float32)
        else:
            learning_rate = STYLE_LEARNING_RATE if name.startswith("generator.style.") else 1
            state[name] = rng.standard_normal(shape, np.float32) / learning_rate
    return gpen_params_from_torch(state)


def gpen_size(params: Params) -> int:
    """Return the side, in pixels, of the faces that these parameters restore."""
    return CONSTANT_SIZE * 2**_num_levels(params)


def gpen(params: Params, images: tf.Tensor) -> tf.Tensor:
    """Restore faces.

    Args:
        params: as from `gpen_params_from_torch` or `init_gpen`; the architecture follows from the names.
        images: [n, s, s, 3], float32 RGB in [0, 1], aligned; s is `gpen_size(params)`.

    Returns:
        [n, s, s, 3] float32 RGB in [0, 1], not clipped.

    Raises:
        ValueError: images of another size.
    """
    return (gpen_outputs(params, images).raw + 1) / 2


def gpen_outputs(params: Params, images: tf.Tensor) -> GpenOutputs:
    """Restore faces and return all intermediate results; arguments and errors as of `gpen`."""
    size = gpen_size(params)
    images = tf.convert_to_tensor(images)
    if not images.shape.is_compatible_with([None, size, size, 3]):
        raise ValueError(f"GPEN-{size} restores images of shape [n, {size}, {size}, 3]. Received: {images.shape}.")
    encoded = _encode(params, tf.ensure_shape(images, [None, size, size, 3]) * 2 - 1)
    latent = _map_to_latent(params, encoded[0])
    skips = _synthesise(params, latent, encoded)
    return GpenOutputs(skips[-1], latent, encoded, skips)


def _encode(params: Params, images: tf.Tensor) -> list[tf.Tensor]:
    """Return the feature maps of every size, coarse to fine."""
    features = tf.nn.conv2d(images, params["ecd0/0/0/weight"], strides=1, padding="SAME")
    encoded = [leaky_relu(tf.nn.bias_add(features, params["ecd0/0/1/bias"]))]
    for level in range(1, _num_levels(params) + 1):
        blurred = _blur(encoded[-1], padding=2)
        features = tf.nn.conv2d(blurred, params[f"ecd{level}/0/1/weight"], strides=2, padding="VALID")
        encoded.append(leaky_relu(tf.nn.bias_add(features, params[f"ecd{level}/0/2/bias"])))
    return encoded[::-1]


def _map_to_latent(params: Params, coarsest: tf.Tensor) -> tf.Tensor:
    """Turn the encoder's last feature map into the style of all layers: [n, 4, 4, c] -> [n, 512]."""
    flat = tf.reshape(coarsest, [-1, int(np.prod(coarsest.shape[1:]))])
    latent = leaky_relu(_linear(params, "final_linear/0", flat))
    latent *= tf.math.rsqrt(tf.reduce_mean(tf.square(latent), axis=1, keepdims=True) + EPSILON)
    for layer in range(1, STYLE_LAYERS + 1):
        latent = leaky_relu(_linear(params, f"generator/style/{layer}", latent))
    return latent


def _synthesise(params: Params, latent: tf.Tensor, encoded: list[tf.Tensor]) -> list[tf.Tensor]:
    """Draw the face, coarse to fine: the RGB sum at every size."""
    constant = params["generator/input/input"][None]
    features = _styled_conv(params, "generator/conv1", constant, latent, encoded[0])
    skips = [_to_rgb(params, "generator/to_rgb1", features, latent)]
    for level in range(_num_levels(params)):
        noise = encoded[level + 1]
        features = _styled_conv(params, f"generator/convs/{2 * level}", features, latent, noise, upsample=True)
        features = _styled_conv(params, f"generator/convs/{2 * level + 1}", features, latent, noise)
        skips.append(_to_rgb(params, f"generator/to_rgbs/{level}", features, latent) + _upsample_rgb(skips[-1]))
    return skips


def _styled_conv(params: Params, name: str, inputs: tf.Tensor, latent: tf.Tensor, noise: tf.Tensor, *,
                 upsample: bool = False) -> tf.Tensor:
    """Convolve with kernels that the style scales, concatenate the noise, and activate.

    The style scales the inputs and the norm of the scaled kernels divides the outputs, which equals a convolution with
    one set of kernels per image at the cost of one convolution for the whole batch. Inputs [n, h, w, c_in] (of the
    constant [1, ...]), latent [n, 512], noise [n, h, w, c_out] or, if the layer upsamples, [n, 2h, 2w, c_out]. Returns
    features of the noise's size with 2 * c_out channels.
    """
    style = _linear(params, f"{name}/conv/modulation", latent)
    norms = tf.math.rsqrt(tf.matmul(tf.square(style), params[f"{name}/conv/energy"]) + EPSILON)
    kernel = params[f"{name}/conv/weight"]
    scaled = inputs * style[:, None, None, :]
    if upsample:
        # The rate of conv2d_transpose is that of conv2d (0.85 of tf.matmul, 2 cores, 256x256x256 -> 64 channels): 1.8
        # times as fast as one 2x2 convolution with depth_to_space and 3.7 times as fast as inserting zeros.
        shape = [tf.shape(scaled)[0], 2 * scaled.shape[1] + 1, 2 * scaled.shape[2] + 1, kernel.shape[2]]
        features = tf.nn.conv2d_transpose(scaled, kernel, shape, strides=2, padding="VALID")
        features = _blur(features, padding=1, gain=UPSAMPLING_GAIN)
    else:
        features = tf.nn.conv2d(scaled, kernel, strides=1, padding="SAME")
    gains = tf.concat([norms * ACTIVATION_GAIN, tf.ones_like(norms) * params[f"{name}/noise/weight"]], axis=1)
    features = tf.concat([features, noise], axis=3) * gains[:, None, None, :]
    return leaky_relu(tf.nn.bias_add(features, params[f"{name}/activate/bias"]))


def _to_rgb(params: Params, name: str, features: tf.Tensor, latent: tf.Tensor) -> tf.Tensor:
    """Project features to colours, with one matrix per image: [n, h, w, c] -> [n, h, w, 3].

    Scaling the three columns of the matrix is half the time of scaling the features before a 1x1 convolution.
    """
    style = _linear(params, f"{name}/conv/modulation", latent)
    height, width, channels = features.shape[1:]
    flat = tf.reshape(features, [-1, height * width, channels])
    rgb = tf.matmul(flat, style[:, :, None] * params[f"{name}/conv/weight"])
    return tf.reshape(rgb, [-1, height, width, 3]) + params[f"{name}/bias"]


def _linear(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    return tf.matmul(inputs, params[f"{name}/weight"]) + params[f"{name}/bias"]


def _blur(features: tf.Tensor, *, padding: int, gain: float = 1.0) -> tf.Tensor:
    """Filter every channel with the FIR, after padding each side with zeros: the size changes by 2 * padding - 3."""
    kernel = np.repeat(gain * FIR[:, :, None, None], features.shape[-1], axis=2)
    return tf.nn.depthwise_conv2d(features, kernel, [1] * 4, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]])


def _upsample_rgb(images: tf.Tensor) -> tf.Tensor:
    """Put zeros between the pixels and filter with the FIR: [n, h, w, 3] -> [n, 2h, 2w, 3]."""
    kernel = UPSAMPLING_GAIN * FIR[:, :, None, None] * np.eye(3, dtype=np.float32)
    output_shape = [tf.shape(images)[0], 2 * images.shape[1], 2 * images.shape[2], 3]
    return tf.nn.conv2d_transpose(images, kernel, output_shape, 2, "SAME")


def _num_levels(params: Params) -> int:
    """Count how often the size doubles."""
    return sum(name.startswith("generator/to_rgbs/") and name.endswith("/conv/weight") for name in params)


def _is_demodulated(torch_name: str) -> bool:
    return torch_name.startswith("generator.conv") and torch_name.endswith("conv.weight")


def _relaid(torch_name: str, value: np.ndarray) -> np.ndarray:
    """Bring an array into the layout of our parameter: a view where NumPy can."""
    if torch_name == "final_linear.0.weight":  # its rows follow the flattened 4x4 feature map, here channels last
        return value.reshape(len(value), -1, CONSTANT_SIZE, CONSTANT_SIZE).transpose(2, 3, 1, 0).reshape(-1, len(value))
    if torch_name == "generator.input.input":
        return value[0].transpose(1, 2, 0)
    if torch_name.startswith("generator.to_rgb") and value.ndim > 2:
        return value.reshape(3, -1).T if value.ndim == 5 else value.reshape(3)
    if value.ndim == 5:
        upsamples = torch_name.startswith("generator.convs.") and int(torch_name.split(".")[2]) % 2 == 0
        return value[0].transpose(2, 3, 0, 1) if upsamples else value[0].transpose(2, 3, 1, 0)
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _constant_factor(torch_name: str, torch_shape: tuple[int, ...]) -> float:
    """Return the factor by which the published network multiplies an array in every forward pass.

    The gain of an activation goes into the weights before it, since leaky(g * x) = g * leaky(x); where the outputs are
    demodulated it cannot, and multiplies the norms instead.
    """
    factor = STYLE_LEARNING_RATE if torch_name.startswith("generator.style.") else 1.0
    if torch_name.endswith("weight") and len(torch_shape) > 1:  # equalised learning rate: by the fan-in
        factor /= float(np.sqrt(torch_shape[1] if len(torch_shape) == 2 else np.prod(torch_shape[-3:])))
    if (torch_name.startswith(("ecd", "final_linear.", "generator.style."))
            or torch_name.endswith(("noise.weight", "activate.bias"))):
        factor *= ACTIVATION_GAIN
    return factor


def _blur_kernel(torch_name: str) -> np.ndarray:
    """Return the FIR that a buffer of this name holds."""
    return FIR * np.float32(UPSAMPLING_GAIN if torch_name.startswith("generator.") else 1)
