"""The runs of a training tool in a folder, in this process or in one of its own, and comparisons of their states."""

import contextlib
import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.helpers.tracing import UNTRACED, untraced
from utils.weights.checkpoints import read_tensors

ROOT = Path(__file__).parents[2]


class TrainingRuns:
    """A training tool, a module, and the runs below `root`. Subclasses have `arguments`.

    Untraced unless stated otherwise: tracing takes longer than a few iterations on tiny networks.
    """

    def __init__(self, tool, root):
        self.tool, self.root = tool, root

    def place(self, trial=0):
        return ["--run_dir", str(self.root / "runs"), "--trial", str(trial)]

    def run(self, *extra, **options):
        """Train in this process."""
        return self.main(*self.arguments(*extra, **options))

    def main(self, *argv):
        """Call the tool's `main` with exactly these arguments."""
        with untraced():
            return self.tool.main(list(argv))

    def start(self, *extra, traced=False, **options):
        """Train in a process of its own."""
        program = [] if traced else UNTRACED
        return subprocess.Popen([sys.executable, *program, self.tool.__file__, *self.arguments(*extra, **options)],
                                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def folder(self, trial=0):
        return self.root / "runs" / f"trial_{trial}"

    def checkpoint(self, iteration, trial=0):
        """Return every variable of a checkpoint by its full name."""
        return read_tensors(self.folder(trial) / "checkpoints" / f"model-{iteration}", lambda _: True)

    def checkpoints(self, trial=0):
        return sorted(path.stem for path in (self.folder(trial) / "checkpoints").glob("*.index"))

    def rows(self, name, trial=0):
        """Return the rows of a table of a run, none while there is no table."""
        if not (self.folder(trial) / name).exists():
            return []
        with (self.folder(trial) / name).open(newline="") as file:
            return list(csv.DictReader(file))


def wait_for(condition, process, *, seconds=120):
    """Wait while a process works towards a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextlib.contextmanager
def killed_at_the_end(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def assert_equal_states(left, right, *, tolerance=0.0):
    """Compare checkpoints; Adam's moments are compared relative to their greatest values.

    After few updates Adam's steps hardly depend on the size of a gradient, so the parameters alone would not do.
    """
    assert left.keys() == right.keys()
    for name in left.keys() - {"MetaF2N/config"}:
        scale = np.abs(left[name]).max() if name.endswith(("/Adam", "/Adam_1")) else 1.0
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=tolerance * scale, err_msg=name)
