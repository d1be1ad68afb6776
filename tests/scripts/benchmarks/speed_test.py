"""Durations are not tested, but what is compared with what, and that ratios are right."""

import re
import subprocess

import numpy as np
import pytest
import skimage.data

from scripts import benchmark
from scripts.benchmarks import speed as speed_benchmark
from tests.small_networks import small_generator
from utils.errors import UserError
from utils.image.io import read_image
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

PHOTO = skimage.data.astronaut().astype(np.float32) / 255
# does what test.py does for the benchmark, and notes which of the two it is
PROGRAM = """
import csv, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(given["--input_dir"], "0.png").exists()
with open({notes!r}, "a") as file:
    print({name!r}, given["--model_dir"], file=file)
out = pathlib.Path(given["--output_dir"])
out.mkdir(exist_ok=True)
with (out / "report.csv").open("w", newline="") as file:
    csv.writer(file).writerows([["seconds_adaptation", "seconds_upscaling", "seconds_total"], [0.1, 0.2, 0.4]])
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository whose test.py is another one in its first commit than now."""
    root = tmp_path / "now"
    root.mkdir()
    monkeypatch.setattr(speed_benchmark, "ROOT", root)
    (root / "test.py").write_text(PROGRAM.format(notes=str(tmp_path / "notes"), name="before"))
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "slow"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (root / "test.py").write_text(PROGRAM.format(notes=str(tmp_path / "notes"), name="now"))
    return root


def test_an_earlier_commit_is_there_while_it_is_measured(repository):
    with speed_benchmark.tree_of("HEAD") as tree:
        assert "'before'" in (tree / "test.py").read_text()
    assert not tree.exists()
    assert len(subprocess.run(["git", "-C", str(repository), "worktree", "list"], check=True, capture_output=True,
                              text=True).stdout.splitlines()) == 1


def test_a_commit_that_is_not_there_is_named(repository):
    with pytest.raises(UserError, match="cannot check 0123abc out"), speed_benchmark.tree_of("0123abc"):
        pass


def test_photos_compare_the_earlier_program_with_the_present_one(repository):
    with speed_benchmark.tree_of("HEAD") as tree:
        rows = dict(speed_benchmark.photos(tree, "small", None, PHOTO))
    assert (repository.parent / "notes").read_text().splitlines() == ["before small", "now small"] * (3 + 2)
    start, ten, *shares = rows.values()
    assert all(float(value) > 0 for value in (start, ten))
    assert [float(value.rstrip("%")) > 0 for value in shares[:3]] == [True] * 3
    assert float(shares[1].rstrip("%")) == pytest.approx(2 * float(shares[0].rstrip("%")), abs=1.01)  # 0.2 s and 0.1 s


def test_a_program_that_fails_is_reported_in_one_line(repository):
    (repository / "test.py").write_text("raise SystemExit('error: no photo')")
    with pytest.raises(UserError, match=r"^test.py failed: error: no photo$"):
        speed_benchmark.run(repository, "test.py")


def test_functions_run_in_turns_and_the_shortest_duration_counts(monkeypatch):
    calls, clock = [], [0.0]
    durations = {"before": iter([2.0, 1.5]), "after": iter([0.5, 3.0])}
    monkeypatch.setattr(speed_benchmark.time, "perf_counter", lambda: clock[0])

    def pass_time(name):
        calls.append(name)
        clock[0] += next(durations[name])

    seconds = speed_benchmark.in_turns({name: lambda name=name: pass_time(name) for name in durations}, 2)
    assert calls == ["before", "after", "before", "after"]
    assert seconds == {"before": 1.5, "after": 0.5}
    assert speed_benchmark.ratio(seconds) == "3.00"


def test_photos_have_the_sizes_and_a_face_of_a_quarter_of_its_restored_size(tmp_path):
    speed_benchmark.make_photos(tmp_path, PHOTO, ((30, 20), (600, 700)))
    for number, size in enumerate(((30, 20), (600, 700))):
        assert read_image(tmp_path / "LQ" / f"{number}.png").pixels.shape[:2] == size
        low, high = (read_image(tmp_path / f"Face_{kind}" / f"{number}_0.png").pixels for kind in ("LQ", "HQ"))
        assert (low.shape, high.shape) == ((40, 40, 3), (160, 160, 3))
        assert np.abs(high.reshape(40, 4, 40, 4, 3).mean(axis=(1, 3)) - low).mean() < 0.03


def test_the_table_is_also_written_as_a_page(tmp_path, capsys):
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    page = tmp_path / "folder" / "README.md"
    arguments = ["--model_dir", str(tmp_path / "model"), "--parts", "upsampling", "overlap", "--output", str(page)]
    benchmark.main(arguments)
    printed, written = capsys.readouterr().out, page.read_text()
    rows = re.findall(r"^\| (.+) \| (\d+\.\d\d) \|$", written, re.MULTILINE)
    assert [name.split(" ")[0] for name, _ in rows] == ["enlargement", "enlargement", "forward", "eight"]
    assert all(f"| {name} | {value} |" in printed for name, value in rows)
    assert f"scripts/benchmark.py --model_dir {tmp_path / 'model'} --parts" in written
    assert all(float(value) > 0 for _, value in rows)
