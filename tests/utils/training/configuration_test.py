"""Presets, settings of every type, every rule, and the JSON of a run, of both training programs."""

import json
from functools import partial

import pytest

from config import TrainingConfig
from utils.errors import UserError
from utils.training.configuration import (
    META_TRAINING,
    RESTORER_TRAINING,
    config_to_json,
    differences,
    flat_values,
    get_value,
    parse_config,
    resolve_config,
)

resolve, parse = partial(resolve_config, META_TRAINING), partial(parse_config, META_TRAINING)
STAGES = [f"{name}.{stage}." for name in ("degradation", "mild_degradation") for stage in ("first", "second")]
# at least 1; at least 0; at most 1 as well; below 1
POSITIVE = ["generator.num_blocks", "generator.num_features", "generator.growth", "discriminator.num_features",
            "inner.learning_rate", "meta.num_iterations", "meta.tasks_per_batch", "meta.learning_rate", "meta.epsilon",
            "discriminator.learning_rate", "data.samples_per_task", "run.log_every", "run.validate_every",
            "run.save_every", "run.validation_patches", "run.keep_checkpoints", "data.face_size", "data.scene_size",
            "data.face_patch_size", "data.scene_patch_size", "run.validation_scene_size", "run.validation_patch_size",
            "network.num_blocks", "network.num_features", "network.growth", "optimization.num_iterations",
            "optimization.batch_size", "optimization.learning_rate", "optimization.epsilon",
            "optimization.position_lr_ratio", "variation.max_upscale", "run.validation_faces"]
NOT_NEGATIVE = ["inner.num_steps", "inner.second_order_from", "meta.clip_norm", "meta.seed",
                "discriminator.freeze_until", "loss.l1", "loss.lpips", "loss.gan", "loss.mask", "loss.unadapted",
                "data.max_redraws", "data.num_workers", "data.num_validation", "run.image_tasks", "run.keep_every",
                "degradation.tone_gamma", "optimization.warmup_iters",
                "optimization.clip_norm", "optimization.seed", "run.image_faces", "variation.tilt",
                "variation.alignment_rotation", "variation.alignment_scale", "variation.alignment_shift",
                "variation.gamma"]
PROBABILITIES = ["degradation.final_sinc_prob", "degradation.jpeg_last_prob", "degradation.tone_prob",
                 "optimization.min_lr_ratio", "data.clean_prob", "data.jpeg_prob", "data.mild_prob", "variation.gain",
                 "variation.gray_prob", *(stage + name for stage in STAGES for name in
                                          ("blur_prob", "sinc_prob", "gaussian_noise_prob", "gray_noise_prob"))]
DECAYS = [f"{group}.{name}" for group in ("meta", "optimization") for name in ("beta1", "beta2", "ema_decay")]
RANGES = ["degradation.tone_gain_range", "variation.face_width_range", "variation.saturation_range",
          *(stage + name for stage in STAGES for name in (
              "sigma_range", "betag_range", "betap_range", "resize_range", "noise_sigma_range", "poisson_scale_range",
              "jpeg_range"))]


def fails(named, *settings):
    """Check that the program or the programs with the setting refuse these values in one line."""
    key = settings[0].partition("=")[0]
    kinds = [kind for kind in (META_TRAINING, RESTORER_TRAINING) if key in dict(flat_values(kind.default))]
    for kind in kinds or [META_TRAINING]:
        with pytest.raises(UserError, match=rf"(^|\W){named}(\W|$)") as caught:
            resolve_config(kind, next(iter(kind.presets)), settings)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [META_TRAINING, RESTORER_TRAINING])
def test_presets_change_what_they_list_and_nothing_else(kind):
    defaults = dict(flat_values(kind.default))
    for name, preset in kind.presets.items():
        config = resolve_config(kind, name)
        assert dict(flat_values(config)) == defaults | preset
        assert parse_config(kind, config_to_json(config), "x") == config
    assert not next(iter(kind.presets.values()))  # that of a new run
    assert {*kind.architecture, *kind.switches, *kind.init_only} <= defaults.keys()


@pytest.mark.parametrize(("setting", "value"), [
    ("meta.tasks_per_batch=3", 3), ("meta.learning_rate=2e-4", 2e-4), ("meta.learning_rate=.5", 0.5),
    ("meta.clip_norm=1", 1.0), ("data.skip_corrupt=true", True), ("run.deterministic=False", False),
    ("meta.init=a=b.pth", "a=b.pth"), ("meta.init=", ""), ("degradation.first.sigma_range=0.5, 2", (0.5, 2.0)),
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
    assert differences(config, resolve("published", ["meta.seed=6"], base=config)) == {"meta.seed": (1, 6)}


@pytest.mark.parametrize(("setting", "named"), [
    ("meta.learning_rat=1", "meta.learning_rate"), ("learning_rate=1", "learning_rate"),
    ("qqq=1", "generator.num_blocks"), ("meta=1", "meta"), ("meta.seed", "KEY=VALUE"), ("", "KEY=VALUE"),
    ("meta.seed=1.5", "meta.seed"), ("meta.seed=", "meta.seed"), ("meta.learning_rate=fast", "meta.learning_rate"),
    ("data.skip_corrupt=1", "data.skip_corrupt"),
    ("degradation.first.sigma_range=1;2", "degradation.first.sigma_range"),
    ("degradation.first.kernel_sizes=7,8.5", "degradation.first.kernel_sizes")])
def test_setting_that_cannot_be_read_is_named(setting, named):
    fails(named, setting)


@pytest.mark.parametrize(("keys", "values"), [
    (POSITIVE, ("0", "-1")), (NOT_NEGATIVE, ("-1",)), (PROBABILITIES, ("-0.1", "1.1", "nan", "inf")),
    (DECAYS, ("-1", "1.0", "nan")),
    (("meta.learning_rate", "meta.clip_norm", "data.min_log_gradient", "meta.mask_bias", "degradation.tone_gamma",
      "optimization.learning_rate", "loss.lpips"), ("nan", "inf")),
    (RANGES, ("2,1", "-1,1", "1", "1,2,3", "1,inf", "nan,2")),
    ([key for key in RANGES if ".beta" in key or ".resize" in key], ("0.2,0.9", "1.1,1.5")),
    (["data.jpeg_range"], ("0,50", "90,80"))])
def test_values_outside_their_range_are_named(keys, values):
    for key in keys:
        for value in values:
            fails(key, f"{key}={value}")


@pytest.mark.parametrize("stage", STAGES)
def test_rules_of_a_stage(stage):
    for setting in ("kernel_probs=1", "kernel_probs=0.5,0.5,0.5,0,0,0", "kernel_probs=1.5,-0.5,0,0,0,0",
                    "kernel_kinds=iso,aniso,foo,plateau_iso,iso,iso", "resize_probs=0.5,0.5",
                    "resize_probs=0.5,0.4,0.2", "resize_probs=1.5,-0.5,0", "kernel_sizes=7,8", "kernel_sizes=1",
                    "kernel_sizes=23", "jpeg_range=0,95", "noise_sigma_range=1,256", "sigma_range=0,2"):
        fails(stage + setting.partition("=")[0], stage + setting)
    fails(f"{stage}kernel_probs", f"{stage}kernel_kinds=iso")


@pytest.mark.parametrize(("settings", "named"), [
    (["data.scene_size=402"], "data.scene_size"), (["data.face_patch_size=130"], "data.face_patch_size"),
    (["data.face_patch_size=260"], "data.face_size"), (["data.scene_patch_size=404"], "data.scene_size"),
    (["data.scene_patch_size=100"], "discriminator"), (["data.scene_patch_size=24"], "loss.lpips"),
    (["run.validation_scene_size=28"], "run.validation_scene_size"),
    (["run.validation_tasks=1"], "run.validation_tasks"),
    (["loss.gan=0", "loss.l1=0", "loss.lpips=0"], "loss.l1"),
    (["data.patch_size=15"], "data.patch_size"), (["variation.saturation_range=0,11"], "variation.saturation_range"),
    (["data.held_out=("], "data.held_out"), (["data.validation=["], "data.validation"),
    (["data.clean_prob=0.5", "data.jpeg_prob=0.3", "data.mild_prob=0.3"], "data.clean_prob")])
def test_rules_between_settings(settings, named):
    fails(named, *settings)


def test_a_face_restorer_learns_colours_and_validates_on_patches_that_lpips_takes():
    resolve_restorer = partial(resolve_config, RESTORER_TRAINING, "default")
    for key, value in (("loss.l1", 0), ("run.validation_patch_size", 8)):
        with pytest.raises(UserError, match=key):
            resolve_restorer([f"{key}={value}"])


@pytest.mark.parametrize(("kind", "settings"), [
    (META_TRAINING, ["data.scene_patch_size=100", "loss.gan=0"]),
    (META_TRAINING, ["data.scene_patch_size=56", "loss.lpips=0"]), (META_TRAINING, ["loss.l1=0", "loss.lpips=0"]),
    (META_TRAINING, ["data.face_patch_size=256", "data.scene_patch_size=400"]),
    (META_TRAINING, ["meta.ema_decay=0.999"]),
    (META_TRAINING, ["degradation.first.jpeg_range=80,80", "degradation.second.resize_probs=0,0,1",
                     "degradation.first.resize_range=1,1"]),
    (RESTORER_TRAINING, ["loss.lpips=0", "data.patch_size=8"]), (RESTORER_TRAINING, ["optimization.warmup_iters=0"]),
    (RESTORER_TRAINING, ["variation.face_width_range=20,20"]),
    (RESTORER_TRAINING, ["data.clean_prob=1", "data.jpeg_prob=0", "data.mild_prob=0"])])
def test_values_on_the_allowed_side_of_the_rules(kind, settings):
    assert len(differences(kind.default, resolve_config(kind, next(iter(kind.presets)), settings))) == len(settings)


def test_json_holds_each_value_under_its_group():
    config = resolve("published", ["inner.learning_rate=0.1", "degradation.first.kernel_sizes=7,9", "meta.init=ü"])
    data = json.loads(config_to_json(config))
    assert data["inner"] == {"learning_rate": 0.1, "num_steps": 1, "second_order_from": 0}
    assert data["degradation"]["second"]["resize_range"] == [0.3, 1.2]
    assert parse(config_to_json(config).encode(), "x") == config


def test_defaults_stand_in_for_what_json_lacks():
    assert parse('{"meta": {"seed": 3}}', "x") == resolve("published", ["meta.seed=3"])


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", '{"meta": 3}', '{"meta": {"sed": 3}}', '{"nothing": {"seed": 3}}', b"\xff\xfe",
    '{"meta": {"seed": "3"}}', '{"data": {"skip_corrupt": "no"}}', '{"meta": {"seed": -3}}',
    '{"degradation": {"first": {"sigma_range": 3}}}'])
def test_other_text_is_no_configuration(text):
    with pytest.raises(UserError, match=r"run/config\.json") as caught:
        parse(text, "run/config.json")
    assert "\n" not in str(caught.value)
