"""The tool: a run's folder, stopping and going on, exports, and errors of one line."""

import json
import re
import signal

import numpy as np
import pytest

from scripts.train_face_restorer import main, parse_args
from tests.helpers.restorer_workplace import FACE_SIZE, RestorerWorkplace
from tests.helpers.training_workplace import assert_equal_states, killed_at_the_end, wait_for
from utils.errors import UserError
from utils.face.restorers import load_face_restorer
from utils.image.io import read_image
from utils.training.face_restorer import SCOPE
from utils.weights.checkpoints import write_tf1_checkpoint

COLUMNS = ["iteration", "loss", "learning_rate", "gradient_norm", "seconds", "data_share"]


@pytest.fixture
def place(tmp_path):
    return RestorerWorkplace(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 4 iterations."""
    place = RestorerWorkplace(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.training.run.plot_curves", lambda *_: None)
        place.run()
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
    assert place.run(optimization__clip_norm=0.5) == 0
    assert place.checkpoints() == ["model-2", "model-4"]
    config = json.loads((place.folder() / "config.json").read_text())
    assert config["data"]["face_size"] == FACE_SIZE
    assert config["network"] == {"strides": [8, 4, 2], "features": [8, 8, 6], "blocks": [1, 1, 0]}
    rows = place.rows("train.csv")
    assert [row["iteration"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert list(row) == COLUMNS
        values = {name: float(value) for name, value in row.items()}
        assert min(values["loss"], values["seconds"], values["gradient_norm"], values["learning_rate"]) > 0
    scores = place.rows("metrics.csv")
    assert [row["iteration"] for row in scores] == ["0", "2", "4"]
    assert all(np.isfinite(float(value)) for row in scores for value in row.values())
    assert len({row["psnr_input"] for row in scores}) == 1
    assert len({row["psnr"] for row in scores}) == 3
    assert read_image(place.folder() / "curves.png").pixels.std() > 0.05
    assert list((place.folder() / "tensorboard").iterdir())
    out = capsys.readouterr().out
    assert "optimization.clip_norm=0.5" in out
    assert "trained at iteration 4. Write its weights for use with: python scripts/train_face_restorer.py" in out


def test_stopping_and_going_on_equals_going_through_bit_for_bit(place, trained, capsys):
    place.run("--iterations", "2", data__face_record=trained.faces)
    place.main(*place.place(), "--iterations", "4")
    assert "resumes at iteration 2, 4 iterations" in capsys.readouterr().out
    stopped, through = place.checkpoint(4), trained.checkpoint(4)
    assert_equal_states(through, stopped)
    assert any(name.endswith("/Adam_1") for name in stopped)
    assert stopped["global_step"] == 4
    assert any((stopped[name] != place.checkpoint(2)[name]).any() for name in stopped if name.startswith(SCOPE))
    for left, right in zip(trained.rows("train.csv"), place.rows("train.csv"), strict=True):
        assert [left[name] for name in ("iteration", "loss", "learning_rate", "gradient_norm")] == [
            right[name] for name in ("iteration", "loss", "learning_rate", "gradient_norm")]


def test_a_checkpoint_fits_no_other_network_and_no_other_beginning(trained):
    fails(r"model-4 was trained with network.features=\(8, 8, 6\), not \(8, 8, 4\)", *trained.place(),
          "--set", "network.features=8,8,4")
    fails("this run has begun with optimization.init=random .*another --trial", *trained.place(), "--init",
          "realesrgan")


def test_sigterm_saves_and_exits_with_0(place):
    options = {"optimization__num_iterations": 1000, "run__save_every": 1000, "run__validate_every": 1000}
    with killed_at_the_end(place.start(**options)) as process:
        wait_for(lambda: (place.folder() / "train.csv").exists() and place.rows("train.csv"), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    [iteration] = re.findall(r"stopped at iteration (\d+)", output)
    assert place.checkpoints() == [f"model-{iteration}"]


def test_a_value_that_is_not_finite_is_named_and_its_batch_saved(place):
    with pytest.raises(UserError, match=r"iteration \d: .*loss = (nan|inf).*optimization.bfloat16=false"):
        place.run(optimization__learning_rate="1e30", optimization__warmup_iters=0)
    [batch] = place.folder().glob("not_finite_*.npz")
    saved = np.load(batch)
    assert saved["degraded"].shape == saved["target"].shape == (2, 64, 64, 3)
    assert saved["corners"].shape == (2, 2)


def test_an_export_holds_the_checkpoints_values_rounded_to_float16(trained, capsys):
    path = trained.export("latest.npz")
    assert capsys.readouterr().out == f"wrote the weights of iteration 4: {path}, {path.stat().st_size / 1e6:.1f} MB\n"
    with np.load(path) as file:
        assert {file[name].dtype for name in file.files} == {np.dtype(np.float16)}
    loaded, tensors = load_face_restorer(path), trained.checkpoint(4)
    names = [name for name in tensors if name.startswith(SCOPE) and not name.endswith(("/Adam", "/Adam_1"))]
    assert sorted(SCOPE + name for name in loaded) == sorted(names)
    for name, value in loaded.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, tensors[SCOPE + name].astype(np.float16).astype(np.float32))


def test_equal_exports_are_equal_bytes_and_other_iterations_are_not(trained):
    first, second = (trained.export(f"{name}.npz").read_bytes() for name in "ab")
    earlier = trained.export("c.npz", "--step", "2")
    assert first == second
    assert earlier.read_bytes() != first
    kernel = "8/body/0/rdb1/conv1/weight"
    np.testing.assert_array_equal(load_face_restorer(earlier)[kernel],
                                  trained.checkpoint(2)[SCOPE + kernel].astype(np.float16))


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
    args = parse_args(["--face_record", "a", "--validation_record", "b", "--iterations", "7", "--init", "c",
                       "--set", "optimization.seed=1", "--set", "optimization.num_iterations=8"])
    assert args.settings == ["data.face_record=a", "data.validation_record=b", "optimization.num_iterations=7",
                             "optimization.init=c", "optimization.seed=1", "optimization.num_iterations=8"]


@pytest.mark.parametrize(("argv", "match"), [
    (["--export", "weights.h5"], r"--export takes a file that ends in \.npz. Received: weights\.h5"),
    (["--export", "npz"], r"--export takes a file that ends in \.npz"),
    (["--set", "optimization.sed=1"], "Did you mean optimization.seed"), (["--iterations", "x"], "num_iterations"),
    (["--set", "jitter.gain=2"], "jitter.gain must be between 0 and 0.9"), (["--presets", "smoke"], "--presets"),
    (["--face_record", "nowhere.tfrecord", "--init", "random"], "there is no record nowhere.tfrecord")])
def test_mistakes_are_one_line(tmp_path, argv, match):
    fails(match, "--run_dir", tmp_path, *argv)


def test_too_few_faces_to_divide_are_one_line(place):
    fails("data.num_validation.*6 of 6", *place.arguments(data__num_validation=6))
