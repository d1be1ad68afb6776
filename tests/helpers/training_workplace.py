"""A folder with two small records, and main.py over it with the smoke preset."""

import contextlib
import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import main as cli
from tests.helpers.workplace import picture
from utils.data.tfrecords import write_image_records
from utils.weights.checkpoints import read_tensors

ROOT = Path(__file__).parents[2]
FACE_SIZE, SCENE_SIZE = 64, 80
SETTINGS = {"data.face_size": FACE_SIZE, "data.scene_size": SCENE_SIZE, "data.face_patch_size": 48,
            "data.scene_patch_size": 64, "run.validation_patch_size": 32}


class TrainingWorkplace:
    """Records of 6 faces and 5 scenes, of which the preset keeps 2 each for validation."""

    def __init__(self, root):
        self.root = root
        root.mkdir(exist_ok=True)
        self.faces, self.scenes = root / "whole_face.tfrecord", root / "back.tfrecord"
        self.write_faces(6)
        self.write_scenes(5)

    def write_faces(self, count, size=FACE_SIZE):
        write_image_records(self.faces, (picture(seed, size, size) for seed in range(count)), size)

    def write_scenes(self, count, size=SCENE_SIZE):
        write_image_records(self.scenes, (picture(100 + seed, size, size) for seed in range(count)), size)

    def arguments(self, *extra, trial=0, **settings):
        given = [f"--set={key}={value}" for key, value in
                 (SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}).items()]
        return ["--run_dir", str(self.root / "runs"), "--trial", str(trial), "--preset", "smoke", *given,
                "--weights_dir", str(self.root / "weights"), "--face_record", str(self.faces), "--scene_record",
                str(self.scenes), *extra]

    def run(self, *extra, **options):
        """Train in this process, without an adversary and one task at a time unless these are given.

        Untraced: tracing takes longer than a few iterations on such networks.
        """
        return self.main(*self.arguments(*extra, **{"loss__gan": 0, "meta__tasks_per_batch": 1} | options))

    def main(self, *argv):
        """Call main.py's `main` with exactly these arguments, untraced."""
        tf.config.run_functions_eagerly(True)
        try:
            return cli.main(list(argv))
        finally:
            tf.config.run_functions_eagerly(False)

    def start(self, *extra, **options):
        """Train in a process of its own."""
        return subprocess.Popen([sys.executable, str(ROOT / "main.py"), *self.arguments(*extra, **options)],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def folder(self, trial=0):
        return self.root / "runs" / f"trial_{trial}"

    def checkpoint(self, iteration, trial=0):
        """Return every variable of a checkpoint by its full name."""
        return read_tensors(self.folder(trial) / "checkpoints" / f"model-{iteration}", lambda _: True)

    def checkpoints(self, trial=0):
        return sorted(path.stem for path in (self.folder(trial) / "checkpoints").glob("*.index"))

    def rows(self, name="metrics.csv", trial=0):
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
