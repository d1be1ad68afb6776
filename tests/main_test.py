import json
import re
import signal
import socket

import numpy as np
import pytest

from tests.training_workplace import (
    SETTINGS,
    TrainingWorkplace,
    assert_equal_states,
    killed_at_the_end,
    wait_for,
)
from utils.errors import UserError
from utils.files import exclusive
from utils.image.io import read_image
from utils.weights.checkpoints import read_tf1_checkpoint


@pytest.fixture
def place(tmp_path):
    return TrainingWorkplace(tmp_path)


@pytest.fixture(autouse=True)
def without_plots(request, monkeypatch):
    """Plotting takes longer than these runs; one test looks at the plot."""
    if "curves" not in request.node.name:
        monkeypatch.setattr("utils.training.run.plot_curves", lambda *_: None)


def fails(place, match, *extra, **options):
    with pytest.raises(UserError, match=match) as caught:
        place.run(*extra, **options)
    assert "\n" not in str(caught.value)


def test_a_run_leaves_checkpoints_metrics_curves_and_its_configuration(place, capsys):
    assert place.run(loss__gan=0.1, loss__unadapted=0.3) == 0
    assert place.checkpoints() == ["model-2", "model-4"]
    assert [row["iteration"] for row in place.rows()] == ["0", "2", "4"]
    assert [row["iteration"] for row in place.rows("train.csv")] == ["1", "2", "3", "4"]
    assert read_image(place.folder() / "curves.png").pixels.std() > 0.05
    assert json.loads((place.folder() / "config.json").read_text())["data"]["face_size"] == SETTINGS["data.face_size"]
    assert list((place.folder() / "tensorboard").iterdir())
    out = capsys.readouterr().out
    assert ("1 * L1 + 0.1 * adversarial + 0.001 * mean((W - 1)^2) (without LPIPS); "
            "0.3 times that, MaskNet's term apart, before adaptation\n") in out
    assert f"python test.py --model_dir {place.folder() / 'checkpoints' / 'model-4'}" in out


def test_stopping_and_going_on_equals_going_through_bit_for_bit(place):
    place.run(trial=0, loss__gan=0.1)
    place.run("--iterations", "3", trial=1, loss__gan=0.1)
    place.run("--iterations", "4", trial=1, loss__gan=0.1)
    assert_equal_states(place.checkpoint(4, trial=0), place.checkpoint(4, trial=1))
    through, resumed = place.rows(trial=0), place.rows(trial=1)
    assert through == [row for row in resumed if row["iteration"] != "3"]


def test_resuming_needs_no_option_again(place):
    place.run(meta__learning_rate="7e-4")
    place.main("--run_dir", str(place.root / "runs"), "--iterations", "5")
    config = json.loads((place.folder() / "config.json").read_text())
    assert config["meta"]["learning_rate"] == 7e-4
    assert config["generator"]["num_blocks"] == 1
    assert place.checkpoints() == ["model-2", "model-4", "model-5"]


def test_a_step_resumes_from_exactly_there_and_drops_what_came_later(place):
    place.run()
    expected = place.checkpoint(4)
    place.run("--step", "2", "--iterations", "3")
    assert [row["iteration"] for row in place.rows()] == ["0", "2", "3"]
    assert [row["iteration"] for row in place.rows("train.csv")] == ["1", "2", "3"]
    aside = place.folder() / "checkpoints" / "until_4_before_going_back_to_2"
    assert sorted(path.name for path in aside.glob("*.index")) == ["model-4.index"]
    place.run("--iterations", "4")
    assert [row["iteration"] for row in place.rows("train.csv")] == ["1", "2", "3", "4"]
    assert_equal_states(expected, place.checkpoint(4))


def test_a_few_checkpoints_are_kept_and_those_of_keep_every(place):
    place.run(run__save_every=1, run__keep_checkpoints=2, run__keep_every=2, meta__num_iterations=7)
    assert place.checkpoints() == ["model-2", "model-4", "model-6", "model-7"]


def test_a_finished_run_says_so_and_changes_nothing(place, capsys):
    place.run()
    before = {path: path.stat().st_mtime_ns for path in (place.folder() / "checkpoints").iterdir()}
    assert place.run() == 0
    assert "trained at iteration 4" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (place.folder() / "checkpoints").iterdir()}


def test_init_takes_the_weights_alone(place):
    place.run(trial=0, loss__gan=0.1)
    place.run("--init", str(place.folder(0) / "checkpoints" / "model-4"), trial=1, meta__num_iterations=1,
              meta__learning_rate="1e-9", discriminator__learning_rate="1e-9", loss__gan=0.1)
    begun, given = place.checkpoint(1, trial=1), place.checkpoint(4, trial=0)
    for name in given:
        if name.startswith(("MODEL/", "Mask/", "Discriminator/conv")) and not name.endswith(("/Adam", "/Adam_1", "/u")):
            np.testing.assert_allclose(begun[name], given[name], atol=2e-9, err_msg=name)
    assert begun["global_step"] == 1


def test_checkpoints_have_the_original_names_and_counters(place):
    place.run(loss__gan=0.1)
    tensors = place.checkpoint(4)
    assert tensors["Discriminator/conv1/u"].shape == (1, 8)
    assert {"MODEL/conv_first/weight/Adam", "Mask/conv8/bias/Adam_1", "Discriminator/conv0/weight/Adam"} <= set(tensors)
    assert tensors["beta1_power"] == pytest.approx(0.9**5)
    assert tensors["beta2_power_1"] == pytest.approx(0.999**5)
    assert tensors["global_step"].dtype == np.int32
    assert tensors["global_step"] == 4
    assert not tensors["stop_grad"]


def test_test_py_adapts_with_the_checkpoint(place):
    from tests.workplace import Workplace

    place.run()
    photos = Workplace(place.root / "photos")
    photos.add_photo("a.png")
    assert photos.run("--model_dir", str(place.folder() / "checkpoints")) == 0
    assert photos.report()["a.png"]["status"] == "adapted"


def test_every_optional_part_together(place):
    place.run(meta__tasks_per_batch=2, meta__clip_norm=0.1, meta__ema_decay=0.99999, inner__num_steps=2,
              inner__second_order_from=2, discriminator__freeze_until=1, loss__gan=0.1)
    tensors = place.checkpoint(4)
    assert tensors["MetaF2N/discriminator_updates"] == 3
    assert np.abs(tensors["Average/MODEL/conv_first/weight"] - tensors["MODEL/conv_first/weight"]).max() > 0
    assert {"l1", "l1_step1"} <= set(place.rows("train.csv")[0])
    average = read_tf1_checkpoint(place.folder() / "checkpoints" / "average-4")
    np.testing.assert_array_equal(average["MODEL/conv_last/bias"], tensors["Average/MODEL/conv_last/bias"])
    # validation scores the averages, which have hardly moved yet
    first, *_, last = place.rows("metrics.csv")
    for name, tolerance in (("psnr_before", 1e-3), ("mask_mean", 1e-5)):
        assert float(last[name]) == pytest.approx(float(first[name]), abs=tolerance)


def test_validation_is_the_same_for_runs_of_other_length_and_batch(place):
    place.run(trial=0)
    place.run(trial=1, meta__tasks_per_batch=3, meta__num_iterations=1)
    assert place.rows(trial=0)[0] == place.rows(trial=1)[0]


# What goes wrong

def test_a_missing_record_is_named_with_the_command_that_makes_one(place):
    place.faces.unlink()
    fails(place, r"no record .*whole_face.tfrecord.*generate_tfrecord.py faces")


def test_an_empty_record_is_named(place):
    place.scenes.write_bytes(b"")
    fails(place, "back.tfrecord")


def test_records_of_another_size_are_named(place):
    fails(place, "64x64", data__face_size=128)


def test_too_few_images_are_an_error(place):
    fails(place, "must have more images", data__num_validation=6)


def damage(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_a_damaged_image_stops_the_run_by_its_offset_or_is_left_out(place, capsys):
    record = len(place.scenes.read_bytes()) // 5
    damage(place.scenes, record + 1000)
    fails(place, rf"back.tfrecord.*byte {record}")
    assert place.run("--skip_corrupt", trial=1) == 0
    assert "1 damaged images were left out" in capsys.readouterr().out


def test_other_architectures_and_losses_do_not_resume(place):
    place.run()
    fails(place, r"generator.num_blocks=1, not 2", generator__num_blocks=2)
    fails(place, r"loss.gan=0.0 \(the discriminator\), not 0.1", loss__gan=0.1)


def test_other_settings_may_change_and_are_told(place, capsys):
    place.run()
    place.run("--iterations", "5", meta__learning_rate="1e-6")
    assert "changed since the last start: meta.learning_rate was 3e-05, is 1e-06" in capsys.readouterr().out


def test_a_step_that_does_not_exist_is_an_error_that_changes_nothing(place):
    fails(place, "no checkpoint of iteration 3 .* There are: none", "--step", "3")
    place.run()
    fails(place, "There are: 2, 4", "--step", "3")
    place.faces.unlink()
    fails(place, "no record", "--step", "2")
    assert "model-4" in (place.folder() / "checkpoints" / "checkpoint").read_text()


def test_the_published_command_goes_on_when_it_is_given_again(place):
    place.run("--step", "0", "--iterations", "2")
    place.run("--step", "0")
    assert [row["iteration"] for row in place.rows("train.csv")] == ["1", "2", "3", "4"]


def test_other_start_weights_are_refused_once_a_run_has_begun(place):
    place.run()
    fails(place, "this run has begun with meta.init=random.*another --trial", "--init", "realesrgan")


def test_a_killed_save_is_cleaned_up(place):
    place.run()
    folder = place.folder() / "checkpoints"
    (folder / ".model-6.abc").mkdir()
    (folder / ".model-6.abc" / "model-6.data-00000-of-00001.tempstate1").write_bytes(b"1")
    (folder / "model-6.data-00000-of-00001").write_bytes(b"1")
    place.run("--iterations", "5")
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".index") == [
        "checkpoint", *(f"model-{number}.data-00000-of-00001" for number in (2, 4, 5))]


def test_what_was_learnt_is_saved_when_a_later_iteration_fails(place, monkeypatch):
    def full(history, iteration, values):
        if iteration == 3:
            raise UserError("no space")

    monkeypatch.setattr("utils.training.log.History.add", full)
    fails(place, "no space", run__save_every=1000)
    assert place.checkpoints() == ["model-3"]


def test_weights_that_may_be_spoilt_are_not_saved(place, monkeypatch):
    answers = iter([[], [], [], ["l1"], ["l1"]])
    monkeypatch.setattr("model.meta_trainer.Update.not_finite", lambda _: next(answers))
    fails(place, "iteration 4: l1 = .*go back with --step", run__save_every=2)
    assert place.checkpoints() == ["model-2"]


def test_a_signal_before_the_first_iteration_stops_at_once(place, monkeypatch, capsys):
    monkeypatch.setattr("utils.training.run.MetaRun.validate", lambda _: signal.raise_signal(signal.SIGTERM))
    assert place.run() == 0
    assert "stopped before the first iteration" in capsys.readouterr().out
    assert not place.checkpoints()
    assert not place.rows("train.csv")


def test_a_signal_during_an_iteration_ends_after_it_without_validating(place, monkeypatch):
    from utils.training.run import MetaRun

    step = MetaRun.step

    def interrupted(run, **options):
        update = step(run, **options)
        if run.trainer.iteration == 2:
            signal.raise_signal(signal.SIGINT)
        return update

    monkeypatch.setattr(MetaRun, "step", interrupted)
    assert place.run(run__save_every=1000) == 0
    assert place.checkpoints() == ["model-2"]
    assert [row["iteration"] for row in place.rows()] == ["0"]


def test_a_run_is_trained_by_one_process_at_a_time(place):
    with exclusive(place.root / "runs" / ".trial_0.lock", "x"):
        fails(place, "another process is working on .*trial_0")
    assert place.run() == 0


def test_several_missing_weights_are_named_at_once(place):
    fails(place, r"missing: gpen-256, realesrgan-netd, lpips.*download_weights.py gpen-256 realesrgan-netd "
          "lpips", "--restorer", "gpen-256", "--lpips_weight", "0.5", loss__gan=0.1,
          discriminator__init="realesrgan-netd")


@pytest.mark.parametrize("setting", ["[1]", "{}", "{", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", '
                                     '"index": 3}}'])
def test_a_wrong_cluster_is_one_line(place, monkeypatch, setting):
    monkeypatch.setenv("TF_CONFIG", setting)
    fails(place, "TF_CONFIG does not describe this cluster")


def test_missing_weights_come_with_a_command_and_an_alternative(place):
    fails(place, r"alexnet.*download_weights.py lpips.*--lpips_weight 0", "--lpips_weight", "0.5")
    fails(place, r"download_weights.py realesrgan-netd.*--gan_weight 0", discriminator__init="realesrgan-netd",
          loss__gan=0.1)
    fails(place, r"download_weights.py gpen-256.*--restorer ground-truth", "--restorer", "gpen-256")
    fails(place, r"download_weights.py realesrgan", "--init", "realesrgan")


@pytest.mark.parametrize(("arguments", "match"), [
    (["--set", "meta.learning_rat=1"], "Did you mean meta.learning_rate"),
    (["--set", "meta.tasks_per_batch=0"], "must be positive"),
    (["--set", "meta.tasks_per_batch=two"], "must be a whole number"),
    (["--restorer", "magic"], "ground-truth, or a .npz file that .* Received: magic"),
    (["--trial", "-1"], "--trial must be at least 0"),
])
def test_wrong_settings_are_one_line(place, arguments, match):
    fails(place, match, *arguments)


def test_a_value_that_is_not_finite_is_named_and_its_batch_saved(place):
    fails(place, r"iteration \d+: .*(l1|outer_loss) = (nan|inf).*not_finite", inner__learning_rate="1e30")
    [batch] = place.folder().glob("not_finite_*.npz")
    saved = np.load(batch)
    assert saved["face_lq"].shape == (1, 1, 12, 12, 3)
    assert np.isfinite(saved["scene_target"]).all()
    assert not place.checkpoints()


def test_a_full_disk_leaves_the_checkpoint_before(place, monkeypatch):
    import utils.weights.checkpoints

    place.run(meta__num_iterations=2)
    before = place.checkpoint(2)

    def no_space(source, target):
        if "model-4" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    replace = utils.weights.checkpoints.os.replace
    monkeypatch.setattr(utils.weights.checkpoints.os, "replace", no_space)
    fails(place, "cannot write the checkpoint.*No space left", meta__num_iterations=4)
    monkeypatch.undo()
    assert_equal_states(before, place.checkpoint(2))
    place.run(meta__num_iterations=4)
    assert place.checkpoints() == ["model-2", "model-4"]


# Processes of their own, traced as a user's are

THROUGH = 12  # iterations

@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """A run that nothing disturbed."""
    place = TrainingWorkplace(tmp_path_factory.mktemp("through"))
    finish(place.start(meta__num_iterations=THROUGH, run__keep_checkpoints=1000))
    return place


def finish(process):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def test_sigkill_between_checkpoints_then_resuming_equals_going_through(place, through):
    keep = {"run__keep_checkpoints": 1000, "run__validate_every": 1000}
    with killed_at_the_end(place.start(meta__num_iterations=1000, **keep)) as process:
        wait_for(lambda: (place.folder() / "train.csv").exists() and len(place.rows("train.csv")) >= 3,
                 process)
        process.send_signal(signal.SIGKILL)
    finish(place.start(meta__num_iterations=THROUGH, **keep))
    assert_equal_states(through.checkpoint(THROUGH), place.checkpoint(THROUGH))


def test_sigterm_saves_and_exits_with_0(place):
    with killed_at_the_end(place.start(meta__num_iterations=1000, run__save_every=1000,
                                       run__validate_every=1000)) as process:
        wait_for(lambda: (place.folder() / "train.csv").exists() and len(place.rows("train.csv")) >= 1,
                 process)
        process.send_signal(signal.SIGTERM)
        output = finish(process)
    [iteration] = re.findall(r"stopped at iteration (\d+)", output)
    assert place.checkpoints() == [f"model-{iteration}"]


def test_two_replicas_give_the_update_of_one(place, through):
    finish(place.start("--cpu_devices", "2", run__validate_every=1000))
    assert_equal_states(through.checkpoint(2), place.checkpoint(2), tolerance=1e-5)


def test_two_machines_give_the_update_of_one(place, through):
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        workers = [f"127.0.0.1:{server.getsockname()[1]}" for server in (first, second)]
    processes = [place.start(run__validate_every=1000, environment={"TF_CONFIG": json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})}) for index in range(2)]
    with killed_at_the_end(processes[0]), killed_at_the_end(processes[1]):
        outputs = [finish(process) for process in processes]
    assert "trained at iteration 4" in outputs[0]
    assert "trained" not in outputs[1]
    assert_equal_states(through.checkpoint(2), place.checkpoint(2), tolerance=1e-5)
