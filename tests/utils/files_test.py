"""Atomic writing: all or nothing, under any name, with the permissions of a new file."""

import os

import pytest

from utils.errors import UserError
from utils.files import atomic_path, exclusive


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
