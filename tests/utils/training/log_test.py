"""What a run tells, read back: CSV files by hand, TensorBoard's events through its own reader, curves line by line."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from matplotlib import pyplot
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.errors import UserError
from utils.training.log import EventWriter, History, plot_curves
from utils.training.setup import MetaRun

SCORES = ("psnr_bicubic", "psnr_before", "psnr_after", "psnr_other_faces")


@pytest.fixture
def path(tmp_path):
    """A history of the iterations 1 to 4."""
    history = History(tmp_path / "run" / "x.csv", ["a", "b"], until=0)
    for iteration in range(1, 5):
        history.add(iteration, {"a": iteration / 8, "b": 10.0**-iteration})
    return history.path


def reopened(path, *, until, columns=("a", "b")):
    return History(path, columns, until=until)


def test_rows_are_in_the_file_as_soon_as_they_are_added(tmp_path):
    history = History(tmp_path / "x.csv", ["a", "b"], until=0)
    assert (tmp_path / "x.csv").read_text() == "iteration,a,b\n"
    history.add(1, {"b": 0.5, "a": np.float32(2) / 3})
    assert (tmp_path / "x.csv").read_text() == "iteration,a,b\n1,0.666667,0.5\n"
    history.add(20, {"b": 1e-30, "unknown": 3})
    assert (tmp_path / "x.csv").read_text() == "iteration,a,b\n1,0.666667,0.5\n20,,1e-30\n"


@pytest.mark.parametrize("until", range(6))
def test_rows_after_the_iteration_gone_on_from_are_dropped(path, until):
    history = reopened(path, until=until)
    kept = list(range(1, min(until, 4) + 1))
    assert [row["iteration"] for row in history.rows] == kept
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["iteration", *map(str, kept)]
    history.add(until + 1, {"a": 9})
    assert reopened(path, until=9).column("a")[0] == [*kept, until + 1]


@pytest.mark.parametrize("length", range(2, 15))  # without its \\n alone it is whole
def test_row_that_was_cut_off_is_dropped_wherever_it_was_cut(path, length):
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    assert last == len(b"4,0.5,0.0001\r\n")
    path.write_bytes(whole[:len(whole) - length])
    rows = reopened(path, until=4).rows
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert path.read_bytes() == whole[:-last]


@pytest.mark.parametrize("line", ["x,1,2\n", "\n", ",1,2\n", "5,x,2\n", "5,1,2,3\n", "\ufffd\n"])
def test_lines_that_are_no_rows_are_dropped(path, line):
    with path.open("a") as file:
        file.write(line)
    assert len(reopened(path, until=9).rows) == 4


def test_columns_may_come_and_go(path):
    history = reopened(path, until=2, columns=["b", "c"])
    history.add(3, {"b": 1, "c": 2})
    assert path.read_text() == "iteration,b,c,a\n1,0.1,,0.125\n2,0.01,,0.25\n3,1,2,\n"
    again = reopened(path, until=3, columns=["b"])
    assert (again.column("a"), again.column("c")) == (([1, 2], [0.125, 0.25]), ([3], [2]))
    assert history.column("c") == ([3], [2])
    assert history.column("b") == ([1, 2, 3], [0.1, 0.01, 1])
    assert history.column("unknown") == ([], [])


def test_file_that_cannot_be_read_or_written_is_named(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*folder: Is a directory"):
        History(tmp_path / "folder", [], until=0)
    with pytest.raises(UserError, match=r"cannot (read|write) .*x\.csv"):
        History(path / "x.csv", [], until=0)
    history = reopened(path, until=4)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot write .*x\.csv: Is a directory"):
        history.add(5, {})


def read_events(folder):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {tag: [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]}


def test_scalars_and_pictures_are_read_back_by_tensorboard(tmp_path):
    picture = np.random.default_rng(0).random((5, 7, 3), np.float32)
    writer = EventWriter(tmp_path)
    writer.add(3, "train", {"l1": 0.25, "psnr": 30}, {"0/after": picture, "1/after": 1 - picture})
    writer.add(10, "train", {"l1": 0.125})
    assert read_events(tmp_path)["train/l1"] == [(3, 0.25), (10, 0.125)]  # before it is closed
    writer.close()
    events = read_events(tmp_path)
    assert events.keys() == {"train/l1", "train/psnr", "0/after", "1/after"}
    assert (events["train/l1"], events["train/psnr"]) == ([(3, 0.25), (10, 0.125)], [(3, 30)])
    [(step, (width, height, encoded))] = events["0/after"]
    assert (step, width, height) == (3, b"7", b"5")
    read = np.asarray(Image.open(io.BytesIO(encoded))).astype(np.float32) / 255
    np.testing.assert_allclose(read, picture, atol=1 / 255)


def make_histories(tmp_path, count):
    training = History(tmp_path / "train.csv", ["outer_loss", "l1", "unknown"], until=0)
    validation = History(tmp_path / "metrics.csv", SCORES, until=0)
    for number in range(count):
        training.add(number, {"outer_loss": 1 / (number + 1), "l1": 0.5, "unknown": 3})
        validation.add(100 * number, {"psnr_bicubic": 20, "psnr_before": 24, "psnr_after": 25 + number,
                                      "psnr_other_faces": 24.5})
    return SimpleNamespace(training=training, validation=validation)


def test_a_folder_for_events_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write in .*tb: .*file is not a directory\. Check") as caught:
        EventWriter(tmp_path / "file" / "tb")
    assert "\n" not in str(caught.value)
    assert "{{" not in str(caught.value)


def drawn(path, histories, monkeypatch):
    """Return, for every axes, label -> the points that `plot_curves` draws."""
    figures = []
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(pyplot, "close", figures.append)
        plot_curves(path, MetaRun.panels(histories))
    [figure] = figures
    lines = [{line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
              if not line.get_label().startswith("_")} for axes in figure.axes]
    pyplot.close(figure)
    return lines


@pytest.mark.parametrize("count", [0, 3])
def test_curves_are_those_of_the_histories(tmp_path, monkeypatch, count):
    scores, gain, losses = drawn(tmp_path / "curves.png", make_histories(tmp_path, count), monkeypatch)
    iterations = [100 * number for number in range(count)]
    assert scores == {"bicubic": (iterations, [20] * count), "not adapted": (iterations, [24] * count),
                      "adapted": (iterations, [25 + number for number in range(count)]),
                      "adapted with another task's faces": (iterations, [24.5] * count)}
    assert gain == {"over not adapted": (iterations, [1 + number for number in range(count)]),
                    "over another task's faces": (iterations, [0.5 + number for number in range(count)])}
    assert losses == ({"outer_loss": (list(range(count)), [1 / (number + 1) for number in range(count)]),
                       "l1": (list(range(count)), [0.5] * count)} if count else {})
