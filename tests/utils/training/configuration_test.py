"""Presets, settings of every type, every rule, and the plain data of a run."""

import json
import re
from functools import partial

import pytest

from config import PRESETS, TrainingConfig
from utils.errors import UserError
from utils.training.configuration import (
    ARCHITECTURE,
    META_TRAINING,
    config_to_json,
    differences,
    flat_values,
    get_value,
    parse_config,
    resolve_config,
)

resolve, parse = partial(resolve_config, META_TRAINING), partial(parse_config, META_TRAINING)
POSITIVE = ("generator.num_blocks", "generator.num_features", "generator.growth", "discriminator.num_features",
            "inner.learning_rate", "meta.num_iterations", "meta.tasks_per_batch",
            "meta.learning_rate", "meta.epsilon", "discriminator.learning_rate",
            "data.samples_per_task", "run.log_every", "run.validate_every", "run.save_every", "run.validation_patches",
            "run.keep_checkpoints")
NOT_NEGATIVE = ("inner.num_steps", "inner.second_order_from", "meta.clip_norm", "meta.seed",
                "discriminator.freeze_until", "loss.l1", "loss.lpips", "loss.gan", "loss.mask", "loss.unadapted",
                "loss.gradient", "loss.contrast", "data.max_redraws", "data.num_workers", "data.num_validation",
                "run.image_tasks", "run.keep_every")
BELOW_ONE = ("meta.beta1", "meta.beta2", "meta.ema_decay")
PROBABILITIES = (*(f"degradation.{stage}.{name}" for stage in ("first", "second") for name in
                   ("blur_prob", "sinc_prob", "gaussian_noise_prob", "gray_noise_prob")),
                 "degradation.final_sinc_prob", "degradation.jpeg_last_prob", "degradation.tone_prob")
RANGES = [f"degradation.{stage}.{name}_range" for stage in ("first", "second") for name in
          ("sigma", "betag", "betap", "resize", "noise_sigma", "poisson_scale", "jpeg")]


def fails(message, *settings, preset="published"):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        resolve(preset, settings)
    assert "\n" not in str(caught.value)


def test_published_preset_is_what_config_py_says():
    assert resolve("published") == TrainingConfig()


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_changes_what_it_lists_and_nothing_else(preset):
    config = resolve(preset)
    published = dict(flat_values(TrainingConfig()))
    assert dict(flat_values(config)) == published | PRESETS[preset]
    assert differences(TrainingConfig(), config) == {
        key: (published[key], value) for key, value in PRESETS[preset].items() if value != published[key]}


@pytest.mark.parametrize(("setting", "value"), [
    ("meta.tasks_per_batch=3", 3), ("meta.learning_rate=2e-4", 2e-4), ("meta.clip_norm=1", 1.0),
    ("data.skip_corrupt=true", True), ("run.deterministic=False", False), ("meta.init=a=b.pth", "a=b.pth"),
    ("meta.init=", ""), ("degradation.first.sigma_range=0.5, 2", (0.5, 2.0)),
    ("degradation.second.kernel_sizes=7,9", (7, 9)), ("degradation.final_sinc_prob=0", 0.0)])
def test_setting_is_read_as_the_type_it_replaces(setting, value):
    key = setting.partition("=")[0]
    config = resolve("published", [setting])
    assert get_value(config, key) == value
    assert type(get_value(config, key)) is type(value)
    assert list(differences(TrainingConfig(), config)) == [key]


def test_later_settings_win_over_earlier_ones_and_over_the_preset():
    config = resolve("smoke", ["meta.num_iterations=7", "meta.seed=1", "meta.num_iterations=8"])
    assert differences(resolve("smoke"), config) == {"meta.num_iterations": (4, 8), "meta.seed": (0, 1)}


def test_base_takes_the_place_of_the_preset():
    base = resolve("small", ["meta.seed=5"])
    assert differences(base, resolve("published", ["meta.seed=6"], base=base)) == {"meta.seed": (5, 6)}


def test_names_of_the_architecture_are_settings():
    assert [get_value(TrainingConfig(), key) for key in ARCHITECTURE] == [23, 64, 32, 64]


@pytest.mark.parametrize(("setting", "message"), [
    ("meta.learning_rat=1", "--set: there is no setting meta.learning_rat. Did you mean meta.learning_rate?"),
    ("learning_rate=1", "Did you mean"),
    ("qqq=1", "there is no setting qqq. There are generator.num_blocks, generator.num_features,"),
    ("meta=1", "there is no setting meta."), ("meta.seed", "--set takes KEY=VALUE"), ("", "--set takes KEY=VALUE"),
    ("meta.seed=1.5", "--set meta.seed must be a whole number. Received: 1.5."),
    ("meta.seed=", "--set meta.seed must be a whole number. Received: ."),
    ("meta.learning_rate=fast", "--set meta.learning_rate must be a number. Received: fast."),
    ("data.skip_corrupt=1", "--set data.skip_corrupt must be true or false. Received: 1."),
    ("degradation.first.sigma_range=1;2",
     "--set degradation.first.sigma_range must be a number (several, separated by commas). Received: 1;2."),
    ("degradation.first.kernel_sizes=7,8.5", "must be a whole number (several, separated by commas)")])
def test_setting_that_cannot_be_read_is_one_line(setting, message):
    fails(message, setting)


@pytest.mark.parametrize("key", POSITIVE)
def test_what_must_be_positive(key):
    fails(f"{key} must be positive. Received: 0", f"{key}=0")
    fails(f"{key} must be positive. Received: -1", f"{key}=-1")


@pytest.mark.parametrize("key", NOT_NEGATIVE)
def test_what_must_not_be_negative(key):
    fails(f"{key} must be at least 0. Received: -1", f"{key}=-1")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_must_be_finite(value):
    fails(f"meta.learning_rate must be positive. Received: {value}", f"meta.learning_rate={value}")
    fails(f"meta.clip_norm must be at least 0. Received: {value}", f"meta.clip_norm={value}")
    fails(f"meta.beta1 must be at least 0 and below 1. Received: {value}", f"meta.beta1={value}")
    fails(f"degradation.final_sinc_prob must be between 0 and 1. Received: {value}",
          f"degradation.final_sinc_prob={value}")


@pytest.mark.parametrize("key", BELOW_ONE)
@pytest.mark.parametrize("value", ["-0.1", "1.0"])
def test_decays_are_at_least_0_and_below_1(key, value):
    fails(f"{key} must be at least 0 and below 1. Received: {value}", f"{key}={value}")


@pytest.mark.parametrize("key", PROBABILITIES)
@pytest.mark.parametrize("value", ["-0.1", "1.1"])
def test_probabilities_are_between_0_and_1(key, value):
    fails(f"{key} must be between 0 and 1. Received: {value}", f"{key}={value}")


@pytest.mark.parametrize("key", RANGES)
@pytest.mark.parametrize(("value", "received"), [("2,1", "(2.0, 1.0)"), ("-1,1", "(-1.0, 1.0)"), ("1", "(1.0,)"),
                                                 ("1,2,3", "(1.0, 2.0, 3.0)"), ("1,inf", "(1.0, inf)")])
def test_ranges_are_two_numbers_the_lower_first(key, value, received):
    fails(f"{key} must be two numbers, lower first. Received: {received}", f"{key}={value}")


@pytest.mark.parametrize(("setting", "message"), [
    ("tone_gamma=-0.1", "tone_gamma must be between 0 and 2. Received: -0.1"),
    ("tone_gamma=nan", "tone_gamma must be between 0 and 2"),
    ("tone_gain_range=0,1", "tone_gain_range must be two numbers, lower first, above 0 and at most 10"),
    ("tone_gain_range=1,0.5", "tone_gain_range must be two numbers"),
    ("tone_gain_range=1", "tone_gain_range must be two numbers"),
    ("tone_gain_range=1,11", "tone_gain_range must be two numbers")])
def test_rules_of_the_tone(setting, message):
    fails(f"degradation.{message}", f"degradation.{setting}")


@pytest.mark.parametrize("key", [key for key in RANGES if ".beta" in key or ".resize" in key])
@pytest.mark.parametrize("value", ["0.2,0.9", "1.1,1.5"])
def test_ranges_of_which_either_side_of_1_is_drawn_apart_have_it_within(key, value):
    fails(f"{key} must have 1 within it. Received: ", f"{key}={value}")


@pytest.mark.parametrize("stage", ["degradation.first", "degradation.second"])
@pytest.mark.parametrize(("setting", "message"), [
    ("kernel_probs=1", "kernel_probs must be one probability per kind, 1 in all. Received: (1.0,)"),
    ("kernel_probs=0.5,0.5,0.5,0,0,0", "kernel_probs must be one probability per kind"),
    ("kernel_probs=1.5,-0.5,0,0,0,0", "kernel_probs must be one probability per kind"),
    ("kernel_kinds=iso", "kernel_probs must be one probability per kind"),
    ("resize_probs=0.5,0.5", "resize_probs must be three probabilities (up, down, keep), 1 in all"),
    ("resize_probs=0.5,0.4,0.2", "resize_probs must be three probabilities"),
    ("resize_probs=1.5,-0.5,0", "resize_probs must be three probabilities"),
    ("kernel_sizes=7,8", "kernel_sizes must be odd, 3 to 21. Received: (7, 8)"),
    ("kernel_sizes=1", "kernel_sizes must be odd, 3 to 21"), ("kernel_sizes=23", "kernel_sizes must be odd, 3 to 21")])
def test_rules_of_a_stage(stage, setting, message):
    fails(f"{stage}.{message}", f"{stage}.{setting}")


@pytest.mark.parametrize(("settings", "message"), [
    (["data.face_size=0"], "data.face_size must be positive and divisible by 4. Received: 0"),
    (["data.scene_size=402"], "data.scene_size must be positive and divisible by 4. Received: 402"),
    (["data.face_patch_size=130"], "data.face_patch_size must be divisible by 4 and at most data.face_size, 256"),
    (["data.face_patch_size=260"], "data.face_patch_size must be divisible by 4 and at most data.face_size, 256"),
    (["data.scene_patch_size=0"], "data.scene_patch_size must be divisible by 4 and at most data.scene_size, 400"),
    (["data.scene_patch_size=404"], "data.scene_patch_size must be divisible by 4 and at most data.scene_size, 400"),
    (["data.scene_patch_size=100"], "data.scene_patch_size must be divisible by 8 for the discriminator"),
    (["data.scene_patch_size=24"], "data.scene_patch_size must be at least 32 for LPIPS. Received: 24"),
    (["run.validation_scene_size=28"], "run.validation_scene_size and data.scene_size must be at least 32"),
    (["run.validation_tasks=1"], "run.validation_tasks must be at least 2"),
    (["data.min_log_gradient=nan"], "data.min_log_gradient must be finite. Received: nan"),
    (["meta.mask_bias=inf"], "meta.mask_bias must be finite"),
    (["degradation.first.jpeg_range=0,95"], "degradation.first.jpeg_range must be between 1 and 100"),
    (["degradation.second.noise_sigma_range=1,256"], "degradation.second.noise_sigma_range must be between 0 and 255"),
    (["degradation.first.sigma_range=0,2"], "degradation.first.sigma_range must be between 0.001 and 100"),
    (["degradation.first.kernel_kinds=iso,aniso,foo,plateau_iso,iso,iso"],
     "degradation.first.kernel_kinds must be among iso"),
    (["run.validation_scene_size=0"], "run.validation_scene_size must be positive and divisible by 4"),
    (["run.validation_scene_size=66"], "run.validation_scene_size must be positive and divisible by 4. Received: 66"),
    (["run.validation_patch_size=2"], "run.validation_patch_size must be positive and divisible by 4. Received: 2"),
    (["loss.distill_weight=1.5"], "loss.distill_weight must be between 0 and 1. Received: 1.5"),
    (["loss.distill_weight=-0.1"], "loss.distill_weight must be between 0 and 1"),
    (["loss.distill_weight=1", "loss.distill_sigma=0.2"], "loss.distill_sigma must be at least 0.3"),
    (["loss.distill_weight=1", "loss.distill_sigma=257"], "at most data.scene_patch_size, 256. Received: 257"),
    (["loss.distill_weight=1", "loss.l1=0", "loss.lpips=0"], "loss.distill_weight needs one of loss.l1"),
    (["loss.contrast=1", "data.scene_patch_size=4", "loss.lpips=0", "loss.gan=0"], "patch_size of at least 8. Re"),
    (["loss.gradient=1", "loss.l1=0", "loss.lpips=0", "loss.gan=0"], "loss.gradient and loss.contrast alone leave"),
    (["loss.l1=0", "loss.lpips=0", "loss.gan=0"], "one of loss.l1, loss.lpips and loss.gan must be positive")])
def test_rules_of_sizes_and_losses(settings, message):
    fails(message, *settings)


@pytest.mark.parametrize("settings", [
    ["data.scene_patch_size=100", "loss.gan=0"], ["data.scene_patch_size=56", "loss.lpips=0"],
    ["loss.l1=0", "loss.lpips=0"], ["data.face_patch_size=256", "data.scene_patch_size=400"], ["meta.ema_decay=0.999"],
    ["degradation.first.jpeg_range=80,80", "degradation.second.resize_probs=0,0,1",
     "degradation.first.resize_range=1,1"]])
def test_values_on_the_allowed_side_of_the_rules(settings):
    assert len(differences(TrainingConfig(), resolve("published", settings))) == len(settings)


@pytest.mark.parametrize("preset", PRESETS)
def test_json_gives_the_configuration_back(preset):
    config = resolve(preset, ["degradation.first.kernel_sizes=7,9", "meta.learning_rate=0.1", "meta.init=ü"])
    assert parse(config_to_json(config), "x") == config
    assert parse(config_to_json(config).encode(), "x") == config


def test_json_says_each_value_under_its_group():
    data = json.loads(config_to_json(resolve("published", ["inner.learning_rate=0.5"])))
    assert data["inner"] == {"learning_rate": 0.5, "num_steps": 1, "second_order_from": 0}
    assert data["degradation"]["second"]["resize_range"] == [0.3, 1.2]


def test_what_json_lacks_is_as_published():
    assert parse('{"meta": {"seed": 3}}', "x") == resolve("published", ["meta.seed=3"])


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", '{"meta": 3}', '{"meta": {"sed": 3}}', '{"nothing": {"seed": 3}}', b"\xff\xfe",
    '{"meta": {"seed": "3"}}', '{"data": {"skip_corrupt": "no"}}', '{"meta": {"seed": -3}}',
    '{"degradation": {"first": {"sigma_range": 3}}}'])
def test_other_text_is_no_configuration(text):
    with pytest.raises(UserError, match=r"^run/config\.json holds no configuration of this program: .*Restore or"
                       ) as caught:
        parse(text, "run/config.json")
    assert "\n" not in str(caught.value)


def test_differences_are_told_with_both_values():
    old, new = resolve("published"), resolve("published", ["meta.seed=3", "loss.gan=0",
                                                             "degradation.first.sigma_range=1,2"])
    assert differences(old, new) == {"meta.seed": (0, 3), "loss.gan": (0.1, 0.0),
                                     "degradation.first.sigma_range": ((0.2, 3.0), (1.0, 2.0))}
    assert differences(new, new) == {}
