"""Test sets from clean photos: what is written and reported, and that recorded degradations can be applied again."""

import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from scripts.synthesize_testset import main
from tests.helpers.workplace import picture, write
from utils.data.degradations import degrade, usm_sharpen
from utils.data.presets import TESTSET_PRESETS
from utils.errors import UserError
from utils.image.io import quantize, read_image, to_float
from utils.image.listing import photo_rng


def stored(path):
    return quantize(read_image(path).pixels)


class Workplace:
    def __init__(self, root):
        self.photos, self.out = root / "photos", root / "out"
        for seed, name in enumerate(("a.png", "b.png", "c.jpg")):
            write(self.photos / name, picture(seed, 68, 80))

    def run(self, *extra, out=None, photos=None):
        return main(["--input_dir", str(photos or self.photos), "--output_dir", str(out or self.out), *extra])

    def degradations(self, out=None):
        return json.loads(((out or self.out) / "degradations.json").read_text())

    def report(self):
        with (self.out / "report.csv").open(newline="", encoding="utf-8") as file:
            return {row["file"]: row for row in csv.DictReader(file)}

    def results(self, out=None):
        return {str(path.relative_to(out or self.out)): path.read_bytes()
                for path in sorted((out or self.out).glob("*/*.png"))}


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


@pytest.mark.parametrize("flags", [(), ("--usm",)])
def test_gt_is_the_photo_and_lq_its_degraded_version(place, capsys, flags):
    assert place.run(*flags) == 0
    assert sorted(place.results()) == [f"{folder}/{stem}.png" for folder in ("GT", "LQ") for stem in "abc"]
    for name in ("a.png", "b.png", "c.jpg"):
        stem = name[0]
        photo = stored(place.photos / name)
        np.testing.assert_array_equal(stored(place.out / "GT" / f"{stem}.png"), photo)  # never sharpened
        [step] = TESTSET_PRESETS["iid"].sample(photo_rng(0, stem))
        image = usm_sharpen(to_float(photo)) if flags else to_float(photo)
        np.testing.assert_array_equal(stored(place.out / "LQ" / f"{stem}.png"),
                                      degrade(image, step.degradation, step.noise))
    assert "3 photos: 3 done" in capsys.readouterr().out
    assert place.report()["a.png"] == {"file": "a.png", "status": "done", "width": "80", "height": "68",
                                       "lq_width": "20", "lq_height": "17", "reason": ""}


def test_sides_are_cut_at_the_right_and_bottom_and_crops_are_taken_from_the_middle(place, tmp_path):
    write(place.photos / "a.png", picture(0, 71, 82))
    assert place.run() == place.run("--crop", "64", out=tmp_path / "cropped") == 0
    photo = stored(place.photos / "a.png")
    np.testing.assert_array_equal(stored(place.out / "GT" / "a.png"), photo[:68, :80])
    np.testing.assert_array_equal(stored(tmp_path / "cropped" / "GT" / "a.png"), photo[3:67, 9:73])
    assert stored(tmp_path / "cropped" / "LQ" / "a.png").shape == (16, 16, 3)


def test_results_depend_on_seed_and_stem_only(place, tmp_path):
    place.run("--num_workers", "1")
    (place.photos / "b.png").unlink()
    place.run("--num_workers", "3", out=tmp_path / "fewer")
    fewer = place.results(tmp_path / "fewer")
    assert fewer == {name: data for name, data in place.results().items() if "/b" not in name}
    assert place.run("--seed", "5", "--overwrite") == 0
    assert place.results()["GT/a.png"] == fewer["GT/a.png"]
    assert place.results()["LQ/a.png"] != fewer["LQ/a.png"]


@pytest.mark.parametrize("preset", TESTSET_PRESETS)
def test_recorded_degradations_give_exactly_the_same_again(place, tmp_path, preset):
    assert place.run("--preset", preset, "--seed", "3", "--usm", "--crop", "64") == 0
    content = place.degradations()
    assert {key: value for key, value in content.items() if key != "photos"} == {
        "preset": preset, "seed": 3, "usm": True, "crop": 64}
    source = str(place.out / "degradations.json")
    assert place.run("--from", source, photos=place.out / "GT", out=tmp_path / "again") == 0
    assert place.results(tmp_path / "again") == place.results()
    assert place.degradations(tmp_path / "again") == content


def test_bad_files_and_entries_do_not_stop_the_others(place, tmp_path, capsys):
    (place.photos / "bad.png").write_bytes(b"no image")
    write(place.photos / "small.png", picture(0, 60, 80))
    assert place.run() == 2
    report = place.report()
    assert [row["status"] for row in report.values()] == ["done", "done", "error", "done", "error"]
    assert "80x60" in report["small.png"]["reason"]
    assert len(place.results()) == 6
    content = place.degradations()
    assert content["photos"].keys() == {"a", "b", "bad", "c", "small"}
    del content["photos"]["bad"]
    assert "5 photos: 3 done, 2 error" in capsys.readouterr().out

    content["photos"]["b"][0]["degradation"]["first"]["jpeg_quality"] = 0
    source = tmp_path / "edited.json"
    source.write_text(json.dumps(content))
    assert place.run("--from", str(source), "--overwrite") == 2
    report = place.report()
    assert "edited.json" in report["bad.png"]["reason"]
    for word in ("edited.json", "photo b", "degradation.first", "jpeg_quality"):
        assert word in report["b.png"]["reason"]
    assert "error: b.png" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"crop": 30}, {"scale": 4}, {"photos": None}], ids=str)
def test_other_json_files_are_refused(place, tmp_path, change):
    place.run()
    source = tmp_path / "edited.json"
    source.write_text(json.dumps({**place.degradations(), **change}))
    with pytest.raises(UserError, match=f"edited.json.*{next(iter(change))}"):
        place.run("--from", str(source), "--overwrite")


def test_existing_results_are_left_out_on_demand_and_not_mixed_with_others(place, capsys):
    place.run("--preset", "ood-noise")
    complete, content = place.results(), place.degradations()
    with pytest.raises(UserError, match="--overwrite or --skip_existing"):
        place.run("--preset", "ood-noise")
    (place.out / "LQ" / "b.png").unlink()
    kept = (place.out / "LQ" / "a.png").stat().st_mtime_ns
    for extra in (("--seed", "1"), ("--preset", "ood-jpeg"), ("--usm",), ("--crop", "64")):
        with pytest.raises(UserError, match=r"degradations\.json"):
            place.run("--preset", "ood-noise", "--skip_existing", *extra)
    assert place.run("--preset", "ood-noise", "--skip_existing") == 0
    assert (place.out / "LQ" / "a.png").stat().st_mtime_ns == kept
    assert place.results() == complete
    assert place.degradations() == content
    assert "2 existing, 1 done" in capsys.readouterr().out
    assert {row["status"] for row in place.report().values()} == {"done"}


def test_gray_16_bit_transparent_and_profiled_photos_are_taken(place):
    for name, kind in (("gray", {"channels": 1}), ("deep", {"dtype": np.uint16}), ("clear", {"channels": 4})):
        write(place.photos / f"{name}.png", picture(5, 68, 80, **kind))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture(0, 68, 80)).save(place.photos / "a.png", icc_profile=profile)
    assert place.run() == 0
    for name in ("gray", "deep", "clear"):
        truth = cv2.imread(str(place.out / "GT" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert (truth.dtype, truth.shape) == (np.uint8, (68, 80, 3))
        np.testing.assert_array_equal(truth[:, :, ::-1], stored(place.photos / f"{name}.png"))
    for folder in ("GT", "LQ"):
        assert Image.open(place.out / folder / "a.png").info["icc_profile"] == profile


def test_photos_are_never_replaced(place):
    place.photos.rename(place.photos.parent / "GT")
    with pytest.raises(UserError, match="--input_dir"):
        place.run(photos=place.photos.parent / "GT", out=place.photos.parent)


@pytest.mark.parametrize(("extra", "message"), [
    (("--seed", "-1"), "--seed"), (("--crop", "60"), "--crop"), (("--crop", "66"), "--crop"),
    (("--num_workers", "-1"), "--num_workers"), (("--overwrite", "--skip_existing"), "--skip_existing"),
    (("--from", "x.json", "--usm"), "--from"), (("--preset", "none"), "--preset"),
    (("--from", "missing.json"), "missing.json")])
def test_wrong_command_line_is_refused(place, extra, message):
    with pytest.raises(UserError, match=message):
        place.run(*extra)
    assert not place.out.exists()


def test_presets_are_listed(capsys):
    assert main(["--list_presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(TESTSET_PRESETS)
