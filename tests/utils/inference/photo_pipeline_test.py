"""Photos are read, computed and written beside each other: what is promised of order, faults and memory."""

import threading
from concurrent.futures import wait
from types import SimpleNamespace

import pytest

from config import UpscalingConfig
from utils.errors import DiskFullError, UserError
from utils.image.listing import PlannedPhoto
from utils.inference import photo_pipeline
from utils.inference.photo_pipeline import BYTES_PER_PIXEL_READ, restore_photos
from utils.inference.tiling import memory_needed

PATIENCE = 20  # seconds


class Stages:
    """Stands for a restorer: notes what begins and ends, and lets a test hold stages up and make them fail."""

    def __init__(self, *, result_bytes=0):
        self.notes, self.faults, self.needs, self.reached = [], {}, {}, {}
        self.result_bytes = result_bytes

    def fail(self, stage, name, error):
        self.faults[stage, name] = error

    def hold(self, stage, name, *, until):
        """Let a stage of a photo end only after another has begun."""
        self.reached[until] = threading.Event()
        self.needs[stage, name] = until

    def _run(self, stage, name):
        self.notes.append(("begin", stage, name))
        if (stage, name) in self.reached:
            self.reached[stage, name].set()
        if (stage, name) in self.needs:
            assert self.reached[self.needs[stage, name]].wait(PATIENCE), f"{self.needs[stage, name]} never began"
        self.notes.append(("end", stage, name))
        if (stage, name) in self.faults:
            raise self.faults[stage, name]

    def read(self, path, row):
        self._run("read", path.name)
        row["read"] = True
        return path.name

    def compute(self, loaded, row, on_progress):
        on_progress("computing", 1)
        self._run("compute", loaded)
        row["status"] = "adapted"
        return None if loaded == "skipped" else SimpleNamespace(name=loaded, num_bytes=self.result_bytes)

    def write(self, restored, row):
        self._run("write", restored.name)


def plan(tmp_path, *names, side=10):
    return [PlannedPhoto(tmp_path / name, side, side) for name in names]


def run(stages, photos, memory_gib=4.0):
    rows, turns, told = [], [], []

    def on_turn(photo):
        turns.append(photo.path.name)
        return lambda what, done: told.append((photo.path.name, what, done))

    try:
        restore_photos(stages, photos, UpscalingConfig(memory_gib=memory_gib), on_turn=on_turn, on_done=rows.append)
    finally:
        stages.rows, stages.turns, stages.told = rows, turns, told


def test_a_photo_is_computed_while_the_next_is_read_and_the_one_before_written(tmp_path):
    stages = Stages()
    stages.hold("compute", "b", until=("read", "c"))
    stages.hold("write", "a", until=("compute", "b"))
    stages.hold("read", "c", until=("compute", "b"))
    run(stages, plan(tmp_path, "a", "b", "c"))
    assert [row["file"] for row in stages.rows] == stages.turns == ["a", "b", "c"]
    assert stages.told == [(name, "computing", 1) for name in "abc"]


def test_at_most_one_result_waits_to_be_written(tmp_path):
    stages = Stages()
    run(stages, plan(tmp_path, *"abcdef"))
    for earlier, later in zip("abcd", "cdef", strict=True):
        assert stages.notes.index(("end", "write", earlier)) < stages.notes.index(("begin", "compute", later))


@pytest.mark.parametrize("fits", [True, False])
def test_where_the_memory_does_not_suffice_one_stage_comes_after_the_other(tmp_path, fits):
    photos = plan(tmp_path, "a", "b", side=100)
    stages = Stages(result_bytes=2**20)
    needed = memory_needed(100, 100, 0) + 2**20 + BYTES_PER_PIXEL_READ * 100 * 100
    if fits:
        stages.hold("write", "a", until=("compute", "b"))
        stages.hold("compute", "a", until=("read", "b"))
    run(stages, photos, memory_gib=(needed if fits else memory_needed(100, 100, 0)) / 2**30)
    if not fits:
        assert [(stage, name) for when, stage, name in stages.notes if when == "end"] == [
            (stage, name) for name in "ab" for stage in ("read", "compute", "write")]
        assert stages.notes[1::2] == [("end", *note[1:]) for note in stages.notes[::2]]


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
@pytest.mark.parametrize("broken", ["a", "b", "c"])
def test_a_photo_that_fails_has_a_row_in_its_place_and_stops_nothing(tmp_path, stage, broken):
    stages = Stages()
    stages.fail(stage, broken, UserError("it is broken"))
    run(stages, plan(tmp_path, "a", "b", "c"))
    expected = [("error", "it is broken") if name == broken else ("adapted", None) for name in "abc"]
    assert [(row["status"], row.get("reason")) for row in stages.rows] == expected
    assert [row["file"] for row in stages.rows] == ["a", "b", "c"]


def test_a_skipped_photo_has_its_row_in_its_place_and_is_not_written(tmp_path):
    stages = Stages()
    run(stages, plan(tmp_path, "a", "skipped", "c"))
    assert [row["file"] for row in stages.rows] == ["a", "skipped", "c"]
    assert [name for when, stage, name in stages.notes if stage == "write" and when == "end"] == ["a", "c"]


@pytest.mark.parametrize(("stage", "reported"), [("read", ["a"]), ("compute", ["a"]), ("write", ["a"])])
def test_a_full_disk_stops_everything_after_the_photos_before(tmp_path, stage, reported):
    stages = Stages()
    stages.fail(stage, "b", DiskFullError("no room"))
    with pytest.raises(DiskFullError, match="no room"):
        run(stages, plan(tmp_path, *"abcdef"))
    assert [row["file"] for row in stages.rows] == reported
    assert ("begin", "compute", "d") not in stages.notes
    assert ("begin", "write", "c") not in stages.notes


def test_an_interrupted_run_still_writes_and_reports_what_is_finished(tmp_path):
    stages = Stages()
    stages.hold("write", "a", until=("compute", "b"))
    stages.fail("compute", "b", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(stages, plan(tmp_path, "a", "b", "c"))
    assert [row["file"] for row in stages.rows] == ["a"]
    assert ("end", "write", "a") in stages.notes


def test_interrupting_again_does_not_cut_off_what_is_being_written(tmp_path, monkeypatch):
    stages, waits = Stages(), []
    stages.hold("write", "a", until=("second", "interrupt"))
    stages.fail("compute", "b", KeyboardInterrupt())

    def interrupted(futures):
        waits.append(1)
        if len(waits) < 3:
            raise KeyboardInterrupt
        stages.reached["second", "interrupt"].set()
        return wait(futures)

    monkeypatch.setattr(photo_pipeline, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stages, plan(tmp_path, "a", "b", "c"))
    assert len(waits) >= 3
    assert [row["file"] for row in stages.rows] == ["a"]


def test_no_photo_is_no_work(tmp_path):
    stages = Stages()
    run(stages, [])
    assert (stages.rows, stages.notes) == ([], [])
