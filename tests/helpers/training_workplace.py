"""A folder with two small records, and main.py over it with the smoke preset."""

import main
from tests.helpers.training_runs import TrainingRuns
from tests.helpers.workplace import picture
from utils.data.tfrecords import ImageRecords, write_image_records

FACE_SIZE, SCENE_SIZE = 64, 80
SETTINGS = {"data.face_size": FACE_SIZE, "data.scene_size": SCENE_SIZE, "data.face_patch_size": 48,
            "data.scene_patch_size": 64, "run.validation_patch_size": 32, "run.validation_scene_size": 32}


def write_record(path, first, count, size):
    """Write a record of pictures that are unlike each other, seeded from `first` on, and open it."""
    write_image_records(path, (picture(first + number, size, size) for number in range(count)), size)
    return ImageRecords(path, size)


class TrainingWorkplace(TrainingRuns):
    """Records of 6 faces and 5 scenes, of which the preset keeps 2 each for validation."""

    def __init__(self, root):
        super().__init__(main, root)
        root.mkdir(exist_ok=True)
        self.faces, self.scenes = root / "whole_face.tfrecord", root / "back.tfrecord"
        self.write_faces(6)
        self.write_scenes(5)

    def write_faces(self, count, size=FACE_SIZE):
        write_record(self.faces, 0, count, size)

    def write_scenes(self, count, size=SCENE_SIZE):
        write_record(self.scenes, 100, count, size)

    def arguments(self, *extra, trial=0, **settings):
        given = [f"--set={key}={value}" for key, value in
                 (SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}).items()]
        return [*self.place(trial), "--preset", "smoke", *given, "--weights_dir", str(self.root / "weights"),
                "--face_record", str(self.faces), "--scene_record", str(self.scenes), *extra]

    def run(self, *extra, **options):
        """Train in this process, without an adversary and one task at a time unless these are given."""
        return super().run(*extra, **{"loss__gan": 0, "meta__tasks_per_batch": 1} | options)
