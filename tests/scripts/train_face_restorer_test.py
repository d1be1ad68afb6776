"""The tool: a run's folder, stopping and going on, exports, and errors of one line."""

import contextlib
import io
import json
import signal

import numpy as np
import pytest

from model.restorer_trainer import RestorerTrainer
from scripts.train_face_restorer import main
from tests.helpers.restorer_workplace import RestorerWorkplace
from tests.helpers.training_runs import assert_equal_states
from utils.errors import UserError
from utils.face.restorers import load_face_restorer
from utils.image.io import read_image
from utils.training.face_restorer import SCOPE
from utils.training.state import AVERAGE_SCOPE
from utils.weights.checkpoints import write_tf1_checkpoint

AVERAGE = AVERAGE_SCOPE + SCOPE
COLUMNS = ["iteration", "loss", "l1", "learning_rate", "gradient_norm", "seconds", "data_share"]
CONSTANT_RATE = {"optimization__min_lr_ratio": 1.0}  # otherwise it depends on where training ends


@pytest.fixture
def place(tmp_path):
    return RestorerWorkplace(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 4 iterations, and what it printed as `output`."""
    place, output = RestorerWorkplace(tmp_path_factory.mktemp("trained")), io.StringIO()
    with contextlib.redirect_stdout(output):
        assert place.run(**CONSTANT_RATE) == 0
    place.output = output.getvalue()
    return place


@pytest.fixture(autouse=True)
def without_plots(trained, monkeypatch):
    """Plotting takes longer than these runs; `trained` has its plot."""
    monkeypatch.setattr("utils.training.run.plot_curves", lambda *_: None)


def fails(match, *argv):
    with pytest.raises(UserError, match=match) as caught:
        main([str(argument) for argument in argv])
    assert "\n" not in str(caught.value)


def test_a_run_leaves_checkpoints_metrics_curves_and_its_configuration(trained):
    assert trained.checkpoints() == ["average-2", "average-4", "model-2", "model-4"]
    config = json.loads((trained.folder() / "config.json").read_text())
    assert config["network"] == {"num_blocks": 2, "num_features": 8, "growth": 4}
    rows = trained.rows("train.csv")
    assert [row["iteration"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert list(row) == COLUMNS
        assert row["loss"] == row["l1"]
        assert min(float(row[name]) for name in ("loss", "seconds", "gradient_norm", "learning_rate")) > 0
    scores = trained.rows("metrics.csv")
    assert [row["iteration"] for row in scores] == ["0", "2", "4"]
    assert all(np.isfinite(float(value)) for row in scores for value in row.values())
    assert len({row["psnr_bicubic"] for row in scores}) == 1
    assert len({row["psnr"] for row in scores}) > 1
    assert read_image(trained.folder() / "curves.png").pixels.std() > 0.05
    assert "network.num_blocks=2" in trained.output


def test_a_terminated_and_resumed_run_equals_one_without_a_stop_bit_for_bit(place, trained, monkeypatch, capsys):
    portraits, apply = {"data__photo_dir": trained.photos, "data__faces": trained.faces}, RestorerTrainer.apply

    def terminate_at_3(trainer, update):
        apply(trainer, update)
        if trainer.iteration == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RestorerTrainer, "apply", terminate_at_3)
        assert place.run(**portraits, **CONSTANT_RATE) == 0
    assert "stopped at iteration 3." in capsys.readouterr().out
    assert place.checkpoints() == ["average-2", "average-3", "model-2", "model-3"]
    place.main(*place.place())
    stopped, through = place.checkpoint(4), trained.checkpoint(4)
    assert_equal_states(through, stopped)
    assert any(name.endswith("/Adam_1") for name in stopped)
    assert stopped["global_step"] == 4
    assert any((stopped[name] != place.checkpoint(3)[name]).any() for name in stopped if name.startswith(SCOPE))
    for left, right in zip(trained.rows("train.csv"), place.rows("train.csv"), strict=True):
        assert [left[name] for name in ("iteration", "loss", "learning_rate", "gradient_norm")] == [
            right[name] for name in ("iteration", "loss", "learning_rate", "gradient_norm")]


def test_a_checkpoint_fits_no_other_network_and_no_other_beginning(trained):
    fails("model-4 .*network.num_blocks", *trained.place(), "--set", "network.num_blocks=3")
    fails("optimization.init=random .*--trial", *trained.place(), "--init",
          "realesrgan")


def test_a_value_that_is_not_finite_is_named_and_its_batch_saved(place):
    with pytest.raises(UserError, match=r"iteration \d: .*loss = (nan|inf).*optimization.learning_rate"):
        place.run(optimization__learning_rate="1e30", optimization__warmup_iters=0, optimization__clip_norm=0)
    [batch] = place.folder().glob("not_finite_*.npz")
    saved = np.load(batch)
    assert saved["lq"].shape == (4, 12, 12, 3)
    assert saved["target"].shape == (4, 48, 48, 3)
    assert saved["positions"].shape == (4, 12, 12, 8)


def test_an_export_holds_the_checkpoints_values_rounded_to_float16(trained, capsys):
    path = trained.export("latest.npz")
    assert capsys.readouterr().out == f"wrote the weights of iteration 4: {path}, {path.stat().st_size / 1e6:.1f} MB\n"
    with np.load(path) as file:
        assert {file[name].dtype for name in file.files} == {np.dtype(np.float16)}
    loaded, tensors = load_face_restorer(path), trained.checkpoint(4)
    assert {AVERAGE + name for name in loaded} == {name for name in tensors if name.startswith(AVERAGE)}
    for name, value in loaded.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, tensors[AVERAGE + name].astype(np.float16).astype(np.float32))


def test_an_export_of_what_is_not_there_says_what_is(trained, tmp_path):
    write_tf1_checkpoint(tmp_path / "trial_0" / "checkpoints" / "model-7", {"MODEL/conv_first/bias": np.zeros(3)})
    export = ("--export", tmp_path / "x.npz")
    fails("model-7 holds no face restorer", "--run_dir", tmp_path, *export)  # it is of main.py
    fails(f"there is no checkpoint in {tmp_path / 'trial_3' / 'checkpoints'}. Train first, or give --run_dir and",
          "--run_dir", tmp_path, "--trial", 3, *export)
    fails(r"no checkpoint of iteration 3 in .*\. There are: 2, 4\.", *trained.place(), "--step", 3, *export)
    assert [path.name for path in tmp_path.iterdir()] == ["trial_0"]


@pytest.mark.parametrize(("argv", "match"), [
    (["--export", "weights.h5"], r"--export takes a file that ends in \.npz. Received: weights\.h5"),
    (["--export", "npz"], r"--export takes a file that ends in \.npz"),
    (["--set", "optimization.sed=1"], "Did you mean optimization.seed"), (["--iterations", "x"], "num_iterations"),
    (["--set", "variation.gain=2"], "variation.gain"), (["--presets", "smoke"], "--presets"),
    (["--faces", "nowhere.csv", "--init", "random"], "nowhere.csv")])
def test_mistakes_are_one_line(tmp_path, argv, match):
    fails(match, "--run_dir", tmp_path, *argv)


@pytest.mark.parametrize("settings", [{"data__held_out": "p_"}, {"data__validation": "x"}])
def test_no_portrait_left_is_one_line(place, settings):
    fails("data.held_out and data.validation", *place.arguments(**settings))
