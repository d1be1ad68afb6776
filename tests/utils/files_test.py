"""Atomic writing: all or nothing, under any name, with the permissions of a new file."""

import errno
import fcntl
import os

import pytest

from utils.errors import DiskFullError, UserError
from utils.files import atomic_path, exclusive, open_locked, read_bytes, remove_leftovers


def write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folders" / "x.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # or the rename would not be atomic
        assert temporary.name.startswith(".x.txt.")
        assert temporary.suffix == ".part"
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_failing_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    write(path, "old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_full_disk_is_the_users_matter(tmp_path):
    with pytest.raises(UserError) as caught, atomic_path(tmp_path / "x.txt"):
        raise OSError(28, "No space left on device")
    assert str(tmp_path / "x.txt") in str(caught.value)
    assert "No space left" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.txt", tmp_path / "folder"):
        with pytest.raises(UserError) as caught:
            write(path, "text")
        assert str(path) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o000])
def test_permissions_are_those_of_a_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").touch()
        write(tmp_path / "atomic", "text")
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["写" * 82 + ".png", "🙂" * 62 + ".png", "a" * 251 + ".png", "two  gaps", "-x", ".x"],
                         ids=["3 bytes", "4 bytes", "1 byte", "spaces", "dash", "hidden"])
def test_every_name_the_file_system_takes_can_be_written(tmp_path, name):
    assert len(name.encode()) <= 255
    write(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "x.txt") as first, atomic_path(tmp_path / "x.txt") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x.txt").read_text() == "first"  # the one that ended last
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path):
    path = tmp_path / "runs" / "lock"
    for _ in range(2):
        with exclusive(path, "the run"), pytest.raises(UserError, match="another process is working on the run"), \
                exclusive(path, "the run"):
            pytest.fail("both have it")


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*lock"), exclusive(tmp_path / "file" / "lock", "x"):
        pytest.fail("has it")


def test_a_lock_leaves_nothing_and_one_that_a_killed_process_left_is_none(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "lock").touch()
    for path in (tmp_path / "old" / "lock", tmp_path / "new" / "lock", tmp_path / "used" / "lock"):
        with exclusive(path, "it"):
            if path.parent.name == "used":
                (path.parent / "result").touch()
    assert sorted(os.listdir(tmp_path)) == ["old", "used"]
    assert (os.listdir(tmp_path / "old"), os.listdir(tmp_path / "used")) == ([], ["result"])


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    path, taken = tmp_path / "lock", []

    def flock(file, operation):
        if not taken:
            path.unlink()  # the one that held it ends between opening and locking
        taken.append(operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_locked(path) as file:
        assert len(taken) == 2
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())


def test_without_locks_work_goes_on(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path / "lock", "it"):
        assert os.listdir(tmp_path) == ["lock"]


def test_leftovers_are_removed_by_name_or_all_and_nothing_else(tmp_path):
    long = "long" * 30
    others = ["a.png", ".a.png", ".a.png.part", ".a.png.0123abcd", ".a.png.0123abcg.part", "a.png.0123abcd.part"]
    for name in (*others, ".a.png.0123abcd.part", ".ab.png.0123abcd.part", ".two\nlines.png.89abcdef.part",
                 f".{long[:50]}.00000000.part"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "a.png", f"{long}.png")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".ab.png.0123abcd.part", ".two\nlines.png.89abcdef.part"])
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    remove_leftovers(tmp_path / "absent")


@pytest.mark.parametrize(("number", "kind"), [
    (errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EROFS, UserError), (errno.EACCES, UserError),
    (errno.EFBIG, UserError)])
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
        with pytest.raises(UserError, match=os.strerror(number)) as caught:
            write(path, "half")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: Is a directory"):
        read_bytes(tmp_path)
