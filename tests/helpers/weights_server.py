"""A server of weight files on the loopback interface, and packages as a registry would deliver them."""

import contextlib
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from utils.weights.manifest import PackageSource, WeightFile

BODY = bytes(range(256)) * 200
SHA256 = hashlib.sha256(BODY).hexdigest()
MEMBERS = {"a.param": b"layers", "a.bin": BODY}
FILES = tuple(WeightFile(name, len(body), hashlib.sha256(body).hexdigest()) for name, body in MEMBERS.items())


@dataclass
class Page:
    """What the server does at one address; `cut`: bytes after which it ends the connection, or sends no more."""

    body: bytes = BODY
    status: int = 200
    cut: int | None = None
    stalls: bool = False
    requests: list = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.server.pages.get(self.path)
        if page is None:
            return self.send_error(404)
        page.requests.append(self.path)
        self.send_response(page.status)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(page.body[:page.cut])
            if page.stalls:
                self.rfile.read(1)  # until the client gives up
        return None

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve_pages() -> Iterator[http.server.ThreadingHTTPServer]:
    """Serve what is put into `pages` (path -> Page) of the server, at its `url`."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.pages = {}
    running.url = f"http://127.0.0.1:{running.server_address[1]}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.shutdown()
        running.server_close()
        thread.join(5)


def make_package(archive: str, members: dict[str, bytes] | None = None) -> tuple[bytes, PackageSource]:
    """Return the bytes of a wheel or of a source archive with `members` and a setup.py that fails, and its source."""
    contents = {"pkg-1.0/setup.py": b"raise RuntimeError('executed')"}
    contents |= {f"pkg-1.0/models/{name}": body for name, body in (members or MEMBERS).items()}
    buffer = io.BytesIO()
    if archive.endswith(".whl"):
        with zipfile.ZipFile(buffer, "w") as wheel:
            for path, body in contents.items():
                wheel.writestr(path, body)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
            for path, body in contents.items():
                info = tarfile.TarInfo(path)
                info.size = len(body)
                opened.addfile(info, io.BytesIO(body))
    data = buffer.getvalue()
    return data, PackageSource("pkg", "1.0", archive, hashlib.sha256(data).hexdigest(), ("--an-option",),
                               {name: f"pkg-1.0/models/{name}" for name in MEMBERS})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
