"""The tool: a run's folder, stopping and going on, exports, and errors of one line."""

import json
import re
import signal

import numpy as np
import pytest

from scripts.train_face_restorer import main, parse_args
from tests.helpers.restorer_workplace import RestorerWorkplace
from tests.helpers.training_runs import assert_equal_states, killed_at_the_end, wait_for
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
    """A run of 4 iterations."""
    place = RestorerWorkplace(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.training.run.plot_curves", lambda *_: None)
        place.run(**CONSTANT_RATE)
    return place


@pytest.fixture(autouse=True)
def without_plots(request, monkeypatch):
    """Plotting takes longer than these runs; one test looks at the plot."""
    if "curves" not in request.node.name:
        monkeypatch.setattr("utils.training.run.plot_curves", lambda *_: None)


def fails(match, *argv):
    with pytest.raises(UserError, match=match) as caught:
        main([str(argument) for argument in argv])
    assert "\n" not in str(caught.value)


def test_a_run_leaves_checkpoints_metrics_curves_and_its_configuration(place, capsys):
    assert place.run() == 0
    assert place.checkpoints() == ["average-2", "average-4", "model-2", "model-4"]
    config = json.loads((place.folder() / "config.json").read_text())
    assert config["network"] == {"num_blocks": 2, "num_features": 8, "growth": 4}
    rows = place.rows("train.csv")
    assert [row["iteration"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert list(row) == COLUMNS
        assert row["loss"] == row["l1"]
        assert min(float(row[name]) for name in ("loss", "seconds", "gradient_norm", "learning_rate")) > 0
    scores = place.rows("metrics.csv")
    assert [row["iteration"] for row in scores] == ["0", "2", "4"]
    assert all(np.isfinite(float(value)) for row in scores for value in row.values())
    assert len({row["psnr_bicubic"] for row in scores}) == 1
    assert len({row["psnr"] for row in scores}) > 1
    assert read_image(place.folder() / "curves.png").pixels.std() > 0.05
    assert "network.num_blocks=2" in capsys.readouterr().out


def test_a_stopped_and_resumed_run_equals_one_without_a_stop_bit_for_bit(place, trained):
    place.run("--iterations", "2", data__photo_dir=trained.photos, data__faces=trained.faces, **CONSTANT_RATE)
    place.main(*place.place(), "--iterations", "4")
    stopped, through = place.checkpoint(4), trained.checkpoint(4)
    assert_equal_states(through, stopped)
    assert any(name.endswith("/Adam_1") for name in stopped)
    assert stopped["global_step"] == 4
    assert any((stopped[name] != place.checkpoint(2)[name]).any() for name in stopped if name.startswith(SCOPE))
    for left, right in zip(trained.rows("train.csv"), place.rows("train.csv"), strict=True):
        assert [left[name] for name in ("iteration", "loss", "learning_rate", "gradient_norm")] == [
            right[name] for name in ("iteration", "loss", "learning_rate", "gradient_norm")]


def test_a_checkpoint_fits_no_other_network_and_no_other_beginning(trained):
    fails("model-4 .*network.num_blocks", *trained.place(), "--set", "network.num_blocks=3")
    fails("optimization.init=random .*--trial", *trained.place(), "--init",
          "realesrgan")


def test_sigterm_saves_and_exits_with_0(place):
    options = {"optimization__num_iterations": 1000, "run__save_every": 1000, "run__validate_every": 1000}
    with killed_at_the_end(place.start(**options)) as process:
        wait_for(lambda: place.rows("train.csv"), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    [iteration] = re.findall(r"stopped at iteration (\d+)", output)
    assert place.checkpoints() == [f"average-{iteration}", f"model-{iteration}"]


def test_a_value_that_is_not_finite_is_named_and_its_batch_saved(place):
    with pytest.raises(UserError, match=r"iteration \d: .*loss = (nan|inf).*optimization.bfloat16=false"):
        place.run(optimization__learning_rate="1e30", optimization__warmup_iters=0, optimization__clip_norm=0)
    [batch] = place.folder().glob("not_finite_*.npz")
    saved = np.load(batch)
    assert saved["lq"].shape == (2, 12, 12, 3)
    assert saved["target"].shape == (2, 48, 48, 3)
    assert saved["positions"].shape == (2, 12, 12, 8)


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


def test_equal_exports_are_equal_bytes_and_other_iterations_are_not(trained):
    first, second = (trained.export(f"{name}.npz").read_bytes() for name in "ab")
    earlier = trained.export("c.npz", "--step", "2")
    assert first == second
    assert earlier.read_bytes() != first
    kernel = "body/0/rdb1/conv1/weight"
    np.testing.assert_array_equal(load_face_restorer(earlier)[kernel],
                                  trained.checkpoint(2)[AVERAGE + kernel].astype(np.float16))


def test_training_goes_on_from_an_export(trained, place):
    path = trained.export("start.npz")
    place.run("--init", str(path), "--iterations", "1", optimization__learning_rate="1e-12")
    for name, value in load_face_restorer(path).items():
        np.testing.assert_allclose(place.checkpoint(1)[SCOPE + name], value, atol=1e-9)


def test_an_export_of_a_run_of_main_py_is_refused(tmp_path):
    write_tf1_checkpoint(tmp_path / "trial_0" / "checkpoints" / "model-7", {"MODEL/conv_first/bias": np.zeros(3)})
    fails("model-7 holds no face restorer", "--run_dir", tmp_path, "--export", tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_an_export_without_a_checkpoint_says_where_there_is_none(tmp_path):
    fails(f"there is no checkpoint in {tmp_path / 'trial_3' / 'checkpoints'}. Train first, or give --run_dir and",
          "--run_dir", tmp_path, "--trial", 3, "--export", tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_an_iteration_that_is_not_there_lists_those_that_are(trained):
    fails(r"no checkpoint of iteration 3 in .*\. There are: 2, 4\.", *trained.place(), "--step", 3, "--export", "x.npz")


def test_flags_are_short_for_settings_and_set_goes_before_them():
    args = parse_args(["--photo_dir", "a", "--faces", "b", "--iterations", "7", "--init", "c",
                       "--set", "optimization.seed=1", "--set", "optimization.num_iterations=8"])
    assert args.settings == ["data.photo_dir=a", "data.faces=b", "optimization.num_iterations=7",
                             "optimization.init=c", "optimization.seed=1", "optimization.num_iterations=8"]


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
