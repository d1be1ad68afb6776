"""test.py, run from end to end on tiny networks and photos: what it writes."""

import json

import cv2
import numpy as np
import pytest

import utils.weights.checkpoints
from model.super_resolver import SuperResolver
from tests.small_networks import small_generator, small_masknet
from tests.workplace import ROOT, Workplace, cli, picture, write
from utils.face.pairs import read_face
from utils.face.patches import batch_patches, sample_patches
from utils.image.io import quantize, read_image
from utils.image.listing import photo_rng
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


def test_result_is_the_published_step_and_then_the_whole_photo(place):
    place.add_photo("a.png", seed=1, faces=2)
    assert place.run() == 0
    faces = [read_face(pair) for pair in cli.FaceFolder(place.root / "data").pairs("a")]
    rng = photo_rng(0, "a")
    patches = [sample_patches(face, rng, lq_patch_size=16, count=16) for face in faces]
    resolver = SuperResolver(small_generator(), small_masknet())
    batches = [resolver.weigh_patches(*batch) for batch in batch_patches(patches)]
    assert [len(batch.face_lq) for batch in batches] == [16, 16]
    adapted = resolver.adapt(batches, learning_rate=0.01, num_steps=1)
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
    place.add_photo("middle.png", seed=2, faces=2, face_size=40)
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


def test_photos_without_a_face_are_upscaled_unadapted_left_out_or_count_as_failed(place, tmp_path, capsys):
    place.add_photo("1.png", faces=0)
    place.add_photo("10.png", faces=3)  # its faces are not those of 1.png
    assert [place.run("--no_face", choice, out=tmp_path / choice) for choice in ("base", "skip", "error")] == [0, 0, 2]
    rows = [place.report(out=tmp_path / choice)["1.png"] for choice in ("base", "skip", "error")]
    assert [(row["status"], "no face" in row["reason"]) for row in rows] == [
        ("base", True), ("skipped", True), ("error", True)]
    assert "1.png" in capsys.readouterr().err
    assert [sorted(place.results(tmp_path / choice)) for choice in ("skip", "error")] == [["10.png"]] * 2
    assert place.report(out=tmp_path / "base")["10.png"]["faces"] == "3"
    place.run("--fine_tune_num", "0", out=tmp_path / "plain")
    assert place.results(tmp_path / "base")["1.png"] == place.results(tmp_path / "plain")["1.png"]


def test_a_face_named_as_its_photo_is_taken_and_those_of_no_photo_are_counted(place, capsys):
    place.add_photo("a.png", faces=0)
    for name in ("a.png", "stranger_0.png"):
        place.add_face(name)
    assert place.run() == 0
    assert place.report()["a.png"]["faces"] == "1"
    [note] = [line for line in capsys.readouterr().err.splitlines() if "stranger_0.png" in line]
    assert note.startswith("note: ")
    assert "2 " in note


def test_a_small_face_does_not_drop_the_ones_after_it(place):
    place.add_photo("a.png", faces=0)
    for index, size in enumerate((20, 9, 30)):
        place.add_face(f"a_{index}.png", size=size)
    place.run()
    assert (place.report()["a.png"]["faces"], place.report()["a.png"]["patches"]) == ("3", "33")


def test_backtracking_refuses_a_step_that_is_far_too_long(place, tmp_path):
    place.add_photo("a.png")
    assert place.run("--safeguard", "backtrack", "--learning_rate", "1e4", out=tmp_path / "safe") == 0
    row = place.report(out=tmp_path / "safe")["a.png"]
    assert (row["status"], row["learning_rates"], row["loss_1"]) == ("base", "0", row["loss_0"])
    place.run("--fine_tune_num", "0", out=tmp_path / "base")
    assert place.results(tmp_path / "safe") == place.results(tmp_path / "base")


def test_summary_counts_what_this_run_did(place, capsys):
    place.add_photo("a.png")
    place.add_photo("b.png", seed=1, faces=0)
    place.run()
    assert "2 photos: 1 adapted, 1 base." in capsys.readouterr().out
    place.run("--skip_existing")
    assert "2 photos: 2 there already." in capsys.readouterr().out


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


def test_comparison_shows_the_three_versions(place, tmp_path):
    place.add_photo("a.png", height=40, width=40)
    write(place.root / "data" / "Face_LQ" / "a_0.png", cv2.imread(str(place.lq / "a.png"))[4:22, 6:24])
    assert place.run("--save_comparison", "--learning_rate", "0.02") == 0
    shown = cv2.imread(str(place.out / "comparison" / "a.png"))
    panels = [shown[42:42 + 480, start:start + 480] for start in (0, 486, 972)]
    assert shown.shape[1] == 3 * 480 + 2 * 6
    place.run("--fine_tune_num", "0", out=tmp_path / "base")
    versions = (cv2.resize(cv2.imread(str(place.lq / "a.png")), (160, 160), interpolation=cv2.INTER_CUBIC),
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
    assert capsys.readouterr().err.count("MaskNet") == 1
    assert {row["mask_min"] for row in place.report().values()} == {"1"}


def test_help_names_the_checkpoints_that_come_with_the_repository(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = "".join(capsys.readouterr().out.split())
    names = [entry["name"] for entry in json.loads((ROOT / "weights" / "manifest.json").read_text())["entries"]]
    names = [name for name in names if name.startswith("metaf2n-")]
    assert len(names) >= 2
    assert all(f"`{name}`" in shown for name in names)
