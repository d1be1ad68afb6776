"""Atomic writing, locks and leftovers."""

import errno
import multiprocessing
import os

import pytest
from filelock import FileLock

from utils.errors import DiskFullError, UserError
from utils.files import atomic_path, check_writable, exclusive, read_bytes, remove_leftovers


def write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_file_appears_when_the_block_ends_with_the_permissions_of_a_new_file(tmp_path):
    path = tmp_path / "new" / "folders" / "x.txt"
    before = os.umask(0o027)
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("whole")
            assert not path.exists()
            assert temporary.parent == path.parent  # or the rename would not be atomic
    finally:
        os.umask(before)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("whole", 0o640)
    assert os.listdir(path.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_failing_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write(tmp_path / "x.txt", "old")

    def fail():
        with atomic_path(tmp_path / "x.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (tmp_path / "x.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EACCES, UserError)])
@pytest.mark.parametrize("when", ["opening", "writing", "renaming"])
def test_whatever_the_disk_refuses_is_one_line_and_the_old_file_stays(tmp_path, monkeypatch, number, kind, when):
    path = tmp_path / "x.txt"
    write(path, "old")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    place, name = {"opening": (os, "open"), "writing": (type(path), "write_text"),
                   "renaming": (type(path), "replace")}[when]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, refuse)
        with pytest.raises(kind, match=str(path)) as caught:
            write(path, "half")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_path_that_cannot_be_written_or_read_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.txt", tmp_path / "folder"):
        with pytest.raises(UserError, match=str(path)):
            write(path, "text")
    with pytest.raises(UserError, match=str(tmp_path / "file" / "out")):
        check_writable(tmp_path / "file" / "out")
    with pytest.raises(UserError, match=str(tmp_path)):
        read_bytes(tmp_path)
    check_writable(tmp_path / "folder" / "new" / "deeper")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("name", ["\u5199" * 82 + ".png", "a" * 251 + ".png", "[a] *?.png"])
def test_every_name_the_file_system_takes_can_be_written(tmp_path, name):
    write(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def try_lock(path):
    try:
        with exclusive(path, "the run"):
            return "held"
    except UserError as error:
        return str(error)


def test_a_lock_keeps_other_processes_out_until_it_is_released(tmp_path):
    path = tmp_path / "runs" / "lock"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with exclusive(path, "the run"):
            assert "the run" in pool.apply(try_lock, [path])
        assert pool.apply(try_lock, [path]) == "held"
    assert os.listdir(tmp_path) == []  # neither the lock nor its folder


def test_a_lock_file_of_a_killed_process_is_no_lock_and_used_folders_stay(tmp_path):
    (tmp_path / "lock").touch()
    with exclusive(tmp_path / "lock", "it"), exclusive(tmp_path / "used" / "lock", "it"):
        (tmp_path / "used" / "result").touch()
    assert (os.listdir(tmp_path), os.listdir(tmp_path / "used")) == (["used"], ["result"])


def test_without_locks_work_goes_on(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert try_lock(tmp_path / "lock") == "held"


def test_leftovers_are_removed_by_name_or_all_and_nothing_else(tmp_path):
    others = ["a.png", ".a.png", ".a.png.part", ".a.png.0123abcg.part", "a.png.0123abcd.part"]
    for name in (*others, ".a.png.0123abcd.part", ".ab.png.0123abcd.part", f".{'long' * 12}lo.00000000.part"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "a.png", f"{'long' * 30}.png")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".ab.png.0123abcd.part"])
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    remove_leftovers(tmp_path / "absent")
