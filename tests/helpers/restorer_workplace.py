"""A folder with a few portraits, and scripts/train_face_restorer.py over it with the smoke preset."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from scripts import train_face_restorer as cli
from tests.helpers.workplace import picture
from utils.face.alignment import reference_points
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS
from utils.image.io import write_png
from utils.weights.checkpoints import read_tensors

SCRIPT = Path(cli.__file__)
SIZE = 64
LANDMARKS = reference_points(SIZE)
BOX = np.array([18.0, 12.0, 46.0, 54.0])


def write_portraits(folder, names):
    """Write pictures of 64x64 pixels and a faces.csv beside the folder, which it returns."""
    for seed, name in enumerate(names):
        write_png(folder / name, picture(seed, SIZE, SIZE))
    path = folder.parent / "faces.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *BOX_COLUMNS, *LANDMARK_COLUMNS])
        writer.writerows([name, *BOX, *LANDMARKS.ravel()] for name in names)
    return path


class RestorerWorkplace:
    """Six portraits, of which two are held out, one of these for validation."""

    def __init__(self, root):
        self.root, self.photos = root, root / "photos"
        self.faces = write_portraits(self.photos, [f"p_{number:03d}.png" for number in range(1, 7)])

    def arguments(self, *extra, trial=0, **settings):
        return [*self.place(trial), "--preset", "smoke", "--photo_dir", str(self.photos), "--faces", str(self.faces),
                *(f"--set={key.replace('__', '.')}={value}" for key, value in settings.items()), *extra]

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
        """Export a checkpoint's weights into a file of this name, and return its path."""
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
