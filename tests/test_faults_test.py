"""test.py, run from end to end on tiny networks and photos: what goes wrong, and how it says so."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import utils.inference.restoration
import utils.weights.checkpoints
from tests.small_networks import small_generator
from tests.workplace import ROOT, Workplace, cli
from utils.console import run_cli
from utils.errors import DiskFullError
from utils.files import exclusive
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


def fails(place, capsys, *extra, message, lq=None):
    """Check that a command ends with status 2, one line that matches, and nothing written."""
    arguments = place.arguments(*extra)
    if lq:
        arguments[1] = str(lq)
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: cli.main(arguments))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not place.out.exists() or not list(place.out.iterdir())


def test_divergence_is_an_error_of_that_photo_alone(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", faces=0)
    assert place.run("--learning_rate", "1e30", "--fine_tune_num", "2") == 2
    row = place.report()["a.png"]
    assert "diverged" in row["reason"]
    assert (row["width"], row["height"], row["faces"], row["patches"]) == ("30", "24", "1", "16")
    assert float(row["loss_0"]) > 0
    assert sorted(place.results()) == ["b.png"]
    assert "--safeguard backtrack" in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "message"), [
    ("text", "a.png"), ("truncated", "a.png"), ("empty", "is empty"), ("not four times", "must be exactly 4 times"),
    ("no partner", "no partner")])
def test_a_faulty_photo_gets_a_line_and_a_row_and_does_not_stop_the_others(place, capsys, fault, message):
    place.add_photo("a.png" if fault != "truncated" else "a.png.jpg", height=64, width=64)
    place.add_photo("b.png", seed=5)
    faulty = place.lq / ("a.png.jpg" if fault == "truncated" else "a.png")
    if fault == "text":
        faulty.write_text("this is not an image")
    elif fault == "truncated":
        faulty.write_bytes(faulty.read_bytes()[:-40])
    elif fault == "empty":
        faulty.write_bytes(b"")
    elif fault == "not four times":
        place.add_face("a_0.png", size=18, hq_size=71)
    else:
        (place.root / "data" / "Face_HQ" / "a_0.png").unlink()
    assert place.run() == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    row = place.report()[faulty.name]
    assert row["status"] == "error"
    assert message in row["reason"]
    assert list(place.results()) == ["b.png"]
    assert sorted(path.name for path in place.out.iterdir()) == ["b.png", "report.csv"]


@pytest.mark.parametrize(("arguments", "message"), [
    (("--patch_size", "30"), "--patch_size must be positive and divisible by 4. Received: 30"),
    (("--patch_num_per_img", "0"), "--patch_num_per_img must be at least 1"),
    (("--fine_tune_num", "-1"), "--fine_tune_num must be at least 0"),
    (("--learning_rate", "nan"), "--learning_rate must be positive"),
    (("--tile_size", "32", "--tile_overlap", "32"), "--tile_overlap must be smaller"),
    (("--tile_size", "some"), "--tile_size must be a number or auto"),
    (("--shard", "2/2"), "--shard is i/n"),
    (("--overwrite", "--skip_existing"), "exclude each other"),
    (("--precision", "float64"), "invalid choice"),
    (("--unknown",), "unrecognized arguments"),
    (("--face_dir", "/nowhere/faces"), "/nowhere/faces"),
    (("--model_dir", "/nowhere/model-new"), "/nowhere/model-new does not exist"),
])
def test_a_wrong_argument_is_one_line(place, capsys, arguments, message):
    place.add_photo("a.png")
    fails(place, capsys, *arguments, message=message)


def test_a_missing_or_empty_folder_is_one_line(place, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    fails(place, capsys, message="no image in", lq=tmp_path / "empty")
    fails(place, capsys, message="does not exist", lq=tmp_path / "absent")


def test_two_photos_with_one_stem_are_an_error_before_any_work(place, capsys):
    place.add_photo("a.png")
    place.add_photo("a.jpg")
    fails(place, capsys, message="a.jpg and a.png")


def test_a_checkpoint_of_another_architecture_lists_the_names(place, capsys):
    place.add_photo("a.png")
    generator = small_generator()
    generator["conv_extra/bias"] = generator.pop("conv_hr/bias")
    write_tf1_checkpoint(place.root / "model-new", checkpoint_tensors(generator))
    fails(place, capsys, message="missing: conv_hr/bias; extra: conv_extra/bias")


def test_an_output_folder_that_cannot_be_written_is_one_line(place, capsys):
    place.add_photo("a.png")
    (place.root / "file").write_text("")
    fails(place, capsys, "--output_dir", str(place.root / "file" / "out"), message="cannot write")


def test_results_that_are_there_are_not_replaced_unasked(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", seed=1)
    place.run()
    before, earlier_row = place.results(), place.report()["a.png"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_cli(lambda: place.run())
    assert "2 of 2 results are already in" in capsys.readouterr().err
    (place.out / "b.png").unlink()
    (place.out / "a.png").write_bytes(b"kept")
    assert place.run("--skip_existing") == 0
    assert place.results() == {"a.png": b"kept", "b.png": before["b.png"]}
    assert place.report()["a.png"] == earlier_row
    assert place.run("--overwrite") == 0
    assert place.results() == before


def test_results_never_replace_photos_or_faces(place, capsys):
    place.add_photo("a.png")
    before = (place.lq / "a.png").read_bytes()
    for folder in (place.lq, place.root / "data" / "Face_LQ", place.lq / ".." / "LQ"):
        with pytest.raises(SystemExit):
            run_cli(lambda folder=folder: place.run("--overwrite", out=folder))
        assert "must be another folder" in capsys.readouterr().err
    assert (place.lq / "a.png").read_bytes() == before


def test_a_comparison_that_cannot_be_written_does_not_cost_the_result(place):
    place.add_photo("a.png")
    place.out.mkdir()
    (place.out / "comparison").write_text("in the way")
    assert place.run("--save_comparison") == 0
    row = place.report()["a.png"]
    assert row["status"] == "adapted"
    assert "no comparison" in row["reason"]
    assert list(place.results()) == ["a.png"]


def test_a_full_disk_ends_the_run_in_one_line(place, capsys, monkeypatch):
    for name in ("a.png", "b.png"):
        place.add_photo(name, faces=0)
    place.run()
    monkeypatch.setattr(utils.inference.restoration, "write_png", full_disk)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: place.run("--overwrite"))
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert errors == ["error: no room"]


def full_disk(*_, **__):
    raise DiskFullError("no room")


def test_a_shard_without_photos_says_so_and_leaves_an_empty_report(place, capsys):
    place.add_photo("a.png")
    assert place.run("--shard", "1/2") == 0
    assert capsys.readouterr().out == "no photo falls into shard 1/2\n"
    assert [path.name for path in place.out.iterdir()] == ["report-1-of-2.csv"]
    assert place.report("report-1-of-2.csv") == {}


def test_a_second_process_is_refused_and_another_shard_is_not(place, capsys):
    place.add_photo("a.png", faces=0)
    with exclusive(place.out / ".report.csv.lock", "x"):
        with pytest.raises(SystemExit) as ended:
            run_cli(place.run)
        assert (ended.value.code, capsys.readouterr().err.count("\n")) == (2, 1)
        assert place.run("--shard", "0/2") == 0
    assert sorted(path.name for path in place.out.iterdir()) == ["a.png", "report-0-of-2.csv"]


def test_a_photo_that_is_mended_gets_its_row_where_it_would_have_been(place):
    for name in ("a.png", "b.png", "c.png"):
        place.add_photo(name)
    sound = (place.lq / "b.png").read_bytes()
    (place.lq / "b.png").write_bytes(sound[:100])
    assert place.run() == 2
    (place.lq / "b.png").write_bytes(sound)
    assert place.run("--skip_existing") == 0
    assert list(place.report()) == ["a.png", "b.png", "c.png"]


def test_the_row_of_a_photo_that_failed_is_there_before_its_message(place, monkeypatch):
    """Who reads the messages may have gone: the message then ends the run."""
    def nobody_reads(*_):
        raise BrokenPipeError

    place.add_photo("a.png")
    (place.lq / "a.png").write_bytes(b"")
    monkeypatch.setattr(cli.Progress, "write", nobody_reads)
    with pytest.raises(BrokenPipeError):
        place.run()
    assert [row["status"] for row in place.report().values()] == ["error"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_costs_nothing_that_is_there(place, capsys, monkeypatch, number):
    for name in ("a.png", "b.png", "c.png"):
        place.add_photo(name, faces=0)
    replace, refused = Path.replace, []

    def refuse(source, target):
        if target.name == "b.png" or refused:
            refused.append(target)
            raise OSError(number, os.strerror(number))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SystemExit) as ended:
        run_cli(place.run)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: cannot write")
    assert [name for name, row in place.report().items() if row["status"] != "error"] == ["a.png"]
    assert sorted(path.name for path in place.out.iterdir()) == ["a.png", "report.csv"]
    monkeypatch.undo()
    assert place.run("--skip_existing") == 0
    assert list(place.results()) == list(place.report()) == ["a.png", "b.png", "c.png"]


def test_a_photo_whose_comparison_is_missing_is_done_again(place):
    """A process was killed between the result and its comparison."""
    place.add_photo("a.png", faces=0)
    place.run("--save_comparison")
    comparison = place.out / "comparison" / "a.png"
    before = comparison.read_bytes()
    comparison.unlink()
    (place.out / "comparison" / ".a.png.0123abcd.part").write_bytes(before[:100])
    assert place.run("--skip_existing", "--save_comparison") == 0
    assert {path.name: path.read_bytes() for path in comparison.parent.iterdir()} == {"a.png": before}
    written = comparison.stat().st_mtime_ns
    assert place.run("--skip_existing", "--save_comparison") == 0
    assert comparison.stat().st_mtime_ns == written


def test_a_clock_that_jumps_changes_nothing(place, tmp_path, monkeypatch, capsys):
    for name in ("a.png", "b.png"):
        place.add_photo(name, faces=0)
    place.run()
    ticks = itertools.count()
    for module in ("time", "tqdm.std"):
        monkeypatch.setattr(f"{module}.time", lambda: 1.7e9 + 86400 * (-2) ** (next(ticks) % 12))
    assert place.run(out=tmp_path / "jumping") == 0
    assert place.results(tmp_path / "jumping") == place.results()
    assert all(0 <= float(row["seconds_total"]) < 600 for row in place.report(out=tmp_path / "jumping").values())
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_finished_photos_and_nothing_half_written(place, stop):
    place.add_photo("a.png")
    place.add_photo("b.png", height=2600, width=2600, faces=0)  # thousands of tiles: it cannot finish
    tiles = ("--tile_size", "80", "--tile_overlap", "40")
    process = subprocess.Popen([sys.executable, str(ROOT / "test.py"), *place.arguments(*tiles)],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (place.out / "a.png").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(stop)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "interrupted" in error
    assert sorted(path.name for path in place.out.iterdir()) == ["a.png", "report.csv"]
    assert list(place.report()) == ["a.png"]
