"""A folder with a few portraits, and scripts/train_face_restorer.py over it with the smoke preset."""

import csv

import numpy as np

from scripts import train_face_restorer
from tests.helpers.training_runs import TrainingRuns
from tests.helpers.workplace import picture
from utils.face.alignment import reference_points
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS
from utils.image.io import write_png

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


class RestorerWorkplace(TrainingRuns):
    """Six portraits, of which two are held out, one of these for validation."""

    def __init__(self, root):
        super().__init__(train_face_restorer, root)
        self.photos = root / "photos"
        self.faces = write_portraits(self.photos, [f"p_{number:03d}.png" for number in range(1, 7)])

    def arguments(self, *extra, trial=0, **settings):
        return [*self.place(trial), "--preset", "smoke", "--photo_dir", str(self.photos), "--faces", str(self.faces),
                *(f"--set={key.replace('__', '.')}={value}" for key, value in settings.items()), *extra]

    def export(self, name, *extra, trial=0):
        """Export a checkpoint's weights into a file of this name, and return its path."""
        assert self.main(*self.place(trial), "--export", str(self.root / name), *extra) == 0
        return self.root / name
