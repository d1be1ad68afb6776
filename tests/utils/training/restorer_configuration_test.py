"""Presets and every rule of the face restorer's configuration."""

import re
from functools import partial

import pytest

from config import RESTORER_PRESETS, RestorerTrainingConfig
from utils.errors import UserError
from utils.face.alignment import ALIGNED_SIZE
from utils.training.configuration import config_to_json, differences, flat_values, parse_config, resolve_config
from utils.training.restorer_configuration import NETWORK_SETTINGS, RESTORER_TRAINING

resolve = partial(resolve_config, RESTORER_TRAINING)
POSITIVE = ("optimization.num_iterations", "optimization.batch_size", "optimization.learning_rate",
            "optimization.epsilon", "data.face_size", "run.validation_faces", "run.log_every", "run.validate_every",
            "run.save_every", "run.keep_checkpoints")
NOT_NEGATIVE = ("optimization.warmup_iters", "optimization.clip_norm", "optimization.seed",
                "data.num_validation", "data.num_workers", "run.image_faces", "run.keep_every",
                "jitter.rotation", "jitter.tilt", "jitter.gamma")
WITHIN = {"optimization.beta1": "at least 0 and below 1", "optimization.beta2": "at least 0 and below 1",
          "optimization.min_lr_ratio": "between 0 and 1", "jitter.shift": "between 0 and 0.5",
          "jitter.gain": "between 0 and 0.9", "jitter.gray_prob": "between 0 and 1"}
NETWORK = ("network.strides=8,4,2", "network.features=8,8,6", "network.blocks=1,1,0")
RANGES = {"scale_range": (0.1, 10), "saturation_range": (0, 10), "lq_size_range": (16, 1024)}


def fails(message, *settings):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        resolve("default", settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", RESTORER_PRESETS)
def test_preset_changes_what_it_lists_and_nothing_else_and_passes(preset):
    config = resolve(preset)
    assert dict(flat_values(config)) == dict(flat_values(RestorerTrainingConfig())) | RESTORER_PRESETS[preset]
    assert parse_config(RESTORER_TRAINING, config_to_json(config), "x") == config


def test_a_new_run_has_the_defaults_of_config_py():
    assert next(iter(RESTORER_PRESETS)) == "default"
    assert resolve("default") == RestorerTrainingConfig()


def test_settings_of_the_network_are_all_there_are():
    assert [key for key, _ in flat_values(RestorerTrainingConfig()) if key.startswith("network.")] == list(
        NETWORK_SETTINGS)


def test_the_example_of_messages_is_a_setting():
    assert differences(resolve("default"), resolve("default", [RESTORER_TRAINING.example])) == {
        "optimization.learning_rate": (8e-4, 1e-4)}


@pytest.mark.parametrize("key", POSITIVE)
def test_what_must_be_positive(key):
    fails(f"{key} must be positive. Received: 0", f"{key}=0")
    fails(f"{key} must be positive. Received: -1", f"{key}=-1")


@pytest.mark.parametrize("key", NOT_NEGATIVE)
def test_what_must_not_be_negative(key):
    fails(f"{key} must be at least 0. Received: -1", f"{key}=-1")


@pytest.mark.parametrize("key", [key for key in (*POSITIVE, *NOT_NEGATIVE, *WITHIN)
                                 if isinstance(dict(flat_values(RestorerTrainingConfig()))[key], float)])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_are_finite(key, value):
    fails(f"{key} must be ", f"{key}={value}")


@pytest.mark.parametrize(("key", "rule"), WITHIN.items())
@pytest.mark.parametrize("value", ["-0.1", "1.1"])
def test_numbers_lie_between_their_bounds(key, rule, value):
    fails(f"{key} must be {rule}. Received: {value}", f"{key}={value}")


@pytest.mark.parametrize(("name", "bounds"), RANGES.items())
def test_ranges_are_two_numbers_within_bounds_the_lower_first(name, bounds):
    least, most = bounds
    for value in (f"{least},{most * 1.01}", f"{least - 0.05},{most}", f"{most},{least}", f"{least}",
                  f"{least},{most},{most}", f"{least},nan", f"nan,{most}"):
        fails(f"jitter.{name} must be two numbers from {least} to {most}, lower first. Received: (",
              f"jitter.{name}={value}")
    assert resolve("default", [f"jitter.{name}={least},{most}"])
    assert resolve("default", [f"jitter.{name}={most},{most}"])


@pytest.mark.parametrize("strides", ["0,0,0", "-8,-4,-2", "8,4,3", "8,2,1", "2,4,8", "4,2,1", "24,12,6",
                                     "1024,512,256"])
def test_strides_are_powers_of_two_that_divide_a_face_and_halve(strides):
    received = f"({strides.replace(',', ', ')})"
    fails(f"network.strides must be powers of two from {ALIGNED_SIZE} to 2, each half of the one before. Received: "
          f"{received}", f"network.strides={strides}", "data.patch_size=504")


@pytest.mark.parametrize("features", ["8", "8,8", "8,8,8,8", "8,8,0", "8,-2,8", "8,7,8"])
def test_there_is_a_positive_even_number_of_features_for_each_stride(features):
    fails("network.features must be one positive even number per stride. Received: (8,", *NETWORK,
          f"network.features={features}")


@pytest.mark.parametrize("blocks", ["1", "1,0", "1,0,0,0", "1,0,-1"])
def test_there_is_a_number_of_blocks_for_each_stride(blocks):
    fails("network.blocks must be one number per stride. Received: (1,", *NETWORK, f"network.blocks={blocks}")


@pytest.mark.parametrize(("strides", "patch"), [("8,4,2", 0), ("8,4,2", 4), ("8,4,2", 252), ("8,4,2", 520),
                                                 ("16,8,4", 8), ("16,8,4", 264), ("8,4,2", -8)])
def test_patches_are_divisible_by_the_coarsest_stride_and_no_larger_than_a_face(strides, patch):
    fails(f"data.patch_size must be divisible by the coarsest stride, {strides.split(',')[0]}, and at most 512. "
          f"Received: {patch}", *NETWORK, f"network.strides={strides}", f"data.patch_size={patch}")


@pytest.mark.parametrize(("setting", "message"), [
    ("degradation.final_sinc_prob=2", "degradation.final_sinc_prob must be between 0 and 1"),
    ("degradation.first.kernel_sizes=8", "degradation.first.kernel_sizes must be odd, 3 to 21"),
    ("degradation.second.resize_range=2,3", "degradation.second.resize_range must have 1 within it"),
    ("mild_degradation.first.jpeg_range=0,5", "mild_degradation.first.jpeg_range must be two numbers from 1 to 100"),
    ("data.mild_share=1.5", "data.mild_share must be between 0 and 1")])
def test_rules_of_the_degradation_hold_here_too(setting, message):
    fails(message, setting)


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
