"""The Inception-v3 that FID is measured with (Szegedy et al., 2016; Heusel et al., 2017). Inference only.

It is the network of pytorch-fid, which differs from torchvision's: other weights, averages that leave the padding out,
and a maximum instead of an average in the last block.

Names of parameters are those of the published file's convolutions, `Mixed_5b/branch1x1/weight` (HWIO) and `.../bias`;
the batch norm behind each is folded into them when the file is loaded.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from model.layers import Params, check_shapes, fold_batch_norm

Pool = Callable[..., tf.Tensor]
INPUT_SIZE = 299  # pixels, both sides
NUM_FEATURES = 2048
NUM_CLASSES = 1008  # of the classifier in the file, which is not used; other Inceptions have another number
BATCH_NORM_EPSILON = 1e-3
STEM = (("Conv2d_1a_3x3", 3, 32), ("Conv2d_2a_3x3", 3, 32), ("Conv2d_2b_3x3", 3, 64),  # name, size, outputs
        ("Conv2d_3b_1x1", 1, 80), ("Conv2d_4a_3x3", 3, 192))
FINE_BLOCKS = {"Mixed_5b": 32, "Mixed_5c": 64, "Mixed_5d": 64}  # outputs behind the pooling
MIDDLE_BLOCKS = {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}  # channels between convolutions
COARSE_BLOCKS = {"Mixed_7b": tf.nn.avg_pool2d, "Mixed_7c": tf.nn.max_pool2d}


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of every folded parameter, in the order of the published file."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, height: int, width: int, c_in: int, c_out: int) -> None:
        shapes[f"{name}/weight"] = (height, width, c_in, c_out)
        shapes[f"{name}/bias"] = (c_out,)

    def chain(branch: str, c_in: int, *layers: tuple[int, int, int]) -> None:
        for index, (height, width, c_out) in enumerate(layers, start=1):
            add(f"{branch}_{index}", height, width, c_in, c_out)
            c_in = c_out

    c_in = 3
    for name, size, c_out in STEM:
        add(name, size, size, c_in, c_out)
        c_in = c_out
    for block, pooled in FINE_BLOCKS.items():
        add(f"{block}/branch1x1", 1, 1, c_in, 64)
        chain(f"{block}/branch5x5", c_in, (1, 1, 48), (5, 5, 64))
        chain(f"{block}/branch3x3dbl", c_in, (1, 1, 64), (3, 3, 96), (3, 3, 96))
        add(f"{block}/branch_pool", 1, 1, c_in, pooled)
        c_in = 64 + 64 + 96 + pooled
    add("Mixed_6a/branch3x3", 3, 3, c_in, 384)
    chain("Mixed_6a/branch3x3dbl", c_in, (1, 1, 64), (3, 3, 96), (3, 3, 96))
    c_in += 384 + 96
    for block, inner in MIDDLE_BLOCKS.items():
        add(f"{block}/branch1x1", 1, 1, c_in, 192)
        chain(f"{block}/branch7x7", c_in, (1, 1, inner), (1, 7, inner), (7, 1, 192))
        chain(f"{block}/branch7x7dbl", c_in, (1, 1, inner), (7, 1, inner), (1, 7, inner), (7, 1, inner), (1, 7, 192))
        add(f"{block}/branch_pool", 1, 1, c_in, 192)
        c_in = 4 * 192
    chain("Mixed_7a/branch3x3", c_in, (1, 1, 192), (3, 3, 320))
    chain("Mixed_7a/branch7x7x3", c_in, (1, 1, 192), (1, 7, 192), (7, 1, 192), (3, 3, 192))
    c_in += 320 + 192
    for block in COARSE_BLOCKS:
        add(f"{block}/branch1x1", 1, 1, c_in, 320)
        for branch, layers in (("branch3x3", [(1, 1, 384)]), ("branch3x3dbl", [(1, 1, 448), (3, 3, 384)])):
            chain(f"{block}/{branch}", c_in, *layers)
            add(f"{block}/{branch}_{len(layers) + 1}a", 1, 3, 384, 384)
            add(f"{block}/{branch}_{len(layers) + 1}b", 3, 1, 384, 384)
        add(f"{block}/branch_pool", 1, 1, c_in, 192)
        c_in = NUM_FEATURES
    return shapes


def inception_torch_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape of what the published file holds, without batch norm's counters."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (height, width, c_in, c_out) in _convolutions().items():
        torch_name = name.replace("/", ".")
        shapes[f"{torch_name}.conv.weight"] = (c_out, c_in, height, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{torch_name}.bn.{part}"] = (c_out,)
    shapes["fc.weight"] = (NUM_CLASSES, NUM_FEATURES)
    shapes["fc.bias"] = (NUM_CLASSES,)
    return shapes


def _convolutions() -> dict[str, tuple[int, ...]]:
    """Return the names of the convolutions -> shape HWIO."""
    return {name.removesuffix("/weight"): shape for name, shape in inception_shapes().items()
            if name.endswith("/weight")}


def inception_params_from_torch(state: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """Fold the arrays of the published file into parameters.

    Args:
        state: as `utils.weights.state_dicts.load_state_dict` returns it; counters (`num_batches_tracked`) are ignored,
            and the classifier (`fc`) distinguishes the file from those of other Inceptions.

    Raises:
        ValueError: in one line, which names are missing, unknown or of another shape.
    """
    state = {name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    check_shapes({name: value.shape for name, value in state.items()}, inception_torch_shapes(),
                 network="FID's Inception")
    params = {}
    for name in _convolutions():
        torch_name = name.replace("/", ".")
        norm = (state[f"{torch_name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        weight, bias = fold_batch_norm(state[f"{torch_name}.conv.weight"], *norm, epsilon=BATCH_NORM_EPSILON)
        params[f"{name}/weight"], params[f"{name}/bias"] = tf.constant(weight), tf.constant(bias)
    return params


def pool3(params: Params, images: tf.Tensor) -> tf.Tensor:
    """Compute the features that FID compares.

    Args:
        params: as from `inception_params_from_torch`.
        images: [n, h, w, 3] float32 RGB in [0, 1], of any size.

    Returns:
        [n, 2048] float32 >= 0.
    """
    return tf.reduce_mean(feature_maps(params, images)[-1], axis=[1, 2])


def resize_to_input(images: tf.Tensor) -> tf.Tensor:
    """Resize images as `pool3` does by itself: [n, h, w, 3] -> [n, 299, 299, 3]; that size stays as it is.

    Bilinear with half-pixel centres. It looks at four pixels only, however large the image is, as pytorch-fid does.
    """
    return tf.raw_ops.ResizeBilinear(images=images, size=[INPUT_SIZE, INPUT_SIZE], half_pixel_centers=True)


def feature_maps(params: Params, images: tf.Tensor) -> list[tf.Tensor]:
    """Compute the outputs of the network's four parts; `pool3` is the mean of the last over its positions.

    Args:
        params: as from `inception_params_from_torch`.
        images: [n, h, w, 3] float32 RGB in [0, 1], of any size.

    Returns:
        [n, 73, 73, 64], [n, 35, 35, 192], [n, 17, 17, 768], [n, 8, 8, 2048], all >= 0.
    """
    inputs = 2.0 * resize_to_input(images) - 1.0
    first = _convolve(params, "Conv2d_1a_3x3", inputs, stride=2, padding="VALID")
    first = _convolve(params, "Conv2d_2a_3x3", first, padding="VALID")
    first = _halving_maximum(_convolve(params, "Conv2d_2b_3x3", first))
    second = _convolve(params, "Conv2d_3b_1x1", first)
    second = _halving_maximum(_convolve(params, "Conv2d_4a_3x3", second, padding="VALID"))
    third = second
    for block in FINE_BLOCKS:
        third = _fine_block(params, block, third)
    third = _first_reduction(params, "Mixed_6a", third)
    for block in MIDDLE_BLOCKS:
        third = _middle_block(params, block, third)
    fourth = _second_reduction(params, "Mixed_7a", third)
    for block, pool in COARSE_BLOCKS.items():
        fourth = _coarse_block(params, block, fourth, pool)
    return [first, second, third, fourth]


def _fine_block(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    return tf.concat([_convolve(params, f"{name}/branch1x1", inputs),
                      _chain(params, f"{name}/branch5x5", inputs, 2),
                      _chain(params, f"{name}/branch3x3dbl", inputs, 3),
                      _pooled(params, name, inputs)], axis=3)


def _first_reduction(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    return tf.concat([_convolve(params, f"{name}/branch3x3", inputs, stride=2, padding="VALID"),
                      _chain(params, f"{name}/branch3x3dbl", inputs, 3, halve=True),
                      _halving_maximum(inputs)], axis=3)


def _middle_block(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    return tf.concat([_convolve(params, f"{name}/branch1x1", inputs),
                      _chain(params, f"{name}/branch7x7", inputs, 3),
                      _chain(params, f"{name}/branch7x7dbl", inputs, 5),
                      _pooled(params, name, inputs)], axis=3)


def _second_reduction(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    return tf.concat([_chain(params, f"{name}/branch3x3", inputs, 2, halve=True),
                      _chain(params, f"{name}/branch7x7x3", inputs, 4, halve=True),
                      _halving_maximum(inputs)], axis=3)


def _coarse_block(params: Params, name: str, inputs: tf.Tensor, pool: Pool) -> tf.Tensor:
    near = _chain(params, f"{name}/branch3x3", inputs, 1)
    far = _chain(params, f"{name}/branch3x3dbl", inputs, 2)
    return tf.concat([_convolve(params, f"{name}/branch1x1", inputs),
                      *(_convolve(params, f"{name}/branch3x3_2{half}", near) for half in "ab"),
                      *(_convolve(params, f"{name}/branch3x3dbl_3{half}", far) for half in "ab"),
                      _pooled(params, name, inputs, pool)], axis=3)


def _chain(params: Params, branch: str, features: tf.Tensor, length: int, *, halve: bool = False) -> tf.Tensor:
    """Apply the convolutions `BRANCH_1` to `BRANCH_LENGTH`; with `halve` the last one has stride 2."""
    for index in range(1, length + 1):
        last = {"stride": 2, "padding": "VALID"} if halve and index == length else {}
        features = _convolve(params, f"{branch}_{index}", features, **last)
    return features


def _pooled(params: Params, name: str, inputs: tf.Tensor, pool: Pool = tf.nn.avg_pool2d) -> tf.Tensor:
    # padding takes part neither in TensorFlow's averages nor in its maxima
    return _convolve(params, f"{name}/branch_pool", pool(inputs, ksize=3, strides=1, padding="SAME"))


def _halving_maximum(features: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(features, ksize=3, strides=2, padding="VALID")


def _convolve(params: Params, name: str, inputs: tf.Tensor, *, stride: int = 1, padding: str = "SAME") -> tf.Tensor:
    features = tf.nn.conv2d(inputs, params[f"{name}/weight"], strides=stride, padding=padding)
    return tf.nn.relu(tf.nn.bias_add(features, params[f"{name}/bias"]))
