"""Writing files so that nothing half-written is ever seen under its final name."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError


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
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Check the folder's permissions "
                        "and the free space, or choose another output folder.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
