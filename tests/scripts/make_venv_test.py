"""scripts/make_venv.py: which Python, when an environment is stale, what stays after an interruption."""

import ast
import fcntl
import json
import os
import re
import sys
from pathlib import Path

import pytest

from scripts import make_venv
from scripts.make_venv import BUILD, INSTALL, NOTHING, RECORD, SetupError

RUNNING = sys.version_info[:2]
BASE = ["requirements.txt"]
DEV = ["requirements.txt", "requirements-dev.txt"]


class Commands:
    """Stands for venv and pip: keeps the commands and the environment's record at the time of each."""

    def __init__(self, root: Path):
        self.root = root
        self.commands: list[list[str]] = []
        self.records: list[dict | None] = []
        self.outcome: int | BaseException = 0  # of pip

    def __call__(self, command: list[str], folder: Path) -> int:
        assert folder == self.root
        self.commands.append(command[1:])
        self.records.append(read_record(self.root))
        if "venv" in command:
            python = self.root / ".venv" / "bin" / "python"
            python.parent.mkdir()
            python.symlink_to(sys.executable)
            return 0
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    @property
    def pip(self) -> list[str]:
        """What pip was asked to install, one string per call."""
        return [" ".join(command[command.index("install"):]) for command in self.commands if "install" in command]


def read_record(root: Path) -> dict | None:
    """The environment's record."""
    file = root / ".venv" / RECORD
    return json.loads(file.read_text()) if file.exists() else None


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A repository that has requirements and nothing else."""
    (tmp_path / "requirements.txt").write_text("tensorflow\n")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\npytest\n")
    monkeypatch.setattr(make_venv, "ROOT", tmp_path)
    monkeypatch.setattr(make_venv.subprocess, "call", lambda *_, **__: 0)  # the environment has pip
    monkeypatch.setattr(make_venv.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5e9}))
    return tmp_path


@pytest.fixture
def commands(root, monkeypatch) -> Commands:
    """Replaces what would install."""
    fake = Commands(root)
    monkeypatch.setattr(make_venv, "run", fake)
    return fake


def change_record(root: Path, **values) -> None:
    """Overwrite fields of the environment's record."""
    (root / ".venv" / RECORD).write_text(json.dumps({**read_record(root), **values}))


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 13, 99)])
def test_python_versions_with_tensorflow_are_accepted(version):
    make_venv.check_python(version)


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 9, 18), (3, 14, 0), (4, 0, 0)])
def test_other_python_versions_are_refused_with_what_to_do(version):
    with pytest.raises(SetupError, match=r"is needed: install one of them, .* make PYTHON=python3.11") as caught:
        make_venv.check_python(version)
    assert f"Python {'.'.join(map(str, version))}," in str(caught.value)


def test_versions_agree_with_the_project_file():
    project = (Path(make_venv.__file__).parents[1] / "pyproject.toml").read_text()
    oldest, beyond = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    assert ((3, int(oldest)), (3, int(beyond) - 1)) == (make_venv.OLDEST, make_venv.NEWEST)
    assert f"Python 3.{oldest} to 3.{int(beyond) - 1}" == make_venv.PYTHONS


def test_an_old_python_can_read_the_script():
    source = Path(make_venv.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 7))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    hints = [hint for node in functions
             for hint in (node.returns, *(argument.annotation for argument in node.args.args)) if hint is not None]
    # list[str] and str | None would be evaluated, and fail, before the version is looked at
    assert {type(hint) for hint in hints} <= {ast.Name, ast.Constant}


@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_python_without_venv_gets_one_line_and_leaves_nothing(root, commands, monkeypatch, capsys, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert make_venv.main([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"apt install python3.{RUNNING[1]}-venv (Debian, Ubuntu), or choose another Python: make PYTHON=" in error
    assert not (root / ".venv").exists()
    assert commands.commands == []


def test_missing_environment_is_created_announced_and_recorded_last(root, commands, capsys):
    assert make_venv.main([]) == 0
    assert commands.commands[0] == ["-I", "-m", "venv", str(root / ".venv")]
    assert commands.pip == ["install --disable-pip-version-check -r requirements.txt"]
    assert [record["files"] for record in commands.records] == [{}, {}]  # nothing counts as installed yet
    assert read_record(root)["files"] == {"requirements.txt": make_venv.digest(root / "requirements.txt")}
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"Creating .venv with Python {version} and installing requirements.txt (about" in capsys.readouterr().out


def test_second_run_is_silent_and_does_nothing(root, commands, capsys):
    make_venv.main(["--dev"])
    capsys.readouterr()
    commands.commands.clear()
    assert [make_venv.main(arguments) for arguments in (["--dev"], [], ["--chosen"])] == [0, 0, 0]
    assert commands.commands == []
    assert capsys.readouterr() == ("", "")


def test_dev_requirements_are_added_without_a_rebuild(root, commands):
    make_venv.main([])
    assert make_venv.plan(root, DEV, chosen=False) == (INSTALL, "requirements-dev.txt is new")
    make_venv.main(["--dev"])
    assert commands.pip[1:] == ["install --disable-pip-version-check -r requirements.txt -r requirements-dev.txt"]
    assert sorted(read_record(root)["files"]) == sorted(DEV)


def test_changed_requirement_is_installed_with_everything_that_was_there(root, commands):
    make_venv.main(["--dev"])
    (root / "requirements.txt").write_text("tensorflow\nnumpy\n")
    assert make_venv.plan(root, BASE, chosen=False) == (INSTALL, "requirements.txt has changed")
    make_venv.main([])
    assert len([command for command in commands.commands if "venv" in command]) == 1
    assert commands.pip[-1].endswith("-r requirements.txt -r requirements-dev.txt")
    assert make_venv.plan(root, DEV, chosen=False) == (NOTHING, "")


def test_touched_requirement_is_not_a_change(root, commands):
    make_venv.main([])
    os.utime(root / "requirements.txt", (0, 0))
    assert make_venv.plan(root, BASE, chosen=False) == (NOTHING, "")


def test_another_python_rebuilds_only_when_it_was_chosen(root, commands):
    make_venv.main([])
    change_record(root, interpreter="/another/python3")
    assert make_venv.plan(root, BASE, chosen=False) == (NOTHING, "")
    assert make_venv.plan(root, BASE, chosen=True) == (BUILD, "PYTHON is another one")
    make_venv.main(["--chosen"])
    assert read_record(root)["interpreter"] == os.path.realpath(make_venv.base_python())


def test_an_unfit_python_can_go_on_with_the_environment_but_not_replace_it(root, commands, monkeypatch, capsys):
    make_venv.main([])
    change_record(root, interpreter="/another/python3")
    monkeypatch.setattr(make_venv.sys, "version_info", (3, 8, 18))
    assert make_venv.main([]) == 0
    before = read_record(root)
    assert make_venv.main(["--chosen"]) == 2
    assert "this is Python 3.8.18" in capsys.readouterr().err
    assert read_record(root) == before


def test_moved_repository_is_rebuilt(root, commands):
    make_venv.main([])
    change_record(root, location="/elsewhere/.venv")
    assert make_venv.plan(root, BASE, chosen=False) == (BUILD, "the repository was moved")


@pytest.mark.parametrize("target", ["/nowhere/python3", "/bin/false", "/bin/echo"])
def test_lost_or_broken_python_is_rebuilt(root, commands, target):
    make_venv.main([])
    python = root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(target)
    assert make_venv.plan(root, BASE, chosen=False) == (BUILD, "its Python is no longer there")


def test_python_of_another_version_is_rebuilt(root, commands):
    make_venv.main([])
    change_record(root, version=[3, 5])
    assert make_venv.plan(root, BASE, chosen=False) == (BUILD, "its Python is no longer there")


@pytest.mark.parametrize("arguments", [[], ["--dev"]])
def test_interrupted_installation_is_redone_from_nothing(root, commands, capsys, arguments):
    if arguments:  # an update that is interrupted
        make_venv.main([])
    commands.outcome = KeyboardInterrupt()
    assert make_venv.main(arguments) == 130
    error = capsys.readouterr().err
    assert error.strip().count("\n") == 0
    assert error.strip().startswith("interrupted ")
    (root / ".venv" / "half").mkdir()
    (root / ".venv" / "half" / "a.py").touch()
    commands.outcome = 0
    assert make_venv.plan(root, BASE, chosen=False) == (BUILD, "its installation was not finished")
    assert make_venv.main(arguments) == 0
    assert not (root / ".venv" / "half").exists()
    assert make_venv.plan(root, BASE, chosen=False) == (NOTHING, "")


def test_failed_pip_gives_one_line_and_the_environment_does_not_count_as_finished(root, commands, capsys):
    commands.outcome = 1
    assert make_venv.main([]) == 2
    error = capsys.readouterr().err
    assert error == ("error: pip could not install requirements.txt; its message is above. The same command tries "
                     "again\n")
    assert read_record(root)["files"] == {}


def test_failed_update_keeps_an_environment_that_works(root, commands):
    make_venv.main([])
    before = read_record(root)
    commands.outcome = 1
    assert make_venv.main(["--dev"]) == 2
    assert read_record(root) == before
    assert make_venv.plan(root, BASE, chosen=False) == (NOTHING, "")


def test_full_disk_and_missing_permission_give_one_line(root, commands, monkeypatch, capsys):
    monkeypatch.setattr(make_venv.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1.2e9}))
    assert make_venv.main([]) == 2
    monkeypatch.setattr(make_venv, "prepare", raise_permission_error)
    assert make_venv.main([]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: .venv needs 2.5 GB, and 1.2 GB are free: make room, or make .venv a link to a folder on another disk",
        "error: cannot make .venv: Permission denied: /there/.venv"]
    assert commands.commands == []


def raise_permission_error(*_, **__):
    raise PermissionError(13, "Permission denied", "/there/.venv")


def test_environment_of_somebody_else_is_used_and_never_deleted(root, commands):
    make_own_environment(root)
    assert make_venv.plan(root, BASE, chosen=True)[0] == INSTALL
    commands.outcome = KeyboardInterrupt()
    assert make_venv.main([]) == 130
    assert make_venv.plan(root, BASE, chosen=False)[0] == INSTALL  # still not ours to rebuild
    commands.outcome = 0
    assert make_venv.main([]) == 0
    assert (root / ".venv" / "mine").exists()
    assert read_record(root)["version"] == list(RUNNING)
    assert make_venv.plan(root, BASE, chosen=False) == (NOTHING, "")


@pytest.mark.parametrize("values", [{"location": "/elsewhere/.venv"}, {"version": [3, 5]}, {"interpreter": "/other"}])
def test_environment_of_somebody_else_is_not_rebuilt_later(root, commands, capsys, values):
    make_own_environment(root)
    make_venv.main([])
    commands.outcome = KeyboardInterrupt()
    assert make_venv.main(["--dev"]) == 130
    assert make_venv.plan(root, BASE, chosen=False)[0] == INSTALL
    change_record(root, **values)
    assert make_venv.main(["--chosen"]) == 2
    assert "it was not made by make: remove it or move it away" in capsys.readouterr().err
    assert (root / ".venv" / "mine").exists()


def test_environment_of_somebody_else_gets_pip_when_it_has_none(root, commands, monkeypatch):
    make_own_environment(root)
    monkeypatch.setattr(make_venv.subprocess, "call", lambda *_, **__: 1)
    make_venv.main([])
    assert commands.commands[0] == ["-I", "-m", "ensurepip"]
    assert len(commands.pip) == 1


def test_unusable_environment_of_somebody_else_is_refused(root, commands, monkeypatch, capsys):
    make_own_environment(root)
    monkeypatch.setattr(make_venv, "ask_version", lambda _: (3, 9))
    assert make_venv.main([]) == 2
    assert capsys.readouterr().err.startswith("error: .venv was not made by make and has no Python 3.10 to 3.13")
    assert (root / ".venv" / "mine").exists()


def make_own_environment(root: Path) -> None:
    """An environment that a user made."""
    bin_folder = root / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(sys.executable)
    (root / ".venv" / "mine").touch()


def test_linked_folder_stays_a_link_when_it_is_rebuilt(root, commands, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    (root / ".venv").symlink_to(disk)
    make_venv.main([])
    change_record(root, files={})
    (disk / "bin" / "python").rename(disk / "bin" / "python-old")
    make_venv.main([])
    assert (root / ".venv").is_symlink()
    assert sorted(os.listdir(disk / "bin")) == ["python"]
    assert make_venv.plan(root, BASE, chosen=False) == (NOTHING, "")


def test_second_make_says_that_it_waits(root, monkeypatch, capsys):
    calls = []

    def flock(_, operation: int) -> None:
        calls.append(operation)
        if operation & fcntl.LOCK_NB:
            raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", flock)
    with make_venv.lock(root):
        assert calls == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]
    assert capsys.readouterr().out == "Another make is working on .venv: waiting for it...\n"


def test_run_gives_the_status_and_spares_pip_a_users_own_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_USER", "1")
    program = "import os, sys; sys.exit(7 if os.environ['PIP_USER'] == '0' else 1)"
    assert make_venv.run([sys.executable, "-I", "-S", "-c", program], tmp_path) == 7
