"""A training configuration from presets and `--set KEY=VALUE`, and as the plain data that is written beside a run."""

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

from config import PRESETS, SCALE, DegradationConfig, DegradationStage, TrainingConfig
from utils.data.blur_kernels import GAUSSIAN_KINDS
from utils.errors import UserError, require
from utils.plain_data import from_plain, to_plain

SMALLEST_CONTRAST = 8  # pixels: a quarter of it still has differences between neighbours
SMALLEST_SIGMA = 0.3  # pixels: a narrower Gaussian removes nothing
SMALLEST_LPIPS_SIZE = 32  # pixels: AlexNet reduces its input to a sixteenth
# a checkpoint fits no other values of these
ARCHITECTURE = ("generator.num_blocks", "generator.num_features", "generator.growth", "discriminator.num_features")


class Kind(NamedTuple):
    """The configurations of one training program: frozen dataclasses within a frozen dataclass.

    One of its groups is called `run` and has the fields that `check_run` checks, and `deterministic`. `default` has
    the default values, `presets` say what differs from them (`group.name` -> value); the first preset is that of a new
    run which names none. `check` raises a UserError for a value outside its range. `example` is one for --set.
    """

    default: Any
    presets: Mapping[str, Mapping[str, object]]
    check: Callable[[Any], None]
    example: str = "run.save_every=100"


def resolve_config(kind: Kind, preset: str, settings: Sequence[str] = (), *, base: Any = None) -> Any:
    """Give the configuration of a run.

    Args:
        kind: of configuration.
        preset: a key of the kind's presets.
        settings: texts `group.name=value`, the later ones winning; lists are separated by commas.
        base: start from this instead of the preset.

    Raises:
        UserError: there is no such name, or a value is of the wrong type or outside its range.
    """
    config = base
    if config is None:
        config = kind.default
        for key, value in kind.presets[preset].items():
            config = _replaced(config, key.split("."), value)
    for setting in settings:
        key, separator, text = setting.partition("=")
        require(bool(separator), f"--set takes KEY=VALUE, as {kind.example}", setting)
        config = _replaced(config, key.split("."), _parse(key, text, get_value(config, key)))
    kind.check(config)
    return config


def get_value(config: Any, key: str) -> Any:
    """Give the value called `group.name`.

    Raises:
        UserError: there is none.
    """
    values = dict(flat_values(config))
    if key not in values:
        close = difflib.get_close_matches(key, values, n=1, cutoff=0.7)
        group = [name for name in values if name.startswith(f"{key.partition('.')[0]}.")]
        hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(group or values)}."
        raise UserError(f"--set: there is no setting {key}. {hint}")
    return values[key]


def flat_values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every setting as (`group.name`, value), in the order of config.py."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from flat_values(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Give the settings that differ: key -> (old, new)."""
    before = dict(flat_values(old))
    return {key: (before[key], value) for key, value in flat_values(new) if value != before[key]}


def config_to_json(config: Any) -> str:
    """Give a configuration as JSON text."""
    return json.dumps(to_plain(config), indent=2) + "\n"


def parse_config(kind: Kind, text: str | bytes, source: str) -> Any:
    """Read what `config_to_json` gave; settings that the text lacks have their default values.

    Raises:
        UserError: it is something else, or out of range; `source` says where it comes from.
    """
    try:
        config = from_plain(type(kind.default), _completed(to_plain(kind.default), json.loads(text)), "configuration")
        kind.check(config)
    except ValueError as error:
        raise UserError(f"{source} holds no configuration of this program: {str(error).rstrip('.')}. Restore or remove "
                        "it.") from error
    return config


def _completed(defaults: Any, given: Any) -> Any:
    """Give what was given, with defaults for the keys it lacks."""
    if not (isinstance(defaults, dict) and isinstance(given, dict)):
        return given
    return {**defaults, **{key: _completed(defaults.get(key), value) for key, value in given.items()}}


def _replaced(config: Any, path: list[str], value: Any) -> Any:
    """Give a copy in which the value at a path of attributes is another."""
    if len(path) > 1:
        value = _replaced(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: value})


def _parse(key: str, text: str, present: Any) -> Any:
    """Read a value of the type of the present one."""
    kind = type(present[0] if isinstance(present, tuple) else present)
    try:
        if isinstance(present, tuple):
            return tuple(_parse_one(part.strip(), kind) for part in text.split(","))
        return _parse_one(text, kind)
    except ValueError as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        several = " (several, separated by commas)" if isinstance(present, tuple) else ""
        raise UserError(f"--set {key} must be {wanted}{several}. Received: {text}.") from error


def _parse_one(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)


def check_config(config: TrainingConfig) -> None:
    """Check every range of meta-training's configuration.

    Raises:
        UserError: states the rule that is broken and the value.
    """
    values = dict(flat_values(config))
    check_positive(config, "generator.num_blocks", "generator.num_features", "generator.growth",
                   "discriminator.num_features", "inner.learning_rate", "meta.num_iterations",
                   "meta.tasks_per_batch", "meta.learning_rate", "meta.epsilon", "discriminator.learning_rate",
                   "data.samples_per_task", "run.validation_patches")
    check_not_negative(config, "inner.num_steps", "inner.second_order_from", "meta.clip_norm", "meta.seed",
                       "discriminator.freeze_until", "loss.l1", "loss.lpips", "loss.gan", "loss.mask",
                       "loss.unadapted", "loss.gradient", "loss.contrast", "data.max_redraws", "data.num_workers",
                       "data.num_validation", "run.image_tasks")
    check_run(config)
    for key in ("data.min_log_gradient", "meta.mask_bias"):
        require(math.isfinite(values[key]), f"{key} must be finite", values[key])
    require(config.run.validation_tasks >= 2, "run.validation_tasks must be at least 2, so that each has another's "
            "faces to compare with", config.run.validation_tasks)
    for key in ("meta.beta1", "meta.beta2", "meta.ema_decay"):
        require(0 <= values[key] < 1, f"{key} must be at least 0 and below 1", values[key])
    loss = config.loss
    require(loss.l1 + loss.lpips + loss.gan > 0, "one of loss.l1, loss.lpips and loss.gan must be positive "
            "(loss.gradient and loss.contrast alone leave colours free)", "all 0")
    require(0 <= loss.distill_weight <= 1, "loss.distill_weight must be between 0 and 1", loss.distill_weight)
    require(not loss.distill_weight or loss.l1 + loss.lpips + loss.gradient + loss.contrast > 0,
            "loss.distill_weight needs one of loss.l1, loss.lpips, loss.gradient and loss.contrast", "all 0")
    require(not loss.distill_weight or SMALLEST_SIGMA <= loss.distill_sigma <= config.data.scene_patch_size,
            f"loss.distill_sigma must be at least {SMALLEST_SIGMA} and at most data.scene_patch_size, "
            f"{config.data.scene_patch_size}", loss.distill_sigma)
    require(not loss.contrast or config.data.scene_patch_size >= SMALLEST_CONTRAST, "loss.contrast needs a "
            f"data.scene_patch_size of at least {SMALLEST_CONTRAST}", config.data.scene_patch_size)
    _check_sizes(config)
    check_degradation("degradation", config.degradation)


def _check_sizes(config: TrainingConfig) -> None:
    data = config.data
    for name, whole in (("face_patch_size", "face_size"), ("scene_patch_size", "scene_size")):
        patch, size = getattr(data, name), getattr(data, whole)
        require(size > 0 and size % SCALE == 0, f"data.{whole} must be positive and divisible by {SCALE}", size)
        require(0 < patch <= size and patch % SCALE == 0,
                f"data.{name} must be divisible by {SCALE} and at most data.{whole}, {size}", patch)
    require(not config.loss.gan or data.scene_patch_size % 8 == 0,
            "data.scene_patch_size must be divisible by 8 for the discriminator", data.scene_patch_size)
    require(not config.loss.lpips or data.scene_patch_size >= SMALLEST_LPIPS_SIZE,
            f"data.scene_patch_size must be at least {SMALLEST_LPIPS_SIZE} for LPIPS", data.scene_patch_size)
    for name in ("validation_scene_size", "validation_patch_size"):
        size = getattr(config.run, name)
        require(size > 0 and size % SCALE == 0, f"run.{name} must be positive and divisible by {SCALE}", size)
    require(min(config.run.validation_scene_size, data.scene_size) >= SMALLEST_LPIPS_SIZE,
            f"run.validation_scene_size and data.scene_size must be at least {SMALLEST_LPIPS_SIZE}",
            (config.run.validation_scene_size, data.scene_size))


def check_positive(config: Any, *keys: str) -> None:
    """Check that settings are greater than 0 and finite."""
    values = dict(flat_values(config))
    for key in keys:
        require(0 < values[key] < float("inf"), f"{key} must be positive", values[key])


def check_not_negative(config: Any, *keys: str) -> None:
    """Check that settings are at least 0 and finite."""
    values = dict(flat_values(config))
    for key in keys:
        require(0 <= values[key] < float("inf"), f"{key} must be at least 0", values[key])


def check_run(config: Any) -> None:
    """Check the settings under `run` that every training program has."""
    check_positive(config, "run.log_every", "run.validate_every", "run.save_every", "run.keep_checkpoints")
    check_not_negative(config, "run.keep_every")


def check_degradation(prefix: str, config: DegradationConfig) -> None:
    """Check the ranges of a degradation; `prefix` is what it is called in messages, as `degradation`."""
    for name in ("first", "second"):
        _check_stage(f"{prefix}.{name}", getattr(config, name))
    for name in ("final_sinc_prob", "jpeg_last_prob", "tone_prob"):
        value = getattr(config, name)
        require(0 <= value <= 1, f"{prefix}.{name} must be between 0 and 1", value)
    require(0 <= config.tone_gamma <= 2, f"{prefix}.tone_gamma must be between 0 and 2", config.tone_gamma)
    gains = config.tone_gain_range
    require(len(gains) == 2 and 0 < gains[0] <= gains[1] <= 10,
            f"{prefix}.tone_gain_range must be two numbers, lower first, above 0 and at most 10", gains)


def _check_stage(name: str, stage: DegradationStage) -> None:
    for field in ("blur_prob", "sinc_prob", "gaussian_noise_prob", "gray_noise_prob"):
        value = getattr(stage, field)
        require(0 <= value <= 1, f"{name}.{field} must be between 0 and 1", value)
    require(len(stage.kernel_probs) == len(stage.kernel_kinds) and abs(sum(stage.kernel_probs) - 1) < 1e-6
            and min(stage.kernel_probs) >= 0,
            f"{name}.kernel_probs must be one probability per kind, 1 in all", stage.kernel_probs)
    require(set(stage.kernel_kinds) <= set(GAUSSIAN_KINDS),
            f"{name}.kernel_kinds must be among {', '.join(GAUSSIAN_KINDS)}", stage.kernel_kinds)
    require(len(stage.resize_probs) == 3 and abs(sum(stage.resize_probs) - 1) < 1e-6 and min(stage.resize_probs) >= 0,
            f"{name}.resize_probs must be three probabilities (up, down, keep), 1 in all", stage.resize_probs)
    require(all(size % 2 and 3 <= size <= 21 for size in stage.kernel_sizes),
            f"{name}.kernel_sizes must be odd, 3 to 21", stage.kernel_sizes)
    for field in ("sigma_range", "betag_range", "betap_range", "resize_range", "noise_sigma_range",
                  "poisson_scale_range", "jpeg_range"):
        bounds = getattr(stage, field)
        require(len(bounds) == 2 and 0 <= bounds[0] <= bounds[1] < float("inf"),
                f"{name}.{field} must be two numbers, lower first", bounds)
    for field, least, most in (("sigma_range", 1e-3, 100), ("jpeg_range", 1, 100), ("noise_sigma_range", 0, 255)):
        bounds = getattr(stage, field)
        require(least <= bounds[0] and bounds[1] <= most, f"{name}.{field} must be between {least} and {most}", bounds)
    for field in ("betag_range", "betap_range", "resize_range"):  # values below and above 1 are drawn apart
        bounds = getattr(stage, field)
        require(bounds[0] <= 1 <= bounds[1], f"{name}.{field} must have 1 within it", bounds)


META_TRAINING = Kind(TrainingConfig(), PRESETS, check_config, example="meta.learning_rate=1e-4")
