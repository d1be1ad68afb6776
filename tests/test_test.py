"""test.py, run from end to end on tiny networks and photos: what it writes, and what goes wrong."""

import json
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

import utils.weights.checkpoints
from model.super_resolver import SuperResolver
from tests.helpers.picture_files import SRGB
from tests.helpers.small_networks import small_generator, small_masknet
from tests.helpers.tracing import UNTRACED, untraced
from tests.helpers.workplace import ROOT, Workplace, cli, fails, picture, write
from utils.face.pairs import read_face
from utils.face.patches import batch_patches, sample_patches
from utils.image.io import Photo, quantize, read_image, write_png
from utils.image.listing import Source, photo_rng
from utils.inference.pasting import paste_faces


@pytest.fixture
def place(tmp_path):
    with untraced():
        yield Workplace(tmp_path)


def test_result_is_the_published_step_and_then_the_whole_photo(tmp_path):
    """With graphs that are traced, as those of users."""
    place = Workplace(tmp_path)
    place.add_photo("a.png", seed=1, faces=2)
    assert place.run() == 0
    faces = [read_face(pair) for pair in cli.FaceFolder(place.root / "data").pairs("a")]
    rng = photo_rng(0, "a")
    patches = [sample_patches(face, rng, lq_patch_size=16, count=16) for face in faces]
    resolver = SuperResolver(small_generator(), small_masknet())
    batches = [resolver.weigh_patches(*batch) for batch in batch_patches(patches)]
    assert [len(batch.face_lq) for batch in batches] == [16, 16]
    adapted = resolver.adapt(batches, learning_rate=0.01, num_steps=1, probe_every=4)
    expected = resolver.upscaler(adapted.params)(read_image(place.lq / "a.png").pixels[None])[0]
    np.testing.assert_array_equal(quantize(read_image(place.out / "a.png").pixels), quantize(expected))
    row = place.report()["a.png"]
    assert (row["status"], row["faces"], row["patches"], row["tiles"]) == ("adapted", "2", "32", "1")
    assert float(row["loss_0"]) == pytest.approx(adapted.losses[0], rel=1e-5)
    assert float(row["loss_1"]) == pytest.approx(adapted.losses[1], rel=1e-5)
    assert float(row["mask_mean"]) == pytest.approx(np.mean([batch.weights for batch in batches]), rel=1e-5)


def test_a_result_depends_on_the_photo_and_the_seed_not_on_company_or_shard(place, tmp_path, monkeypatch):
    calls, original = [], utils.weights.checkpoints.load_super_resolver
    monkeypatch.setattr(utils.weights.checkpoints, "load_super_resolver",
                        lambda *args, **kwargs: calls.append(args) or original(*args, **kwargs))
    place.add_photo("middle.png", seed=2, height=50, width=60, faces=2, face_size=40)
    place.run(out=tmp_path / "alone")
    place.run("--seed", "1", out=tmp_path / "seed")
    place.add_photo("after.png", seed=3, height=17, width=40)
    place.add_photo("zebra.jpg", seed=4, faces=0)
    calls.clear()
    place.run(out=tmp_path / "together")
    assert len(calls) == 1  # weights are read once for all photos
    for index in range(2):
        place.run("--shard", f"{index}/2", out=tmp_path / "shards")
    together = place.results(tmp_path / "together")
    assert sorted(together) == ["after.png", "middle.png", "zebra.png"]
    assert place.results(tmp_path / "shards") == together
    assert place.results(tmp_path / "alone")["middle.png"] == together["middle.png"]
    assert place.results(tmp_path / "seed")["middle.png"] != together["middle.png"]
    rows = [place.report(f"report-{index}-of-2.csv", tmp_path / "shards") for index in range(2)]
    assert [sorted(part) for part in rows] == [["after.png", "zebra.jpg"], ["middle.png"]]


@pytest.mark.parametrize(("name", "samples", "shape", "dtype"), [
    ("a.png", picture(1, 8, 9, channels=1), (32, 36), np.uint8), ("a.png", picture(2, 8, 9, channels=4), (32, 36, 4),
     np.uint8), ("a.TIF", picture(3, 8, 9, dtype=np.uint16), (32, 36, 3), np.uint16)], ids=["gray", "alpha", "16 bit"])
def test_gray_alpha_and_16_bit_are_kept(place, name, samples, shape, dtype):
    write(place.lq / name, samples)
    assert place.run("--fine_tune_num", "0") == 0
    result = cv2.imread(str(place.out / "a.png"), cv2.IMREAD_UNCHANGED)
    assert (result.shape, result.dtype) == (shape, dtype)
    if shape[2:] == (4,):
        expected = cv2.resize(samples[:, :, 3].astype(np.float32), (36, 32), interpolation=cv2.INTER_CUBIC)
        assert np.abs(result[:, :, 3] - np.clip(expected, 0, 255)).max() <= 0.51


def test_photos_without_a_face_are_upscaled_unadapted_left_out_or_count_as_failed(place, tmp_path, capsys):
    place.add_photo("1.png", faces=0)
    place.add_photo("10.png", faces=3)  # its faces are not those of 1.png
    assert [place.run("--no_face", choice, out=tmp_path / choice) for choice in ("base", "skip", "error")] == [0, 0, 2]
    rows = [place.report(out=tmp_path / choice)["1.png"] for choice in ("base", "skip", "error")]
    assert [(row["status"], "no face" in row["reason"]) for row in rows] == [
        ("not adapted", True), ("skipped", True), ("error", True)]
    assert "1.png" in capsys.readouterr().err
    assert [sorted(place.results(tmp_path / choice)) for choice in ("skip", "error")] == [["10.png"]] * 2
    assert place.report(out=tmp_path / "base")["10.png"]["faces"] == "3"
    place.run("--fine_tune_num", "0", out=tmp_path / "plain")
    assert place.results(tmp_path / "base")["1.png"] == place.results(tmp_path / "plain")["1.png"]


def test_backtracking_refuses_a_step_that_is_far_too_long(place, tmp_path):
    place.add_photo("a.png")
    assert place.run("--safeguard", "backtrack", "--learning_rate", "1e4", out=tmp_path / "safe") == 0
    row = place.report(out=tmp_path / "safe")["a.png"]
    assert (row["status"], row["learning_rates"], row["loss_1"]) == ("not adapted", "0", row["loss_0"])
    place.run("--fine_tune_num", "0", out=tmp_path / "base")
    assert place.results(tmp_path / "safe") == place.results(tmp_path / "base")


def test_dry_run_writes_nothing_and_lists_faults(place, capsys):
    place.add_photo("a.png", faces=2)
    assert place.run("--dry_run") == 0
    listed = capsys.readouterr().out
    assert "30x24" in listed
    assert "120x96" in listed
    (place.lq / "b.png").write_text("text")
    place.add_photo("c.png")
    place.add_face("c_0.png", size=18, hq_size=70)
    assert place.run("--dry_run") == 2
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines() if "error: " in line] == ["b.png", "c.png"]
    assert "3 in all, 2 faulty" in listed
    assert not place.out.exists()


def test_a_comparison_shows_three_versions_and_its_failure_does_not_cost_the_result(place):
    place.add_photo("a.png", height=40, width=40)
    write_png(place.lq / "a.png", picture(0, 40, 40)[:, :, ::-1], source=Photo(np.zeros(0), icc_profile=SRGB))
    place.out.mkdir()
    (place.out / "comparison").write_text("in the way")
    assert place.run("--save_comparison") == 0
    row = place.report()["a.png"]
    assert (row["status"], "no comparison" in row["reason"]) == ("adapted", True)
    (place.out / "comparison").unlink()
    assert place.run("--save_comparison", "--skip_existing") == 0
    for name in ("comparison", "."):
        assert Image.open(place.out / name / "a.png").info["icc_profile"] == SRGB
    shown, result = (cv2.imread(str(place.out / name / "a.png")) for name in ("comparison", "."))
    assert shown.shape[1] == 3 * 480 + 2 * 6
    np.testing.assert_array_equal(shown[42:522, 972:], cv2.resize(result, (480, 480), interpolation=cv2.INTER_NEAREST))


def test_help_names_the_checkpoints_that_come_with_the_repository(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = "".join(capsys.readouterr().out.split())
    names = [entry["name"] for entry in json.loads((ROOT / "weights" / "manifest.json").read_text())["entries"]]
    names = [name for name in names if name.startswith("metaf2n-")]
    assert len(names) >= 2
    assert all(f"`{name}`" in shown for name in names)


def test_divergence_is_an_error_of_that_photo_alone(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", faces=0)
    assert place.run("--learning_rate", "1e30", "--fine_tune_num", "2") == 2
    row = place.report()["a.png"]
    assert [row[name] for name in ("status", "width", "height", "faces", "patches")] == ["error", "30", "24", "1", "16"]
    assert float(row["loss_0"]) > 0
    assert sorted(place.results()) == ["b.png"]
    assert "--safeguard backtrack" in capsys.readouterr().err


def test_a_step_that_raises_the_loss_is_said_and_one_that_ruins_the_photo_fails(place, capsys, monkeypatch):
    place.add_photo("a.png")
    losses = [0.1, 0.12]
    original = SuperResolver.adapt
    monkeypatch.setattr(SuperResolver, "adapt", lambda *args, **given: original(*args, **given)._replace(losses=losses))
    assert place.run() == 0
    row = place.report()["a.png"]
    assert (row["status"], "0.12" in row["reason"]) == ("loss rose", True)
    assert "warning: a.png: " in capsys.readouterr().err
    losses[1] = 0.31
    assert place.run("--overwrite") == 2
    assert place.report()["a.png"]["status"] == "error"
    assert "--learning_rate" in capsys.readouterr().err
    losses[:] = [0.001, 0.005]
    assert place.run("--overwrite") == 0


def test_faces_of_another_photo_are_an_error_a_warning_or_unnoticed(place, tmp_path, capsys):
    place.add_photo("a.png", height=48, width=60)
    place.add_photo("b.png", seed=1, faces=0)
    write(place.root / "data" / "Face_LQ" / "a_0.png", picture(7, 18, 18))
    choices = ("error", "warn", "off")
    assert [place.run("--check_faces", choice, out=tmp_path / choice) for choice in choices] == [2, 0, 0]
    rows = [place.report(out=tmp_path / choice)["a.png"] for choice in choices]
    assert [(row["status"], "a_0.png" in row["reason"]) for row in rows] == [
        ("error", True), ("adapted", True), ("adapted", False)]
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.err.splitlines() if "a_0.png" in line] == ["error", "warning"]
    assert shown.out.count("1 of 2 photos have no faces in") == 3
    assert "?" not in shown.out
    assert sorted(place.results(tmp_path / "error")) == ["b.png"]


def test_a_black_result_is_an_error(place, monkeypatch):
    place.add_photo("a.png")
    monkeypatch.setattr(SuperResolver, "upscaler", lambda self, params: lambda images: np.zeros(
        [1, 4 * images.shape[1], 4 * images.shape[2], 3], np.float32))
    assert place.run() == 2
    assert place.report()["a.png"]["status"] == "error"
    assert not place.results()


def test_faces_are_pasted_as_far_as_masknet_trusts_them(place, tmp_path):
    place.add_photo("a.png", height=48, width=60, face_size=24)
    assert place.run("--paste_faces", out=tmp_path / "pasted") == 0
    assert place.run("--paste_faces", "--face_weight", "0", out=tmp_path / "zero") == 0
    assert place.run(out=tmp_path / "plain") == 0
    assert place.results(tmp_path / "zero") == place.results(tmp_path / "plain")
    assert place.report(out=tmp_path / "pasted")["a.png"]["pasted"] == "1"
    [face] = cli.FaceFolder(place.root / "data").faces_of(Source("a.png", place.lq / "a.png"), None, None)
    weights = SuperResolver(small_generator(), small_masknet()).weigh_patches(*face.patches).weights.numpy()[0, :, :, 0]
    expected = cv2.imread(str(tmp_path / "plain" / "a.png"))[:, :, ::-1].copy()
    paste_faces(expected, [face._replace(box=(24, 36, 24, 24))], [np.minimum(weights / np.median(weights), 1)])
    pasted = cv2.imread(str(tmp_path / "pasted" / "a.png"))[:, :, ::-1]
    np.testing.assert_allclose(pasted.astype(int), expected, atol=1)
    assert np.abs(pasted.astype(int) - cv2.imread(str(tmp_path / "plain" / "a.png"))[:, :, ::-1]).max() > 10
    assert place.run("--paste_faces", "--fine_tune_num", "0", out=tmp_path / "only") == 0
    assert place.report(out=tmp_path / "only")["a.png"]["pasted"] == "1"


@pytest.mark.parametrize("fault", ["empty", "truncated", "not four times", "no partner"])
def test_a_faulty_photo_gets_a_line_and_a_row_and_does_not_stop_the_others(place, capsys, fault):
    place.add_photo("a.jpg", height=64, width=64)
    place.add_photo("b.png", seed=5)
    faulty = place.lq / "a.jpg"
    content = faulty.read_bytes()
    if fault in ("truncated", "empty"):
        faulty.write_bytes(content[:-40] if fault == "truncated" else b"")
    elif fault == "not four times":
        place.add_face("a_0.png", size=18, hq_size=71)
    else:
        (place.root / "data" / "Face_HQ" / "a_0.png").unlink()
    assert place.run() == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    row = place.report()["a.jpg"]
    assert row["status"] == "error"
    assert row["reason"] in line
    assert ("a_0.png" if content == faulty.read_bytes() else "a.jpg") in row["reason"]
    assert sorted(path.name for path in place.out.iterdir()) == ["b.png", "report.csv"]
    if fault == "empty":  # what is repaired gets its row where it would have been
        faulty.write_bytes(content)
        assert place.run("--skip_existing") == 0
        assert [row["status"] for row in place.report().values()] == ["adapted", "adapted"]
        assert list(place.report()) == ["a.jpg", "b.png"]


@pytest.mark.parametrize(("arguments", "message"), [
    (("--patch_size", "30"), "--patch_size"), (("--patch_num_per_img", "0"), "--patch_num_per_img"),
    (("--fine_tune_num", "-1"), "--fine_tune_num"), (("--learning_rate", "nan"), "--learning_rate"),
    (("--tile_size", "32", "--tile_overlap", "32"), "--tile_overlap"), (("--tile_size", "some"), "--tile_size"),
    (("--shard", "2/2"), "--shard"), (("--skip_existing",), "--skip_existing"),
    (("--precision", "float64"), "--precision"), (("--unknown",), "--unknown"),
    (("--face_dir", "/nowhere/faces"), "/nowhere/faces"), (("--model_dir", "/nowhere/model-new"), "/nowhere/model-new"),
    (("--input_dir", "{root}"), "no image in"), (("--input_dir", "/nowhere/LQ"), "/nowhere/LQ"),
    (("--output_dir", "{root}/data/LQ"), "--output_dir"), (("--output_dir", "{root}/data/Face_LQ"), "--output_dir"),
    (("--output_dir", "{root}/model-new.index/out"), "cannot write")])
def test_a_wrong_argument_is_one_line_that_names_it(place, capsys, arguments, message):
    place.add_photo("a.png")
    arguments = [argument.format(root=place.root) for argument in arguments]
    fails(capsys, lambda: place.run("--overwrite", *arguments), message=message)
    assert not list(place.out.glob("*"))
    assert [path.name for path in place.lq.iterdir()] == ["a.png"]


def test_results_that_are_there_are_not_replaced_unasked(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", seed=1)
    place.run()
    before, earlier_row = place.results(), place.report()["a.png"]
    fails(capsys, place.run, message="--overwrite or --skip_existing")
    (place.out / "b.png").unlink()
    (place.out / "a.png").write_bytes(b"kept")
    assert place.run("--skip_existing") == 0
    assert place.results() == {"a.png": b"kept", "b.png": before["b.png"]}
    assert place.report()["a.png"] == earlier_row
    assert place.run("--overwrite") == 0
    assert place.results() == before


def test_a_killed_run_keeps_finished_photos_and_nothing_half_written_and_goes_on(place):
    place.add_photo("a.png")
    place.add_photo("b.png", height=2600, width=2600, faces=0)  # thousands of tiles: it cannot finish
    place.add_photo("c.png", seed=3)
    tiles = ("--tile_size", "80", "--tile_overlap", "40")
    process = subprocess.Popen([sys.executable, *UNTRACED, str(ROOT / "test.py"), *place.arguments(*tiles)],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (place.out / "a.png").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    finished = place.results()
    assert list(finished) == ["a.png"]
    (place.lq / "b.png").unlink()
    assert place.run("--skip_existing", *tiles) == 0
    assert sorted(path.name for path in place.out.iterdir()) == ["a.png", "c.png", "report.csv"]
    assert place.results()["a.png"] == finished["a.png"]
    assert list(place.report()) == ["a.png", "c.png"]
