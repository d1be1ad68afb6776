"""The face restorer `rrdb-face`: Real-ESRGAN's RRDBNet with an input for where in the face each pixel lies.

It upscales the part of a photo that shows a face, at the photo's own resolution. Position maps (`utils.face.positions`)
enter before the last `INFORMED_BLOCKS` blocks. Parameters are those of the RRDBNet and `conv_position/weight`; where
that is zero, the network equals the RRDBNet.
"""

from collections.abc import Mapping

import tensorflow as tf

from config import GeneratorConfig
from model.layers import Params, check_shapes, conv2d
from model.rrdbnet import (
    Block,
    count_blocks,
    init_rrdbnet,
    residual_block,
    residual_blocks,
    rrdbnet_architecture,
    rrdbnet_shapes,
    upsample,
)

NUM_POSITION_MAPS = 8
INFORMED_BLOCKS = 10
POSITION_WEIGHT = "conv_position/weight"


def face_restorer_shapes(architecture: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of every parameter."""
    shapes = rrdbnet_shapes(architecture.num_blocks, architecture.num_features, architecture.growth)
    return {**shapes, POSITION_WEIGHT: (3, 3, NUM_POSITION_MAPS, architecture.num_features)}


def init_face_restorer(seed: int, architecture: GeneratorConfig) -> dict[str, tf.Tensor]:
    """Draw parameters; those of the position maps are zero."""
    return add_positions(init_rrdbnet(seed, num_blocks=architecture.num_blocks,
                                      num_features=architecture.num_features, growth=architecture.growth))


def add_positions(generator: Params) -> dict[str, tf.Tensor]:
    """Return the parameters of a face restorer that equals an RRDBNet."""
    num_features = generator["conv_first/weight"].shape[-1]
    return {**generator, POSITION_WEIGHT: tf.zeros([3, 3, NUM_POSITION_MAPS, num_features])}


def first_informed_block(params: Mapping[str, object]) -> int:
    """Return the number of the block before which the position maps enter."""
    return max(0, count_blocks(params) - INFORMED_BLOCKS)


def face_restorer(params: Params, images: tf.Tensor, positions: tf.Tensor, *,
                  run_block: Block = residual_block) -> tf.Tensor:
    """Restore faces and upscale them four times.

    Args:
        params: as `init_face_restorer` returns.
        images: [n, h, w, 3] RGB in [0, 1]: the surroundings of one face each, in the photo's pixels.
        positions: [n, h, w, 8], as `utils.face.positions.position_maps` returns.
        run_block: as of `rrdbnet`.

    Returns:
        [n, 4h, 4w, 3], not clipped.
    """
    informed, end = first_informed_block(params), count_blocks(params)
    first = conv2d(params, "conv_first", images)
    features = residual_blocks(params, first, range(informed), run_block)
    features += tf.nn.conv2d(positions, params[POSITION_WEIGHT], strides=1, padding="SAME")
    return upsample(params, first, residual_blocks(params, features, range(informed, end), run_block))


def face_restorer_architecture(shapes: Mapping[str, tuple[int, ...]]) -> GeneratorConfig:
    """Infer the architecture from the names and shapes of a parameter set.

    Raises:
        ValueError: they are not those of a face restorer; lists what is missing, extra or of another shape.
    """
    rest = {name: shape for name, shape in shapes.items() if name != POSITION_WEIGHT}
    architecture = GeneratorConfig(*rrdbnet_architecture(rest))
    check_shapes(shapes, face_restorer_shapes(architecture), network="face restorer")
    return architecture
