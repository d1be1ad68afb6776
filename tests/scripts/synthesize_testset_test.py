"""Test sets from clean photos: what is written, what is reported, and that a record can be applied again."""

import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from scripts import synthesize_testset
from scripts.synthesize_testset import main
from utils.data.degradations import degrade, usm_sharpen
from utils.data.presets import PRESETS
from utils.errors import DiskFullError, UserError
from utils.image.io import quantize, read_image, to_float
from utils.image.listing import photo_rng


def picture(seed, height=68, width=80, dtype=np.uint8):
    noise = np.random.default_rng(seed).random((height // 4, width // 4, 3)).astype(np.float32)
    return (cv2.resize(noise, (width, height)) * np.iinfo(dtype).max).astype(dtype)


def stored(path):
    return quantize(read_image(path).pixels)


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), samples)


class Workplace:
    def __init__(self, root):
        self.photos, self.out = root / "photos", root / "out"
        for seed, name in enumerate(("a.png", "b.png", "c.jpg")):
            write(self.photos / name, picture(seed))

    def run(self, *extra, out=None, photos=None):
        return main(["--input_dir", str(photos or self.photos), "--output_dir", str(out or self.out), *extra])

    def record(self, out=None):
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


def test_ground_truth_is_the_photo_and_low_quality_its_degraded_version(place, capsys):
    assert place.run() == 0
    assert sorted(place.results()) == [f"{folder}/{stem}.png" for folder in ("GT", "LQ") for stem in "abc"]
    for name in ("a.png", "b.png", "c.jpg"):
        stem = name[0]
        photo = stored(place.photos / name)
        np.testing.assert_array_equal(stored(place.out / "GT" / f"{stem}.png"), photo)
        [step] = PRESETS["iid"].sample(photo_rng(0, stem))
        np.testing.assert_array_equal(stored(place.out / "LQ" / f"{stem}.png"),
                                      degrade(to_float(photo), step.degradation, step.noise))
    assert "3 photos: 3 done" in capsys.readouterr().out
    assert place.report()["a.png"] == {"file": "a.png", "status": "done", "width": "80", "height": "68",
                                       "lq_width": "20", "lq_height": "17", "reason": ""}


def test_sides_are_cut_at_the_right_and_bottom(place, capsys):
    write(place.photos / "a.png", picture(0, 71, 82))
    assert place.run() == 0
    np.testing.assert_array_equal(stored(place.out / "GT" / "a.png"), stored(place.photos / "a.png")[:68, :80])
    assert "1 photo cut at the right or bottom so that 4 divides the sides" in capsys.readouterr().out


def test_crop_is_taken_from_the_middle(place, capsys):
    assert place.run("--crop", "64") == 0
    np.testing.assert_array_equal(stored(place.out / "GT" / "a.png"), stored(place.photos / "a.png")[2:66, 8:72])
    assert stored(place.out / "LQ" / "a.png").shape == (16, 16, 3)
    assert "cut" not in capsys.readouterr().out


def test_photo_is_sharpened_before_and_the_ground_truth_is_not(place):
    assert place.run("--usm") == 0
    photo = stored(place.photos / "a.png")
    np.testing.assert_array_equal(stored(place.out / "GT" / "a.png"), photo)
    [step] = PRESETS["iid"].sample(photo_rng(0, "a"))
    np.testing.assert_array_equal(stored(place.out / "LQ" / "a.png"),
                                  degrade(usm_sharpen(to_float(photo)), step.degradation, step.noise))


def test_results_depend_on_seed_and_stem_alone(place, tmp_path):
    place.run("--num_workers", "1")
    (place.photos / "b.png").unlink()
    place.run("--num_workers", "3", out=tmp_path / "fewer")
    fewer = place.results(tmp_path / "fewer")
    assert fewer == {name: data for name, data in place.results().items() if "/b" not in name}
    place.run("--seed", "1", out=tmp_path / "other")
    other = place.results(tmp_path / "other")
    assert other["GT/a.png"] == fewer["GT/a.png"]
    assert other["LQ/a.png"] != fewer["LQ/a.png"]


@pytest.mark.parametrize("preset", PRESETS)
def test_record_gives_exactly_the_same_again(place, tmp_path, preset):
    assert place.run("--preset", preset, "--seed", "3", "--usm", "--crop", "64") == 0
    record = place.record()
    assert {key: value for key, value in record.items() if key != "photos"} == {
        "preset": preset, "seed": 3, "usm": True, "crop": 64}
    source = str(place.out / "degradations.json")
    assert place.run("--from", source, out=tmp_path / "again") == 0
    assert place.results(tmp_path / "again") == place.results()
    assert place.record(tmp_path / "again") == record
    assert place.run("--from", source, photos=place.out / "GT", out=tmp_path / "from GT") == 0
    assert place.results(tmp_path / "from GT") == place.results()


def test_photo_that_the_record_lacks_is_reported(place, tmp_path, capsys):
    place.run()
    record = place.record()
    del record["photos"]["a"]
    record["photos"]["b"][0]["degradation"]["first"]["jpeg_quality"] = 0
    source = tmp_path / "edited.json"
    source.write_text(json.dumps(record))
    assert place.run("--from", str(source), "--overwrite") == 2
    report = place.report()
    assert "edited.json has no photo a" in report["a.png"]["reason"]
    assert "photo b of" in report["b.png"]["reason"]
    assert "degradation.first: jpeg_quality must be from 1 to 100. Received: 0" in report["b.png"]["reason"]
    assert report["c.jpg"]["status"] == "done"
    assert list(place.record()["photos"]) == ["c"]
    assert capsys.readouterr().err.count("error: ") == 2


@pytest.mark.parametrize(("change", "message"), [
    ({"seed": "0"}, "seed must be int"), ({"crop": 30}, "side to crop"), ({"scale": 4}, "unknown keys.*'scale'"),
    ({"photos": None}, "must be a degradations.json")])
def test_record_that_is_none_is_refused(place, tmp_path, change, message):
    place.run()
    source = tmp_path / "edited.json"
    source.write_text(json.dumps({**place.record(), **change}))
    with pytest.raises(UserError, match=message) as caught:
        place.run("--from", str(source), "--overwrite")
    assert "edited.json" in str(caught.value)


def test_bad_files_do_not_stop_the_others(place, capsys):
    (place.photos / "bad.png").write_bytes(b"no image")
    write(place.photos / "small.png", picture(0, 60, 80))
    assert place.run() == 2
    report = place.report()
    assert [row["status"] for row in report.values()] == ["done", "done", "error", "done", "error"]
    assert "80x60 pixels, and 64" in report["small.png"]["reason"]
    assert len(place.results()) == 6
    assert list(place.record()["photos"]) == ["a", "b", "c"]
    assert "5 photos: 3 done, 2 error" in capsys.readouterr().out


def test_photo_smaller_than_the_crop_is_reported(place):
    assert place.run("--crop", "72") == 2
    assert "give a smaller --crop" in place.report()["a.png"]["reason"]
    assert place.record()["photos"] == {}


def test_existing_results_are_not_replaced_unasked(place):
    place.run()
    before = place.results()
    with pytest.raises(UserError, match="3 of 3 results are already in"):
        place.run("--seed", "5")
    assert place.results() == before
    assert place.run("--seed", "5", "--overwrite") == 0
    assert place.results()["LQ/a.png"] != before["LQ/a.png"]
    assert place.record()["seed"] == 5


def test_existing_results_are_left_out_when_asked(place, capsys):
    place.run("--preset", "ood-noise")
    complete, record = place.results(), place.record()
    (place.out / "LQ" / "b.png").unlink()
    kept = (place.out / "LQ" / "a.png").stat().st_mtime_ns
    assert place.run("--preset", "ood-noise", "--skip_existing") == 0
    assert (place.out / "LQ" / "a.png").stat().st_mtime_ns == kept
    assert place.results() == complete
    assert place.record() == record
    assert "2 there already, 1 done" in capsys.readouterr().out
    assert {row["status"] for row in place.report().values()} == {"done"}


def test_results_of_other_settings_are_not_mixed(place):
    place.run()
    write(place.photos / "d.png", picture(9))
    for extra in (("--seed", "1"), ("--preset", "ood-jpeg"), ("--usm",), ("--crop", "64")):
        with pytest.raises(UserError, match="other settings"):
            place.run(*extra, "--skip_existing")
    assert place.run("--skip_existing") == 0
    assert sorted(place.record()["photos"]) == ["a", "b", "c", "d"]


def test_full_disk_stops_the_run(place, monkeypatch):
    def write_png(*_, **__):
        raise DiskFullError("no space")

    monkeypatch.setattr(synthesize_testset, "write_png", write_png)
    with pytest.raises(DiskFullError):
        place.run()


def test_gray_deep_and_transparent_photos_are_taken(place):
    write(place.photos / "gray.png", picture(5)[:, :, 0])
    write(place.photos / "deep.png", picture(6, dtype=np.uint16))
    write(place.photos / "clear.png", np.dstack([picture(7), picture(8)[:, :, :1]]))
    assert place.run() == 0
    for name in ("gray", "deep", "clear"):
        truth = cv2.imread(str(place.out / "GT" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert truth.dtype == np.uint8
        assert truth.shape == (68, 80, 3)
        np.testing.assert_array_equal(truth[:, :, ::-1], stored(place.photos / f"{name}.png"))


def test_colour_profile_is_kept(place):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture(0)).save(place.photos / "a.png", icc_profile=profile)
    assert place.run() == 0
    for folder in ("GT", "LQ"):
        assert Image.open(place.out / folder / "a.png").info["icc_profile"] == profile


def test_folder_of_the_photos_is_not_written_to(place):
    place.photos.rename(place.photos.parent / "GT")
    with pytest.raises(UserError, match="would replace the photos"):
        place.run(photos=place.photos.parent / "GT", out=place.photos.parent)


@pytest.mark.parametrize(("extra", "message"), [
    (("--seed", "-1"), "seed"), (("--crop", "62"), "crop"), (("--crop", "66"), "divisible by 4"),
    (("--num_workers", "-1"), "num_workers"), (("--overwrite", "--skip_existing"), "exclude"),
    (("--from", "x.json", "--usm"), "--from says it all"), (("--preset", "none"), "invalid choice"),
    (("--from", "missing.json"), "cannot read missing.json")])
def test_wrong_command_line_is_refused(place, extra, message):
    with pytest.raises(UserError, match=message):
        place.run(*extra)
    assert not place.out.exists()


def test_both_folders_are_needed(tmp_path):
    for folder in ("--input_dir", "--output_dir"):
        with pytest.raises(UserError, match="are needed"):
            main([folder, str(tmp_path)])


def test_presets_are_listed(capsys):
    assert main(["--list_presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(PRESETS)
    assert all(len(line) <= 100 for line in lines)
