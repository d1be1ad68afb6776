"""Downloads against servers on the loopback interface; the wheel source is tested with the script."""

import contextlib
import errno
import hashlib
import http.server
import json
import socket
import threading
import time
from dataclasses import dataclass, field

import pytest

from utils.weights import download as downloads
from utils.weights.download import BusyError, DownloadError, download, part_path

BODY = bytes(range(256)) * 2000  # 512 kB, several chunks
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2


@dataclass
class Page:
    """What the test server does at one address."""

    body: bytes = BODY
    etag: str = '"one"'
    status: int = 200
    ranges: bool = True
    content_type: str = "application/octet-stream"
    cut: int | None = None  # bytes after which the connection ends, or stalls
    stall: bool = False
    announce: bool = True
    requests: list = field(default_factory=list)  # the Range header of each request


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.server.pages.get(self.path)
        if page is None:
            return self.send_error(404)
        wanted = self.headers.get("Range")
        page.requests.append(wanted)
        start = 0
        same = self.headers.get("If-Range", page.etag) == page.etag
        if wanted and page.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(page.body):
                return self.send_error(416)
        body = page.body[start:]
        self.send_response(206 if start else page.status)
        self.send_header("Content-Type", page.content_type)
        if page.etag:
            self.send_header("ETag", page.etag)
        if page.announce:
            self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[:page.cut])
            self.wfile.flush()
            if page.stall:
                self.server.released.wait(5)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.pages, running.released = {}, threading.Event()
    running.url = f"http://127.0.0.1:{running.server_address[1]}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.released.set()
    running.shutdown()
    running.server_close()
    thread.join(5)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def leave_part(path, body, url, validator='"one"'):
    """What an interrupted run leaves."""
    part_path(path).write_bytes(body)
    part_path(path).with_name(f"{path.name}.part.json").write_text(json.dumps({"url": url, "validator": validator}))


def test_a_whole_file_arrives_and_nothing_else_is_left(server, tmp_path):
    server.pages["/w"] = Page()
    target = tmp_path / "new" / "w.pth"
    download(f"{server.url}/w", target, size=len(BODY), digest=SHA256)
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["w.pth"]


def test_a_file_of_unknown_size_and_hash_arrives_even_without_content_length(server, tmp_path):
    server.pages["/w"] = Page(announce=False)
    download(f"{server.url}/w", tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_the_beginning_of_a_hash_is_enough_to_verify(server, tmp_path):
    server.pages["/w"] = Page()
    download(f"{server.url}/w", tmp_path / "w.pth", digest=SHA256[:8])
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_an_interrupted_download_resumes_where_it_ended(server, tmp_path):
    server.pages["/w"] = page = Page(cut=HALF)
    with pytest.raises(DownloadError, match=r"w.pth is truncated: the connection ended after \d+ of 512000 bytes"):
        download(f"{server.url}/w", tmp_path / "w.pth")
    assert names(tmp_path) == ["w.pth.part", "w.pth.part.json"]
    kept = part_path(tmp_path / "w.pth").stat().st_size
    assert HALF - downloads.CHUNK < kept <= HALF
    page.cut = None
    download(f"{server.url}/w", tmp_path / "w.pth")
    assert page.requests == [None, f"bytes={kept}-"]
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert names(tmp_path) == ["w.pth"]


def test_a_file_that_changed_on_the_server_starts_again(server, tmp_path):
    server.pages["/w"] = Page(etag='"two"')
    leave_part(tmp_path / "w.pth", b"x" * HALF, f"{server.url}/w")
    download(f"{server.url}/w", tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.pages["/w"] = page = Page(ranges=False)
    leave_part(tmp_path / "w.pth", BODY[:HALF], f"{server.url}/w")
    download(f"{server.url}/w", tmp_path / "w.pth", size=len(BODY), digest=SHA256)
    assert page.requests == [f"bytes={HALF}-"]
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_part_longer_than_the_servers_file_starts_again(server, tmp_path):
    server.pages["/w"] = page = Page()
    leave_part(tmp_path / "w.pth", BODY + b"more", f"{server.url}/w")
    download(f"{server.url}/w", tmp_path / "w.pth")
    assert page.requests == [f"bytes={len(BODY) + 4}-", None]
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_part_of_another_address_is_kept_only_when_a_hash_can_tell(server, tmp_path):
    server.pages["/w"] = page = Page()
    leave_part(tmp_path / "w.pth", BODY[:HALF], "http://other/w")
    download(f"{server.url}/w", tmp_path / "w.pth")
    leave_part(tmp_path / "w.pth", BODY[:HALF], "http://other/w")
    download(f"{server.url}/w", tmp_path / "w.pth", digest=SHA256)
    assert page.requests == [None, f"bytes={HALF}-"]
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_damaged_part_is_found_out_by_the_hash_and_replaced_in_the_same_run(server, tmp_path):
    server.pages["/w"] = page = Page()
    leave_part(tmp_path / "w.pth", b"x" * HALF, f"{server.url}/w")
    download(f"{server.url}/w", tmp_path / "w.pth", digest=SHA256)
    assert page.requests == [f"bytes={HALF}-", None]
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_complete_part_needs_no_server(tmp_path):
    leave_part(tmp_path / "w.pth", BODY, "http://127.0.0.1:9/w")
    download("http://127.0.0.1:9/w", tmp_path / "w.pth", size=len(BODY), digest=SHA256)
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_wrong_hash_names_both_hashes_and_leaves_the_old_file_and_nothing_else(server, tmp_path):
    server.pages["/w"] = Page(body=BODY[::-1])
    (tmp_path / "w.pth").write_bytes(b"old")
    actual = hashlib.sha256(BODY[::-1]).hexdigest()
    with pytest.raises(DownloadError, match=f"w.pth has the wrong hash: expected SHA-256 {SHA256}, received {actual}"):
        download(f"{server.url}/w", tmp_path / "w.pth", size=len(BODY), digest=SHA256)
    assert names(tmp_path) == ["w.pth"]
    assert (tmp_path / "w.pth").read_bytes() == b"old"


@pytest.mark.parametrize(("page", "reason"), [
    (Page(status=503), "the server answers 503"),
    (Page(body=BODY[:-1]), f"w.pth has {len(BODY) - 1} bytes, expected {len(BODY)}"),
    (Page(content_type="text/html; charset=utf-8"), "answers with a web page .* instead of w.pth"),
    (Page(body=b"\n<!DOCTYPE html><p>sign in", announce=False), "answers with a web page .* instead of w.pth"),
    (Page(body=BODY + b"x", announce=False), f"more than the {len(BODY)} bytes of w.pth"),
    (Page(body=BODY[::-1], announce=False), "wrong hash"),
])
def test_a_bad_answer_is_named_and_leaves_nothing(server, tmp_path, page, reason):
    server.pages["/w"] = page
    with pytest.raises(DownloadError, match=reason):
        download(f"{server.url}/w", tmp_path / "w.pth", size=len(BODY), digest=SHA256)
    assert names(tmp_path) == []


def test_a_missing_page_on_one_server_spares_the_part_that_another_can_continue(server, tmp_path):
    leave_part(tmp_path / "w.pth", BODY[:HALF], f"{server.url}/w")
    with pytest.raises(DownloadError, match="the server answers 404 Not Found"):
        download(f"{server.url}/gone", tmp_path / "w.pth", digest=SHA256)
    assert part_path(tmp_path / "w.pth").read_bytes() == BODY[:HALF]


def test_a_stalled_server_is_given_up_and_what_came_is_kept(server, tmp_path):
    server.pages["/w"] = Page(cut=HALF, stall=True)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"the server sent nothing for 0\.3 s"):
        download(f"{server.url}/w", tmp_path / "w.pth", read_timeout=0.3)
    assert time.monotonic() - start < 3
    kept = part_path(tmp_path / "w.pth").read_bytes()
    assert kept == BODY[:len(kept)]
    assert len(kept) > 0


def test_a_refused_connection_is_one_short_line_and_leaves_nothing(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match=r"^connection refused$"):
        download(f"http://127.0.0.1:{port}/w", tmp_path / "w.pth")
    assert names(tmp_path) == []


def test_a_name_that_does_not_resolve_is_one_short_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DownloadError, match=r"^the name cannot be resolved \(no network\?\)$"):
        download("http://weights.invalid/resolve/w", tmp_path / "w.pth")
    assert names(tmp_path) == []


def test_too_little_space_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    server.pages["/w"] = Page()
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100_000}))
    with pytest.raises(DownloadError, match=r"w.pth needs 0\.5 MB more, .* has 0\.1 MB free"):
        download(f"{server.url}/w", tmp_path / "w.pth")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_is_named_and_the_part_is_a_true_beginning(server, tmp_path, monkeypatch):
    server.pages["/w"] = Page()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    with pytest.raises(DownloadError, match=r"cannot write .*w.pth: No space left on device; free some space"):
        download(f"{server.url}/w", tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()
    kept = part_path(tmp_path / "w.pth").read_bytes()
    assert kept == BODY[:len(kept)]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot write in .*file"):
        download("http://127.0.0.1:9/w", tmp_path / "file" / "w.pth")


def test_ctrl_c_keeps_the_part_and_the_next_run_gives_the_right_bytes(server, tmp_path, monkeypatch):
    server.pages["/w"] = page = Page()
    original = downloads.Progress.update
    calls = []

    def interrupt(self, count=1, note=""):
        calls.append(count)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, count, note)

    monkeypatch.setattr(downloads.Progress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download(f"{server.url}/w", tmp_path / "w.pth", size=len(BODY), digest=SHA256)
    kept = part_path(tmp_path / "w.pth").stat().st_size
    assert 0 < kept < len(BODY)
    monkeypatch.undo()
    download(f"{server.url}/w", tmp_path / "w.pth", size=len(BODY), digest=SHA256)
    assert page.requests == [None, f"bytes={kept}-"]
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert names(tmp_path) == ["w.pth"]


def test_a_second_download_of_the_same_file_is_refused_while_the_first_runs(server, tmp_path):
    server.pages["/w"] = page = Page(cut=HALF, stall=True)
    errors = []

    def first():
        try:
            download(f"{server.url}/w", tmp_path / "w.pth")
        except DownloadError as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    end = time.monotonic() + 5
    while not page.requests and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(BusyError, match=r"another process is downloading w\.pth"):
        download(f"{server.url}/w", tmp_path / "w.pth")
    server.released.set()
    thread.join(5)
    assert "truncated" in str(errors[0])
    page.cut, page.stall = None, False
    download(f"{server.url}/w", tmp_path / "w.pth", digest=SHA256)
    assert (tmp_path / "w.pth").read_bytes() == BODY
