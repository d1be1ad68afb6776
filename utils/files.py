"""Writing files so that nothing half-written is ever seen under its final name."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from utils.errors import DiskFullError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


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


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs; where locks do not exist, go on without.

    Args:
        path: a file that is made for it and stays, as removing it could let two in.
        what: what is locked, for the message.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Check the folder's permissions.") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another process is working on {what}. Wait for it, or stop it.") from error
            except OSError:
                pass  # a network file system without locks
        yield


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
        # 50 characters are at most 200 bytes; a file name has room for 255
        name = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.part")
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
