"""test.py, run from end to end on tiny networks and photos: what goes wrong, and how it says so."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.super_resolver import SuperResolver
from tests.small_networks import small_generator
from tests.workplace import ROOT, Workplace, cli, fails
from utils.files import exclusive
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


def fails_unwritten(place, capsys, *extra, message):
    fails(capsys, lambda: place.run(*extra), message=message)
    assert not place.out.exists() or not list(place.out.iterdir())


def test_divergence_is_an_error_of_that_photo_alone(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", faces=0)
    assert place.run("--learning_rate", "1e30", "--fine_tune_num", "2") == 2
    row = place.report()["a.png"]
    assert [row[name] for name in ("status", "width", "height", "faces", "patches")] == ["error", "30", "24", "1", "16"]
    assert float(row["loss_0"]) > 0
    assert sorted(place.results()) == ["b.png"]
    assert "--safeguard backtrack" in capsys.readouterr().err


def test_a_step_that_raises_the_loss_is_said_and_one_that_ruins_the_photo_fails(place, capsys, monkeypatch):
    place.add_photo("a.png")
    losses = [0.1, 0.12]
    original = SuperResolver.adapt
    monkeypatch.setattr(SuperResolver, "adapt", lambda *args, **given: original(*args, **given)._replace(losses=losses))
    assert place.run() == 0
    assert "0.12" in place.report()["a.png"]["reason"]
    assert "note: a.png: " in capsys.readouterr().err
    losses[1] = 0.31
    assert place.run("--overwrite") == 2
    assert place.report()["a.png"]["status"] == "error"
    assert "--learning_rate" in capsys.readouterr().err
    losses[:] = [0.001, 0.005]
    assert place.run("--overwrite") == 0


@pytest.mark.parametrize("fault", ["text", "truncated", "empty", "not four times", "no partner"])
def test_a_faulty_photo_gets_a_line_and_a_row_and_does_not_stop_the_others(place, capsys, fault):
    place.add_photo("a.jpg", height=64, width=64)
    place.add_photo("b.png", seed=5)
    faulty = place.lq / "a.jpg"
    content = faulty.read_bytes()
    if fault in ("text", "truncated", "empty"):
        faulty.write_bytes({"text": b"this is not an image", "truncated": content[:-40], "empty": b""}[fault])
    elif fault == "not four times":
        place.add_face("a_0.png", size=18, hq_size=71)
    else:
        (place.root / "data" / "Face_HQ" / "a_0.png").unlink()
    assert place.run() == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    row = place.report()["a.jpg"]
    assert row["status"] == "error"
    assert row["reason"] in line
    assert ("a_0.png" if content == faulty.read_bytes() else "a.jpg") in row["reason"]
    assert sorted(path.name for path in place.out.iterdir()) == ["b.png", "report.csv"]
    if fault == "empty":  # what is repaired gets its row where it would have been
        faulty.write_bytes(content)
        assert place.run("--skip_existing") == 0
        assert [row["status"] for row in place.report().values()] == ["adapted", "adapted"]
        assert list(place.report()) == ["a.jpg", "b.png"]


@pytest.mark.parametrize(("arguments", "message"), [
    (("--patch_size", "30"), "--patch_size"), (("--patch_num_per_img", "0"), "--patch_num_per_img"),
    (("--fine_tune_num", "-1"), "--fine_tune_num"), (("--learning_rate", "nan"), "--learning_rate"),
    (("--tile_size", "32", "--tile_overlap", "32"), "--tile_overlap"), (("--tile_size", "some"), "--tile_size"),
    (("--shard", "2/2"), "--shard"), (("--overwrite", "--skip_existing"), "--skip_existing"),
    (("--precision", "float64"), "--precision"), (("--unknown",), "--unknown"),
    (("--face_dir", "/nowhere/faces"), "/nowhere/faces"), (("--model_dir", "/nowhere/model-new"), "/nowhere/model-new"),
    (("--input_dir", "{root}"), "no image in"), (("--input_dir", "/nowhere/LQ"), "/nowhere/LQ"),
    (("--output_dir", "{root}/model-new.index/out"), "cannot write")])
def test_a_wrong_argument_is_one_line_that_names_it(place, capsys, arguments, message):
    place.add_photo("a.png")
    fails_unwritten(place, capsys, *(argument.format(root=place.root) for argument in arguments), message=message)


def test_two_photos_with_one_stem_are_an_error_before_any_work(place, capsys):
    place.add_photo("a.png")
    place.add_photo("a.jpg")
    fails_unwritten(place, capsys, message="a.jpg and a.png")


def test_a_checkpoint_of_another_architecture_lists_the_names(place, capsys):
    place.add_photo("a.png")
    generator = small_generator()
    generator["conv_extra/bias"] = generator.pop("conv_hr/bias")
    write_tf1_checkpoint(place.root / "model-new", checkpoint_tensors(generator))
    fails_unwritten(place, capsys, message="missing: conv_hr/bias; extra: conv_extra/bias")


def test_results_that_are_there_are_not_replaced_unasked(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", seed=1)
    place.run()
    before, earlier_row = place.results(), place.report()["a.png"]
    fails(capsys, place.run, message="--overwrite or --skip_existing")
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
        fails(capsys, lambda folder=folder: place.run("--overwrite", out=folder), message="--output_dir")
    assert (place.lq / "a.png").read_bytes() == before


def test_a_comparison_that_cannot_be_written_does_not_cost_the_result_and_is_made_again(place):
    place.add_photo("a.png", faces=0)
    place.out.mkdir()
    (place.out / "comparison").write_text("in the way")
    assert place.run("--save_comparison") == 0
    row = place.report()["a.png"]
    assert (row["status"], "no comparison" in row["reason"]) == ("base", True)
    (place.out / "comparison").unlink()
    for _ in range(2):
        assert place.run("--save_comparison", "--skip_existing") == 0
        written = {(path.name, path.stat().st_mtime_ns) for path in (place.out / "comparison").iterdir()}
        assert [name for name, _ in written] == ["a.png"]


def test_a_shard_without_photos_says_so_and_leaves_an_empty_report(place, capsys):
    place.add_photo("a.png")
    assert place.run("--shard", "1/2") == 0
    assert "1/2" in capsys.readouterr().out
    assert [path.name for path in place.out.iterdir()] == ["report-1-of-2.csv"]
    assert place.report("report-1-of-2.csv") == {}


def test_a_second_process_is_refused_and_another_shard_is_not(place, capsys):
    place.add_photo("a.png", faces=0)
    with exclusive(place.out / ".report.csv.lock", "x"):
        fails(capsys, place.run, message="report.csv")
        assert place.run("--shard", "0/2") == 0
    assert sorted(path.name for path in place.out.iterdir()) == ["a.png", "report-0-of-2.csv"]


def test_the_row_of_a_photo_that_failed_is_there_before_its_message(place, monkeypatch):
    """Whoever reads the messages may have gone: the message then ends the run."""
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

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(SystemExit) as ended:
            cli.run_cli(place.run)
    assert ended.value.code == 2
    assert os.strerror(number) in capsys.readouterr().err
    assert sorted(place.results()) == ["a.png"]
    assert not list(place.out.glob(".*"))
    assert place.run("--skip_existing") == 0
    assert list(place.results()) == list(place.report()) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_keeps_finished_photos_and_nothing_half_written_and_goes_on(place, stop):
    place.add_photo("a.png")
    place.add_photo("b.png", height=2600, width=2600, faces=0)  # thousands of tiles: it cannot finish
    place.add_photo("c.png", seed=3)
    tiles = ("--tile_size", "80", "--tile_overlap", "40")
    process = subprocess.Popen([sys.executable, str(ROOT / "test.py"), *place.arguments(*tiles)],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (place.out / "a.png").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(stop)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (-stop if stop == signal.SIGKILL else 130)
    assert "Traceback" not in error
    finished = place.results()
    assert list(finished) == ["a.png"]
    (place.lq / "b.png").unlink()
    assert place.run("--skip_existing", *tiles) == 0
    assert sorted(path.name for path in place.out.iterdir()) == ["a.png", "c.png", "report.csv"]
    assert place.results()["a.png"] == finished["a.png"]
    assert list(place.report()) == ["a.png", "c.png"]
