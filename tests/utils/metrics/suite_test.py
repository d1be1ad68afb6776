"""Which metrics are chosen, and the rows that images of all kinds get; the figures themselves are tested elsewhere."""

import threading
import time

import cv2
import numpy as np
import pytest
import skimage.data

from utils.errors import UserError
from utils.image.image_sets import ImageGroup
from utils.image.io import read_image, write_png
from utils.metrics.fidelity import psnr_rgb, psnr_y, ssim
from utils.metrics.suite import METRICS, ImageMeter, choose_metrics, measure_all

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
        return ImageGroup(stem, **paths)

    return make


def choose(wanted=None, *, folder, **options):
    settings = {"has_truth": True, "num_images": 5, "num_reference": 5, **options}
    return choose_metrics(wanted, weights_dir=folder, **settings)


def refuses(match, wanted=None, **options):
    with pytest.raises(UserError, match=match) as caught:
        choose(wanted, **options)
    assert "\n" not in str(caught.value)


def test_by_default_all_that_is_possible_is_measured_and_the_rest_says_why(tmp_path):
    names, obstacles = choose(folder=tmp_path)
    assert names == [*PSNRS, "ssim"]
    assert list(obstacles) == ["lpips", "niqe", "fid", "kid"]
    assert obstacles["lpips"].startswith("it needs alexnet.ckpt (missing). Get it with: python "
                                         "scripts/download_weights.py lpips --weights_dir ")
    assert "download_weights.py inception" in obstacles["fid"]
    assert "download_weights.py niqe" in obstacles["niqe"]
    assert "give --fid_ref_dir" in choose(folder=tmp_path, num_reference=0)[1]["kid"]


def test_wanted_metrics_are_all_or_an_error(tmp_path):
    assert choose("ssim, psnr_y,ssim", folder=tmp_path) == (["ssim", "psnr_y"], {})
    assert choose("SSIM,Psnr_Y,", folder=tmp_path) == (["ssim", "psnr_y"], {})
    refuses(r"^NIQE cannot be measured: it needs niqe_modelparameters\.mat \(missing\)\. Get it with: python ",
            "ssim,niqe", folder=tmp_path)
    refuses("^SSIM-Y cannot be measured: .*give --gt_dir", "ssim", folder=tmp_path, has_truth=False)
    refuses("^KID cannot be measured: .*give --fid_ref_dir", "kid", folder=tmp_path, num_reference=0)
    refuses("^FID cannot be measured: it needs at least 2 images on each side", "fid", folder=tmp_path, num_images=1)
    refuses("^FID cannot be measured: it needs at least 2 images on each side", "fid", folder=tmp_path, num_reference=1)


def test_unknown_metrics_are_named_with_a_guess(tmp_path):
    refuses(r"--metrics knows psnr_y,.*,kid\. Received: 'sim'\. Did you mean ssim\?", "psnr_y,sim", folder=tmp_path)
    refuses(r"Received: 'PSNR'\. Did you mean psnr_\w+\?", "PSNR", folder=tmp_path)
    for text in ("", ","):
        refuses("Received: ''", text, folder=tmp_path)


def test_it_is_an_error_when_nothing_can_be_measured(tmp_path):
    refuses(r"^no metric can be measured\. PSNR-Y \(dB\): it compares with the ground truth: give --gt_dir\. NIQE: it "
            r"needs .*niqe --weights_dir .*\. FID: it needs", folder=tmp_path, has_truth=False)


def test_damaged_weights_are_said_to_be_damaged(tmp_path):
    (tmp_path / "niqe_modelparameters.mat").write_bytes(b"something else")
    refuses(r"niqe_modelparameters\.mat \(wrong hash\)\. Get it with", "niqe", folder=tmp_path)


def test_a_row_has_the_figures_of_the_pixels_in_the_files(group):
    row = ImageMeter([*PSNRS, "ssim"]).measure(group(result=SPOILT, truth=PHOTO))
    assert row == {"file": "a.png", "gt": "a.png", "status": "ok", "width": 100, "height": 120, "reason": "",
                   "unreadable": [], "psnr_y": psnr_y(SPOILT, PHOTO), "psnr_rgb": psnr_rgb(SPOILT, PHOTO),
                   "psnr_paper": psnr_y(SPOILT[:, :, ::-1], PHOTO[:, :, ::-1]), "ssim": ssim(SPOILT, PHOTO)}


def test_gray_alpha_and_16_bits_are_measured_as_8_bit_rgb(group, tmp_path):
    gray = PHOTO[:, :, 1:2]
    deep = PHOTO.astype(np.uint16) * 257 + 100  # rounds to the same 8 bits
    meter = ImageMeter(["psnr_y", "psnr_rgb"])
    expected = meter.measure(group("rgb", result=SPOILT, truth=PHOTO))
    assert meter.measure(group("deep", result=SPOILT, truth=deep))["psnr_rgb"] == expected["psnr_rgb"]
    found = meter.measure(group("gray", result=SPOILT, truth=gray))
    assert found["psnr_rgb"] == psnr_rgb(SPOILT, np.repeat(gray, 3, axis=2))
    write_png(tmp_path / "alpha.png", PHOTO, alpha=np.linspace(0, 1, 12000, dtype=np.float32).reshape(120, 100))
    assert read_image(tmp_path / "alpha.png").alpha is not None
    through = ImageGroup("a", result=group("seen", result=SPOILT).result, truth=tmp_path / "alpha.png")
    assert meter.measure(through)["psnr_rgb"] == expected["psnr_rgb"]


def test_images_of_other_sizes_are_an_error_and_never_resized(group):
    files = group(result=SPOILT[:100, :97], truth=PHOTO)
    row = ImageMeter(["psnr_y"]).measure(files)
    assert row["status"] == "error"
    assert "a.png is 97x100, its ground truth 100x120" in row["reason"]
    assert "--crop_to_common" in row["reason"]
    assert "psnr_y" not in row


def test_the_common_part_is_the_upper_left_one(group):
    meter = ImageMeter(["psnr_y"], crop_to_common=True)
    row = meter.measure(group(result=SPOILT[:100], truth=PHOTO[:, :90]))
    assert (row["psnr_y"], row["status"]) == (psnr_y(SPOILT[:100, :90], PHOTO[:100, :90]), "ok")
    assert (row["reason"], row["width"], row["height"]) == ("cropped to 90x100.", 100, 100)
    assert meter.measure(group("same", result=SPOILT, truth=PHOTO))["reason"] == ""


def test_the_common_part_is_that_of_both_results_and_the_truth(group):
    meter = ImageMeter(["psnr_y", "niqe"], crop_to_common=True, niqe=lambda image: float(image.shape[0]))
    row = meter.measure(group(result=SPOILT, other=PHOTO[:80], truth=PHOTO[:, :90]))
    assert (row["psnr_y"], row["psnr_y_other"]) == (psnr_y(SPOILT[:80, :90], PHOTO[:80, :90]), float("inf"))
    assert (row["niqe"], row["niqe_other"], row["reason"]) == (120, 80, "cropped to 90x80.")  # NIQE is of the whole
    without_truth = ImageMeter(["niqe"], crop_to_common=True, niqe=meter.niqe)
    assert without_truth.measure(group("b", result=SPOILT, other=PHOTO[:80]))["reason"] == ""


def test_unreadable_files_are_errors_on_either_side(group, tmp_path):
    files = group(result=SPOILT, truth=PHOTO)
    for path in (files.result, files.truth):
        sound = path.read_bytes()
        path.write_bytes(sound[:2000])
        row = ImageMeter(["psnr_y"]).measure(files)
        assert (row["status"], row["unreadable"]) == ("error", [path])
        assert str(path) in row["reason"]
        path.write_bytes(sound)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"text"), lambda path: path.unlink()])
def test_a_file_that_cannot_be_read_takes_along_only_what_needs_it(group, damage):
    meter = ImageMeter(["psnr_y", "niqe"], niqe=lambda image: float(image.mean()))
    roles = {"result": SPOILT, "other": PHOTO, "truth": PHOTO}
    whole = meter.measure(group("whole", **roles))
    needing = {"result": {"psnr_y", "niqe"}, "other": {"psnr_y_other", "niqe_other"},
               "truth": {"psnr_y", "psnr_y_other"}}
    for role, lost in needing.items():
        files = group(f"without {role}", **roles)
        path = getattr(files, role)
        damage(path)
        row = meter.measure(files)
        assert (row["status"], row["unreadable"]) == ("error", [path])
        assert str(path) in row["reason"]
        kept = {name for name in meter.columns(compare=True) if row.get(name) == whole[name]}
        assert set(meter.columns(compare=True)) - kept == lost


def test_another_size_of_one_result_takes_nothing_from_the_other_result(group):
    meter = ImageMeter(["psnr_y", "niqe"], niqe=lambda image: float(image.mean()))
    row = meter.measure(group(result=SPOILT, other=PHOTO[:50], truth=PHOTO))
    assert (row["status"], row["psnr_y"], row["unreadable"]) == ("error", psnr_y(SPOILT, PHOTO), [])
    assert (row["niqe"], row["niqe_other"]) == (SPOILT.mean(), PHOTO[:50].mean())
    assert "psnr_y_other" not in row
    assert "other/a.png is 100x50, its ground truth 100x120" in row["reason"]


def test_ground_truth_that_no_metric_needs_is_not_read(group):
    files = group(result=SPOILT, truth=PHOTO)
    files.truth.write_bytes(b"text")
    row = ImageMeter(["niqe", "fid"], niqe=lambda _: 1.0).measure(files)
    assert (row["status"], row["niqe"], row["reason"]) == ("ok", 1, "")


def test_what_an_image_is_too_small_for_is_missing_and_the_rest_measured(group):
    def refuse(_):
        raise ValueError("NIQE needs more.")

    row = ImageMeter(["psnr_y", "ssim", "niqe"], niqe=refuse).measure(group(result=SPOILT[:10], truth=PHOTO[:10]))
    assert row["status"] == "partial"
    assert row["psnr_y"] == psnr_y(SPOILT[:10], PHOTO[:10])
    assert "ssim" not in row
    assert "niqe" not in row
    assert row["reason"] == "SSIM needs images of at least 11x11 pixels. Received: 100x10. NIQE needs more."


def test_without_a_partner_only_what_needs_none_is_measured(group):
    meter = ImageMeter(["psnr_y", "niqe"], niqe=lambda image: float(image.mean()))
    row = meter.measure(group(result=SPOILT))
    assert (row["status"], row["niqe"], row["reason"]) == ("partial", SPOILT.mean(), "no ground truth.")
    row = meter.measure(group(truth=PHOTO))
    assert (row["file"], row["status"], row["reason"]) == ("a", "n/a", "no result.")
    assert ImageMeter(["niqe"], niqe=lambda _: 1.0).measure(group(result=SPOILT))["status"] == "ok"


def test_the_other_result_has_columns_of_its_own(group):
    meter = ImageMeter(["psnr_y", "fid"])
    assert meter.columns(compare=True) == ["psnr_y", "psnr_y_other"]
    row = meter.measure(group(result=SPOILT, other=PHOTO, truth=PHOTO))
    assert (row["psnr_y"], row["psnr_y_other"], row["width"]) == (psnr_y(SPOILT, PHOTO), float("inf"), 100)


def test_networks_get_floats_of_the_compared_parts(group):
    calls = []
    meter = ImageMeter(["lpips"], True, lpips=lambda *images: calls.append(images) or 0.5)
    assert meter.measure(group(result=SPOILT[:, :50], truth=PHOTO))["lpips"] == 0.5
    for image, samples in zip(calls[0], (SPOILT, PHOTO), strict=True):
        np.testing.assert_array_equal(image, samples[:, :50].astype(np.float32) / np.float32(255))


def test_rows_are_in_order_and_few_images_are_in_memory_at_once():
    class Meter:
        def __init__(self):
            self.lock, self.begun, self.taken, self.most = threading.Lock(), 0, 0, 0

        def measure(self, number):
            with self.lock:
                self.begun += 1
                self.most = max(self.most, self.begun - self.taken)
            time.sleep(0.002 * (number % 3))
            return {"number": number}

    meter, rows = Meter(), []
    for row in measure_all(range(60), meter, num_workers=3):
        meter.taken += 1
        rows.append(row["number"])
    assert rows == list(range(60))
    assert 3 <= meter.most <= 8


def test_who_stops_early_does_not_wait_for_the_images_under_way():
    class Meter:
        def __init__(self):
            self.going_on, self.begun = threading.Event(), []

        def measure(self, number):
            self.begun.append(number)
            assert number == 0 or self.going_on.wait(60)
            return {"number": number}

    meter = Meter()
    rows = measure_all(range(60), meter, num_workers=1)
    meter.going_on.set()
    assert next(rows) == {"number": 0}
    meter.going_on.clear()
    start = time.monotonic()
    rows.close()
    assert time.monotonic() - start < 5
    begun = len(meter.begun)
    meter.going_on.set()
    assert begun <= len(meter.begun) < 5  # what waited is not begun


def test_every_metric_says_what_it_needs():
    assert {name for name, metric in METRICS.items() if metric.needs_truth} == {*PSNRS, "ssim", "lpips"}
    assert {name for name, metric in METRICS.items() if metric.higher_is_better} == {*PSNRS, "ssim"}
