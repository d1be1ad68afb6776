"""Make the environment .venv of the Makefile, or bring it up to date; silent when there is nothing to do.

    make demo                        # runs: python3 scripts/make_venv.py
    make PYTHON=python3.12 test      # runs: python3.12 scripts/make_venv.py --chosen --dev

* Without .venv, it is created with the Python that runs this script.
* An environment that is there stays, whatever `python3` means by now: after `make PYTHON=python3.12 demo`, a plain
  `make demo` goes on with 3.12. Only an explicit PYTHON= (--chosen) that is another one rebuilds it.
* It is also rebuilt when its installation was interrupted, its Python is gone, or the repository was moved.
* Requirements that have changed, or are wanted for the first time, are installed into it without a rebuild.
* A .venv that somebody else made is used when its Python fits, and never deleted.

What was installed is recorded in .venv/made-by-make.json: without files before an installation, with their hashes
after it, so that one that was interrupted is known.

Only the standard library, and only what Python 3.6 can read: a Python that is too old has to get to the line that says
so, and must be good enough to find that there is nothing to do.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 10), (3, 13)
PYTHONS = "Python 3.10 to 3.13"
RECORD = "made-by-make.json"
SIZE_GB = 2.5
REQUIREMENTS, DEV_REQUIREMENTS = "requirements.txt", "requirements-dev.txt"
NOTHING, INSTALL, BUILD = "nothing", "install", "build"
EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130  # as in utils/console.py, which needs packages that are not there yet
GRACE = 10  # seconds for pip to remove its temporary files after Ctrl-C


class SetupError(Exception):
    """What the user has to do, in one line."""


def main(argv: "list[str] | None" = None) -> int:
    """Run the tool; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dev", action="store_true", help="install " + DEV_REQUIREMENTS + " as well")
    parser.add_argument("--chosen", action="store_true",
                        help="the user chose this Python: rebuild an environment that was made with another one")
    args = parser.parse_args(argv)
    try:
        prepare(ROOT, [REQUIREMENTS, DEV_REQUIREMENTS] if args.dev else [REQUIREMENTS], chosen=args.chosen)
    except SetupError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"cannot make .venv: {error.strerror or error}: {error.filename or ROOT}")
    except KeyboardInterrupt:
        print("\ninterrupted while .venv was being made: the same command does it again", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def fail(message: str) -> int:
    """Print an error as one line; gives the exit status."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return EXIT_USER_ERROR


def prepare(root: Path, names: "list[str]", *, chosen: bool) -> None:
    """Do what the plan says for the environment below `root` and the requirement files `names`."""
    if plan(root, names, chosen=chosen)[0] == NOTHING:
        return
    with lock(root):
        action, reason = plan(root, names, chosen=chosen)  # again: what we waited for may have done it
        if action == BUILD:
            build(root, names, reason)
        elif action == INSTALL:
            old = read_record(root / ".venv")
            names = names + [name for name in (old or {"files": {}})["files"] if name not in names]
            print(f"Installing {' and '.join(names)} into .venv ({reason})...", flush=True)
            install(root, names, old)


def plan(root: Path, names: "list[str]", *, chosen: bool) -> "tuple[str, str]":
    """What has to be done, and why.

    Returns:
        NOTHING, INSTALL (into the environment that is there) or BUILD (from nothing), and the reason.

    Raises:
        SetupError: .venv is somebody else's and cannot be used.
    """
    venv = root / ".venv"
    if not os.path.lexists(str(venv)) or (venv.is_dir() and not os.listdir(str(venv))):
        return BUILD, ""
    record = read_record(venv)
    version = ask_version(venv_python(venv))
    if record is None:
        if version is None or not OLDEST <= version <= NEWEST:
            raise SetupError(f".venv was not made by make and has no {PYTHONS}: remove it or move it away")
        return INSTALL, "it was not made by make, and is used as it is"
    reason = ("the repository was moved" if record["location"] != str(venv) else
              "its Python is no longer there" if version is None or version != tuple(record["version"]) else
              "PYTHON is another one" if chosen and record["interpreter"] != os.path.realpath(base_python()) else "")
    if reason and record["adopted"]:
        raise SetupError(f".venv cannot be used, because {reason}; it was not made by make: remove it or move it away")
    if reason:
        return BUILD, reason
    if not record["files"]:
        return INSTALL if record["adopted"] else BUILD, "its installation was not finished"
    changed = [name for name in names if record["files"].get(name) != digest(root / name)]
    if not changed:
        return NOTHING, ""
    return INSTALL, ", ".join(f"{name} {'has changed' if name in record['files'] else 'is new'}" for name in changed)


def build(root: Path, names: "list[str]", reason: str) -> None:
    """Make the environment from nothing, with the Python that runs this script."""
    check_python(sys.version_info[:3])
    venv = root / ".venv"
    print(f"{'Rebuilding' if reason else 'Creating'} .venv with Python {'.'.join(map(str, sys.version_info[:3]))} and "
          f"installing {' and '.join(names)} ({reason + '; ' if reason else ''}about {SIZE_GB} GB, some minutes)...",
          flush=True)
    venv.mkdir(exist_ok=True)
    record = {"interpreter": os.path.realpath(base_python()), "version": sys.version_info[:2], "location": str(venv),
              "adopted": False, "files": {}}
    write_record(venv, record)
    for entry in venv.iterdir():  # not the folder itself: it may be a link to a larger disk
        if entry.name != RECORD:
            shutil.rmtree(str(entry)) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    free = shutil.disk_usage(str(venv)).free / 1e9
    if free < SIZE_GB:
        raise SetupError(f".venv needs {SIZE_GB} GB, and {free:.1f} GB are free: make room, or make .venv a link to a "
                         "folder on another disk")
    if run([base_python(), "-I", "-m", "venv", str(venv)], root):
        raise SetupError(f"{base_python()} could not make .venv; its message is above. Choose another Python: "
                         "make PYTHON=...")
    install(root, names, record)


def install(root: Path, names: "list[str]", old: "dict | None") -> None:
    """Install requirement files into the environment that is there and record it.

    Args:
        root: The repository.
        names: The requirement files.
        old: The environment's record; None when somebody else made it. It is put back when pip fails, because pip then
            leaves what was there: without a network, what has worked goes on working.
    """
    venv = root / ".venv"
    python = venv_python(venv)
    began = time.monotonic()
    record = dict(old or {"interpreter": os.path.realpath(python), "version": ask_version(python),
                          "location": str(venv), "adopted": True})
    if old is not None:
        write_record(venv, dict(record, files={}))
    files = {name: digest(root / name) for name in names}
    # -I: what PYTHONPATH offers is not in the environment. uv makes environments without pip.
    has_pip = subprocess.call([python, "-I", "-c", "import pip"], stderr=subprocess.DEVNULL) == 0
    command = [python, "-I", "-m", "pip", "install", "--disable-pip-version-check"]
    if not has_pip and run([python, "-I", "-m", "ensurepip"], root):
        raise SetupError(".venv has no pip: remove it or move it away, and make creates one")
    if run(command + [word for name in names for word in ("-r", name)], root):
        if old is not None:
            write_record(venv, old)
        raise SetupError(f"pip could not install {' and '.join(names)}; its message is above. The same command tries "
                         "again")
    write_record(venv, dict(record, files=files))
    print(f".venv is ready ({time.monotonic() - began:.0f} s).", flush=True)


def check_python(version: "tuple[int, ...]") -> None:
    """Refuse a Python that TensorFlow has no packages for, or that cannot make environments.

    Raises:
        SetupError: says what to install.
    """
    name = ".".join(map(str, version))
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise SetupError(f"this is Python {name}, and {PYTHONS} is needed: install one of them, for example "
                         "python3.11, and choose it: make PYTHON=python3.11 ...")
    try:
        import ensurepip  # noqa: F401, the first two are what Debian leaves out
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(f"this Python {name} has no venv: install it with: apt install "
                         f"python{version[0]}.{version[1]}-venv (Debian, Ubuntu), or choose another Python: "
                         "make PYTHON=...") from None


def venv_python(venv: Path) -> str:
    """The environment's Python."""
    return str(venv / "bin" / "python")


def base_python() -> str:
    """The running Python, or the one behind it when it belongs to an environment."""
    return getattr(sys, "_base_executable", None) or sys.executable


def ask_version(python: str) -> "tuple[int, ...] | None":
    """The version a Python has, as (3, 11); None when it does not run."""
    try:
        answer = subprocess.check_output([python, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"],
                                         stderr=subprocess.DEVNULL)
        return tuple(map(int, answer.split()))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def digest(file: Path) -> str:
    """The hash of a file's contents."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_record(venv: Path) -> "dict | None":
    """What is recorded in an environment; None when make did not make it."""
    try:
        return json.loads((venv / RECORD).read_text())
    except (OSError, ValueError):
        return None


def write_record(venv: Path, record: dict) -> None:
    """Replace an environment's record in one step."""
    new = venv / (RECORD + ".new")
    new.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(str(new), str(venv / RECORD))


@contextlib.contextmanager
def lock(root: Path):
    """Let one process at a time work on the environment; the others say that they wait."""
    import fcntl

    with open(str(root / REQUIREMENTS)) as file:  # not a file of .venv, which may be removed
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another make is working on .venv: waiting for it...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # some network file systems have no locks: two makes at once are then the user's to avoid
        yield


def run(command: "list[str]", folder: Path) -> int:
    """Run a command and give its status; Ctrl-C leaves it time to clean up."""
    # a user's setting for installations outside of environments would make pip refuse
    process = subprocess.Popen(command, cwd=str(folder), env=dict(os.environ, PIP_USER="0"))
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that pip does not outlive us
    sys.exit(main())
