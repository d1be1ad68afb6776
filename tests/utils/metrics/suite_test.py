"""Which metrics are chosen, and the rows that images of all kinds get; the figures themselves are tested elsewhere."""

import time
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import skimage.data

from utils.errors import UserError
from utils.image.io import read_image, write_png
from utils.image.listing import ImageGroup, Source
from utils.metrics.fidelity import psnr_rgb, psnr_y, ssim
from utils.metrics.suite import OTHER, choose_metrics, load_functions, measure_all, measure_group

PSNRS = ("psnr_y", "psnr_rgb", "psnr_paper")
PHOTO = np.minimum(skimage.data.astronaut()[:120, 60:160], 254)
SPOILT = cv2.GaussianBlur(PHOTO, (0, 0), 1.5)


@pytest.fixture
def group(tmp_path):
    """Write images by role and give their group."""
    def make(stem="a", **images):
        paths = {}
        for role, samples in images.items():
            paths[role] = tmp_path / role / f"{stem}.png"
            write_png(paths[role], samples)
        return ImageGroup(stem, **{role: Source(path.name, path) for role, path in paths.items()})

    return make


def make_meter(*names, crop=False, **functions):
    return partial(measure_group, functions={**load_functions(names), **functions}, crop_to_common=crop)


def choose(wanted=None, *, folder, **options):
    settings = {"has_truth": True, "num_images": 5, "num_reference": 5, **options}
    return choose_metrics(wanted, weights_dir=folder, **settings)


def test_by_default_all_that_is_possible_is_measured_and_the_rest_says_why(tmp_path):
    names, obstacles = choose(folder=tmp_path)
    assert names == [*PSNRS, "ssim", "niqe"]
    assert list(obstacles) == ["lpips", "fid", "kid"]
    assert "alexnet.ckpt" in obstacles["lpips"]
    assert "download_weights.py lpips" in obstacles["lpips"]
    assert "download_weights.py inception" in obstacles["fid"]
    assert "--fid_ref_dir" in choose(folder=tmp_path, num_reference=0)[1]["kid"]
    assert choose(folder=tmp_path, has_truth=False, num_reference=0)[0] == ["niqe"]


@pytest.mark.parametrize(("wanted", "options", "named"), [
    ("ssim,lpips", {}, "alexnet.ckpt"), ("ssim", {"has_truth": False}, "--gt_dir"),
    ("kid", {"num_reference": 0}, "--fid_ref_dir"), ("fid", {"num_images": 1}, "FID"),
    ("fid", {"num_reference": 1}, "FID"), ("psnr_y,sim", {}, "sim"), ("PSNR", {}, "psnr_"), ("", {}, "''")])
def test_wanted_metrics_that_are_unknown_or_impossible_are_an_error(tmp_path, wanted, options, named):
    with pytest.raises(UserError, match=named) as caught:
        choose(wanted, folder=tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_wanted_metrics_are_read_in_any_case_and_once(tmp_path):
    assert choose("SSIM, Psnr_Y,ssim,", folder=tmp_path) == (["ssim", "psnr_y"], {})


def test_a_row_has_the_figures_of_the_pixels_in_the_files(group):
    row = make_meter(*PSNRS, "ssim")(group(result=SPOILT, truth=PHOTO))
    assert row == {"file": "a.png", "gt": "a.png", "status": "ok", "width": 100, "height": 120, "reason": "",
                   "unreadable": [], "psnr_y": psnr_y(SPOILT, PHOTO), "psnr_rgb": psnr_rgb(SPOILT, PHOTO),
                   "psnr_paper": psnr_y(SPOILT[:, :, ::-1], PHOTO[:, :, ::-1]), "ssim": ssim(SPOILT, PHOTO)}


def test_gray_alpha_and_16_bits_are_measured_as_8_bit_rgb(group, tmp_path):
    gray = PHOTO[:, :, 1:2]
    deep = PHOTO.astype(np.uint16) * 257 + 100  # rounds to the same 8 bits
    meter = make_meter("psnr_y", "psnr_rgb")
    expected = meter(group("rgb", result=SPOILT, truth=PHOTO))
    assert meter(group("deep", result=SPOILT, truth=deep))["psnr_rgb"] == expected["psnr_rgb"]
    found = meter(group("gray", result=SPOILT, truth=gray))
    assert found["psnr_rgb"] == psnr_rgb(SPOILT, np.repeat(gray, 3, axis=2))
    write_png(tmp_path / "alpha.png", PHOTO, alpha=np.linspace(0.1, 1, 12000, dtype=np.float32).reshape(120, 100))
    assert read_image(tmp_path / "alpha.png").alpha is not None
    through = replace(group("seen", result=SPOILT), truth=Source("alpha.png", tmp_path / "alpha.png"))
    assert meter(through)["psnr_rgb"] == expected["psnr_rgb"]


def test_the_common_part_is_that_of_both_results_and_the_truth(group):
    meter = make_meter("psnr_y", crop=True, niqe=lambda image: float(image.shape[0]))
    row = meter(group(result=SPOILT, other=PHOTO[:80], truth=PHOTO[:, :90]))
    assert (row["psnr_y"], row["psnr_y_other"]) == (psnr_y(SPOILT[:80, :90], PHOTO[:80, :90]), float("inf"))
    assert (row["niqe"], row["niqe_other"], row["reason"]) == (120, 80, "cropped to 90x80.")  # NIQE is of the whole
    without_truth = make_meter(crop=True, niqe=lambda image: float(image.shape[0]))
    assert without_truth(group("b", result=SPOILT, other=PHOTO[:80]))["reason"] == ""


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"text"), lambda path: path.unlink()])
def test_a_file_that_cannot_be_read_takes_along_only_what_needs_it(group, damage):
    meter = make_meter("psnr_y", niqe=lambda image: float(image.mean()))
    roles = {"result": SPOILT, "other": PHOTO, "truth": PHOTO}
    whole = meter(group("whole", **roles))
    needing = {"result": {"psnr_y", "niqe"}, "other": {"psnr_y_other", "niqe_other"},
               "truth": {"psnr_y", "psnr_y_other"}}
    for role, lost in needing.items():
        files = group(f"without {role}", **roles)
        path = getattr(files, role).path
        damage(path)
        row = meter(files)
        assert (row["status"], row["unreadable"]) == ("error", [path])
        assert str(path) in row["reason"]
        columns = {name + side for name in ("psnr_y", "niqe") for side in ("", OTHER)}
        assert {name for name in columns if row.get(name) != whole[name]} == lost


def test_ground_truth_that_no_metric_needs_is_not_read(group):
    files = group(result=SPOILT, truth=PHOTO)
    files.truth.path.write_bytes(b"text")
    row = make_meter(niqe=lambda _: 1.0)(files)
    assert (row["status"], row["niqe"], row["reason"]) == ("ok", 1, "")


def test_rows_are_in_order():
    def measure(number):
        time.sleep(0.002 * (number % 3))
        return {"number": number}

    assert [row["number"] for row in measure_all(range(60), measure)] == list(range(60))
