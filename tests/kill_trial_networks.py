"""What `tests.kill_trials` kills of the tools that compute with networks."""

import json

import matplotlib.pyplot
import skimage.data
import tensorflow as tf

import generate_test_faces
import utils.inference.restoration
import utils.training.setup
from tests.generate_test_faces_test import BOX, LANDMARKS
from tests.kill_trial_subjects import Subject
from tests.training_workplace import TrainingWorkplace
from tests.training_workplace import cli as training
from tests.workplace import Workplace
from tests.workplace import cli as adaptation
from utils.image.io import read_image, write_png
from utils.weights.checkpoints import read_tensors

# the tools import them late, the forks not at all
READY = (matplotlib.pyplot, utils.inference.restoration, utils.training.setup)


class Training(Subject):
    """main.py with moving averages, saving after every iteration; untraced, as nothing is written while it traces."""

    ignored = ("tensorboard",)  # its files are named by the time; what happened twice is in them twice
    varying = ("curves.png",)  # of what was read back rounded, as CSV has it

    def __init__(self, root):
        super().__init__(root)
        self.place = TrainingWorkplace(root)

    def prepare(self):
        pass

    def arguments(self, out, again):
        arguments = self.place.arguments(loss__gan=0, meta__tasks_per_batch=1, meta__ema_decay=0.5,
                                         meta__num_iterations=5, run__save_every=1, run__keep_checkpoints=2)
        arguments[arguments.index("--run_dir") + 1] = str(out.parent / f"{out.name}_runs")
        return arguments

    def run(self, out, *, again=False):
        if not out.is_symlink():
            out.symlink_to(f"{out.name}_runs/trial_0")
        super().run(out, again=again)

    def main(self, argv):
        tf.config.run_functions_eagerly(True)
        return training.main(argv)

    def is_unfinished(self, name):
        return name.endswith(".data-00000-of-00001")  # until its index is there

    def is_sound(self, path):
        if path.suffix == ".index":
            names = read_tensors(path.with_suffix(""), lambda _: True)  # which reads every value
            return len(names) > 40 and ("global_step" in names) == path.name.startswith("model-")
        return path.name == "checkpoint" or read_image(path).pixels.std() > 0

    def may_have_more_rows(self, name):
        return name == "metrics.csv"  # it validates what it goes on from

    def may_stay(self, name):
        return name.startswith(("model-", "average-"))  # killed before earlier ones were removed


class Adaptation(Subject):
    """test.py on photos of several sizes, with comparisons."""

    def prepare(self):
        place = Workplace(self.root / "photos")
        for seed, (height, width) in enumerate(((24, 30), (64, 48), (40, 90), (24, 30), (120, 100), (64, 48))):
            place.add_photo(f"{seed}.png", seed=seed, height=height, width=width, faces=seed % 3)

    def arguments(self, out, again):
        data = self.root / "photos" / "data"
        return ["--input_dir", str(data / "LQ"), "--face_dir", str(data), "--output_dir", str(out), "--model_dir",
                str(self.root / "photos" / "model-new"), "--save_comparison", *["--skip_existing"] * again]

    def main(self, argv):
        return adaptation.main(argv)


class Faces(Subject):
    """generate_test_faces.py with a box file and a restorer, and everything it can write."""

    def prepare(self):
        boxes = []
        for number in range(5):
            write_png(self.root / "photos" / f"{number}.png", skimage.data.astronaut()[:400 - 10 * number])
            boxes += [{"file": f"{number}.png", "box": BOX, "landmarks": LANDMARKS, "score": score}
                      for score in (0.99, 0.98)[:1 + number % 2]]
        (self.root / "boxes.json").write_text(json.dumps(boxes))

    def arguments(self, out, again):
        return ["--input_dir", str(self.root / "photos"), "--output_dir", str(out), "--detector", "boxes", "--boxes",
                str(self.root / "boxes.json"), "--restorer", "rrdb-face", "--save_aligned", "--save_overlay",
                *["--skip_existing"] * again]

    def main(self, argv):
        return generate_test_faces.main(argv)
