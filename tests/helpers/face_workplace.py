"""A folder of photos, a file of boxes, and generate_test_faces.py over them."""

import csv
import json

import numpy as np
import skimage.data

import generate_test_faces
from utils.image.io import read_image, write_png

# eyes, nose and corners of the mouth of the astronaut, and its face
LANDMARKS = [[203.4, 102.1], [247.4, 103.8], [224.9, 128.3], [206.6, 142.1], [243.4, 142.8]]
BOX = [181.0, 63.0, 263.0, 170.0]


class FaceWorkplace:
    """A folder of photos, a file of boxes and the command line over them."""

    def __init__(self, root):
        self.root, self.out = root, root / "out"
        self.boxes = []

    def add_photo(self, name="astronaut.png", samples=None):
        write_png((self.root / "LQ" / name).with_suffix(".png"), skimage.data.astronaut() if samples is None
                  else samples)

    def add_face(self, box=BOX, *, file="astronaut.png", landmarks=None, score=0.99):
        """Add a face; its landmarks lie in its box as those of the astronaut."""
        if landmarks is None:
            corner, other = np.reshape(box, (2, 2))
            scale = (other - corner) / (np.array(BOX[2:]) - BOX[:2])
            landmarks = (corner + (np.array(LANDMARKS) - BOX[:2]) * scale).tolist()
        self.boxes.append({"file": file, "box": list(box), "landmarks": landmarks, "score": score})
        (self.root / "boxes.json").write_text(json.dumps(self.boxes))

    def arguments(self, *extra):
        return ["--input_dir", str(self.root / "LQ"), "--output_dir", str(self.out), *extra]

    def run(self, *extra, boxes=True, restorer="gpen-512"):
        detector = ["--detector", "boxes", "--boxes", str(self.root / "boxes.json")] if boxes else []
        return generate_test_faces.main(self.arguments(*detector, "--restorer", restorer, *extra))

    def rows(self, name="faces.csv"):
        with (self.out / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def statuses(self):
        return [row["status"] for row in self.rows()]

    def names(self, folder):
        return sorted(path.name for path in (self.out / folder).glob("*")) if (self.out / folder).exists() else []

    def read(self, folder, name="astronaut_0.png"):
        return read_image(self.out / folder / name).pixels

    def files(self):
        return {path.relative_to(self.out): path.read_bytes() for path in self.out.rglob("*.*")}
