"""The evaluation from end to end, on tiny networks, photos of a few pixels and faces that are given."""

import contextlib
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from scripts import evaluate as tool
from tests.helpers.face_restorer import nearest_restorer
from tests.helpers.portraits import FACE, cut_once, draw_portrait, texture
from tests.helpers.small_networks import small_generator
from tests.helpers.tracing import untraced
from utils.data import composites
from utils.errors import UserError
from utils.evaluation import runner
from utils.evaluation.results import outside
from utils.face.detection import Face
from utils.face.restorers import save_face_restorer
from utils.files import exclusive
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import LABEL_HEIGHT, MARGIN
from utils.metrics.fidelity import psnr_y
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

VARIANTS = ["bicubic", "base", "unadapted", "adapted", "other-faces", "oracle"]
FEW = ["unadapted", "adapted", "other-faces"]
LANDMARKS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]])


def find(photo, name):
    """Find one face: a portrait's; none in photos called `empty`; else a part of the photo."""
    height, width = photo.shape[:2]
    if name.startswith("portrait"):
        box = FACE
    elif name.startswith("empty") and width < 100:  # degraded
        return []
    else:
        box = np.array([0.4 * width, 0.4 * height, 0.9 * width, 0.95 * height])
    return [Face(box, box[:2] + LANDMARKS * (box[2:] - box[:2]), 0.99)]


def write_scenes(folder, *stems):
    for seed, stem in enumerate(stems):
        write_png(folder / f"{stem}.png", texture(seed, 130, 165, 0, 255).astype(np.uint8))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two scenes, a portrait, weights; scikit-image's photo is a small part of itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "open_detector", lambda *_, **__: contextlib.nullcontext(find))
    monkeypatch.setattr(composites, "cut_out", cut_once)
    part = skimage.data.astronaut()[:128, 160:288].copy()
    monkeypatch.setattr(skimage.data, "astronaut", lambda: part)
    write_scenes(tmp_path / "scenes", "a", "empty")
    write_png(tmp_path / "portraits" / "portrait.png", draw_portrait()[0])
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    base = small_generator()
    write_tf1_checkpoint(tmp_path / "base", checkpoint_tensors(base | {"conv_last/bias": base["conv_last/bias"] + 0.1}))
    save_face_restorer(tmp_path / "r.npz", nearest_restorer())
    with untraced():
        yield tmp_path


def run(*extra, rows=VARIANTS, scenes=True):
    sources = ["--scenes", "scenes", "--portraits", "portraits"] if scenes else []
    return tool.main([*sources, "--output_dir", "out", "--model", "model", "--base", "base", "--restorer", "r.npz",
                      "--weights_dir", "weights", "--presets", "ood-jpeg", "--variants", *rows, *extra])


def read_scores(folder):
    with (folder / "out" / "scores.csv").open(newline="") as file:
        return {(row["set"], row["photo"], row["variant"]): row for row in csv.DictReader(file)}


def test_a_run_writes_tables_scores_plots_and_pictures(place, capsys):
    assert run() == 0
    scores = read_scores(place)
    assert set(scores) == {("ood-jpeg", photo, row) for photo in ("a", "astronaut", "empty") for row in VARIANTS}
    assert {row["num_faces"] for (_, photo, _), row in scores.items() if photo == "empty"} == {"0"}
    truth, image = (quantize(read_image(place / "out" / "ood-jpeg" / name / "a.png").pixels)
                    for name in ("GT", "adapted"))
    boxes = json.loads((place / "out" / "photos" / "photos.json").read_text())["faces"]["a"]
    with (place / "out" / "ood-jpeg" / "faces" / "faces.csv").open(newline="") as file:
        boxes += [[4 * int(float(row["x0"])), 4 * int(float(row["y0"])), 4 * int(float(row["x1"])) + 3,
                   4 * int(float(row["y1"])) + 3] for row in csv.DictReader(file) if row["file"] == "a.png"]
    keep = outside(np.array(boxes), *truth.shape[:2])
    assert float(scores["ood-jpeg", "a", "adapted"]["psnr_y"]) == pytest.approx(psnr_y(image, truth, keep=keep),
                                                                               abs=1e-3)
    assert scores["ood-jpeg", "empty", "adapted"]["psnr_y"] == scores["ood-jpeg", "empty", "unadapted"]["psnr_y"]
    assert scores["ood-jpeg", "a", "adapted"]["partner"] == "astronaut"
    assert scores["ood-jpeg", "a", "adapted"]["partner_faces"] == "1"
    assert scores["ood-jpeg", "a", "base"]["psnr_y"] != scores["ood-jpeg", "a", "unadapted"]["psnr_y"]
    content = json.loads((place / "out" / "summary.json").read_text())
    assert {content["made"][name] for name in ("model", "base", "seed", "scenes", "portraits", "photos")} == {
        "model", "base", 0, 2, 1, 3}
    summary = content["sets"]["ood-jpeg"]
    assert summary["photos_without_faces"] == ["empty"]
    [difference] = summary["own_against_other"].values()
    expected = np.mean([float(scores["ood-jpeg", photo, "adapted"]["psnr_y"])
                        - float(scores["ood-jpeg", photo, "other-faces"]["psnr_y"]) for photo in ("a", "astronaut")])
    assert difference["psnr_y"]["mean"] == pytest.approx(expected, abs=1e-3)
    table = (place / "out" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert all(f"* {name}: {value}\n" in table for name, value in content["made"].items())
    assert read_image(place / "out" / "gains.png").pixels.std() > 0.02
    pictures = quantize(read_image(place / "out" / "pictures.png").pixels)
    top = LABEL_HEIGHT + MARGIN
    np.testing.assert_array_equal(pictures[top:top + 128, :164], quantize(read_image(
        place / "out" / "ood-jpeg" / "bicubic" / "a.png").pixels))


def test_a_killed_run_continues_to_the_results_of_an_uninterrupted_one(place, monkeypatch):
    class Killed(BaseException):
        pass

    restore, done = runner.VariantRunner._restore, []

    def restore_or_die(self, name, *rest):
        if len(done) == 4:
            raise Killed
        done.append(name)
        restore(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(runner.VariantRunner, "_restore", restore_or_die)
        with pytest.raises(Killed):
            run(rows=FEW)
    assert run(rows=FEW) == 0
    assert run("--output_dir", "whole", rows=FEW) == 0
    files = sorted(path.relative_to("out") for path in Path("out").rglob("*.png") if path.parent != Path("out"))
    assert len(files) > 3 * len(FEW)
    for name in (*files, "scores.csv", "gains.png"):
        assert (Path("out") / name).read_bytes() == (Path("whole") / name).read_bytes(), name


def test_only_missing_results_are_made_and_other_settings_are_refused(place):
    run(rows=["bicubic", "adapted"])
    before = {path: path.stat().st_mtime_ns for path in (place / "out" / "ood-jpeg").rglob("*.png")}
    missing = place / "out" / "ood-jpeg" / "adapted" / "a.png"
    missing.unlink()
    assert run(rows=["bicubic", "adapted", "unadapted"]) == 0
    assert [path for path, written in before.items() if path.stat().st_mtime_ns != written] == [missing]
    with pytest.raises(UserError, match="seed"):
        run("--seed", "1")
    write_scenes(place / "scenes", "b")
    with pytest.raises(UserError, match="scenes"):
        run()
    assert run("--overwrite", rows=["bicubic"]) == 0
    assert {photo for _, photo, _ in read_scores(place)} == {"a", "astronaut", "b", "empty"}
    assert not missing.exists()


def test_nothing_inside_of_what_was_adapted_to_counts(place, monkeypatch):
    def find_more(photo, name):
        extra = Face(np.array([1.0, 1, 8, 8]), 1 + 7 * LANDMARKS, 0.95)
        return find(photo, name) + [extra] * (name == "a.png" and photo.shape[1] < 100)  # in the degraded photo

    monkeypatch.setattr(tool, "open_detector", lambda *_, **__: contextlib.nullcontext(find_more))
    assert run(rows=["bicubic", "unadapted"]) == 0
    before = read_scores(place)
    assert before["ood-jpeg", "a", "bicubic"]["num_faces"] == "2"
    for row in ("bicubic", "unadapted"):  # the first is spoilt inside, the second outside
        path = place / "out" / "ood-jpeg" / row / "a.png"
        image = quantize(read_image(path).pixels)
        image[4:36 + 10 * (row == "unadapted"), 4:36] = 0
        write_png(path, image)
    assert run(rows=["bicubic", "unadapted"]) == 0
    after = read_scores(place)
    assert after["ood-jpeg", "a", "bicubic"] == before["ood-jpeg", "a", "bicubic"]
    assert after["ood-jpeg", "a", "unadapted"]["psnr_y"] != before["ood-jpeg", "a", "unadapted"]["psnr_y"]


def test_a_photo_whose_faces_fail_is_left_out_and_tried_again(place, monkeypatch, capsys):
    def fail(photo, name):
        if name == "a.png" and photo.shape[1] < 100:
            raise UserError("the detector is tired")
        return find(photo, name)

    monkeypatch.setattr(tool, "open_detector", lambda *_, **__: contextlib.nullcontext(fail))
    assert run(rows=FEW) == 2
    assert {photo for _, photo, _ in read_scores(place)} == {"astronaut", "empty"}
    assert {row for _, _, row in read_scores(place)} == {"unadapted", "adapted"}  # there is no partner
    assert "a.png" in capsys.readouterr().err
    monkeypatch.setattr(tool, "open_detector", lambda *_, **__: contextlib.nullcontext(find))
    assert run(rows=FEW) == 0
    assert set(read_scores(place)) == {
        ("ood-jpeg", photo, row) for photo in ("a", "astronaut", "empty") for row in FEW}


def test_a_photo_that_cannot_be_read_is_named_stops_nothing_and_gives_status_2(place, capsys):
    (place / "scenes" / "broken.png").write_bytes(b"no picture")
    assert run(rows=["bicubic"]) == 2
    assert {photo for _, photo, _ in read_scores(place)} == {"a", "astronaut", "empty"}
    assert "broken.png" in capsys.readouterr().err
    assert json.loads((place / "out" / "summary.json").read_text())["made"]["errors"] == 1


def test_without_folders_the_only_photo_is_degraded_several_times(place, capsys):
    assert run("--photos", "2", rows=["bicubic", "unadapted", "adapted"], scenes=False) == 0
    scores = read_scores(place)
    assert {photo for _, photo, _ in scores} == {"astronaut-1", "astronaut-2"}
    assert len({row["psnr_y"] for (_, _, name), row in scores.items() if name == "bicubic"}) == 2
    assert "[+" not in capsys.readouterr().out
    summary = json.loads((place / "out" / "summary.json").read_text())["sets"]["ood-jpeg"]
    assert summary["variants"]["adapted"]["against"]["unadapted"]["psnr_y"]["low"] is None


@pytest.mark.parametrize(("flags", "named"), [
    (["--scenes", "x"], "--portraits"), (["--scenes_match", "x"], "--scenes_match"),
    (["--input_dir", "x", "--portraits_exclude", "y"], "--portraits_exclude"),
    (["--input_dir", "x", "--scenes", "y", "--portraits", "z"], "--input_dir"),
    (["--photos", "0"], "--photos"), (["--seed", "-1"], "--seed"), (["--variants", "magic"], "--variants"),
    (["--learning_rate", "0"], "--learning_rate"), (["--learning_rate", "inf"], "--learning_rate"),
    (["--restorer", "magic"], "--restorer"), (["--people", "("], "--people")])
def test_wrong_values_are_refused_by_name(flags, named):
    with pytest.raises(UserError, match=named):
        tool.parse_args(flags)


@pytest.mark.parametrize("ready", [False, True])
def test_photos_whose_results_would_have_one_name_are_refused(place, ready):
    write_scenes(place / "scenes" / "inner", "a")
    with pytest.raises(UserError, match="2 photos a"):
        run(*["--input_dir", "scenes"] * ready, scenes=not ready)


def test_the_control_takes_the_faces_of_somebody_else(place):
    write_scenes(place / "people", "anna_1", "anna_2", "bob_1")
    assert run("--input_dir", "people", "--people", "^[a-z]+", rows=["adapted", "other-faces"], scenes=False) == 0
    partners = {photo: row["partner"] for (_, photo, name), row in read_scores(place).items() if name == "adapted"}
    assert partners == {"anna_1": "bob_1", "anna_2": "bob_1", "bob_1": "anna_1"}


def test_photos_of_people_are_taken_as_they_are(place):
    write_scenes(place / "others", "b")
    assert run("--input_dir", "scenes", "others", rows=["bicubic", "adapted", "other-faces"], scenes=False) == 0
    assert {photo for _, photo, _ in read_scores(place)} == {"a", "b", "empty"}
    clean, truth = (quantize(read_image(path).pixels) for path in (
        place / "scenes" / "a.png", place / "out" / "ood-jpeg" / "GT" / "a.png"))
    np.testing.assert_array_equal(truth, clean[:clean.shape[0] // 4 * 4, :clean.shape[1] // 4 * 4])
    own = json.loads((place / "out" / "summary.json").read_text())["sets"]["ood-jpeg"]["own_against_other"]
    assert own["adapted - other-faces"]["psnr_y"]["low"] is not None
    with pytest.raises(UserError, match="input"):
        run("--input_dir", "scenes", rows=["bicubic", "adapted", "other-faces"], scenes=False)


def test_weights_to_compare_with_are_needed_for_their_row_alone(place):
    (place / "base.index").rename(place / "later.index")
    assert run(rows=["bicubic", "unadapted"]) == 0
    with pytest.raises(UserError, match="base"):
        run(rows=["bicubic", "base", "unadapted"])
    (place / "later.index").rename(place / "base.index")
    assert run(rows=["bicubic", "base", "unadapted"]) == 0
    assert {row for _, _, row in read_scores(place)} == {"bicubic", "base", "unadapted"}


def test_a_second_evaluation_in_the_same_folder_is_refused(place):
    (place / "out").mkdir()
    with exclusive(place / "out" / ".evaluation.lock", "out"), pytest.raises(
            UserError, match="another process is working on out"):
        run(rows=["bicubic"])
    assert list((place / "out").iterdir()) == []
