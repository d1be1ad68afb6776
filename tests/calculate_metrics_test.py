"""calculate_metrics.py, run from end to end; networks with the weights of the reference arrays or stand-ins."""

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

import calculate_metrics as cli
import utils.metrics.fid
import utils.metrics.suite
from tests.helpers.reference_weights import reference_alexnet_state
from tests.helpers.torch_file_writers import write_state
from tests.helpers.workplace import fails
from utils.image.io import read_image, write_png
from utils.metrics.fidelity import psnr_y

DATA = Path(__file__).parent / "data"
EXPECTED, PAIRS = np.load(DATA / "metrics.npz"), np.load(DATA / "lpips.npz")
PHOTO = skimage.data.astronaut()


class MetricsWorkplace:
    """Folders of results and ground truth, and the command line over them."""

    def __init__(self, root):
        self.root = root

    def add(self, folder, name, samples):
        write_png((self.root / folder / name).with_suffix(".png"), samples)

    def add_pairs(self, count=3):
        """Add crops of a photograph, blurred (result) and more so (other)."""
        for index in range(count):
            crop = PHOTO[100 * index:100 * index + 64, 150:220]
            self.add("gt", f"{index}", crop)
            for folder, sigma in (("result", 1 + 0.1 * index), ("other", 2)):
                self.add(folder, f"{index}", cv2.GaussianBlur(crop, (0, 0), sigma))

    def run(self, *extra, gt=True):
        truth = ["--gt_dir", str(self.root / "gt")] if gt else []
        return cli.main(["--result_dir", str(self.root / "result"), *truth, "--weights_dir",
                         str(self.root / "weights"), "--cache_dir", str(self.root / "cache"), *map(str, extra)])

    def rows(self, folder="result"):
        with (self.root / folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def summary(self, folder="result"):
        return json.loads((self.root / folder / "metrics.json").read_text())

    def means(self, folder="result"):
        return {name: entry["mean"] for name, entry in self.summary(folder)["metrics"].items()}


@pytest.fixture
def place(tmp_path):
    return MetricsWorkplace(tmp_path)


@pytest.fixture
def weights(place, unhashed):
    """Put reference weights in the place of the published ones."""
    folder = place.root / "weights"
    folder.mkdir()
    write_state(folder / "alexnet-owt-7be5be79.pth", reference_alexnet_state())
    write_state(folder / "alex.pth", {f"lin{index}.model.1.weight": PAIRS[f"lin{index}"].reshape(1, -1, 1, 1)
                                      for index in range(5)})
    (folder / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"a stand-in takes its place")


@pytest.fixture
def colours(monkeypatch):
    """Take mean colours for features; the FID is then the distance of the sets' mean colours."""
    def run(images):
        features = np.zeros((len(images), 2048), np.float32)
        features[:, :3] = [image.mean(axis=(0, 1)) for image in images]
        return features

    monkeypatch.setattr(utils.metrics.fid, "load_params", lambda *_, **__: {})
    monkeypatch.setattr(utils.metrics.fid, "make_feature_extractor", lambda _: run)
    monkeypatch.setattr(utils.metrics.fid, "frechet_distance",
                        lambda left, right: float(np.linalg.norm(left.mean(axis=0) - right.mean(axis=0))))


def place_psnr(place, name):
    """Return the PSNR-Y of a result."""
    return psnr_y(*(np.rint(255 * read_image(place.root / folder / f"{name}.png").pixels).astype(np.uint8)
                    for folder in ("result", "gt")))


def mean_colour(place, folder):
    return np.mean([read_image(path).pixels.mean(axis=(0, 1)) for path in (place.root / folder).glob("*.png")], axis=0)


def test_figures_are_those_of_the_published_tools(place, weights):
    for pair in range(3):
        place.add("result", f"pair{pair}", PAIRS[f"pair{pair}_a"])
        place.add("gt", f"pair{pair}", PAIRS[f"pair{pair}_b"])
    assert place.run("--metrics", "psnr_y,psnr_rgb,psnr_paper,ssim,lpips") == 0
    rows = place.rows()
    for name in ("psnr_y", "psnr_rgb", "psnr_paper", "ssim"):
        assert [float(row[name]) for row in rows] == pytest.approx(EXPECTED[name], abs=5e-5)
    assert [float(row["lpips"]) for row in rows] == pytest.approx(PAIRS["distances"][:, 0], rel=1e-5)
    assert place.means()["psnr_paper"] == pytest.approx(EXPECTED["psnr_paper"].mean(), abs=1e-4)


@pytest.mark.parametrize(("luma", "expected", "tolerance"), [("pyiqa", "niqe_pyiqa", 0.005),
                                                             ("basicsr", "niqe_basicsr", 0.02)])
def test_niqe_takes_the_chosen_luma(place, weights, luma, expected, tolerance):
    place.add("result", "astronaut", PHOTO)
    assert place.run("--metrics", "niqe", "--niqe_luma", luma, gt=False) == 0
    assert place.means()["niqe"] == pytest.approx(EXPECTED[expected][3], rel=tolerance)


def test_by_default_what_is_possible_is_measured_and_the_rest_is_said(place, capsys):
    place.add_pairs()
    assert place.run() == 0
    output = capsys.readouterr().out
    assert [name for name, mean in place.means().items() if mean is not None] == ["psnr_y", "psnr_rgb", "psnr_paper",
                                                                                  "ssim"]  # too small for NIQE
    assert "python scripts/download_weights.py lpips" in output
    assert "--fid_ref_dir" in output
    expected = np.mean([place_psnr(place, str(index)) for index in range(3)])
    assert place.means()["psnr_y"] == pytest.approx(expected)
    assert f"{expected:.4f}" in output


def test_nothing_but_what_is_wanted_is_started(place, monkeypatch):
    monkeypatch.setattr(cli, "start_tensorflow", lambda _: pytest.fail("TensorFlow is not needed"))
    monkeypatch.setitem(sys.modules, "utils.metrics.fid", None)
    place.add_pairs()
    assert place.run("--metrics", "ssim,psnr_y", "--output_dir", place.root / "out") == 0
    assert list(place.means("out")) == ["psnr_y", "ssim"]
    assert not (place.root / "result" / "metrics.csv").exists()


def test_without_ground_truth_results_are_measured_alone(place, weights, colours, capsys):
    for index in range(3):
        place.add("result", f"{index}", PHOTO[:200, 60 * index:60 * index + 200])
        place.add("good", f"{index}", PHOTO[250:, 60 * index:60 * index + 200])
    place.add("good", "one more", PHOTO)
    assert place.run("--fid_ref_dir", place.root / "good", gt=False) == 0
    means = place.means()
    assert [name for name, mean in means.items() if mean is not None] == ["niqe", "fid", "kid"]
    assert means["fid"] == pytest.approx(np.linalg.norm(mean_colour(place, "result") - mean_colour(place, "good")),
                                         rel=1e-5)
    output = capsys.readouterr()
    assert "3 : 4" in output.out
    assert "note: FID of 3 images depends strongly on their number" in output.err
    assert "--gt_dir" in output.out


def test_another_result_is_compared_pair_by_pair(place, weights, colours, capsys):
    place.add_pairs(4)
    assert place.run("--compare", place.root / "other", "--fid_ref_dir", place.root / "gt", "--plot",
                     place.root / "plots" / "metrics.png") == 0
    metrics, rows = place.summary()["metrics"], place.rows()
    differences = [float(row["psnr_y"]) - float(row["psnr_y_other"]) for row in rows]
    found = metrics["psnr_y"]["difference"]
    assert found["mean"] == pytest.approx(np.mean(differences))
    assert min(differences) <= found["interval"][0] < found["mean"] < found["interval"][1] <= max(differences)
    assert found["interval"][0] > 0
    assert metrics["lpips"]["difference"]["interval"][1] < 0
    assert metrics["fid"]["other_mean"] > 0
    assert "difference" not in metrics["fid"]
    assert "95 % interval" in capsys.readouterr().out
    assert read_image(place.root / "plots" / "metrics.png").pixels.std() > 0.02


def test_what_fails_gets_a_row_and_stops_nothing(place, capsys):
    place.add_pairs()
    (place.root / "result" / "0.png").write_bytes(b"text")
    place.add("result", "2", PHOTO[:60, :70])
    assert place.run("--metrics", "psnr_y") == 2
    assert [row["status"] for row in place.rows()] == ["error", "ok", "error"]
    assert place.summary()["counts"] == {"ok": 1, "partial": 0, "n/a": 0, "error": 2, "images": 3, "reference": 0}
    error = capsys.readouterr().err
    assert error.count("error: 0.png: cannot read the image") == 1
    assert error.count("error: 2.png: ") == 1
    assert "is 70x60, its ground truth 70x64" in error
    assert "--crop_to_common" in error
    assert place.rows()[2]["psnr_y"] == ""
    assert place.run("--metrics", "psnr_y", "--crop_to_common") == 2
    assert [row["status"] for row in place.rows()] == ["error", "ok", "ok"]


def test_a_damaged_other_result_takes_nothing_from_the_result(place, weights, colours, capsys):
    place.add_pairs(4)
    (place.root / "other" / "1.png").write_bytes(b"text")
    for index in range(4):
        place.add("good", f"{index}", PHOTO[300:, 100 * index:])
    assert place.run("--compare", place.root / "other", "--fid_ref_dir", place.root / "good") == 2
    metrics = place.summary()["metrics"]
    for name in ("psnr_y", "ssim", "lpips", "fid", "kid"):
        assert (metrics[name]["images"], metrics[name]["other_images"]) == (4, 3)
    assert metrics["psnr_y"]["difference"]["images"] == 3
    assert metrics["fid"]["mean"] == pytest.approx(np.linalg.norm(mean_colour(place, "result")
                                                                  - mean_colour(place, "good")), rel=1e-5)
    output = capsys.readouterr()
    assert "4 : 4 (other: 3)" in output.out
    assert "note: FID of 3 images" in output.err
    assert output.err.count("error: 1.png: ") == 1


def test_ctrl_c_leaves_the_rows_of_the_images_that_were_finished(place, monkeypatch):
    def interrupted(groups, measure):
        yield from map(measure, groups[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "measure_all", interrupted)
    place.add_pairs()
    with pytest.raises(KeyboardInterrupt):
        place.run("--metrics", "psnr_y")
    assert [float(row["psnr_y"]) for row in place.rows()] == [place_psnr(place, "0"), place_psnr(place, "1")]


@pytest.mark.parametrize("folder", ["result", "gt", "good", "other"])
def test_a_plot_among_the_images_is_refused_before_the_work(place, capsys, folder):
    place.add_pairs()
    place.add("good", "a", PHOTO)
    before = (place.root / folder).stat().st_mtime_ns
    arguments = ["--compare", place.root / "other", "--fid_ref_dir", place.root / "good", "--plot",
                 place.root / "gt" / ".." / folder / "new.png"]
    fails(capsys, lambda: place.run(*arguments), message="--plot")
    assert (place.root / folder).stat().st_mtime_ns == before


def test_missing_partners_are_an_error_or_rows(place, capsys):
    place.add_pairs()
    (place.root / "result" / "1.png").unlink()
    (place.root / "gt" / "2.png").unlink()
    fails(capsys, place.run, message="--allow_missing")
    assert place.run("--allow_missing", "--metrics", "psnr_y") == 0
    assert [(row["file"], row["status"], row["reason"]) for row in place.rows()] == [
        ("0.png", "ok", ""), ("1", "n/a", "no result."), ("2.png", "n/a", "no ground truth.")]
    assert place.summary()["metrics"]["psnr_y"]["images"] == 1


def test_images_too_small_for_a_metric_leave_it_out(place, weights, capsys):
    for folder in ("result", "gt"):
        place.add(folder, "small", PHOTO[:20, :20])
        place.add(folder, "large", PHOTO[:96, :192])
    assert place.run("--metrics", "ssim,niqe,lpips") == 0
    large, small = place.rows()
    assert (large["status"], small["status"]) == ("ok", "partial")
    assert (small["niqe"], small["lpips"], small["ssim"]) == ("", "", "1.0")
    assert "small.png" in capsys.readouterr().err
    (place.root / "result" / "large.png").unlink()
    (place.root / "gt" / "large.png").unlink()
    assert place.run() == 0  # nothing was promised
    assert place.run("--metrics", "niqe") == 2
    assert "NIQE: n/a" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "named"), [
    (["--metrics", "psnr"], "'psnr'"), (["--metrics", "lpips"], "alexnet"), (["--metrics", "fid"], "--fid_ref_dir"),
    (["--plot", "plot.jpg"], "plot.jpg"), (["--seed", "-1"], "--seed"), (["--compare", "/nowhere"], "--compare"),
    (["--gt_dir", "/nowhere"], "--gt_dir"), (["--fid_ref_dir", "/nowhere"], "--fid_ref_dir"),
    (["--output_dir", "/dev/null/out"], "/dev/null/out"),
    (["--plot", "/dev/null/a.png"], "/dev/null"), (["--niqe_luma", "other"], "'other'")])
def test_mistakes_are_one_line(place, capsys, arguments, named):
    place.add_pairs()
    fails(capsys, lambda: place.run(*arguments), message=named)
    assert not (place.root / "result" / "metrics.csv").exists()
