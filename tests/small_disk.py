"""A disk of a few MiB that a test can fill, so that the tools meet a file system without room.

It is a tmpfs, mounted by a child process in a mount namespace of its own and reached through /proc. Where the system
refuses that (or is not Linux), the same calls fail in this process, which a warning says.
"""

import _io
import builtins
import contextlib
import errno
import io
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

# private to the child and gone with it, which `cat` keeps until this process closes its input or ends
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo mounted && exec cat'
NAMESPACES = (["--mount", "--map-root-user"], ["--mount"])  # a user may have the one or the other


class MountedDisk:
    """A real file system at `path`."""

    def __init__(self, path: Path):
        self.path = path

    def leave(self, num_bytes: int | None) -> None:
        """Fill it until this much is free; None: empty it of what fills it."""
        ballast = self.path / ".ballast"
        ballast.unlink(missing_ok=True)
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
        if num_bytes is not None and num_bytes < free:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - num_bytes)


class SimulatedDisk:
    """A folder at `path` in which writing fails in this process when there is no room."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch):
        self.path = path
        self._capacity = None
        real_open, save = io.open, tf.raw_ops.SaveV2

        def limited_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True,
                         opener=None):
            inside = isinstance(file, (str, os.PathLike)) and Path(file).is_relative_to(self.path)
            if not (inside and set(mode) & set("wax+")):
                return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = _LimitedFile(self, file, mode.replace("b", "").replace("t", ""), closefd, opener)
            buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        def limited_save(*, prefix, **options):
            save(prefix=prefix, **options)
            if self.room() < 0:
                raise tf.errors.ResourceExhaustedError(None, None, f"{prefix}.tempstate1; {os.strerror(errno.ENOSPC)}")

        for module in (io, builtins, _io):
            patch.setattr(module, "open", limited_open)
        patch.setattr(tf.raw_ops, "SaveV2", limited_save)

    def leave(self, num_bytes: int | None) -> None:
        """Let this much be written; None: anything."""
        self._capacity = None if num_bytes is None else self._used() + num_bytes

    def room(self) -> float:
        return float("inf") if self._capacity is None else self._capacity - self._used()

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


class _LimitedFile(io.FileIO):
    def __init__(self, disk: SimulatedDisk, *arguments):
        super().__init__(*arguments)
        self._disk = disk

    def write(self, data) -> int:
        view, room = memoryview(data).cast("B"), self._disk.room()
        if len(view) and room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(view[:int(min(len(view), room))])


@contextlib.contextmanager
def small_disk(folder: Path, patch: pytest.MonkeyPatch, *, num_bytes: int = 2**25,
               simulate: bool = False) -> Iterator[MountedDisk | SimulatedDisk]:
    """Give an empty disk of so many bytes.

    Args:
        folder: is made; its parent exists.
        patch: undoes what a simulated one changes in this process.
        num_bytes: a multiple of a page.
        simulate: do not even try to mount one.
    """
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        place = None if simulate else stack.enter_context(_mounted(folder, num_bytes))
        if place is None and not simulate:
            warnings.warn("no file system may be mounted here: a full disk is simulated", stacklevel=3)
        yield SimulatedDisk(folder, patch) if place is None else MountedDisk(place)


@contextlib.contextmanager
def _mounted(folder: Path, num_bytes: int) -> Iterator[Path | None]:
    """Mount a file system in a child; gives where this process finds it, or None where that is refused."""
    with contextlib.ExitStack() as stack:
        place = None
        for namespaces in NAMESPACES:
            with contextlib.suppress(OSError):  # there is no `unshare`, or /proc hides the child
                child = subprocess.Popen(["unshare", *namespaces, "sh", "-c", MOUNT, "sh", str(num_bytes), str(folder)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                stack.enter_context(child)  # closes its input and waits for it
                mounted = child.stdout.readline() == b"mounted\n"
                seen = Path(f"/proc/{child.pid}/root{folder}")
                sizes = os.statvfs(seen)
                if mounted and sizes.f_blocks * sizes.f_frsize == num_bytes:
                    place = seen
                    break
        yield place
