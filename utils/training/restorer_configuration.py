"""The configuration of the face restorer's training."""

import re

from config import RESTORER_PRESETS, SCALE, RestorerTrainingConfig
from utils.errors import UserError, require
from utils.training.configuration import (
    SMALLEST_LPIPS_SIZE,
    Kind,
    check_between,
    check_decay,
    check_degradation,
    check_interval,
    check_not_negative,
    check_positive,
    check_run,
    get_value,
)

# a checkpoint fits no other values of these
NETWORK_SETTINGS = ("network.num_blocks", "network.num_features", "network.growth")
SMALLEST_PATCH = 8  # low-quality pixels: the loss leaves out the border


def check_restorer_config(config: RestorerTrainingConfig) -> None:
    """Check every range; a UserError states the rule that is broken and the value."""
    check_positive(config, *NETWORK_SETTINGS, "optimization.num_iterations", "optimization.batch_size",
                   "optimization.learning_rate", "optimization.epsilon", "optimization.position_lr_ratio",
                   "run.validation_faces", "variation.max_upscale")
    check_not_negative(config, "optimization.warmup_iters", "optimization.frozen_blocks", "optimization.clip_norm",
                       "optimization.seed", "loss.l1", "loss.lpips", "data.num_workers", "run.image_faces",
                       "variation.tilt", "variation.alignment_rotation", "variation.alignment_scale",
                       "variation.alignment_shift", "variation.gamma")
    check_run(config)
    check_degradation("degradation", config.degradation)
    check_degradation("mild_degradation", config.mild_degradation)
    data, optimization = config.data, config.optimization
    require(data.clean_prob + data.jpeg_prob + data.mild_prob <= 1,
            "data.clean_prob, data.jpeg_prob and data.mild_prob must add up to at most 1",
            (data.clean_prob, data.jpeg_prob, data.mild_prob))
    for key in ("data.clean_prob", "data.jpeg_prob", "data.mild_prob", "variation.gray_prob", "variation.gain",
                "optimization.min_lr_ratio"):
        check_between(key, get_value(config, key), 0, 1)
    check_decay(config, "optimization.beta1", "optimization.beta2", "optimization.ema_decay")
    for key, least, most in (("variation.face_width_range", 4, 1024), ("variation.saturation_range", 0, 10),
                             ("data.jpeg_range", 1, 100)):
        check_interval(key, get_value(config, key), least, most)
    require(optimization.frozen_blocks <= config.network.num_blocks, "optimization.frozen_blocks must be at most "
            "network.num_blocks", optimization.frozen_blocks)
    require(config.loss.l1 > 0, "loss.l1 must be positive: LPIPS alone leaves colours free", config.loss.l1)
    for key in ("data.patch_size", "run.validation_patch_size"):
        least = SMALLEST_PATCH + SMALLEST_LPIPS_SIZE // SCALE * bool(config.loss.lpips)
        require(get_value(config, key) >= least, f"{key} must be at least {least}", get_value(config, key))
    for key in ("data.held_out", "data.validation"):
        try:
            re.compile(get_value(config, key))
        except re.error as error:
            raise UserError(f"{key} must be a regular expression ({error}). Received: {get_value(config, key)}."
                            ) from error


RESTORER_TRAINING = Kind(RestorerTrainingConfig(), RESTORER_PRESETS, check_restorer_config,
                         example="optimization.learning_rate=1e-4")
