"""Presets and rules of the face restorer's configuration."""

from functools import partial

import pytest

from config import RESTORER_PRESETS, RestorerTrainingConfig
from utils.errors import UserError
from utils.training.configuration import config_to_json, differences, flat_values, parse_config, resolve_config
from utils.training.restorer_configuration import NETWORK_SETTINGS, RESTORER_TRAINING

resolve = partial(resolve_config, RESTORER_TRAINING)
POSITIVE = (*NETWORK_SETTINGS, "optimization.num_iterations", "optimization.batch_size", "optimization.learning_rate",
            "optimization.epsilon", "run.validation_faces", "run.log_every", "run.save_every", "loss.l1")
NOT_NEGATIVE = ("optimization.warmup_iters", "optimization.frozen_blocks", "optimization.clip_norm",
                "optimization.seed", "loss.lpips", "data.num_workers", "run.image_faces", "variation.tilt",
                "variation.alignment_shift", "variation.gamma")
SHARES = ("optimization.beta1", "optimization.ema_decay", "optimization.min_lr_ratio", "data.clean_prob",
          "data.mild_prob", "variation.gain", "variation.gray_prob")


def fails(named, *settings):
    with pytest.raises(UserError, match=named) as caught:
        resolve("default", settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", RESTORER_PRESETS)
def test_preset_changes_what_it_lists_and_nothing_else_and_passes(preset):
    config = resolve(preset)
    assert dict(flat_values(config)) == dict(flat_values(RestorerTrainingConfig())) | RESTORER_PRESETS[preset]
    assert parse_config(RESTORER_TRAINING, config_to_json(config), "x") == config


def test_settings_of_the_network_are_all_there_are():
    assert [key for key, _ in flat_values(RestorerTrainingConfig()) if key.startswith("network.")] == list(
        NETWORK_SETTINGS)


def test_the_example_of_messages_is_a_setting():
    assert list(differences(resolve("default"), resolve("default", [RESTORER_TRAINING.example])))


@pytest.mark.parametrize(("key", "value"), [
    *((key, "0") for key in POSITIVE), *((key, "-1") for key in (*NOT_NEGATIVE, *SHARES)),
    *((key, "1.5") for key in SHARES), ("optimization.learning_rate", "nan"), ("loss.lpips", "inf"),
    ("variation.face_width_range", "80,18"), ("variation.face_width_range", "18"),
    ("variation.saturation_range", "0,11"), ("data.jpeg_range", "0,50"), ("optimization.frozen_blocks", "24"),
    ("data.patch_size", "15"), ("run.validation_patch_size", "8"), ("data.held_out", "("), ("data.validation", "["),
    ("degradation.final_sinc_prob", "2"), ("mild_degradation.first.jpeg_range", "0,5")])
def test_a_value_outside_its_range_is_named(key, value):
    fails(key, f"{key}={value}")


def test_the_shares_of_degradations_are_at_most_all():
    fails("data.clean_prob", "data.clean_prob=0.5", "data.jpeg_prob=0.3", "data.mild_prob=0.3")


@pytest.mark.parametrize("settings", [
    ["loss.lpips=0", "data.patch_size=8"], ["optimization.warmup_iters=0"], ["optimization.frozen_blocks=23"],
    ["variation.face_width_range=20,20"], ["data.clean_prob=1", "data.jpeg_prob=0", "data.mild_prob=0"]])
def test_values_on_the_allowed_side_of_the_rules(settings):
    assert len(differences(resolve("default"), resolve("default", settings))) == len(settings)
