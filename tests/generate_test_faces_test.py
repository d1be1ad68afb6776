"""generate_test_faces.py, run from end to end: with MTCNN's real weights, and with restorers of known effect."""

import csv
import errno
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

import generate_test_faces as cli
import utils.face.restorers
from scripts.make_demo import degrade
from tests.small_networks import small_generator, small_masknet
from tests.workplace import ROOT
from tests.workplace import cli as test_cli
from utils.console import run_cli
from utils.face.alignment import estimate_alignment
from utils.files import exclusive
from utils.image.io import read_image, write_png
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

# eyes, nose and corners of the mouth of the astronaut
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

    def add_face(self, box=BOX, *, file="astronaut.png", landmarks=LANDMARKS, score=0.99):
        self.boxes.append({"file": file, "box": box, "landmarks": landmarks, "score": score})
        (self.root / "boxes.json").write_text(json.dumps(self.boxes))

    def arguments(self, *extra):
        return ["--input_dir", str(self.root / "LQ"), "--output_dir", str(self.out), *extra]

    def run(self, *extra, boxes=True, restorer="none"):
        detector = ["--detector", "boxes", "--boxes", str(self.root / "boxes.json")] if boxes else []
        return cli.main(self.arguments(*detector, "--restorer", restorer, *extra))

    def rows(self, name="faces.csv"):
        with (self.out / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def names(self, folder):
        return sorted(path.name for path in (self.out / folder).glob("*")) if (self.out / folder).exists() else []


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setitem(utils.face.restorers.RESTORERS, "gpen-512", lambda name, weights_dir: lambda faces: faces)
    return FaceWorkplace(tmp_path)


def fails(capsys, run, *, message):
    with pytest.raises(SystemExit) as ended:
        run_cli(run)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_the_whole_path_on_the_demo_photo(place):
    """MTCNN finds the face, another tool restores it (cut from the ground truth here), test.py adapts to it."""
    ground_truth = skimage.data.astronaut()
    place.add_photo(samples=degrade(ground_truth))
    assert place.run("--detector", "mtcnn", boxes=False) == 0
    [row] = place.rows()
    assert (row["file"], row["index"], row["status"], row["detector"]) == ("astronaut.png", "0", "ok", "mtcnn")
    assert place.names("Face_LQ") == place.names("Aligned") == ["astronaut_0.png"]
    assert place.names("Face_HQ") == []

    landmarks = np.array([float(value) for key, value in row.items() if key.endswith(("_x", "_y"))]).reshape(5, 2)
    perfect = cv2.warpAffine(ground_truth, estimate_alignment(landmarks * 4 + 1.5), (512, 512))
    write_png(place.root / "restored" / "astronaut_0.png", perfect)
    assert place.run("--detector", "mtcnn", "--restored_dir", str(place.root / "restored"), boxes=False) == 0
    lq, hq = (read_image(place.out / folder / "astronaut_0.png").pixels for folder in ("Face_LQ", "Face_HQ"))
    assert hq.shape == (4 * lq.shape[0], 4 * lq.shape[1], 3)
    left, top = int(float(row["x0"])), int(float(row["y0"]))
    expected = ground_truth[4 * top:4 * top + hq.shape[0], 4 * left:4 * left + hq.shape[1]] / 255
    assert 10 * np.log10(1 / np.mean((hq - expected) ** 2)) > 33

    write_tf1_checkpoint(place.root / "model", checkpoint_tensors(small_generator(), small_masknet()))
    assert test_cli.main(["--input_dir", str(place.root / "LQ"), "--face_dir", str(place.out), "--output_dir",
                          str(place.root / "results"), "--model_dir", str(place.root / "model")]) == 0
    assert read_image(place.root / "results" / "astronaut.png").pixels.shape == (512, 512, 3)
    report = (place.root / "results" / "report.csv").read_text()
    assert "astronaut.png,adapted,128,128,1,16" in report


def test_face_lq_is_the_box_of_the_photo_and_face_hq_four_times_that(place):
    place.add_photo()
    place.add_face()
    assert place.run(restorer="gpen-512") == 0
    lq, hq = (cv2.imread(str(place.out / folder / "astronaut_0.png"))[:, :, ::-1] for folder in ("Face_LQ", "Face_HQ"))
    np.testing.assert_array_equal(lq, skimage.data.astronaut()[63:171, 181:264])
    enlarged = cv2.resize(skimage.data.astronaut(), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    difference = hq.astype(float) - enlarged[252:684, 724:1056]
    assert hq.shape == (432, 332, 3)
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 38  # nothing is restored here: there and back again


def test_legacy_alignment_is_one_and_a_half_pixels_off(place):
    place.add_photo()
    place.add_face()
    place.run(restorer="gpen-512")
    right = cv2.imread(str(place.out / "Face_HQ" / "astronaut_0.png"), 0).astype(np.float32)
    place.run("--legacy_alignment", "--overwrite", restorer="gpen-512")
    legacy = cv2.imread(str(place.out / "Face_HQ" / "astronaut_0.png"), 0).astype(np.float32)
    moved = cv2.warpAffine(legacy, np.float32([[1, 0, 1.5], [0, 1, 1.5]]), legacy.shape[::-1])
    inside = np.s_[8:-8, 8:-8]
    assert np.abs(right - moved)[inside].mean() < 0.25 * np.abs(right - legacy)[inside].mean()


@pytest.mark.parametrize("box", [[-30.0, -20.0, 60.0, 70.0], [450.0, 470.0, 600.0, 700.0], [100.2, 100.9, 100.3, 101]])
def test_pairs_are_exact_beyond_the_border_and_filled_where_the_face_does_not_reach(place, box):
    place.add_photo()
    place.add_face(box)
    assert place.run(restorer="gpen-512") == 0
    lq, hq = (cv2.imread(str(place.out / folder / "astronaut_0.png")) for folder in ("Face_LQ", "Face_HQ"))
    assert hq.shape == (4 * lq.shape[0], 4 * lq.shape[1], 3)
    smooth = cv2.resize(lq, hq.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(float)
    assert np.abs(hq - smooth)[8:-8, 8:-8].mean() < 3 if min(hq.shape[:2]) > 16 else np.abs(hq - smooth).max() < 60


def test_boxes_that_miss_the_photo_are_rows_and_not_faces(place):
    place.add_photo()
    place.add_face([-50.0, 10.0, -5.0, 60.0])
    place.add_face([600.0, 10.0, 650.0, 60.0])
    place.add_face(score=0.95)
    assert place.run(restorer="gpen-512") == 0
    assert [(row["status"], row["index"]) for row in place.rows()] == [("outside", ""), ("outside", ""), ("ok", "0")]
    assert place.names("Face_HQ") == ["astronaut_0.png"]


def test_faces_are_numbered_by_score_and_then_by_position(place):
    place.add_photo()
    for left, score in ((300, 0.95), (100, 0.99), (200, 0.95), (10, 0.9)):
        place.add_face([left, 50.0, left + 40, 100.0], score=score)
    place.run(restorer="gpen-512")
    assert [(row["index"], float(row["x0"])) for row in place.rows()] == [("0", 100), ("1", 200), ("2", 300)]


def test_small_and_surplus_faces_are_left_out_and_said(place):
    place.add_photo()
    for width, score in ((30, 0.99), (80, 0.98), (90, 0.97), (100, 0.96)):
        place.add_face([100.0, 50.0, 99.0 + width, 249.0], score=score)
    place.run("--min_face_size", "50", "--max_faces", "2", restorer="gpen-512")
    assert [row["status"] for row in place.rows()] == ["too small", "ok", "ok", "too many"]
    assert [row["width"] for row in place.rows()] == ["30", "80", "90", "100"]
    assert place.names("Face_LQ") == ["astronaut_0.png", "astronaut_1.png"]


def test_box_margin_is_a_share_of_the_side(place):
    place.add_photo()
    place.add_face([100.0, 100.0, 200.0, 300.0])
    place.run("--box_margin", "0.1")
    lq = cv2.imread(str(place.out / "Face_LQ" / "astronaut_0.png"))
    assert lq.shape == (241, 121, 3)


def test_landmarks_that_coincide_are_an_error_of_that_face_alone(place, capsys):
    place.add_photo()
    place.add_face(score=0.95)
    place.add_face(landmarks=[[5, 5]] * 5)
    assert place.run(restorer="gpen-512") == 2
    assert [row["status"] for row in place.rows()] == ["error", "ok"]
    assert "must not coincide" in capsys.readouterr().err
    assert place.names("Face_HQ") == ["astronaut_0.png"]


def test_a_photo_that_cannot_be_read_does_not_stop_the_others(place, capsys):
    place.add_photo()
    place.add_face()
    (place.root / "LQ" / "broken.png").write_text("text")
    place.add_photo("empty.png", samples=np.zeros((40, 40, 3), np.uint8))
    assert place.run(restorer="gpen-512") == 2
    assert [(row["file"], row["status"]) for row in place.rows()] == [
        ("astronaut.png", "ok"), ("broken.png", "error"), ("empty.png", "no face")]
    output = capsys.readouterr()
    assert output.err.count("error: broken.png") == 1
    assert "3 photos: 1 faces, 1 error, 1 photos without a face" in output.out


def test_faces_csv_can_be_given_back_as_boxes(place):
    place.add_photo()
    place.add_photo("empty.png", samples=np.zeros((40, 40, 3), np.uint8))
    place.add_face([100.123456789, 300.0, 180.0, 400.0], score=0.9999998)
    place.add_face((np.array(BOX) + 1 / 3).tolist(), landmarks=(np.array(LANDMARKS) + 1 / 7).tolist(), score=0.99999991)
    place.run(restorer="gpen-512")
    before = (place.out / "Face_HQ" / "astronaut_0.png").read_bytes()
    assert place.names("Face_HQ") == ["astronaut_0.png", "astronaut_1.png"]
    saved = place.root / "saved.csv"
    (place.out / "faces.csv").rename(saved)
    assert cli.main(place.arguments("--detector", "boxes", "--boxes", str(saved), "--overwrite")) == 0
    assert (place.out / "Face_HQ" / "astronaut_0.png").read_bytes() == before
    assert [row["status"] for row in place.rows()] == ["ok", "ok", "no face"]


def test_overlay_marks_box_and_landmarks(place):
    place.add_photo()
    place.add_face()
    place.run("--save_overlay", "--save_aligned")
    overlay = cv2.imread(str(place.out / "Overlay" / "astronaut.png"))[:, :, ::-1]
    assert (overlay[63:171, [181, 263]] == [0, 255, 0]).all()
    for x, y in LANDMARKS:
        assert (overlay[round(y), round(x)] == [255, 0, 0]).all()
    untouched = np.s_[300:, 300:]
    np.testing.assert_array_equal(overlay[untouched], skimage.data.astronaut()[untouched])
    aligned = cv2.imread(str(place.out / "Aligned" / "astronaut_0.png"))[:, :, ::-1]
    expected = cv2.warpAffine(skimage.data.astronaut(), estimate_alignment(np.array(LANDMARKS)), (512, 512))
    np.testing.assert_array_equal(aligned, expected)


def test_faces_are_not_replaced_unasked_and_stale_ones_are_removed(place, capsys):
    place.add_photo()
    place.add_face()
    place.add_face([100.0, 300.0, 180.0, 400.0], score=0.95)
    place.run(restorer="gpen-512")
    capsys.readouterr()
    fails(capsys, lambda: place.run(restorer="gpen-512"), message="--overwrite or --skip_existing")
    place.boxes.clear()
    place.add_face()
    assert place.run("--overwrite", restorer="gpen-512") == 0
    assert place.names("Face_LQ") == place.names("Face_HQ") == ["astronaut_0.png"]


def test_skip_existing_takes_up_where_a_run_ended(place, capsys):
    place.add_photo()
    place.add_photo("other.png")
    place.add_face()
    place.add_face(file="other.png")
    place.run(restorer="gpen-512")
    earlier = place.rows()
    (place.out / "Face_HQ" / "other_0.png").unlink()
    (place.out / "Face_HQ" / "astronaut_0.png").write_bytes(b"kept")
    capsys.readouterr()
    assert place.run("--skip_existing", restorer="gpen-512") == 0
    assert "1 photos there already, 1 faces" in capsys.readouterr().out
    assert place.rows() == earlier
    assert (place.out / "Face_HQ" / "astronaut_0.png").read_bytes() == b"kept"
    assert place.names("Face_HQ") == ["astronaut_0.png", "other_0.png"]


def test_skip_existing_does_again_what_failed_or_other_flags_would_give(place, capsys):
    place.add_photo()
    place.add_face()
    place.add_face(landmarks=[[5, 5]] * 5, score=0.95)
    assert place.run(restorer="gpen-512") == 2
    assert place.run("--skip_existing", restorer="gpen-512") == 2
    assert [row["status"] for row in place.rows()] == ["ok", "error"]
    place.boxes.pop()
    place.add_face([100.0, 300.0, 180.0, 400.0], score=0.91)
    assert place.run("--overwrite", "--min_face_size", "83", restorer="gpen-512") == 0
    assert [row["status"] for row in place.rows()] == ["ok", "too small"]
    assert place.run("--skip_existing", restorer="gpen-512") == 0
    assert [row["status"] for row in place.rows()] == ["ok", "ok"]
    assert place.run("--skip_existing", "--save_overlay", restorer="gpen-512") == 0
    assert place.names("Overlay") == ["astronaut.png"]
    capsys.readouterr()
    assert place.run("--skip_existing", "--save_overlay", restorer="gpen-512") == 0
    assert "1 photos there already" in capsys.readouterr().out


def test_a_restored_face_of_another_face_is_refused(place, capsys):
    place.add_photo()
    lower = (np.array(LANDMARKS) + np.array([-90, 220])).tolist()
    place.add_face([100.0, 300.0, 130.0, 340.0], landmarks=lower, score=0.99)
    place.add_face(score=0.95)
    assert place.run() == 0
    (place.out / "Aligned").rename(place.root / "restored")
    assert place.run("--overwrite") == 0
    assert place.run("--restored_dir", str(place.root / "restored"), "--min_face_size", "50") == 2
    assert "restored from another face" in capsys.readouterr().err
    assert place.names("Face_HQ") == []
    assert place.run("--restored_dir", str(place.root / "restored")) == 0
    assert place.names("Face_HQ") == ["astronaut_0.png", "astronaut_1.png"]


def test_absurd_landmarks_and_wide_photos_do_not_end_the_run(place):
    place.add_photo()
    place.add_photo("wide.png", samples=np.zeros((60, 33000, 3), np.uint8))
    place.add_face(landmarks=[[9e5, 0], [0, -9e5], [3, 4], [5, 6], [7, 8]])
    place.add_face([32900.0, 0.0, 32990.0, 50.0], file="wide.png")
    assert place.run("--save_overlay", restorer="gpen-512") == 0
    assert [row["status"] for row in place.rows()] == ["ok", "ok"]


def test_boxes_that_name_no_photo_are_one_line(place, capsys):
    place.add_photo()
    place.add_face(file="LQ/astronaut.png")
    fails(capsys, place.run, message="names none of the photos")
    assert not place.out.exists()


def test_shards_together_are_the_whole(place):
    for name in ("a.png", "b.png", "c.png"):
        place.add_photo(name)
        place.add_face(file=name)
    for index in range(2):
        place.run("--shard", f"{index}/2", restorer="gpen-512")
    assert place.names("Face_HQ") == ["a_0.png", "b_0.png", "c_0.png"]
    assert [row["file"] for index in range(2) for row in place.rows(f"faces-{index}-of-2.csv")] == [
        "a.png", "c.png", "b.png"]


def test_faces_of_other_photos_are_refused(place, capsys):
    place.add_photo()
    place.add_face()
    write_png(place.out / "Face_LQ" / "stranger_0.png", np.zeros((4, 4, 3), np.uint8))
    fails(capsys, lambda: place.run("--overwrite"), message="holds faces of other photos, as stranger_0.png")


def test_a_missing_or_wrongly_sized_restored_face_is_one_line(place, capsys):
    place.add_photo()
    place.add_face()
    (place.root / "restored").mkdir()
    assert place.run("--restored_dir", str(place.root / "restored")) == 2
    assert "astronaut_0.png is missing" in capsys.readouterr().err
    write_png(place.root / "restored" / "astronaut_0.png", np.zeros((256, 256, 3), np.uint8))
    assert place.run("--restored_dir", str(place.root / "restored")) == 2
    assert "must be 512x512. Received: 256x256" in capsys.readouterr().err
    assert place.names("Face_HQ") == place.names("Face_LQ") == []


@pytest.mark.parametrize(("arguments", "message"), [
    (("--detector", "retinaface"), "download_weights.py retinaface"),
    (("--detector", "mtcnn", "--restorer", "gpen-256"), "download_weights.py gpen-256"),
    (("--detector", "boxes"), "--detector boxes and --boxes FILE go together"),
    (("--boxes", "faces.csv"), "--detector boxes and --boxes FILE go together"),
    (("--detector", "boxes", "--boxes", "/nowhere/faces.csv"), "/nowhere/faces.csv"),
    (("--min_confidence", "2"), "--min_confidence must lie between 0 and 1"),
    (("--detector", "boxes", "--boxes", str(ROOT / "tests" / "data" / "tf1_checkpoint_names.json")), "list of faces"),
    (("--max_faces", "0"), "--max_faces must be at least 1"),
    (("--box_margin", "-1"), "--box_margin must lie between 0 and 10"),
    (("--restored_dir", "/nowhere/restored"), "--restored_dir must be a folder"),
    (("--shard", "3/3"), "--shard is i/n"),
])
def test_a_wrong_argument_is_one_line_and_writes_nothing(place, capsys, tmp_path, arguments, message):
    place.add_photo()
    fails(capsys, lambda: cli.main(place.arguments("--weights_dir", str(tmp_path), *arguments)), message=message)
    assert not place.out.exists()


def test_a_second_process_is_refused_and_leftovers_are_removed(place, capsys):
    place.add_photo()
    place.add_face()
    for folder in ("Face_LQ", "Aligned"):
        write_png(place.out / folder / "astronaut_0.png", np.zeros((4, 4, 3), np.uint8))
        (place.out / folder / "astronaut_0.png").rename(place.out / folder / ".astronaut_0.png.0123abcd.part")
    with exclusive(place.out / ".faces.csv.lock", "x"):
        fails(capsys, place.run, message="another process is working on")
    assert place.run() == 0
    assert place.names("Face_LQ") == place.names("Aligned") == ["astronaut_0.png"]
    assert sorted(path.name for path in place.out.iterdir()) == ["Aligned", "Face_LQ", "faces.csv"]


def test_a_disk_that_fills_up_ends_the_run_and_going_on_equals_going_through(place, capsys, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        place.add_photo(name)
        place.add_face(file=name)
    replace = Path.replace

    def refuse(source, target):
        if target.name == "b_0.png" and target.parent.name == "Face_LQ":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        fails(capsys, lambda: place.run(restorer="gpen-512"), message="No space left on device")
    assert place.names("Face_LQ") == ["a_0.png"]
    assert [row["file"] for row in place.rows()] == ["a.png"]
    assert place.run("--skip_existing", restorer="gpen-512") == 0
    resumed = {path.relative_to(place.out): path.read_bytes() for path in place.out.rglob("*.*")}
    assert place.run("--overwrite", restorer="gpen-512") == 0
    assert resumed == {path.relative_to(place.out): path.read_bytes() for path in place.out.rglob("*.*")}


def test_a_shard_without_photos_leaves_an_empty_report(place, capsys):
    place.add_photo()
    place.add_face()
    assert place.run("--shard", "1/2") == 0
    assert capsys.readouterr().out == "no photo falls into shard 1/2\n"
    assert place.rows("faces-1-of-2.csv") == []
