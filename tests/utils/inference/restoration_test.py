"""The loop over photos: the next one is read while one is computed; order, faults, memory."""

import threading
from pathlib import Path

import pytest

import utils.inference.batch as module
from utils.errors import DiskFullError, UserError
from utils.image.listing import Source
from utils.inference.batch import restore_photos


class Stages:
    """A pipeline that records what begins and ends, and fails where a test says."""

    def __init__(self, faults=()):
        self.events, self.faults, self.began = [], dict(faults), {}

    def _run(self, stage, name, row, status):
        self.events.append(("begin", stage, name))
        self.began.setdefault((stage, name), threading.Event()).set()
        if (stage, name) in self.faults:
            raise self.faults[stage, name]
        row["status"] = status
        self.events.append(("end", stage, name))
        return name

    def read(self, source, row):
        return self._run("read", source.name, row, "read")

    def process(self, loaded, row, on_progress):
        on_progress("working", 1)
        return self._run("process", loaded, row, "adapted")


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    monkeypatch.setattr(module, "image_size", lambda path: (10**9 if path.name == "large" else 10, 1))


def sources(names):
    return [Source(name, Path(name)) for name in names]


def run(stages, *names):
    return list(restore_photos(stages, sources(names), lambda *_: None))


def test_the_next_photo_is_read_while_one_is_processed():
    class Waiting(Stages):
        def process(self, loaded, row, on_progress):
            if loaded != "c":
                following = self.began.setdefault(("read", {"a": "b", "b": "c"}[loaded]), threading.Event())
                assert following.wait(20)
            return super().process(loaded, row, on_progress)

    stages = Waiting()
    assert [(row["file"], row["status"]) for row in run(stages, "a", "b", "c")] == [
        ("a", "adapted"), ("b", "adapted"), ("c", "adapted")]
    assert stages.events.index(("end", "process", "a")) < stages.events.index(("begin", "read", "c"))  # one ahead


def test_a_large_photo_is_read_when_its_turn_comes():
    stages = Stages()
    run(stages, "a", "large")
    assert stages.events.index(("end", "process", "a")) < stages.events.index(("begin", "read", "large"))


@pytest.mark.parametrize("stage", ["read", "process"])
@pytest.mark.parametrize("broken", ["a", "b", "c"])
def test_a_photo_that_fails_has_a_row_in_its_place_and_stops_nothing(stage, broken):
    rows = run(Stages({(stage, broken): UserError("it is broken")}), "a", "b", "c")
    expected = [("error", "it is broken") if name == broken else ("adapted", None) for name in "abc"]
    assert [(row["status"], row.get("reason")) for row in rows] == expected
    assert [row["file"] for row in rows] == ["a", "b", "c"]


@pytest.mark.parametrize("stage", ["read", "process"])
def test_a_full_disk_stops_everything_after_the_photos_before(stage):
    stages, rows = Stages({(stage, "b"): DiskFullError("no room")}), []
    with pytest.raises(DiskFullError, match="no room"):
        rows.extend(row["file"] for row in restore_photos(stages, sources("abcd"), lambda *_: None))
    assert rows == ["a"]
    assert ("begin", "process", "c") not in stages.events
