"""Writing files so that nothing half-written is ever seen under its final name."""

import contextlib
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.errors import DiskFullError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LEFTOVER = re.compile(r"\.(?P<name>.*)\.[0-9a-f]{8}\.part", re.DOTALL)  # what `atomic_path` writes to
NAME_LENGTH = 50  # characters of the name in that: at most 200 bytes, and a file name has room for 255


def read_bytes(path: Path | str) -> bytes:
    """Read a whole file.

    Raises:
        UserError: it is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions."
                        ) from error


def is_utf8(path: Path) -> bool:
    """Whether the bytes of a path are UTF-8: TensorFlow can open no others."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def literal_prefix(prefix: Path) -> Iterator[str]:
    """Yield a prefix by which TensorFlow finds the files PREFIX.*.

    It takes `[`, `]`, `*`, `?` and backslashes in paths for patterns. Where a path has any of these, or is not UTF-8,
    links to the files in a temporary folder stand in for them.
    """
    patterns = set("[]*?\\") - {os.sep}
    if is_utf8(prefix) and patterns.isdisjoint(str(prefix)):
        yield str(prefix)
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in prefix.parent.iterdir():
            if path.name.startswith(f"{prefix.name}."):
                Path(folder, f"model{path.name[len(prefix.name):]}").symlink_to(path.absolute())
        yield str(Path(folder, "model"))


def check_writable(folder: Path | str) -> None:
    """Find out, without leaving a trace, whether files can be written in a folder that may not exist yet.

    Raises:
        UserError: they cannot.
    """
    existing = Path(folder).absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {folder}: {existing} is not a folder that you may write in. Check its "
                        "permissions, or choose another output folder.")


def open_locked(path: Path) -> BinaryIO:
    """Open a file for appending, made when it is missing, and lock it until it is closed or the process ends.

    Where locks do not exist (Windows, some network file systems), it is only opened.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be written.
    """
    while True:
        file = path.open("ab")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            pass  # a network file system without locks
        # who held the lock may have renamed or removed the file meanwhile: then the next one locks another
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs; where locks do not exist, go on without.

    Args:
        path: a file that is made for it and removed in the end, as is its folder if that is new and was not used; one
            that a killed process left is no lock.
        what: what is locked, for the message.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(path)
    except BlockingIOError as error:
        raise UserError(f"another process is working on {what}. Wait for it, or stop it.") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Check the folder's permissions and the free "
                        "space.") from error
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file, nobody a folder with files
                path.unlink()
                if new:
                    path.parent.rmdir()


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove what `atomic_path` was writing in a folder when a process was killed.

    The caller knows, as by a lock, that nobody else is writing these files now.

    Args:
        folder: need not exist.
        names: of the files; none: of all.
    """
    kept = {name[:NAME_LENGTH] for name in names}
    with contextlib.suppress(OSError):  # leftovers do no harm
        for path in folder.iterdir():
            match = LEFTOVER.fullmatch(path.name)
            if match and (not names or match["name"] in kept):
                path.unlink()


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, delete it otherwise.

    The temporary file is hidden (`.NAME.xxxx.part`), lies in the same folder, so the rename is atomic, and has the
    permissions a newly created file gets. The folder is created when it is missing.

    Raises:
        UserError: the folder cannot be created or written, or the disk is full while the block writes.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name[:NAME_LENGTH]}.{secrets.token_hex(4)}.part")
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask, unlike tempfile's
        temporary = name
        yield temporary
        temporary.replace(path)
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UserError
        raise kind(f"cannot write {path}: {error.strerror or error}. Check the folder's permissions "
                        "and the free space, or choose another output folder.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
