"""The configuration of the face restorer's training."""

from itertools import pairwise

from config import RESTORER_PRESETS, RestorerTrainingConfig
from utils.errors import require
from utils.face.alignment import ALIGNED_SIZE
from utils.training.configuration import (
    Kind,
    check_between,
    check_decay,
    check_degradation,
    check_interval,
    check_not_negative,
    check_positive,
    check_run,
)

# a checkpoint fits no other values of these
NETWORK_SETTINGS = ("network.strides", "network.features", "network.blocks")


def check_restorer_config(config: RestorerTrainingConfig) -> None:
    """Check every range; a UserError states the rule that is broken and the value."""
    check_positive(config, "optimization.num_iterations", "optimization.batch_size",
                   "optimization.learning_rate", "optimization.epsilon", "data.face_size", "run.validation_faces")
    check_not_negative(config, "optimization.warmup_iters", "optimization.clip_norm", "optimization.seed",
                       "data.num_validation", "data.num_workers", "run.image_faces",
                       "jitter.rotation", "jitter.tilt", "jitter.gamma")
    check_run(config)
    check_degradation("degradation", config.degradation)
    check_degradation("mild_degradation", config.mild_degradation)
    check_between("data.mild_share", config.data.mild_share, 0, 1)
    strides, features, blocks = config.network.strides, config.network.features, config.network.blocks
    require(strides[-1] > 1 and ALIGNED_SIZE % strides[0] == 0
            and all(2 * fine == coarse for coarse, fine in pairwise(strides)),
            f"network.strides must be powers of two from {ALIGNED_SIZE} to 2, each half of the one before", strides)
    require(len(features) == len(strides) and min(features) > 0 and not any(number % 2 for number in features),
            "network.features must be one positive even number per stride", features)
    require(len(blocks) == len(strides) and min(blocks) >= 0, "network.blocks must be one number per stride", blocks)
    check_decay(config, "optimization.beta1", "optimization.beta2")
    check_between("optimization.min_lr_ratio", config.optimization.min_lr_ratio, 0, 1)
    patch = config.data.patch_size
    coarsest = strides[0]
    require(coarsest <= patch <= ALIGNED_SIZE and patch % coarsest == 0,
            f"data.patch_size must be divisible by the coarsest stride, {coarsest}, and at most {ALIGNED_SIZE}", patch)
    for name, least, most in (("scale_range", 0.1, 10), ("saturation_range", 0, 10), ("lq_size_range", 16, 1024)):
        check_interval(f"jitter.{name}", getattr(config.jitter, name), least, most)
    for name, most in (("shift", 0.5), ("gain", 0.9), ("gray_prob", 1)):
        check_between(f"jitter.{name}", getattr(config.jitter, name), 0, most)


RESTORER_TRAINING = Kind(RestorerTrainingConfig(), RESTORER_PRESETS, check_restorer_config,
                         example="optimization.learning_rate=1e-4")
