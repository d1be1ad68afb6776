"""The evaluation from end to end, on tiny networks, photos of a few pixels and faces that are given."""

import contextlib
import csv
import json

import numpy as np
import pytest
import skimage.data

from scripts import evaluate as tool
from tests.reference_restorer import identity_restorer
from tests.small_networks import small_generator
from tests.utils.composites_test import draw_portrait, texture
from utils.checkpoints import checkpoint_tensors, write_tf1_checkpoint
from utils.errors import UserError
from utils.face_detection import Face
from utils.face_restorers import save_face_restorer
from utils.images import quantize, read_image, write_png
from utils.metrics import psnr_y

ROWS = ["bicubic", "realesrgan", "unadapted", "adapted", "other-faces", "oracle"]
LANDMARKS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]])


def find(photo, name):
    """Find one face: a portrait's; none in photos called `empty`; else a part of the photo."""
    height, width = photo.shape[:2]
    if name.startswith("portrait"):
        box = np.array([70.0, 60, 130, 140])
    elif name.startswith("empty") and width < 100:  # degraded
        return []
    else:
        box = np.array([0.4 * width, 0.4 * height, 0.9 * width, 0.95 * height])
    return [Face(box, box[:2] + LANDMARKS * (box[2:] - box[:2]), 0.99)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two scenes, a portrait, weights; scikit-image's photo is a small part of itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "open_detector", lambda *_, **__: contextlib.nullcontext(find))
    part = skimage.data.astronaut()[:128, 160:288].copy()
    monkeypatch.setattr(skimage.data, "astronaut", lambda: part)
    for seed, name in enumerate(("a.png", "empty.png")):
        write_png(tmp_path / "scenes" / name, texture(seed, 130, 165, 0, 255).astype(np.uint8))
    write_png(tmp_path / "portraits" / "portrait.png", draw_portrait()[0])
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator()))
    save_face_restorer(tmp_path / "r.npz", identity_restorer())
    return tmp_path


def run(*extra, rows=ROWS, scenes=True):
    sources = ["--scenes", "scenes", "--portraits", "portraits"] if scenes else []
    return tool.main([*sources, "--output_dir", "out", "--model", "model", "--base", "model", "--restorer", "r.npz",
                      "--weights_dir", "weights", "--presets", "ood-jpeg", "--rows", *rows, *extra])


def read_scores(folder):
    with (folder / "out" / "scores.csv").open(newline="") as file:
        return {(row["set"], row["photo"], row["row"]): row for row in csv.DictReader(file)}


def test_a_run_writes_tables_scores_plots_and_pictures(place, capsys):
    assert run() == 0
    scores = read_scores(place)
    assert set(scores) == {("ood-jpeg", photo, row) for photo in ("a", "astronaut", "empty") for row in ROWS}
    assert {row["num_faces"] for (_, photo, _), row in scores.items() if photo == "empty"} == {"0"}
    truth, image = (quantize(read_image(place / "out" / "ood-jpeg" / name / "a.png").pixels)
                    for name in ("GT", "adapted"))
    keep = np.ones(truth.shape[:2], bool)
    for box in json.loads((place / "out" / "photos" / "photos.json").read_text())["faces"]["a"]:
        left, top, right, bottom = box
        x, y = 0.1 * (right - left), 0.1 * (bottom - top)
        keep[int(max(0, top - y)):int(bottom + y) + 1, int(max(0, left - x)):int(right + x) + 1] = False
    assert float(scores["ood-jpeg", "a", "adapted"]["psnr_y"]) == pytest.approx(psnr_y(image, truth, keep=keep),
                                                                               abs=1e-3)
    assert scores["ood-jpeg", "empty", "adapted"]["psnr_y"] == scores["ood-jpeg", "empty", "unadapted"]["psnr_y"]
    summary = json.loads((place / "out" / "summary.json").read_text())["ood-jpeg"]
    assert summary["photos_without_faces"] == ["empty"]
    [difference] = summary["own_against_other"].values()
    expected = np.mean([float(scores["ood-jpeg", photo, "adapted"]["psnr_y"])
                        - float(scores["ood-jpeg", photo, "other-faces"]["psnr_y"]) for photo in ("a", "astronaut")])
    assert difference["psnr_y"]["mean"] == pytest.approx(expected, abs=1e-3)
    output = capsys.readouterr().out
    assert (place / "out" / "table.md").read_text() in output
    assert "2 faces in 2 of 3 photos; none found, and so un-adapted in every row: empty" in output
    assert "LPIPS is left out: it needs" in output
    for name in ("gains", "own_and_other", "pictures"):
        assert np.ptp(read_image(place / "out" / f"{name}.png").pixels) > 0.5


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(place):
    run(rows=["bicubic", "adapted"])
    before = {path: path.read_bytes() for path in (place / "out" / "ood-jpeg").glob("*/*.png")}
    (place / "out" / "ood-jpeg" / "adapted" / "a.png").unlink()
    (place / "out" / "ood-jpeg" / "bicubic" / "a.png").write_bytes(
        (place / "out" / "ood-jpeg" / "GT" / "a.png").read_bytes())
    assert run(rows=["bicubic", "adapted", "unadapted"]) == 0
    changed = {path.parent.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"bicubic"}
    assert "adapted" in {row for _, _, row in read_scores(place)}
    with pytest.raises(UserError, match=r"out holds an evaluation with other settings \(seed\)"):
        run("--seed", "1")
    write_png(place / "scenes" / "b.png", texture(5, 130, 165, 0, 255).astype(np.uint8))
    with pytest.raises(UserError, match=r"settings \(scenes\)"):
        run()
    assert run("--overwrite", rows=["bicubic"]) == 0
    assert {photo for _, photo, _ in read_scores(place)} == {"a", "astronaut", "b", "empty"}
    assert not (place / "out" / "ood-jpeg" / "adapted").exists()


def test_a_photo_that_cannot_be_read_is_named_stops_nothing_and_gives_status_2(place, capsys):
    (place / "scenes" / "broken.png").write_bytes(b"no picture")
    assert run(rows=["bicubic"]) == 2
    assert {photo for _, photo, _ in read_scores(place)} == {"a", "astronaut", "empty"}
    captured = capsys.readouterr()
    assert "error: cannot read the image" in captured.err
    assert "1 error." in captured.out


def test_without_folders_the_only_photo_is_degraded_several_times(place, capsys):
    assert run("--photos", "3", rows=["bicubic", "adapted", "other-faces", "unadapted"], scenes=False) == 0
    scores = read_scores(place)
    assert {photo for _, photo, _ in scores} == {"astronaut-1", "astronaut-2", "astronaut-3"}
    assert len({row["psnr_y"] for (_, _, name), row in scores.items() if name == "bicubic"}) == 3
    assert "degraded 3 times by each preset" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "message"), [
    (["--scenes", "x"], "--portraits and --scenes go together"), (["--scenes_match", "x"], "patterns choose from"),
    (["--photos", "0"], "--photos"), (["--seed", "-1"], "--seed"), (["--rows", "magic"], "invalid choice"),
    (["--learning_rate", "0"], "--learning_rate"), (["--restorer", "magic"], "--restorer is one of")])
def test_wrong_values_are_refused_by_name(flags, message):
    with pytest.raises(UserError, match=message):
        tool.parse_args(flags)


def test_scenes_whose_results_would_have_one_name_are_refused(place):
    write_png(place / "scenes" / "inner" / "a.png", texture(5, 130, 165, 0, 255).astype(np.uint8))
    with pytest.raises(UserError, match=r"scenes must differ in their names.*2 photos a"):
        run()
