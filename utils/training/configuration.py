"""Training configurations: presets and `--set KEY=VALUE`, the rules for values, and the JSON written beside a run."""

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from config import (
    PRESETS,
    RESTORER_PRESETS,
    SCALE,
    DegradationConfig,
    RestorerTrainingConfig,
    TrainingConfig,
)
from utils.errors import UserError, require
from utils.plain_data import from_plain

SMALLEST_LPIPS_SIZE = 32  # pixels: AlexNet reduces its input to a sixteenth
SMALLEST_PATCH = 8  # low-quality pixels: the face restorer's loss leaves out the border


class Kind(NamedTuple):
    """The configurations of one training program: frozen dataclasses within a frozen dataclass.

    Its group `run` has what `utils.training.session` reads. `presets` maps names to the values that differ from
    `default` (`group.name` -> value); the first one is the preset of a new run. `check` raises a UserError where values
    contradict each other. Of the settings a checkpoint was written with, those of `architecture` must stay;
    `switches`, with what they switch on, must stay zero or non-zero; `init_only` ones matter at iteration 0 alone.
    """

    default: Any
    presets: Mapping[str, Mapping[str, object]]
    check: Callable[[Any], None] = lambda config: None
    architecture: tuple[str, ...] = ()
    switches: Mapping[str, str] = {}
    init_only: tuple[str, ...] = ()


def resolve_config(kind: Kind, preset: str, settings: Sequence[str] = (), *, base: Any = None) -> Any:
    """Compute the configuration of a run from a preset, or from `base`, a configuration.

    `settings` are texts `group.name=value`, the later ones winning; lists are separated by commas.
    """
    values = {} if base else dict(kind.presets[preset])
    start = base or kind.default
    for setting in settings:
        key, separator, text = setting.partition("=")
        require(bool(separator), "--set takes KEY=VALUE, as run.save_every=100", setting)
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


def check_resumable(kind: Kind, old: Any, new: Any, prefix: Path) -> None:
    """Raise a UserError that names the first setting by which a checkpoint cannot be resumed, if there is one."""
    for key, (before, now) in differences(old, new).items():
        if key in kind.init_only:
            raise UserError(f"this run has begun with {key}={before} and is at {prefix}. To begin with {now} give "
                            "another --trial.")
        if key in kind.architecture or (key in kind.switches and bool(before) != bool(now)):
            part = f" ({kind.switches[key]})" if key in kind.switches else ""
            raise UserError(f"{prefix} was trained with {key}={before}{part}, not {now}. Resume with that, or give "
                            "another --trial.")


def _check_meta_training(config: TrainingConfig) -> None:
    data, loss, run = config.data, config.loss, config.run
    _check_degradation("degradation", config.degradation)
    require(loss.l1 + loss.lpips + loss.gan > 0, "one of loss.l1, loss.lpips and loss.gan must be positive", "all 0")
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


def _check_restorer_training(config: RestorerTrainingConfig) -> None:
    data = config.data
    _check_degradation("degradation", config.degradation)
    _check_degradation("mild_degradation", config.mild_degradation)
    shares = data.clean_prob, data.jpeg_prob, data.mild_prob
    require(sum(shares) <= 1, "data.clean_prob, data.jpeg_prob and data.mild_prob must add up to at most 1", shares)
    least = SMALLEST_PATCH + SMALLEST_LPIPS_SIZE // SCALE * bool(config.loss.lpips)
    for key in ("data.patch_size", "run.validation_patch_size"):
        require(get_value(config, key) >= least, f"{key} must be at least {least}", get_value(config, key))
    for key in ("data.held_out", "data.validation"):
        try:
            re.compile(get_value(config, key))
        except re.error as error:
            raise UserError(f"{key} must be a regular expression ({error}). Received: {get_value(config, key)}."
                            ) from error


def _check_degradation(prefix: str, config: DegradationConfig) -> None:
    for name, stage in ((f"{prefix}.first", config.first), (f"{prefix}.second", config.second)):
        for field in ("betag_range", "betap_range", "resize_range"):  # values below and above 1 are drawn separately
            low, high = getattr(stage, field)
            require(low <= 1 <= high, f"{name}.{field} must have 1 within it", (low, high))
        for field, length in (("kernel_probs", len(stage.kernel_kinds)), ("resize_probs", 3)):
            probs = getattr(stage, field)
            require(len(probs) == length and abs(sum(probs) - 1) < 1e-6,
                    f"{name}.{field} must be {length} probabilities, 1 in all", probs)


META_TRAINING = Kind(
    TrainingConfig(), PRESETS, _check_meta_training,
    ("generator.num_blocks", "generator.num_features", "generator.growth", "discriminator.num_features"),
    {"loss.gan": "the discriminator", "meta.ema_decay": "the moving average"},
    ("meta.init", "meta.mask_bias", "discriminator.init"))
RESTORER_TRAINING = Kind(
    RestorerTrainingConfig(), RESTORER_PRESETS, _check_restorer_training,
    ("network.num_blocks", "network.num_features", "network.growth"), init_only=("optimization.init",))
