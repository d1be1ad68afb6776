"""Training configurations: presets and `--set KEY=VALUE`, the rules for values, and the JSON written beside a run."""

import difflib
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, NamedTuple

from config import PRESETS, SCALE, DegradationConfig, TrainingConfig
from utils.data.blur_kernels import GAUSSIAN_KINDS
from utils.errors import UserError, require
from utils.plain_data import from_plain

SMALLEST_LPIPS_SIZE = 32  # pixels: AlexNet reduces its input to a sixteenth
# a checkpoint fits no other values of these
ARCHITECTURE = ("generator.num_blocks", "generator.num_features", "generator.growth", "discriminator.num_features")
# limits of the ranges of a degradation stage
STAGE_RANGES = {"sigma_range": (1e-3, 100), "betag_range": (0, 100), "betap_range": (0, 100), "resize_range": (0, 100),
                "noise_sigma_range": (0, 255), "poisson_scale_range": (0, 1000), "jpeg_range": (1, 100)}


class Kind(NamedTuple):
    """The configurations of one training program: frozen dataclasses within a frozen dataclass.

    Its group `run` has the fields that `check_run` checks, and `deterministic`. `presets` maps names to the values
    that differ from `default` (`group.name` -> value); the first one is the preset of a new run. `check` raises a
    UserError for a value outside its range. `example` is one for --set.
    """

    default: Any
    presets: Mapping[str, Mapping[str, object]]
    check: Callable[[Any], None]
    example: str = "run.save_every=100"


def resolve_config(kind: Kind, preset: str, settings: Sequence[str] = (), *, base: Any = None) -> Any:
    """Compute the configuration of a run from a preset, or from `base`, a configuration.

    `settings` are texts `group.name=value`, the later ones winning; lists are separated by commas.
    """
    values = {} if base else dict(kind.presets[preset])
    start = base or kind.default
    for setting in settings:
        key, separator, text = setting.partition("=")
        require(bool(separator), f"--set takes KEY=VALUE, as {kind.example}", setting)
        values[key] = _parse(text, get_value(start, key))
    data = asdict(start)
    for key, value in values.items():
        *groups, name = key.split(".")
        functools.reduce(dict.__getitem__, groups, data)[name] = value
    config = from_plain(type(kind.default), data, "")
    kind.check(config)
    return config


def _parse(text: str, like: Any) -> Any:
    """Read a value of the type of `like`; what cannot be read stays text, which `from_plain` rejects."""
    if isinstance(like, tuple):
        return tuple(_parse(part.strip(), like[0]) for part in text.split(","))
    try:
        return {"true": True, "false": False}[text.lower()] if isinstance(like, bool) else type(like)(text)
    except (KeyError, ValueError):
        return text


def get_value(config: Any, key: str) -> Any:
    """Return the value called `group.name`; a UserError suggests others if there is none."""
    values = dict(flat_values(config))
    if key not in values:
        close = difflib.get_close_matches(key, values, n=1, cutoff=0.7)
        group = [name for name in values if name.startswith(f"{key.partition('.')[0]}.")]
        hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(group or values)}."
        raise UserError(f"--set: there is no setting {key}. {hint}")
    return values[key]


def flat_values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting as (`group.name`, value), in the order of config.py."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from flat_values(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ: key -> (old, new)."""
    before = dict(flat_values(old))
    return {key: (before[key], value) for key, value in flat_values(new) if value != before[key]}


def config_to_json(config: Any) -> str:
    """Return a configuration as JSON text."""
    return json.dumps(asdict(config), indent=2) + "\n"


def parse_config(kind: Kind, text: str | bytes, source: str) -> Any:
    """Read the text of `config_to_json`, which comes from `source`; settings that it lacks have their defaults."""
    try:
        config = from_plain(type(kind.default), json.loads(text), "configuration")
        kind.check(config)
    except ValueError as error:
        raise UserError(f"{source} holds no configuration of this program: {str(error).rstrip('.')}. Restore or remove "
                        "it.") from error
    return config


def check_config(config: TrainingConfig) -> None:
    """Check every range of meta-training's configuration; a UserError states the rule that is broken and the value."""
    check_positive(config, "generator.num_blocks", "generator.num_features", "generator.growth",
                   "discriminator.num_features", "inner.learning_rate", "meta.num_iterations",
                   "meta.tasks_per_batch", "meta.learning_rate", "meta.epsilon", "discriminator.learning_rate",
                   "data.samples_per_task", "run.validation_patches")
    check_not_negative(config, "inner.num_steps", "inner.second_order_from", "meta.clip_norm", "meta.seed",
                       "discriminator.freeze_until", "loss.l1", "loss.lpips", "loss.gan", "loss.mask",
                       "loss.unadapted", "data.max_redraws", "data.num_workers",
                       "data.num_validation", "run.image_tasks")
    check_run(config)
    check_degradation("degradation", config.degradation)
    for key in ("data.min_log_gradient", "meta.mask_bias"):
        require(math.isfinite(get_value(config, key)), f"{key} must be finite", get_value(config, key))
    require(config.run.validation_tasks >= 2, "run.validation_tasks must be at least 2: each is also adapted with "
            "another's faces", config.run.validation_tasks)
    check_decay(config, "meta.beta1", "meta.beta2", "meta.ema_decay")
    loss = config.loss
    require(loss.l1 + loss.lpips + loss.gan > 0, "one of loss.l1, loss.lpips and loss.gan must be positive",
            "all 0")
    _check_sizes(config)


def _check_sizes(config: TrainingConfig) -> None:
    data, loss, run = config.data, config.loss, config.run
    for key in ("data.face_size", "data.scene_size", "data.face_patch_size", "data.scene_patch_size",
                "run.validation_scene_size", "run.validation_patch_size"):
        size = get_value(config, key)
        require(size > 0 and size % SCALE == 0, f"{key} must be positive and divisible by {SCALE}", size)
    for patch, whole in (("face_patch_size", "face_size"), ("scene_patch_size", "scene_size")):
        require(getattr(data, patch) <= getattr(data, whole), f"data.{patch} must be at most data.{whole}, "
                f"{getattr(data, whole)}", getattr(data, patch))
    patch = data.scene_patch_size
    require(not loss.gan or patch % 8 == 0, "data.scene_patch_size must be divisible by 8 for the discriminator", patch)
    require(not loss.lpips or patch >= SMALLEST_LPIPS_SIZE,
            f"data.scene_patch_size must be at least {SMALLEST_LPIPS_SIZE} for loss.lpips", patch)
    require(min(run.validation_scene_size, data.scene_size) >= SMALLEST_LPIPS_SIZE,
            f"run.validation_scene_size and data.scene_size must be at least {SMALLEST_LPIPS_SIZE}",
            (run.validation_scene_size, data.scene_size))


def check_positive(config: Any, *keys: str) -> None:
    """Check that settings are greater than 0 and finite."""
    for key in keys:
        require(0 < get_value(config, key) < math.inf, f"{key} must be positive", get_value(config, key))


def check_not_negative(config: Any, *keys: str) -> None:
    """Check that settings are at least 0 and finite."""
    for key in keys:
        require(0 <= get_value(config, key) < math.inf, f"{key} must be at least 0", get_value(config, key))


def check_decay(config: Any, *keys: str) -> None:
    """Check that settings are at least 0 and below 1."""
    for key in keys:
        require(0 <= get_value(config, key) < 1, f"{key} must be at least 0 and below 1", get_value(config, key))


def check_between(key: str, value: float, least: float, most: float) -> None:
    """Check that a number lies between two others, both included."""
    require(least <= value <= most, f"{key} must be between {least} and {most}", value)


def check_interval(key: str, bounds: tuple[float, ...], least: float, most: float) -> None:
    """Check that a range lies between two numbers, both included."""
    require(len(bounds) == 2 and least <= bounds[0] <= bounds[1] <= most,
            f"{key} must be two numbers from {least} to {most}, lower first", bounds)


def check_run(config: Any) -> None:
    """Check the settings under `run` that every training program has."""
    check_positive(config, "run.log_every", "run.validate_every", "run.save_every", "run.keep_checkpoints")
    check_not_negative(config, "run.keep_every")


def check_degradation(prefix: str, config: DegradationConfig) -> None:
    """Check the ranges of a degradation; `prefix` is what it is called in messages, as `degradation`."""
    for name, most in (("final_sinc_prob", 1), ("jpeg_last_prob", 1), ("tone_prob", 1), ("tone_gamma", 2)):
        check_between(f"{prefix}.{name}", getattr(config, name), 0, most)
    check_interval(f"{prefix}.tone_gain_range", config.tone_gain_range, 0.01, 10)
    for name, stage in ((f"{prefix}.first", config.first), (f"{prefix}.second", config.second)):
        for field in ("blur_prob", "sinc_prob", "gaussian_noise_prob", "gray_noise_prob"):
            check_between(f"{name}.{field}", getattr(stage, field), 0, 1)
        for field, limits in STAGE_RANGES.items():
            check_interval(f"{name}.{field}", getattr(stage, field), *limits)
        for field in ("betag_range", "betap_range", "resize_range"):  # values below and above 1 are drawn separately
            low, high = getattr(stage, field)
            require(low <= 1 <= high, f"{name}.{field} must have 1 within it", (low, high))
        require(set(stage.kernel_kinds) <= set(GAUSSIAN_KINDS),
                f"{name}.kernel_kinds must be among {', '.join(GAUSSIAN_KINDS)}", stage.kernel_kinds)
        for field, length in (("kernel_probs", len(stage.kernel_kinds)), ("resize_probs", 3)):
            probs = getattr(stage, field)
            require(len(probs) == length and abs(sum(probs) - 1) < 1e-6 and min(probs) >= 0,
                    f"{name}.{field} must be {length} probabilities, 1 in all", probs)
        require(all(size % 2 and 3 <= size <= 21 for size in stage.kernel_sizes),
                f"{name}.kernel_sizes must be odd, 3 to 21", stage.kernel_sizes)


META_TRAINING = Kind(TrainingConfig(), PRESETS, check_config, example="meta.learning_rate=1e-4")
