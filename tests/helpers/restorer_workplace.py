"""A folder with a small record of aligned faces, and scripts/train_face_restorer.py over it with the smoke preset."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

from scripts import train_face_restorer as cli
from tests.helpers.workplace import picture
from utils.data.tfrecords import write_image_records
from utils.weights.checkpoints import read_tensors

SCRIPT = Path(cli.__file__)
FACE_SIZE = 64
# photos of a few pixels are quickly degraded
SETTINGS = {"data.face_size": FACE_SIZE, "data.patch_size": 64, "jitter.lq_size_range": "16,24",
            "network.strides": "8,4,2", "network.features": "8,8,6", "network.blocks": "1,1,0",
            "optimization.bfloat16": "false", "optimization.seed": 3, "run.validation_faces": 1}


class RestorerWorkplace:
    """A record of 6 faces, of which the preset keeps 2 for validation."""

    def __init__(self, root):
        self.root, self.faces = root, root / "aligned.tfrecord"
        write_image_records(self.faces, (picture(seed, FACE_SIZE, FACE_SIZE) for seed in range(6)), FACE_SIZE)

    def arguments(self, *extra, trial=0, **settings):
        given = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
        return [*self.place(trial), "--preset", "smoke", "--face_record", str(self.faces),
                *(f"--set={key}={value}" for key, value in given.items()), *extra]

    def place(self, trial=0):
        return ["--run_dir", str(self.root / "runs"), "--trial", str(trial)]

    def run(self, *extra, **options):
        """Train in this process, untraced: tracing takes longer than a few iterations on such a network."""
        return self.main(*self.arguments(*extra, **options))

    def main(self, *argv):
        """Call the script's `main` with exactly these arguments, untraced."""
        tf.config.run_functions_eagerly(True)
        try:
            return cli.main(list(argv))
        finally:
            tf.config.run_functions_eagerly(False)

    def start(self, *extra, **options):
        """Train in a process of its own."""
        return subprocess.Popen([sys.executable, str(SCRIPT), *self.arguments(*extra, **options)], env=dict(os.environ),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def export(self, name, *extra, trial=0):
        """Export a checkpoint's weights into a file of this name; gives its path."""
        assert self.main(*self.place(trial), "--export", str(self.root / name), *extra) == 0
        return self.root / name

    def folder(self, trial=0):
        return self.root / "runs" / f"trial_{trial}"

    def checkpoint(self, iteration, trial=0):
        """Return every variable of a checkpoint by its full name."""
        return read_tensors(self.folder(trial) / "checkpoints" / f"model-{iteration}", lambda _: True)

    def checkpoints(self, trial=0):
        return sorted(path.stem for path in (self.folder(trial) / "checkpoints").glob("*.index"))

    def rows(self, name, trial=0):
        with (self.folder(trial) / name).open(newline="") as file:
            return list(csv.DictReader(file))
