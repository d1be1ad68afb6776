"""A folder of tiny photos with faces and a checkpoint, and test.py over it."""

import csv
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.helpers.small_networks import small_generator, small_masknet
from utils.console import run_cli
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

ROOT = Path(__file__).parents[2]
specification = importlib.util.spec_from_file_location("metaf2n_test_cli", ROOT / "test.py")  # `test` is Python's own
cli = importlib.util.module_from_spec(specification)
specification.loader.exec_module(cli)


def fails(capsys, run, *, message):
    """Check that a command ends with status 2 and one line on standard error, which holds `message`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_cli(run)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), samples)


def picture(seed, height, width, channels=3, dtype=np.uint8):
    """Return smooth random samples, so that faces and photos look alike."""
    noise = np.random.default_rng(seed).random((height // 4 + 2, width // 4 + 2, channels)).astype(np.float32)
    image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
    return (image * np.iinfo(dtype).max).astype(dtype)


class Workplace:
    """A folder of photos with faces and a checkpoint, and the command line over it."""

    def __init__(self, root):
        self.root, self.lq, self.out = root, root / "data" / "LQ", root / "out"
        write_tf1_checkpoint(root / "model-new", checkpoint_tensors(small_generator(), small_masknet()))
        (root / "data" / "Face_LQ").mkdir(parents=True)
        (root / "data" / "Face_HQ").mkdir()

    def add_photo(self, name, seed=0, height=24, width=30, faces=1, face_size=18):
        photo, face_size = picture(seed, height, width), min(face_size, height, width)
        write(self.lq / name, photo)
        for index in range(faces):
            self.add_face(f"{Path(name).stem}_{index}.png", seed=10 * seed + index, size=face_size,
                          lq=photo[-face_size - index:height - index, -face_size - index:width - index])

    def add_face(self, name, *, seed=0, size=18, hq_size=None, lq=None):
        hq_size = hq_size or 4 * size
        write(self.root / "data" / "Face_LQ" / name, picture(seed, size, size) if lq is None else lq)
        write(self.root / "data" / "Face_HQ" / name, picture(seed, hq_size, hq_size))

    def arguments(self, *extra, out=None):
        return ["--input_dir", str(self.lq), "--face_dir", str(self.root / "data"), "--output_dir",
                str(out or self.out), "--model_dir", str(self.root / "model-new"), *extra]

    def run(self, *extra, out=None):
        return cli.main(self.arguments(*extra, out=out))

    def report(self, name="report.csv", out=None):
        with ((out or self.out) / name).open(newline="", encoding="utf-8") as file:
            return {row["file"]: row for row in csv.DictReader(file)}

    def results(self, out=None):
        return {path.name: path.read_bytes() for path in sorted((out or self.out).glob("*.png"))}
