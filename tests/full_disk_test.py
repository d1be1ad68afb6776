"""Every tool that writes, on a disk that is full at the beginning or becomes so at some point of the work."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import calculate_metrics
from scripts import download_weights
from tests.kill_trial_networks import Adaptation, Faces, Training
from tests.kill_trial_subjects import Records, Subject
from tests.kill_trials import check_final, check_killed
from tests.scripts.download_weights_test import MEMBERS, manifest  # noqa: F401 - manifest is a fixture
from tests.small_disk import small_disk
from tests.utils.weights.download_test import BODY, Page, names, server  # noqa: F401 - server is a fixture
from tests.workplace import Workplace, picture
from utils.errors import UserError
from utils.image.io import write_png
from utils.weights import download as downloads
from utils.weights.checkpoints import write_tf1_checkpoint

SHARES = (0, 0.1, 0.4, 0.7, 0.95)  # of the room that the results take
FEW_SHARES = (0, 0.5, 0.9)


class SmallRecords(Records):
    """Six photos replace a record of five others."""

    def prepare(self):
        for number in range(11):
            write_png(self.root / ("new" if number < 6 else "old") / f"{number}.png", picture(number, 128, 128))
        assert self.main(self.arguments(self.before, again=False, photos="old")) == 0


class SmallAdaptation(Adaptation):
    """Three photos, with a face and without."""

    def prepare(self):
        place = Workplace(self.root / "photos")
        for number in range(3):
            place.add_photo(f"{number}.png", seed=number, faces=number % 2)


class SmallFaces(Faces):
    """The faces as they are, which another tool is to restore."""

    def arguments(self, out, again):
        arguments = super().arguments(out, again)
        arguments[arguments.index("rrdb-face")] = "none"
        return arguments


class SmallTraining(Training):
    """Two iterations, a checkpoint after each."""

    def arguments(self, out, again):
        return [text.replace("num_iterations=5", "num_iterations=2") for text in super().arguments(out, again)]


class Metrics(Subject):
    """calculate_metrics.py with a plot."""

    varying = ("metrics.json",)  # it names folders

    def prepare(self):
        for number in range(6):
            for folder in ("results", "truth"):
                write_png(self.root / folder / f"{number}.png", picture(number + len(folder), 20, 20))

    def arguments(self, out, again):
        return ["--result_dir", str(self.root / "results"), "--gt_dir", str(self.root / "truth"), "--metrics",
                "psnr_rgb", "--output_dir", str(out), "--plot", str(out / "plot.png")]

    def main(self, argv):
        return calculate_metrics.main(argv)

    def is_sound(self, path):
        return path.name == "metrics.json" and "psnr_rgb" in json.loads(path.read_text())["metrics"]


def run(subject, out, capfd, *, again=False):
    """Run a tool; give its status and what it says of errors."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        subject.run(out, again=again)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return ended.value.code, [line for line in said.splitlines() if line.startswith("error")]


def used(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def unfinished(folder):
    """List hidden files, and those of a checkpoint without the others."""
    return [path for path in folder.rglob("*") if path.name.startswith(".")
            or (".data-" in path.name and not path.with_suffix(".index").exists())
            or (path.name.startswith("average-") and not path.with_name(f"model-{path.name[8:]}").exists())]


@pytest.mark.parametrize(("kind", "simulate", "shares"), [
    (SmallRecords, False, SHARES), (SmallAdaptation, False, SHARES), (SmallFaces, False, SHARES),
    (Metrics, False, SHARES), (SmallTraining, False, FEW_SHARES),
    (SmallRecords, True, SHARES), (Metrics, True, SHARES)])  # as where nothing may be mounted
def test_a_full_disk_is_one_line_and_costs_nothing_and_the_rest_is_done_when_there_is_room(
        tmp_path, monkeypatch, capfd, request, kind, simulate, shares):
    request.addfinalizer(lambda: tf.config.run_functions_eagerly(False))  # the training switches it on
    subject = kind(tmp_path)
    subject.prepare()
    assert run(subject, subject.reference, capfd) == (0, [])
    with small_disk(tmp_path / "disk", monkeypatch, simulate=simulate) as disk:
        for share in shares:
            out = disk.path / "place" / "out"
            out.parent.mkdir()
            if subject.before.exists():
                shutil.copytree(subject.before, out)
            disk.leave(int(share * used(subject.reference)))
            status, errors = run(subject, out, capfd)
            assert (status, len(errors)) == (2, 1), errors
            for text in ("No space left on device", str(disk.path), "free space"):
                assert text in errors[0]
            assert not unfinished(out)
            check_killed(subject, out)
            disk.leave(None)
            assert run(subject, out, capfd, again=True) == (0, [])
            check_final(subject, out)
            shutil.rmtree(out.parent)


@pytest.mark.parametrize("name", ["mirrored", "net"])  # by https, out of a wheel
def test_a_download_that_fills_the_disk_says_so_and_goes_on_when_there_is_room(
        manifest, server, tmp_path, monkeypatch, capfd, name):  # noqa: F811
    file = {"mirrored": "m.pth", "net": "pkg-1.0-cp311-none-any.whl"}[name]
    server.pages["/m"] = Page(announce=False)
    usage = shutil.disk_usage("/")._replace(free=2**40)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)  # somebody else fills it meanwhile
    with small_disk(tmp_path / "disk", monkeypatch) as disk:
        out = disk.path / "weights"
        out.mkdir()
        disk.leave(200_000)
        assert download_weights.main([name, "--weights_dir", str(out)]) == 2
        [said] = [line for line in capfd.readouterr().out.splitlines() if "No space left on device" in line]
        assert f"cannot write {out / file}: No space left on device; free some space and run the command again" in said
        assert names(out) == (["m.pth.part", "m.pth.part.json"] if name == "mirrored" else [])
        assert all(BODY.startswith(path.read_bytes()) for path in out.glob("*.part"))
        disk.leave(None)
        assert download_weights.main([name, "--weights_dir", str(out)]) == 0
        assert {path.name: path.read_bytes() for path in out.iterdir()} == (
            {"m.pth": BODY} if name == "mirrored" else MEMBERS)


@pytest.mark.parametrize("simulate", [False, True])
def test_a_disk_takes_what_it_has_room_for_and_no_more(tmp_path, monkeypatch, simulate):
    """What the other tests rest on."""
    with small_disk(tmp_path / "disk", monkeypatch, simulate=simulate) as disk:
        disk.leave(2**16)
        (disk.path / "fits").write_bytes(bytes(2**15))
        with pytest.raises(OSError, match="No space left on device"):
            (disk.path / "too large").write_bytes(bytes(2**17))
        (disk.path / "too large").unlink()
        with pytest.raises(UserError, match=r"cannot write the checkpoint .*model-1: No space left on device\. Check"):
            write_tf1_checkpoint(disk.path / "model-1", {"x": np.zeros(2**16, np.float32)})
        disk.leave(None)
        write_tf1_checkpoint(disk.path / "model-1", {"x": np.zeros(2**16, np.float32)})
        assert sorted(path.name for path in disk.path.iterdir()) == [
            "fits", "model-1.data-00000-of-00001", "model-1.index"]
