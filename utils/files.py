"""Reading, locking and atomic writing of files."""

import contextlib
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import DiskFullError, UserError

LEFTOVER = re.compile(r"\.(?P<name>.*)\.[0-9a-f]{8}\.part", re.DOTALL)  # temporary names of `atomic_path`
NAME_LENGTH = 50  # characters of the final name in a temporary name, which may have 255 bytes


def read_bytes(path: Path | str) -> bytes:
    """Read a whole file; raise a UserError if it is missing or cannot be read."""
    with read_errors(path):
        return Path(path).read_bytes()


@contextlib.contextmanager
def read_errors(path: Path | str) -> Iterator[None]:
    """Turn the OSErrors of a block that reads `path` into UserErrors."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions."
                        ) from error


def is_utf8(path: Path) -> bool:
    """Whether the bytes of a path are UTF-8: TensorFlow can open no others."""
    with contextlib.suppress(UnicodeEncodeError):
        return bool(str(path.absolute()).encode())
    return False


@contextlib.contextmanager
def literal_prefix(prefix: Path) -> Iterator[str]:
    """Yield a prefix by which TensorFlow finds the files PREFIX.*.

    It takes `[`, `]`, `*`, `?` and backslashes in paths for patterns. Where a path has any of these, or is not UTF-8,
    links to the files in a temporary folder replace them.
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
    """Raise a UserError unless files can be created in a folder, which may not exist yet; write nothing."""
    existing = Path(folder).absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {folder}: {existing} is not a folder that you may write in. Check its "
                        "permissions, or choose another output folder.")


@contextlib.contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turn the OSErrors of a block that writes `path` into UserErrors, DiskFullErrors when the disk is full."""
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UserError
        raise kind(f"cannot write {path}: {error.strerror or error}. Check the folder's permissions and the free "
                   "space, or choose another output folder.") from error


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock on `what` while the block runs; continue without one where the file system has none.

    The lock file `path` is removed at the end, as is its folder if that was created for it and stayed empty. Raises a
    UserError if another process holds the lock, or the file cannot be written.
    """
    new = not path.parent.exists()
    lock = FileLock(path, blocking=False)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(f"another process is working on {what}. Wait for it, or stop it.") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file, nobody a folder with files
            path.unlink(missing_ok=True)
            if new:
                path.parent.rmdir()
        lock.release()


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove temporary files of `atomic_path` that killed processes left, of these final names or of all.

    Call only while nobody else writes there; the folder may be missing.
    """
    kept = {name[:NAME_LENGTH] for name in names}
    with contextlib.suppress(OSError):  # leftovers do no harm
        for path in folder.iterdir():
            match = LEFTOVER.fullmatch(path.name)
            if match and (not names or match["name"] in kept):
                path.unlink()


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, delete it otherwise.

    The folder is created if it is missing. Raises a UserError if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:NAME_LENGTH]}.{secrets.token_hex(4)}.part")
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # tempfile ignores the umask
            yield temporary
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as by `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
