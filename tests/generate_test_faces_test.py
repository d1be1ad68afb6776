"""generate_test_faces.py, run from end to end: with MTCNN's real weights, and with restorers of known effect."""

import csv
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import skimage.data

import calculate_metrics
import generate_test_faces as cli
import utils.face.restorers
from scripts import merge_reports
from scripts.make_demo import degrade
from tests.helpers.face_restorer import nearest_restorer, small_restorer
from tests.helpers.face_workplace import BOX, LANDMARKS, FaceWorkplace
from tests.helpers.small_networks import small_generator, small_masknet
from tests.helpers.tracing import UNTRACED, untraced
from tests.helpers.workplace import ROOT, fails
from tests.helpers.workplace import cli as test_cli
from utils.face.alignment import estimate_alignment
from utils.face.restorers import save_face_restorer
from utils.image.io import quantize, read_image, write_png
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

BLACK = np.zeros((40, 40, 3), np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setitem(utils.face.restorers.RESTORERS, "gpen-512", lambda name, weights_dir: lambda faces: faces)
    place = FaceWorkplace(tmp_path)
    place.add_photo()
    return place


def test_the_whole_path_on_the_demo_photo(place):
    """MTCNN finds the face, another tool restores it (cut from the ground truth here), test.py adapts to it."""
    ground_truth = skimage.data.astronaut()
    place.add_photo(samples=degrade(ground_truth))
    assert place.run("--detector", "mtcnn", boxes=False, restorer="none") == 0
    [row] = place.rows()
    assert (row["file"], row["index"], row["status"], row["detector"]) == ("astronaut.png", "0", "ok", "mtcnn")
    assert place.names("Face_LQ") == place.names("Aligned") == ["astronaut_0.png"]
    assert place.names("Face_HQ") == []

    landmarks = np.array([float(value) for key, value in row.items() if key.endswith(("_x", "_y"))]).reshape(5, 2)
    perfect = cv2.warpAffine(ground_truth, estimate_alignment(landmarks * 4 + 1.5), (512, 512))
    write_png(place.root / "restored" / "astronaut_0.png", perfect)
    assert place.run("--detector", "mtcnn", "--restored_dir", str(place.root / "restored"), boxes=False) == 0
    lq, hq = place.read("Face_LQ"), place.read("Face_HQ")
    assert hq.shape == (4 * lq.shape[0], 4 * lq.shape[1], 3)
    left, top = int(float(row["x0"])), int(float(row["y0"]))
    expected = ground_truth[4 * top:4 * top + hq.shape[0], 4 * left:4 * left + hq.shape[1]] / 255
    assert 10 * np.log10(1 / np.mean((hq - expected) ** 2)) > 33

    write_tf1_checkpoint(place.root / "model", checkpoint_tensors(small_generator(), small_masknet()))
    with untraced():
        assert test_cli.main(["--input_dir", str(place.root / "LQ"), "--face_dir", str(place.out), "--output_dir",
                              str(place.root / "results"), "--model_dir", str(place.root / "model")]) == 0
    assert read_image(place.root / "results" / "astronaut.png").pixels.shape == (512, 512, 3)
    assert "astronaut.png,adapted,128,128,1,16" in (place.root / "results" / "report.csv").read_text()


def test_face_lq_is_the_box_of_the_photo_and_face_hq_four_times_that(place):
    place.add_face()
    assert place.run() == 0
    np.testing.assert_array_equal(quantize(place.read("Face_LQ")), skimage.data.astronaut()[63:171, 181:264])
    upscaled = cv2.resize(skimage.data.astronaut(), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    difference = 255 * place.read("Face_HQ") - upscaled[252:684, 724:1056]
    assert difference.shape == (432, 332, 3)
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 38  # nothing is restored here: there and back again


@pytest.mark.parametrize(("box", "margin"), [
    ([-30.0, -20.0, 60.0, 70.0], 0), (BOX, 1.5), ([100.2, 100.9, 110.3, 111], 2)])
def test_pairs_are_exact_beyond_the_border_and_filled_where_the_face_does_not_reach(place, box, margin):
    place.add_face(box)
    assert place.run("--box_margin", str(margin)) == 0
    lq, hq = quantize(place.read("Face_LQ")), 255 * place.read("Face_HQ")
    assert hq.shape == (4 * lq.shape[0], 4 * lq.shape[1], 3)
    smooth = cv2.resize(lq, hq.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(float)
    assert np.abs(hq - smooth)[8:-8, 8:-8].mean() < 3


def test_faces_are_numbered_by_score_and_position_and_others_have_rows_that_say_why(place):
    for left, score in ((300, 0.95), (100, 0.99), (200, 0.95), (10, 0.9), (-200, 0.98), (600, 0.94)):
        place.add_face([left, 50.0, left + 40, 100.0], score=score)
    place.add_face([50.0, 50.0, 80.0, 100.0], score=0.97)
    place.run("--min_face_size", "35", "--max_faces", "2")
    assert [(row["status"], row["index"], float(row["x0"])) for row in place.rows()] == [
        ("ok", "0", 100), ("outside", "", -200), ("too small", "", 50), ("ok", "1", 200), ("too many", "", 300),
        ("outside", "", 600)]
    assert place.names("Face_LQ") == place.names("Face_HQ") == ["astronaut_0.png", "astronaut_1.png"]


def test_nothing_is_written_among_the_photos(place, capsys):
    place.add_face()
    place.out = place.root / "LQ"
    fails(capsys, place.run, message="--output_dir")
    assert [path.name for path in place.out.iterdir()] == ["astronaut.png"]


def test_faulty_landmarks_and_photos_are_errors_of_theirs_alone(place, capsys):
    place.add_face(score=0.95)
    place.add_face(landmarks=[[5, 5]] * 5)
    (place.root / "LQ" / "broken.png").write_text("text")
    place.add_photo("empty.png", samples=BLACK)
    assert place.run() == 2
    assert [(row["file"], row["status"]) for row in place.rows()] == [
        ("astronaut.png", "error"), ("astronaut.png", "ok"), ("broken.png", "error"), ("empty.png", "no face")]
    assert place.names("Face_HQ") == ["astronaut_0.png"]
    errors = capsys.readouterr().err
    assert [errors.count(f"error: {name}") for name in ("astronaut.png", "broken.png")] == [1, 1]


def test_a_file_of_ones_own_restores_and_a_replaced_one_does_so_again(place, capsys):
    place.add_face()
    own = place.root / "own.npz"
    save_face_restorer(own, nearest_restorer())
    assert place.run(restorer=str(own)) == 0
    before = place.read("Face_HQ")
    np.testing.assert_array_equal(quantize(before), skimage.data.astronaut()[63:171, 181:264].repeat(4, 0).repeat(4, 1))
    [row] = place.rows()
    assert row["restorer"].startswith("own.npz ")
    assert place.run("--skip_existing", restorer=str(own)) == 0
    assert "photos there already 1" in capsys.readouterr().out
    assert place.run("--overwrite", "--legacy_alignment", restorer=str(own)) == 0
    assert np.abs(place.read("Face_HQ") - before).mean() > 0.01
    save_face_restorer(own, small_restorer())
    assert place.run("--skip_existing", restorer=str(own)) == 0
    assert place.rows()[0]["restorer"] != row["restorer"]
    assert np.abs(place.read("Face_HQ") - before).mean() > 0.01


def test_faces_csv_can_be_given_back_as_boxes(place):
    place.add_photo("empty.png", samples=BLACK)
    place.add_face((np.array(BOX) + 1 / 3).tolist(), landmarks=(np.array(LANDMARKS) + 1 / 7).tolist(), score=0.99999991)
    place.run()
    before = place.files()
    saved = (place.out / "faces.csv").rename(place.root / "saved.csv")
    assert cli.main(place.arguments("--detector", "boxes", "--boxes", str(saved), "--overwrite")) == 0
    assert place.files() == before


def test_recursive_keeps_the_tree_from_faces_to_results_reports_and_metrics(place):
    """With all that is written below the folder of photos; one name in two subfolders is no conflict."""
    place.out = place.root / "LQ" / "made"
    names = ["astronaut.png", "inner/astronaut.png", "inner/b/c.png"]
    for name in names:
        place.add_photo(name, samples=degrade(skimage.data.astronaut())[:64, 24:88])
    for name in names[:2]:
        place.add_face([20.0, 15.0, 42.0, 43.0], file=name)
    tree = ["astronaut_0.png", "inner/astronaut_0.png"]
    given = ("--recursive", "--save_aligned", "--save_overlay")
    assert place.run("--recursive", "--save_overlay", restorer="none") == 0
    restored = (place.out / "Aligned").rename(place.out / "restored")
    for flags in (("--restored_dir", str(restored), *given), (*given, "--overwrite"), (*given, "--skip_existing")):
        assert place.run(*flags) == 0
        for folder, expected in (("Face_LQ", tree), ("Face_HQ", tree), ("Aligned", tree), ("Overlay", names)):
            files = sorted((place.out / folder).rglob("*.png"))
            assert [path.relative_to(place.out / folder).as_posix() for path in files] == expected
        assert [row["file"] for row in place.rows()] == names
        for path in restored.rglob("*.png") if flags[0] == "--restored_dir" else ():
            path.unlink()
    write_tf1_checkpoint(place.root / "model", checkpoint_tensors(small_generator(), small_masknet()))
    results = place.out / "Res"
    arguments = ["--input_dir", str(place.root / "LQ"), "--output_dir", str(results), "--recursive"]

    def restore(*flags):
        with untraced():
            assert test_cli.main([*arguments, "--face_dir", str(place.out), "--model_dir", str(place.root / "model"),
                                  "--save_comparison", *flags]) == 0

    for index in range(2):
        restore("--shard", f"{index}/2")
    assert merge_reports.main(arguments) == 0
    with (results / "report.csv").open(newline="") as file:
        assert [(row["file"], row["status"]) for row in csv.DictReader(file)] == [
            (names[0], "adapted"), (names[1], "adapted"), (names[2], "not adapted")]
    for folder in (results, results / "comparison"):
        assert all((folder / name).exists() for name in names)
    kept = (results / names[1]).read_bytes()
    (results / names[2]).unlink()
    restore("--skip_existing")
    assert (results / names[2]).exists()
    restore("--overwrite")
    assert (results / names[1]).read_bytes() == kept
    assert calculate_metrics.main(["--result_dir", str(results), "--recursive", "--metrics", "niqe"]) == 0
    assert [line.split(",")[0] for line in (results / "metrics.csv").read_text().splitlines()[1:]] == names


def test_overlay_marks_box_and_landmarks_and_aligned_is_the_similarity(place):
    place.add_face()
    place.run("--save_overlay", "--save_aligned")
    overlay = quantize(place.read("Overlay", "astronaut.png"))
    assert (overlay[63:171, [181, 263]] == [0, 255, 0]).all()
    for x, y in LANDMARKS:
        assert (overlay[round(y), round(x)] == [255, 0, 0]).all()
    untouched = np.s_[300:, 300:]
    np.testing.assert_array_equal(overlay[untouched], skimage.data.astronaut()[untouched])
    expected = cv2.warpAffine(skimage.data.astronaut(), estimate_alignment(np.array(LANDMARKS)), (512, 512))
    np.testing.assert_array_equal(quantize(place.read("Aligned")), expected)


def test_faces_are_not_replaced_unasked_stale_ones_are_removed_and_those_of_other_photos_refused(place, capsys):
    place.add_face()
    place.add_face([100.0, 300.0, 180.0, 400.0], score=0.95)
    place.run("--save_aligned")
    fails(capsys, place.run, message="--overwrite or --skip_existing")
    place.boxes.clear()
    place.add_face()
    assert place.run("--overwrite", "--save_aligned") == 0
    assert place.names("Face_LQ") == place.names("Face_HQ") == place.names("Aligned") == ["astronaut_0.png"]
    write_png(place.out / "Face_LQ" / "stranger_0.png", BLACK)
    fails(capsys, lambda: place.run("--overwrite"), message="stranger_0.png")


def test_skip_existing_does_again_what_is_missing_failed_or_other_flags_would_change(place):
    place.add_photo("other.png")
    for file in ("astronaut.png", "other.png"):
        place.add_face(file=file)
    place.add_face([100.0, 300.0, 180.0, 400.0], landmarks=[[5, 5]] * 5, score=0.95)
    assert place.run() == 2
    (place.out / "Face_HQ" / "other_0.png").write_bytes(b"kept")
    assert place.run("--skip_existing") == 2
    assert place.statuses() == ["ok", "error", "ok"]
    assert (place.out / "Face_HQ" / "other_0.png").read_bytes() == b"kept"
    place.boxes.pop()
    place.add_face([100.0, 300.0, 180.0, 400.0], score=0.95)
    place.add_face([100.0, 300.0, 180.0, 400.0], score=0.91)
    (place.out / "Face_LQ" / "other_0.png").unlink()
    assert place.run("--skip_existing", "--min_face_size", "83") == 0
    assert place.statuses() == ["ok", "too small", "too small", "ok"]
    assert (place.out / "Face_HQ" / "other_0.png").read_bytes() != b"kept"
    for flags in ((), ("--save_overlay",)):
        assert place.run("--skip_existing", *flags) == 0
        assert place.statuses() == ["ok"] * 4
    assert place.names("Overlay") == ["astronaut.png", "other.png"]


def test_a_restored_face_of_another_face_or_size_or_none_is_refused(place, capsys):
    place.add_face([100.0, 300.0, 130.0, 340.0])
    place.add_face(score=0.95)
    assert place.run(restorer="none") == 0
    restored = (place.out / "Aligned").rename(place.root / "restored")
    assert place.run("--overwrite", restorer="none") == 0
    given = ("--restored_dir", str(restored))
    assert place.run(*given, "--min_face_size", "50") == 2
    assert place.names("Face_HQ") == []
    assert place.run(*given) == 0
    assert place.names("Face_HQ") == ["astronaut_0.png", "astronaut_1.png"]
    write_png(restored / "astronaut_0.png", BLACK)  # of the wrong size, then missing
    for _ in range(2):
        capsys.readouterr()
        assert place.run(*given, "--overwrite") == 2
        assert str(restored / "astronaut_0.png") in capsys.readouterr().err
        (restored / "astronaut_0.png").unlink(missing_ok=True)


@pytest.mark.parametrize(("arguments", "message"), [
    (("--detector", "retinaface"), "download_weights.py retinaface"),
    (("--detector", "mtcnn", "--restorer", "gpen-256"), "download_weights.py gpen-256"),
    (("--detector", "mtcnn", "--restorer", "missing.onnx"), "missing.onnx"),
    (("--detector", "mtcnn", "--restorer", "unknown"), "--restorer"),
    (("--detector", "boxes"), "--boxes"),
    (("--detector", "boxes", "--boxes", "/nowhere/faces.csv"), "/nowhere/faces.csv"),
    (("--detector", "boxes", "--boxes", "{root}/boxes.json"), "boxes.json"),
    (("--min_confidence", "2"), "--min_confidence"), (("--max_faces", "0"), "--max_faces"),
    (("--box_margin", "-1"), "--box_margin"), (("--restored_dir", "/nowhere/restored"), "--restored_dir"),
    (("--shard", "3/3"), "--shard")])
def test_a_wrong_argument_is_one_line_that_names_it_and_writes_nothing(place, capsys, tmp_path, arguments, message):
    place.add_face(file="LQ/astronaut.png")  # which is no photo's name
    arguments = [argument.format(root=tmp_path) for argument in arguments]
    fails(capsys, lambda: cli.main(place.arguments("--weights_dir", str(tmp_path), *arguments)), message=message)
    assert not place.out.exists()


def test_a_stopped_run_leaves_finished_faces_and_goes_on(place):
    for name, count in (("0.png", 1), ("1.png", 1), ("2.png", 300), ("3.png", 1)):  # it cannot finish the third
        place.add_photo(name, samples=skimage.data.astronaut()[:300])
        for _ in range(count):
            place.add_face(file=name)
    save_face_restorer(place.root / "own.npz", small_restorer())
    arguments = place.arguments("--detector", "boxes", "--boxes", str(place.root / "boxes.json"), "--restorer",
                                str(place.root / "own.npz"), "--skip_existing")
    process = subprocess.Popen([sys.executable, *UNTRACED, str(ROOT / "generate_test_faces.py"), *arguments],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(place.names("Face_LQ")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    finished = {name: content for name, content in place.files().items() if name.suffix == ".png"}
    assert place.names("Face_LQ") == ["0_0.png", "1_0.png"]
    assert all(read_image(place.out / name).pixels.any() for name in finished)
    assert not list(place.out.rglob(".*"))
    (place.root / "LQ" / "2.png").unlink()
    assert cli.main(arguments) == 0
    resumed = place.files()
    assert {name: resumed[name] for name in finished} == finished
    assert place.statuses() == ["ok"] * 3 + ["no face"]
    assert len(resumed) == 7
