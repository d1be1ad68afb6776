"""test.py, run from end to end on tiny networks and photos."""

import csv
import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

import utils.checkpoints
import utils.restoration
from model.super_resolver import SuperResolver
from tests.small_networks import small_generator, small_masknet
from utils.checkpoints import checkpoint_tensors, write_tf1_checkpoint
from utils.console import run_cli
from utils.errors import DiskFullError
from utils.faces import read_face
from utils.images import quantize, read_image
from utils.patches import batch_patches, sample_patches
from utils.photos import photo_rng

ROOT = Path(__file__).parents[1]
specification = importlib.util.spec_from_file_location("metaf2n_test_cli", ROOT / "test.py")  # `test` is Python's own
cli = importlib.util.module_from_spec(specification)
specification.loader.exec_module(cli)


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), samples)


def picture(seed, height, width, channels=3, dtype=np.uint8):
    """Give smooth random samples, so that faces and photos look alike."""
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
        write(self.lq / name, picture(seed, height, width))
        for index in range(faces):
            self.add_face(f"{Path(name).stem}_{index}.png", seed=10 * seed + index, size=face_size)

    def add_face(self, name, *, seed=0, size=18, hq_size=None):
        hq_size = hq_size or 4 * size
        write(self.root / "data" / "Face_LQ" / name, picture(seed, size, size))
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


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


def fails(place, capsys, *extra, message, lq=None):
    """Check that a command ends with status 2, one line that matches, and nothing written."""
    arguments = place.arguments(*extra)
    if lq:
        arguments[1] = str(lq)
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: cli.main(arguments))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not place.out.exists() or not list(place.out.iterdir())


def test_result_is_the_published_step_and_then_the_whole_photo(place):
    place.add_photo("a.png", seed=1, faces=2)
    assert place.run() == 0
    faces = [read_face(pair) for pair in cli.FaceFolder(place.root / "data").pairs("a")]
    rng = photo_rng(0, "a")
    patches = [sample_patches(face, rng, lq_patch_size=16, count=16) for face in faces]
    resolver = SuperResolver(small_generator(), small_masknet())
    batches = [resolver.weigh_patches(*batch) for batch in batch_patches(patches)]
    assert [len(batch.face_lq) for batch in batches] == [32]
    adapted = resolver.adapt(batches, learning_rate=0.01, num_steps=1)
    expected = resolver.upscaler(adapted.params)(read_image(place.lq / "a.png").pixels[None])[0]
    np.testing.assert_array_equal(quantize(read_image(place.out / "a.png").pixels), quantize(expected))
    row = place.report()["a.png"]
    assert (row["status"], row["faces"], row["patches"], row["tiles"]) == ("adapted", "2", "32", "1")
    assert float(row["loss_0"]) == pytest.approx(adapted.losses[0], rel=1e-5)
    assert float(row["loss_1"]) == pytest.approx(adapted.losses[1], rel=1e-5)
    assert float(row["mask_mean"]) == pytest.approx(float(tf.reduce_mean(batches[0].weights)), rel=1e-5)


def test_a_photo_gives_the_same_file_alone_in_company_and_in_a_shard(place, tmp_path):
    place.add_photo("middle.png", seed=2, faces=2)
    place.run(out=tmp_path / "alone")
    place.add_photo("after.png", seed=3, height=17, width=40)
    place.add_photo("zebra.jpg", seed=4, faces=0)
    place.run(out=tmp_path / "together")
    for index in range(2):
        place.run("--shard", f"{index}/2", out=tmp_path / "shards")
    together = place.results(tmp_path / "together")
    assert sorted(together) == ["after.png", "middle.png", "zebra.png"]
    assert place.results(tmp_path / "shards") == together
    assert place.results(tmp_path / "alone")["middle.png"] == together["middle.png"]
    rows = [place.report(f"report-{index}-of-2.csv", tmp_path / "shards") for index in range(2)]
    assert [sorted(part) for part in rows] == [["after.png", "zebra.jpg"], ["middle.png"]]


def test_another_seed_gives_another_result(place, tmp_path):
    place.add_photo("a.png", face_size=40)
    place.run(out=tmp_path / "0")
    place.run("--seed", "1", out=tmp_path / "1")
    assert place.results(tmp_path / "0") != place.results(tmp_path / "1")


def test_weights_are_read_once_for_all_photos(place, monkeypatch):
    calls = []
    original = utils.checkpoints.load_super_resolver
    monkeypatch.setattr(utils.checkpoints, "load_super_resolver",
                        lambda *args, **kwargs: calls.append(args) or original(*args, **kwargs))
    for seed in range(3):
        place.add_photo(f"{seed}.png", seed=seed)
    assert place.run() == 0
    assert len(calls) == 1


def test_gray_alpha_and_16_bit_are_kept(place):
    write(place.lq / "gray.png", picture(1, 8, 9, channels=1))
    write(place.lq / "alpha.png", picture(2, 8, 9, channels=4))
    write(place.lq / "deep.TIF", picture(3, 8, 9, dtype=np.uint16))
    assert place.run("--fine_tune_num", "0") == 0
    read = {stem: cv2.imread(str(place.out / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
            for stem in ("gray", "alpha", "deep")}
    assert {stem: (image.shape, image.dtype.name) for stem, image in read.items()} == {
        "gray": ((32, 36), "uint8"), "alpha": ((32, 36, 4), "uint8"), "deep": ((32, 36, 3), "uint16")}
    alpha = cv2.imread(str(place.lq / "alpha.png"), cv2.IMREAD_UNCHANGED)[:, :, 3].astype(np.float32)
    expected = cv2.resize(alpha, (36, 32), interpolation=cv2.INTER_CUBIC)
    assert np.abs(read["alpha"][:, :, 3] - np.clip(expected, 0, 255)).max() <= 0.51
    assert len(np.unique(read["deep"])) > 256


def test_tiles_agree_with_the_whole_away_from_their_seams(place, tmp_path):
    place.add_photo("a.png", height=40, width=100, faces=0)
    for size in ("0", "48"):
        place.run("--tile_size", size, "--tile_overlap", "40", out=tmp_path / size)
    whole, tiled = (read_image(tmp_path / size / "a.png").pixels for size in ("0", "48"))
    assert place.report(out=tmp_path / "48")["a.png"]["tiles"] == "8"
    assert np.abs(whole - tiled).max() <= 2 / 255  # one block reaches about 25 pixels, less than half the overlap


def test_photo_without_face_is_upscaled_unadapted_and_says_so(place, tmp_path):
    place.add_photo("a.png", faces=0)
    assert place.run() == 0
    assert place.run("--fine_tune_num", "0", out=tmp_path / "plain") == 0
    assert place.results() == place.results(tmp_path / "plain")
    row = place.report()["a.png"]
    assert row["status"] == "base"
    assert "no face" in row["reason"]


def test_no_face_skip_and_error(place, tmp_path, capsys):
    place.add_photo("with.png")
    place.add_photo("without.png", faces=0)
    assert place.run("--no_face", "skip", out=tmp_path / "skip") == 0
    assert place.report(out=tmp_path / "skip")["without.png"]["status"] == "skipped"
    assert place.run("--no_face", "error", out=tmp_path / "error") == 2
    assert place.report(out=tmp_path / "error")["without.png"]["status"] == "error"
    assert "without.png" in capsys.readouterr().err
    for name in ("skip", "error"):
        assert sorted(place.results(tmp_path / name)) == ["with.png"]


def test_faces_of_photo_10_are_not_faces_of_photo_1(place):
    place.add_photo("1.png", faces=0)
    place.add_photo("10.png", faces=3)
    place.run()
    assert {name: row["faces"] for name, row in place.report().items()} == {"1.png": "0", "10.png": "3"}


def test_a_small_face_does_not_drop_the_ones_after_it(place):
    place.add_photo("a.png", faces=0)
    for index, size in enumerate((20, 9, 30)):
        place.add_face(f"a_{index}.png", size=size)
    place.run()
    assert (place.report()["a.png"]["faces"], place.report()["a.png"]["patches"]) == ("3", "33")


def test_backtracking_refuses_a_step_that_is_far_too_long(place, tmp_path):
    place.add_photo("a.png")
    rate = ("--learning_rate", "1e4")
    assert place.run("--safeguard", "backtrack", *rate, out=tmp_path / "safe") == 0
    row = place.report(out=tmp_path / "safe")["a.png"]
    assert (row["status"], row["learning_rates"]) == ("base", "0")
    assert "took no step" in row["reason"]
    assert row["loss_1"] == row["loss_0"]
    place.run("--fine_tune_num", "0", out=tmp_path / "base")
    assert place.results(tmp_path / "safe") == place.results(tmp_path / "base")


def test_divergence_is_an_error_of_that_photo_alone(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", faces=0)
    assert place.run("--learning_rate", "1e30", "--fine_tune_num", "2") == 2
    row = place.report()["a.png"]
    assert "diverged" in row["reason"]
    assert (row["width"], row["height"], row["faces"], row["patches"]) == ("30", "24", "1", "16")
    assert float(row["loss_0"]) > 0
    assert sorted(place.results()) == ["b.png"]
    assert "--safeguard backtrack" in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "message"), [
    ("text", "a.png"), ("truncated", "a.png"), ("empty", "is empty"), ("not four times", "must be exactly 4 times"),
    ("no partner", "no partner")])
def test_a_faulty_photo_gets_a_line_and_a_row_and_does_not_stop_the_others(place, capsys, fault, message):
    place.add_photo("a.png" if fault != "truncated" else "a.png.jpg", height=64, width=64)
    place.add_photo("b.png", seed=5)
    faulty = place.lq / ("a.png.jpg" if fault == "truncated" else "a.png")
    if fault == "text":
        faulty.write_text("this is not an image")
    elif fault == "truncated":
        faulty.write_bytes(faulty.read_bytes()[:-40])
    elif fault == "empty":
        faulty.write_bytes(b"")
    elif fault == "not four times":
        place.add_face("a_0.png", size=18, hq_size=71)
    else:
        (place.root / "data" / "Face_HQ" / "a_0.png").unlink()
    assert place.run() == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    row = place.report()[faulty.name]
    assert row["status"] == "error"
    assert message in row["reason"]
    assert list(place.results()) == ["b.png"]
    assert sorted(path.name for path in place.out.iterdir()) == ["b.png", "report.csv"]


@pytest.mark.parametrize(("arguments", "message"), [
    (("--patch_size", "30"), "--patch_size must be positive and divisible by 4. Received: 30"),
    (("--patch_num_per_img", "0"), "--patch_num_per_img must be at least 1"),
    (("--fine_tune_num", "-1"), "--fine_tune_num must be at least 0"),
    (("--learning_rate", "nan"), "--learning_rate must be positive"),
    (("--tile_size", "32", "--tile_overlap", "32"), "--tile_overlap must be smaller"),
    (("--tile_size", "some"), "--tile_size must be a number or auto"),
    (("--shard", "2/2"), "--shard is i/n"),
    (("--overwrite", "--skip_existing"), "exclude each other"),
    (("--precision", "float16"), "invalid choice"),
    (("--unknown",), "unrecognized arguments"),
    (("--face_dir", "/nowhere/faces"), "/nowhere/faces"),
    (("--model_dir", "/nowhere/model-new"), "/nowhere/model-new does not exist"),
])
def test_a_wrong_argument_is_one_line(place, capsys, arguments, message):
    place.add_photo("a.png")
    fails(place, capsys, *arguments, message=message)


def test_a_missing_or_empty_folder_is_one_line(place, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    fails(place, capsys, message="no image in", lq=tmp_path / "empty")
    fails(place, capsys, message="does not exist", lq=tmp_path / "absent")


def test_two_photos_with_one_stem_are_an_error_before_any_work(place, capsys):
    place.add_photo("a.png")
    place.add_photo("a.jpg")
    fails(place, capsys, message="a.jpg and a.png")


def test_a_checkpoint_of_another_architecture_lists_the_names(place, capsys):
    place.add_photo("a.png")
    generator = small_generator()
    generator["conv_extra/bias"] = generator.pop("conv_hr/bias")
    write_tf1_checkpoint(place.root / "model-new", checkpoint_tensors(generator))
    fails(place, capsys, message="missing: conv_hr/bias; extra: conv_extra/bias")


def test_an_output_folder_that_cannot_be_written_is_one_line(place, capsys):
    place.add_photo("a.png")
    (place.root / "file").write_text("")
    fails(place, capsys, "--output_dir", str(place.root / "file" / "out"), message="cannot write")


def test_results_that_are_there_are_not_replaced_unasked(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", seed=1)
    place.run()
    before, earlier_row = place.results(), place.report()["a.png"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_cli(lambda: place.run())
    assert "2 of 2 results are already in" in capsys.readouterr().err
    (place.out / "b.png").unlink()
    (place.out / "a.png").write_bytes(b"kept")
    assert place.run("--skip_existing") == 0
    assert place.results() == {"a.png": b"kept", "b.png": before["b.png"]}
    assert place.report()["a.png"] == earlier_row
    assert place.run("--overwrite") == 0
    assert place.results() == before


def test_results_never_replace_photos_or_faces(place, capsys):
    place.add_photo("a.png")
    before = (place.lq / "a.png").read_bytes()
    for folder in (place.lq, place.root / "data" / "Face_LQ", place.lq / ".." / "LQ"):
        with pytest.raises(SystemExit):
            run_cli(lambda folder=folder: place.run("--overwrite", out=folder))
        assert "must be another folder" in capsys.readouterr().err
    assert (place.lq / "a.png").read_bytes() == before


def test_a_comparison_that_cannot_be_written_does_not_cost_the_result(place):
    place.add_photo("a.png")
    place.out.mkdir()
    (place.out / "comparison").write_text("in the way")
    assert place.run("--save_comparison") == 0
    row = place.report()["a.png"]
    assert row["status"] == "adapted"
    assert "no comparison" in row["reason"]
    assert list(place.results()) == ["a.png"]


def test_summary_counts_what_this_run_did(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", seed=1, faces=0)
    place.run()
    assert "2 photos: 1 adapted, 1 base." in capsys.readouterr().out
    place.run("--skip_existing")
    assert "2 photos: 2 there already." in capsys.readouterr().out


def test_a_full_disk_ends_the_run_in_one_line(place, capsys, monkeypatch):
    for name in ("a.png", "b.png"):
        place.add_photo(name, faces=0)
    place.run()
    monkeypatch.setattr(utils.restoration, "write_png", full_disk)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: place.run("--overwrite"))
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert errors == ["error: no room"]


def full_disk(*_, **__):
    raise DiskFullError("no room")


def test_a_shard_without_photos_says_so(place, capsys):
    place.add_photo("a.png")
    assert place.run("--shard", "1/2") == 0
    assert capsys.readouterr().out == "no photo falls into shard 1/2\n"
    assert not place.out.exists()


def test_dry_run_writes_nothing_and_lists_faults(place, capsys):
    place.add_photo("a.png", faces=2)
    assert place.run("--dry_run") == 0
    assert "30x24" in (listed := capsys.readouterr().out)
    assert "120x96" in listed
    (place.lq / "b.png").write_text("text")
    place.add_photo("c.png")
    place.add_face("c_0.png", size=18, hq_size=70)
    assert place.run("--dry_run") == 2
    listed = capsys.readouterr().out
    assert "b.png" in listed
    assert "must be exactly 4 times" in listed
    assert "3 in all, 2 faulty" in listed
    assert not place.out.exists()


def test_comparison_shows_the_three_versions(place, tmp_path):
    place.add_photo("a.png", height=40, width=40)
    write(place.root / "data" / "Face_LQ" / "a_0.png", cv2.imread(str(place.lq / "a.png"))[4:22, 6:24])
    assert place.run("--save_comparison", "--learning_rate", "0.5") == 0
    shown = cv2.imread(str(place.out / "comparison" / "a.png"))
    panels = [shown[42:42 + 480, start:start + 480] for start in (0, 486, 972)]
    assert shown.shape[1] == 3 * 480 + 2 * 6
    place.run("--fine_tune_num", "0", out=tmp_path / "base")
    photo = cv2.imread(str(place.lq / "a.png"))
    versions = (cv2.resize(photo, (160, 160), interpolation=cv2.INTER_CUBIC),
                cv2.imread(str(tmp_path / "base" / "a.png")), cv2.imread(str(place.out / "a.png")))
    for panel, version in zip(panels, versions, strict=True):
        expected = cv2.resize(version, (480, 480), interpolation=cv2.INTER_NEAREST).astype(int)
        assert np.abs(panel - expected).max() <= 1  # bicubic is computed in float there
    assert (versions[1] != versions[2]).any()


def test_a_checkpoint_without_masknet_is_mentioned_once(place, capsys):
    write_tf1_checkpoint(place.root / "model-new", checkpoint_tensors(small_generator()))
    for seed in range(3):
        place.add_photo(f"{seed}.png", seed=seed)
    assert place.run() == 0
    assert capsys.readouterr().err.count("has no MaskNet") == 1
    assert {row["mask_min"] for row in place.report().values()} == {"1"}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_finished_photos_and_nothing_half_written(place, stop):
    place.add_photo("a.png")
    place.add_photo("b.png", height=2600, width=2600, faces=0)  # thousands of tiles: it cannot finish
    tiles = ("--tile_size", "80", "--tile_overlap", "40")
    process = subprocess.Popen([sys.executable, str(ROOT / "test.py"), *place.arguments(*tiles)],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (place.out / "a.png").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(stop)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "interrupted" in error
    assert sorted(path.name for path in place.out.iterdir()) == ["a.png", "report.csv"]
    assert list(place.report()) == ["a.png"]
