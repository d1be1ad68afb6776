import json

import pytest
from matplotlib.axes import Axes

from utils.image.io import read_image
from utils.metrics.summary import format_table, not_measured, plot_images, summarize, write_json

INF = float("inf")
ROWS = [{"file": "a", "psnr_y": 30.0, "psnr_y_other": 29.0, "ssim": 0.5}, {"file": "b", "psnr_y": 34.0},
        {"file": "c", "psnr_y": 32.0, "psnr_y_other": 28.0}, {"file": "d"}]


def test_means_count_the_images_that_have_a_value_and_differences_those_that_have_both():
    assert summarize("psnr_y", ROWS, compare=True, seed=1) == {
        "mean": 32, "images": 3, "other_mean": 28.5, "other_images": 2,
        "difference": {"mean": 2.5, "interval": [1.0, 4.0], "images": 2}, "left_out": 1}
    assert summarize("ssim", ROWS) == {"mean": 0.5, "images": 1}
    assert "metrics.csv" in summarize("niqe", ROWS)["reason"]


def test_one_side_is_summarized_when_the_other_has_nothing():
    summary = summarize("ssim", ROWS, compare=True)
    assert "metrics.csv" in summary.pop("other_reason")
    assert summary == {"mean": 0.5, "images": 1, "other_mean": None, "other_images": 0, "left_out": 1}
    summary = summarize("ssim", [{"ssim_other": 0.25}], compare=True)
    assert (summary["mean"], summary["images"], summary["other_mean"], summary["other_images"]) == (None, 0, 0.25, 1)


def test_equal_images_make_the_mean_infinite_and_are_left_out_of_differences():
    rows = [{"psnr_y": INF, "psnr_y_other": 20.0}, {"psnr_y": 31.0, "psnr_y_other": 30.0},
            {"psnr_y": 33.0, "psnr_y_other": 30.0}]
    summary = summarize("psnr_y", rows, compare=True)
    assert (summary["mean"], summary["left_out"]) == (INF, 1)
    assert (summary["difference"]["mean"], summary["difference"]["images"]) == (2.0, 2)
    assert "difference" not in summarize("psnr_y", rows[:1], compare=True)


def test_the_table_is_labelled_and_aligned():
    summaries = {"psnr_y": {"mean": 27.12346, "images": 200},
                 "kid": {"mean": 0.0123456, "images": 200, "deviation": 0.001},
                 "lpips": not_measured("it needs alex.pth. Get it with: ...")}
    assert format_table(summaries, num_reference=5000).splitlines() == [
        "metric       better               result      images",
        "----------------------------------------------------",
        "PSNR-Y (dB)  higher              27.1235         200",
        "KID          lower   0.012346 ± 0.001000  200 : 5000",
        "LPIPS        lower                   n/a           0",
        "LPIPS: n/a: it needs alex.pth. Get it with: ..."]


def test_one_image_has_no_interval():
    table = format_table({"psnr_y": summarize("psnr_y", ROWS[:1], compare=True)}, compare=True)
    assert table.splitlines()[2].split()[3:] == ["30.0000", "1", "29.0000", "+1.0000"]


def test_a_comparison_shows_the_difference_and_its_interval():
    table = format_table({"psnr_y": summarize("psnr_y", ROWS[::2], compare=True),
                          "ssim": {"mean": 0.5, "images": 3, "other_mean": 0.5, "other_images": 2},
                          "fid": {"mean": 9.5, "images": 3, "other_mean": 10.0, "other_images": 2}},
                         num_reference=7, compare=True).splitlines()
    assert table[0].split() == ["metric", "better", "result", "images", "other", "result", "-", "other", "95", "%",
                                "interval"]
    assert table[2].split() == ["PSNR-Y", "(dB)", "higher", "31.0000", "2", "28.5000", "+2.5000", "[+1.0000,",
                                "+4.0000]"]
    assert table[3].split() == ["SSIM-Y", "higher", "0.5000", "3", "(other:", "2)", "0.5000", "n/a"]
    assert table[4].split() == ["FID", "lower", "9.500", "3", ":", "7", "(other:", "2)", "10.000", "n/a"]


def test_json_holds_everything_and_is_valid_even_with_infinite_values(tmp_path):
    summaries = {"psnr_y": summarize("psnr_y", ROWS[::2], compare=True), "psnr_rgb": {"mean": INF, "images": 1},
                 "niqe": not_measured("why")}
    write_json(tmp_path / "metrics.json", summaries, settings={"seed": 0}, counts={"ok": 4})
    data = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert data == {"settings": {"seed": 0}, "counts": {"ok": 4}, "metrics": {
        "psnr_y": {"label": "PSNR-Y (dB)", "higher_is_better": True, **summaries["psnr_y"]},
        "psnr_rgb": {"label": "PSNR-RGB (dB)", "higher_is_better": True, "mean": "inf", "images": 1},
        "niqe": {"label": "NIQE", "higher_is_better": False, "mean": None, "images": 0, "reason": "why"}}}


POINTS = [{"psnr_y": 30.0, "psnr_y_other": 28.0, "ssim": 0.9}, {"psnr_y": 31.0, "psnr_y_other": 32.0, "ssim": 0.8},
        {"psnr_y": float("inf"), "psnr_y_other": 20.0}, {"ssim": 0.7}]


def drawn_points(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "scatter", lambda _, x, y, **options: drawn.append((list(x), list(y))))
    return drawn


def test_every_finite_value_is_a_point_of_its_metric(monkeypatch, tmp_path):
    drawn = drawn_points(monkeypatch)
    plot_images(tmp_path / "plot.png", POINTS, ["psnr_y", "ssim"])
    assert [values for _, values in drawn] == [[30, 31], [0.9, 0.8, 0.7]]
    assert all(-1 <= x <= 1 for places, _ in drawn for x in places)


def test_a_comparison_draws_the_result_over_the_other(monkeypatch, tmp_path):
    drawn = drawn_points(monkeypatch)
    plot_images(tmp_path / "plot.png", POINTS, ["psnr_y"], compare=True)
    assert drawn == [([28, 32], [30, 31])]


def test_the_picture_shows_blue_points_even_where_a_metric_has_none(tmp_path):
    plot_images(tmp_path / "new" / "plot.png", POINTS, ["psnr_y", "ssim", "niqe", "lpips", "psnr_rgb"])
    pixels = read_image(tmp_path / "new" / "plot.png").pixels
    height, width = pixels.shape[:2]
    blue = pixels[:, :, 2] - pixels[:, :, 0] > 0.3
    assert blue[:height // 2, :width // 4].any()
    assert not blue[:height // 2, width // 2:].any()
