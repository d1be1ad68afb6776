import contextlib
import io
import json
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.tracing import untraced
from tests.helpers.training_runs import assert_equal_states, killed_at_the_end, wait_for
from tests.helpers.training_workplace import SETTINGS, TrainingWorkplace
from utils.errors import UserError
from utils.files import exclusive
from utils.image.io import read_image
from utils.weights.checkpoints import read_tf1_checkpoint


@pytest.fixture
def place(tmp_path):
    return TrainingWorkplace(tmp_path)


ADVERSARIAL = {"loss__gan": 0.1, "loss__unadapted": 0.3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 4 iterations with an adversary, its exit status and what it printed. Tests do not write into it."""
    place, output = TrainingWorkplace(tmp_path_factory.mktemp("trained")), io.StringIO()
    with contextlib.redirect_stdout(output):
        status = place.run(**ADVERSARIAL)
    return SimpleNamespace(place=place, status=status, output=output.getvalue())


@pytest.fixture(autouse=True)
def without_plots(trained, monkeypatch):
    """Plotting takes longer than these runs; `trained` has its plot."""
    monkeypatch.setattr("utils.training.run.plot_curves", lambda *_: None)


def fails(place, match, *extra, **options):
    with pytest.raises(UserError, match=match) as caught:
        place.run(*extra, **options)
    assert "\n" not in str(caught.value)


def iterations(place, name, trial=0):
    return [int(row["iteration"]) for row in place.rows(name, trial)]


def test_a_run_leaves_checkpoints_metrics_curves_and_its_configuration(trained):
    place = trained.place
    assert trained.status == 0
    assert place.checkpoints() == ["model-2", "model-4"]
    assert iterations(place, "metrics.csv") == [0, 2, 4]
    assert iterations(place, "train.csv") == [1, 2, 3, 4]
    assert read_image(place.folder() / "curves.png").pixels.std() > 0.05
    assert json.loads((place.folder() / "config.json").read_text())["data"]["face_size"] == SETTINGS["data.face_size"]
    assert list((place.folder() / "tensorboard").iterdir())
    assert f"--model_dir {place.folder() / 'checkpoints' / 'model-4'}" in trained.output
    tensors = place.checkpoint(4)  # the original's names and counters
    assert tensors["Discriminator/conv1/u"].shape == (1, 8)
    assert {"MODEL/conv_first/weight/Adam", "Mask/conv8/bias/Adam_1", "Discriminator/conv0/weight/Adam"} <= set(tensors)
    assert tensors["beta1_power"] == pytest.approx(0.9**5)
    assert tensors["beta2_power_1"] == pytest.approx(0.999**5)
    assert (tensors["global_step"], tensors["global_step"].dtype) == (4, np.int32)
    assert not tensors["stop_grad"]


def test_stopping_and_resuming_equals_going_through_bit_for_bit(place, trained):
    place.run("--iterations", "3", **ADVERSARIAL)
    other = ["--weights_dir", str(place.root / "weights"), "--iterations", "4"]  # the settings are kept
    place.main(*place.place(), *other)
    assert_equal_states(trained.place.checkpoint(4), place.checkpoint(4))
    through, resumed = trained.place.rows("metrics.csv"), place.rows("metrics.csv")
    assert through == [row for row in resumed if row["iteration"] != "3"]


def test_a_step_resumes_from_exactly_there_and_drops_later_rows(place, trained):
    shutil.copytree(trained.place.folder(), place.folder())
    place.run("--step", "2", "--iterations", "3", **ADVERSARIAL)
    assert iterations(place, "metrics.csv") == [0, 2, 3]
    assert iterations(place, "train.csv") == [1, 2, 3]
    aside = place.folder() / "checkpoints" / "until_4_before_going_back_to_2"
    assert sorted(path.name for path in aside.glob("*.index")) == ["model-4.index"]
    place.run("--iterations", "4", **ADVERSARIAL)
    assert iterations(place, "train.csv") == [1, 2, 3, 4]
    assert_equal_states(trained.place.checkpoint(4), place.checkpoint(4))


def test_a_finished_run_changes_nothing(place, trained):
    shutil.copytree(trained.place.folder(), place.folder())
    before = {path: path.stat().st_mtime_ns for path in (place.folder() / "checkpoints").iterdir()}
    assert place.run("--step", "0", **ADVERSARIAL) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (place.folder() / "checkpoints").iterdir()}


def test_init_takes_the_weights_alone(place, trained):
    place.run("--init", str(trained.place.folder() / "checkpoints" / "model-2"), loss__gan=0.1, meta__num_iterations=1,
              meta__learning_rate="1e-9", discriminator__learning_rate="1e-9")
    begun, given = place.checkpoint(1), trained.place.checkpoint(2)
    for name in given:
        if name.startswith(("MODEL/", "Mask/", "Discriminator/conv")) and not name.endswith(("/Adam", "/Adam_1", "/u")):
            np.testing.assert_allclose(begun[name], given[name], atol=2e-9, err_msg=name)
    assert begun["global_step"] == 1


def test_a_run_folder_whose_name_is_a_pattern_to_tensorflow_is_resumed_and_used(tmp_path):
    from tests.helpers.workplace import Workplace

    place = TrainingWorkplace(tmp_path / r"lab [v2] *? back\slash")
    place.run("--iterations", "1")
    place.run("--iterations", "2")
    assert iterations(place, "train.csv") == [1, 2]
    photos = Workplace(tmp_path / "photos")
    photos.add_photo("a.png")
    for number, given in enumerate((place.folder() / "checkpoints", place.folder() / "checkpoints" / "model-2")):
        with untraced():
            assert photos.run("--model_dir", str(given), out=tmp_path / f"out{number}") == 0
        assert photos.report(out=tmp_path / f"out{number}")["a.png"]["status"] == "adapted"


def test_a_run_folder_that_is_not_utf8_is_one_line(tmp_path):
    place = TrainingWorkplace(tmp_path)
    fails(place, "UTF-8.*--run_dir", "--run_dir", str(tmp_path / "caf\udce9"))


def test_every_optional_part_together(place):
    place.run("--iterations", "2", meta__tasks_per_batch=2, meta__clip_norm=0.1, meta__ema_decay=0.99999,
              inner__num_steps=2, inner__second_order_from=1, discriminator__freeze_until=1, loss__gan=0.1)
    tensors = place.checkpoint(2)
    assert tensors["MetaF2N/discriminator_updates"] == 1
    assert np.abs(tensors["Average/MODEL/conv_first/weight"] - tensors["MODEL/conv_first/weight"]).max() > 0
    assert {"l1", "l1_step1", "gan", "gan_step1"} <= set(place.rows("train.csv")[0])
    average = read_tf1_checkpoint(place.folder() / "checkpoints" / "average-2")
    np.testing.assert_array_equal(average["MODEL/conv_last/bias"], tensors["Average/MODEL/conv_last/bias"])
    # validation scores the averages, which have hardly moved yet
    first, *_, last = place.rows("metrics.csv")
    for name, tolerance in (("psnr_before", 1e-3), ("mask_mean", 1e-5)):
        assert float(last[name]) == pytest.approx(float(first[name]), abs=tolerance)


# What goes wrong

def test_records_that_do_not_fit_are_named(place):
    fails(place, "64x64", data__face_size=128)
    fails(place, "data.num_validation", data__num_validation=6)
    place.scenes.write_bytes(b"")
    fails(place, "back.tfrecord")
    place.faces.unlink()
    fails(place, r"whole_face.tfrecord.*generate_tfrecord.py faces")


def test_a_damaged_image_stops_the_run_by_its_offset_or_is_left_out(place, capsys):
    data = bytearray(place.scenes.read_bytes())
    record = len(data) // 5
    data[record + 1000] ^= 0xFF
    place.scenes.write_bytes(data)
    fails(place, rf"back.tfrecord.*byte {record}")
    assert place.run("--skip_corrupt", "--iterations", "1", trial=1) == 0
    assert re.search(r"\b1 damaged", capsys.readouterr().out)


def test_settings_that_a_checkpoint_does_not_fit_are_named_and_others_may_change(place, capsys):
    place.run("--iterations", "1")
    fails(place, r"loss.gan=0.0.* not 0.1", loss__gan=0.1)
    fails(place, "meta.init=random.*--trial", "--init", "realesrgan")
    fails(place, "There are: 1", "--step", "3")
    place.run("--iterations", "2", meta__learning_rate="1e-6")
    assert "meta.learning_rate was 3e-05, is 1e-06" in capsys.readouterr().out


def test_progress_is_saved_when_a_later_iteration_fails(place, monkeypatch):
    def full(history, iteration, values):
        if iteration == 3:
            raise UserError("no space")

    monkeypatch.setattr("utils.training.log.History.add", full)
    fails(place, "no space", run__save_every=1000)
    assert place.checkpoints() == ["model-3"]


def test_weights_that_may_be_spoilt_are_not_saved(place, monkeypatch):
    answers = iter([[], [], [], ["l1"], ["l1"]])
    monkeypatch.setattr("model.meta_trainer.Update.not_finite", lambda _: next(answers))
    fails(place, "iteration 4: l1 = .*--step", run__save_every=2)
    assert place.checkpoints() == ["model-2"]


def test_a_value_that_is_not_finite_is_named_and_its_batch_saved(place):
    fails(place, r"iteration \d+: .*(l1|outer_loss) = (nan|inf).*not_finite", inner__learning_rate="1e30")
    [batch] = place.folder().glob("not_finite_*.npz")
    saved = np.load(batch)
    assert saved["face_lq"].shape == (1, 1, 12, 12, 3)
    assert np.isfinite(saved["scene_target"]).all()
    assert not place.checkpoints()


def test_a_run_is_trained_by_one_process_at_a_time(place):
    with exclusive(place.root / "runs" / ".trial_0.lock", "x"):
        fails(place, "another process.*trial_0")


def test_missing_weights_come_with_a_command_and_an_alternative(place):
    fails(place, r"lpips.*--lpips_weight 0", "--lpips_weight", "0.5")
    fails(place, r"download_weights.py realesrgan-netd.*--gan_weight 0.*random", "--gan_weight", "0.1",
          "--discriminator_init", "realesrgan-netd")
    fails(place, r"download_weights.py gpen-256.*--restorer ground-truth", "--restorer", "gpen-256")
    fails(place, r"download_weights.py realesrgan", "--init", "realesrgan")


@pytest.mark.parametrize(("arguments", "match"), [
    (["--set", "meta.learning_rat=1"], "meta.learning_rate"),
    (["--set", "meta.tasks_per_batch=0"], "meta.tasks_per_batch"),
    (["--set", "meta.tasks_per_batch=two"], "meta.tasks_per_batch"),
    (["--restorer", "magic"], "magic"), (["--cpu_devices", "0"], "--cpu_devices")])
def test_wrong_settings_are_one_line(place, arguments, match):
    fails(place, match, *arguments)


def test_a_full_disk_leaves_the_checkpoint_before(place, monkeypatch):
    import utils.weights.checkpoints

    place.run("--iterations", "1")
    before = place.checkpoint(1)

    def no_space(source, target):
        if "model-2" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    replace = utils.weights.checkpoints.os.replace
    monkeypatch.setattr(utils.weights.checkpoints.os, "replace", no_space)
    fails(place, "model-2: .*No space left", "--iterations", "2")
    monkeypatch.undo()
    assert_equal_states(before, place.checkpoint(1))
    place.run("--iterations", "2")
    assert place.checkpoints() == ["model-1", "model-2"]


# Processes of their own

def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def test_a_killed_run_resumes_as_if_never_disturbed(place, trained):
    """SIGTERM, which all training tools answer alike, is tested with scripts/train_face_restorer.py."""
    settings = ADVERSARIAL | {"meta__tasks_per_batch": 1, "meta__num_iterations": 60, "run__validate_every": 1000}
    with killed_at_the_end(place.start(**settings)) as process:
        wait_for(lambda: len(place.rows("train.csv")) >= 3, process)
        process.send_signal(signal.SIGKILL)
    assert place.checkpoints() == ["model-2"]
    place.run("--iterations", "4", **ADVERSARIAL)
    assert iterations(place, "train.csv") == [1, 2, 3, 4]
    assert_equal_states(trained.place.checkpoint(4), place.checkpoint(4))


def test_two_replicas_in_a_graph_compute_the_update_of_one_without_a_graph(place):
    options = {"meta__num_iterations": 1, "run__validate_every": 1000, "inner__second_order_from": 9}
    finish(place.start("--cpu_devices", "2", traced=True, **options))
    place.main(*place.arguments(trial=1, **options))
    assert_equal_states(place.checkpoint(1, trial=1), place.checkpoint(1), tolerance=1e-5)
