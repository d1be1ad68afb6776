"""ResNet-50 (He et al., 2016), the body of the face detector, with its batch norm folded into the convolutions.

The layout is torchvision's "v1.5": where a stage halves the size, the 3x3 convolution has the stride, not the 1x1
before it. PyTorch pads evenly on both sides, TensorFlow's SAME with a stride does not: convolutions with a stride are
padded explicitly.
"""

import tensorflow as tf

from model.layers import Params, conv2d

STAGES = {"layer1": (64, 3), "layer2": (128, 4), "layer3": (256, 6), "layer4": (512, 3)}  # inner channels, blocks
EXPANSION = 4  # of a block's output over its inner channels
BATCH_NORM_EPSILON = 1e-5


def resnet50_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of every folded parameter up to the last stage, without the classifier."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, size: int, c_in: int, c_out: int) -> None:
        shapes[f"{name}/weight"] = (size, size, c_in, c_out)
        shapes[f"{name}/bias"] = (c_out,)

    add("conv1", 7, 3, 64)
    c_in = 64
    for stage, (inner, num_blocks) in STAGES.items():
        for block in range(num_blocks):
            add(f"{stage}/{block}/conv1", 1, c_in, inner)
            add(f"{stage}/{block}/conv2", 3, inner, inner)
            add(f"{stage}/{block}/conv3", 1, inner, EXPANSION * inner)
            if block == 0:
                add(f"{stage}/{block}/downsample/0", 1, c_in, EXPANSION * inner)
            c_in = EXPANSION * inner
    return shapes


def resnet50(params: Params, name: str, images: tf.Tensor) -> list[tf.Tensor]:
    """Compute the features of the last three stages.

    Args:
        params: holds `NAME/...` as `resnet50_shapes` lists them.
        name: where the network's parameters are.
        images: [n, h, w, 3] float32, normalised as the weights were trained.

    Returns:
        [n, ceil(h/8), ceil(w/8), 512], [n, ceil(h/16), ceil(w/16), 1024], [n, ceil(h/32), ceil(w/32), 2048].
    """
    features = tf.nn.relu(_halving_conv2d(params, f"{name}/conv1", images))
    # the features are not negative, so zeros at the border take part in no maximum, as PyTorch's -infinity
    features = tf.nn.max_pool2d(tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
    levels = []
    for stage, (_, num_blocks) in STAGES.items():
        for block in range(num_blocks):
            halve = block == 0 and stage != "layer1"
            features = _bottleneck(params, f"{name}/{stage}/{block}", features, halve=halve)
        levels.append(features)
    return levels[1:]


def _bottleneck(params: Params, name: str, inputs: tf.Tensor, *, halve: bool) -> tf.Tensor:
    convolve = _halving_conv2d if halve else conv2d
    features = tf.nn.relu(conv2d(params, f"{name}/conv1", inputs))
    features = tf.nn.relu(convolve(params, f"{name}/conv2", features))
    features = conv2d(params, f"{name}/conv3", features)
    has_shortcut = f"{name}/downsample/0/weight" in params
    shortcut = convolve(params, f"{name}/downsample/0", inputs) if has_shortcut else inputs
    return tf.nn.relu(features + shortcut)


def _halving_conv2d(params: Params, name: str, inputs: tf.Tensor) -> tf.Tensor:
    """Convolve with stride 2 and (k - 1) / 2 zeros on every side: [n, h, w, c] -> [n, ceil(h/2), ceil(w/2), d]."""
    kernel = params[f"{name}/weight"]
    margin = [kernel.shape[0] // 2] * 2
    features = tf.nn.conv2d(inputs, kernel, strides=2, padding=[[0, 0], margin, margin, [0, 0]])
    return tf.nn.bias_add(features, params[f"{name}/bias"])
