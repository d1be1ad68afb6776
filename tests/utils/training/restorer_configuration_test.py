"""Presets and every rule of the face restorer's configuration."""

from functools import partial

import pytest

from config import RESTORER_PRESETS, RestorerTrainingConfig
from utils.errors import UserError
from utils.training.configuration import config_to_json, differences, flat_values, parse_config, resolve_config
from utils.training.restorer_configuration import NETWORK_SETTINGS, RESTORER_TRAINING

resolve = partial(resolve_config, RESTORER_TRAINING)
POSITIVE = ("optimization.num_iterations", "optimization.batch_size", "optimization.learning_rate",
            "optimization.epsilon", "data.face_size", "run.validation_faces", "run.log_every", "run.validate_every",
            "run.save_every", "run.keep_checkpoints")
NOT_NEGATIVE = ("optimization.warmup_iters", "optimization.clip_norm", "optimization.seed",
                "data.num_validation", "data.num_workers", "run.image_faces", "run.keep_every",
                "jitter.rotation", "jitter.tilt", "jitter.gamma")
WITHIN = ("optimization.beta1", "optimization.beta2", "optimization.min_lr_ratio", "jitter.shift", "jitter.gain",
          "jitter.gray_prob", "data.mild_share", "degradation.final_sinc_prob")
NETWORK = ("network.strides=8,4,2", "network.features=8,8,6", "network.blocks=1,1,0")
RANGES = {"scale_range": (0.1, 10), "saturation_range": (0, 10), "lq_size_range": (16, 1024)}
REFUSED = {"network.strides": ["0,0,0", "-8,-4,-2", "8,4,3", "8,2,1", "2,4,8", "24,12,6", "1024,512,256"],
           "network.features": ["8", "8,8", "8,8,8,8", "8,8,0", "8,-2,8", "8,7,8"],
           "network.blocks": ["1", "1,0", "1,0,0,0", "1,0,-1"], "data.patch_size": ["0", "4", "252", "520", "-8"],
           "degradation.first.kernel_sizes": ["8"], "mild_degradation.first.jpeg_range": ["0,5"]}


def fails(key, value, *settings):
    with pytest.raises(UserError, match=f"^{key} must ") as caught:
        resolve("default", [*settings, f"{key}={value}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", RESTORER_PRESETS)
def test_preset_changes_what_it_lists_and_nothing_else_and_passes(preset):
    config = resolve(preset)
    assert dict(flat_values(config)) == dict(flat_values(RestorerTrainingConfig())) | RESTORER_PRESETS[preset]
    assert parse_config(RESTORER_TRAINING, config_to_json(config), "x") == config


def test_settings_of_the_network_are_all_there_are():
    assert [key for key, _ in flat_values(RestorerTrainingConfig()) if key.startswith("network.")] == list(
        NETWORK_SETTINGS)


@pytest.mark.parametrize(("keys", "values"), [(POSITIVE, ("0", "-1")), (NOT_NEGATIVE, ("-1",)),
                                              (WITHIN, ("-0.1", "1.1"))])
def test_values_outside_of_their_range_are_named(keys, values):
    for key in keys:
        number = isinstance(dict(flat_values(RestorerTrainingConfig()))[key], float)
        for value in (*values, *("nan", "inf") * number):
            fails(key, value)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_values_that_do_not_fit_are_named(key, value):
    fails(key, value, *NETWORK, "data.patch_size=504")


@pytest.mark.parametrize(("name", "bounds"), RANGES.items())
def test_ranges_are_two_numbers_within_bounds_the_lower_first(name, bounds):
    least, most = bounds
    for value in (f"{least},{most * 1.01}", f"{least - 0.05},{most}", f"{most},{least}", f"{least}",
                  f"{least},{most},{most}", f"{least},nan", f"nan,{most}"):
        fails(f"jitter.{name}", value)
    assert resolve("default", [f"jitter.{name}={least},{most}"])
    assert resolve("default", [f"jitter.{name}={most},{most}"])


@pytest.mark.parametrize("settings", [
    ["network.strides=16,8,4"], ["network.blocks=0,0,0"], ["network.features=2,4,6"],
    ["network.strides=4,2", "network.features=8,6", "network.blocks=2,0"],
    ["network.strides=32", "network.features=8", "network.blocks=3"], ["data.patch_size=8"],
    ["data.patch_size=512"],
    ["optimization.warmup_iters=0"], ["optimization.clip_norm=0"], ["optimization.min_lr_ratio=0"],
    ["optimization.min_lr_ratio=1"], ["run.image_faces=0", "data.num_validation=0"],
    ["jitter.rotation=0", "jitter.tilt=0", "jitter.gamma=0", "jitter.shift=0", "jitter.gain=0", "jitter.gray_prob=1"]])
def test_values_on_the_allowed_side_of_the_rules(settings):
    base = resolve("default", NETWORK)
    assert len(differences(base, resolve("default", [*NETWORK, *settings]))) == len(settings)
