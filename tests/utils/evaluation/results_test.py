"""Scores outside of the faces; means, differences and tables of made-up scores; the plot's points, pictures' pixels."""

import csv
import math

import cv2
import numpy as np
import pytest
import skimage.data
from matplotlib.axes import Axes

from utils.evaluation.results import (
    format_tables,
    measure,
    outside,
    plot_gains,
    score_photo,
    summarize_set,
    write_pictures,
    write_scores,
)
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import LABEL_HEIGHT, MARGIN
from utils.metrics.fidelity import psnr_y, ssim

FACES = np.array([[20.0, 30, 39.5, 69.9]])
INSIDE = slice(26, 74), slice(18, 42)  # the box 20..39, 30..69 and a tenth of its size around, in whole pixels


def photos():
    truth = skimage.data.astronaut()[:112, :128]
    return cv2.GaussianBlur(truth, (0, 0), 1.5), truth


def test_a_box_and_a_tenth_of_it_around_are_left_out():
    left_out = ~outside(FACES, 112, 128)
    rows, columns = np.flatnonzero(left_out.any(axis=1)), np.flatnonzero(left_out.any(axis=0))
    # 30 - 3.99 = 26.01 and 69.9 + 3.99 = 73.89; 20 - 1.95 = 18.05 and 39.5 + 1.95 = 41.45
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (26, 73, 18, 41)
    assert left_out.sum() == 48 * 24
    assert outside(np.array([[-50.0, 0, -10, 9]]), 20, 20).all()
    assert not outside(np.array([[-5.0, -5, 3, 3], [10, 10, 40, 40]]), 20, 20)[[0, 15], [0, 15]].any()


def test_nothing_inside_of_the_faces_counts():
    image, truth = photos()
    seen = []

    def distance(left, right):
        seen.append((left, right))
        return float(np.abs(left.astype(float) - right).mean())

    functions = {"niqe": lambda picture: float(picture.mean()), "lpips": distance}
    values = measure(image, truth, FACES, functions)
    assert list(values) == ["psnr_y", "ssim", "niqe", "lpips"]
    spoilt = image.copy()
    spoilt[INSIDE] = np.random.default_rng(0).integers(0, 256, (48, 24, 3))
    assert measure(spoilt, truth, FACES, functions) == values
    keep = outside(FACES, *truth.shape[:2])
    assert values["psnr_y"] == psnr_y(image, truth, keep=keep)
    assert values["ssim"] == ssim(image, truth, keep=keep)
    filled = image.copy()
    filled[INSIDE] = truth[INSIDE]
    assert values["niqe"] == filled.mean()
    np.testing.assert_array_equal(seen[0], (filled, truth))
    spoilt[80, 100] = 255 - spoilt[80, 100]
    assert all(value != values[name] for name, value in measure(spoilt, truth, FACES, functions).items())


def test_without_faces_the_whole_photo_counts():
    image, truth = photos()
    assert measure(image, truth, np.zeros((0, 4)), {}) == {
        "psnr_y": psnr_y(image, truth), "ssim": ssim(image, truth)}


def test_values_that_do_not_exist_are_left_out():
    def too_flat(_):
        raise ValueError("flat")

    _, truth = photos()
    assert list(measure(truth, truth, FACES, {"niqe": too_flat, "lpips": lambda *_: math.nan})) == ["ssim"]


def test_results_that_cannot_be_measured_are_named_and_the_others_scored(tmp_path):
    image, truth = photos()
    for name, picture in (("truth/a", truth), ("blurred/a", image), ("small/a", image[:50])):
        write_png(tmp_path / f"{name}.png", picture)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    files = {name: tmp_path / name / "a.png" for name in ("broken", "small", "missing", "blurred")}
    [score], errors = score_photo(tmp_path / "truth" / "a.png", files, FACES, {})
    assert score == {"photo": "a", "variant": "blurred", **measure(image, truth, FACES, {})}
    assert ["broken/a.png" in errors[0], "small/a.png" in errors[1]] == [True, True]
    for name, faces in (("truth", np.array([[5.0, 5, 120, 107]])), ("broken", FACES)):
        scores, [line] = score_photo(tmp_path / name / "a.png", files, faces, {})
        assert scores == []
        assert f"{name}/a.png" in line


# by variant: PSNR and NIQE of the photos a, b, c; c has no face
VALUES = {"bicubic": [(20, 9), (21, 9), (22, 9)], "base": [(21, 5), (22, 5), (23, 5)],
          "unadapted": [(22, 6), (23, 6), (24, 6)], "adapted": [(23, 7), (25, 5), (24, 6)],
          "other-faces": [(22.5, 7), (24, 5), (24, 6)]}


def scores(values=VALUES):
    return [{"set": "iid", "photo": photo, "variant": variant, "num_faces": 1, "partner": "b", "partner_faces": 2,
             "psnr_y": float(psnr), "niqe": float(niqe)}
            for variant, figures in values.items() for photo, (psnr, niqe) in zip("abc", figures, strict=True)]


def cells_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]


def summarize(rows=None, **options):
    given = {"with_faces": ["a", "b"], "paired": ["a", "b"], **options}
    return summarize_set(scores() if rows is None else rows, ["psnr_y", "niqe"], **given)


def test_means_are_those_of_all_photos():
    summary = summarize()
    assert (summary["photos"], summary["photos_without_faces"]) == (3, ["c"])
    assert summary["variants"]["adapted"]["means"] == {"psnr_y": 24.0, "niqe": 6.0}
    assert summary["variants"]["bicubic"]["means"] == {"psnr_y": 21.0, "niqe": 9.0}


def test_differences_are_taken_photo_by_photo():
    against = summarize()["variants"]["adapted"]["against"]
    assert against["unadapted"]["psnr_y"]["mean"] == pytest.approx(1.0)  # of 1, 2, 0
    assert (against["unadapted"]["psnr_y"]["low"], against["unadapted"]["psnr_y"]["high"]) == pytest.approx((0, 2))
    assert against["base"]["psnr_y"]["mean"] == pytest.approx(2.0)
    assert against["base"]["niqe"]["mean"] == pytest.approx(1.0)
    assert against["bicubic"]["psnr_y"]["mean"] == pytest.approx(3.0)  # of 3, 4, 2
    assert list(summarize()["variants"]["unadapted"]["against"]) == ["base", "bicubic"]


def test_own_faces_are_compared_with_others_where_both_exist():
    summary = summarize()
    assert list(summary["own_against_other"]) == ["adapted - other-faces"]
    found = summary["own_against_other"]["adapted - other-faces"]["psnr_y"]
    assert (found["photos"], found["mean"]) == (2, pytest.approx(0.75))  # of 0.5 and 1; without c's 0
    assert (found["low"], found["high"]) == pytest.approx((0.5, 1.0))
    assert summarize(paired=[])["own_against_other"] == {}


def test_a_missing_value_takes_only_its_pair_along():
    rows = [{key: value for key, value in row.items()
             if (key, row["variant"], row["photo"]) != ("niqe", "adapted", "a")} for row in scores()
            if (row["variant"], row["photo"]) != ("adapted", "b")]
    found = summarize(rows)["variants"]["adapted"]
    assert found["photos"] == 2
    assert found["means"] == {"psnr_y": 23.5, "niqe": 6.0}
    assert found["against"]["unadapted"]["psnr_y"]["photos"] == 2
    assert found["against"]["unadapted"]["niqe"] == {"mean": 0.0, "low": None, "high": None, "photos": 1}


def test_without_variants_to_compare_with_there_are_only_means():
    summary = summarize([row for row in scores() if row["variant"] == "adapted"])
    assert summary["variants"]["adapted"]["against"] == summary["own_against_other"] == {}
    lines = cells_of(format_tables({"iid": summary, "empty": summarize([])}, ["psnr_y", "niqe"], "base"))
    assert [line for line in lines if line[0] == "adapted"] == [["adapted", "3", "24.00", "6.00"]]


def test_tables_show_means_and_differences():
    lines = cells_of(format_tables({"iid": summarize()}, ["psnr_y", "niqe"], "realesrgan"))
    assert ["adapted", "3", "24.00", "6.00"] in lines
    assert ["variant", "PSNR-Y (dB) - unadapted", "PSNR-Y (dB) - realesrgan", "PSNR-Y (dB) - bicubic",
            "NIQE - unadapted", "NIQE - realesrgan", "NIQE - bicubic"] in lines
    [cells] = [line for line in lines if line[0] == "adapted" and "[" in line[1]]
    assert (cells[1], cells[3]) == ("+1.00 [+0.00, +2.00]", "+3.00 [+2.00, +4.00]")
    [cells] = [line for line in lines if line[0] == "iid"]
    assert cells[:4] == ["iid", "adapted - other-faces", "2", "+0.750 [+0.500, +1.000]"]
    assert "base" not in {line[0] for line in lines}


@pytest.mark.parametrize(("rows", "intervals"), [
    (scores(), False), ([row for row in scores() if row["photo"] == "a"], True)])
def test_one_photo_has_no_intervals(rows, intervals):
    lines = cells_of(format_tables({"iid": summarize(rows, intervals=intervals)}, ["psnr_y", "niqe"], "base"))
    assert [line[0] for line in lines].count("adapted") == 2
    assert not [cell for line in lines for cell in line if "[" in cell or "nan" in cell]


def test_scores_have_a_line_per_photo_and_row(tmp_path):
    write_scores(tmp_path / "scores.csv", scores(), ["psnr_y", "niqe"])
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert rows[9] == {"set": "iid", "photo": "a", "variant": "adapted", "num_faces": "1", "partner": "b",
                       "partner_faces": "2", "psnr_y": "23", "niqe": "7"}


TOP = LABEL_HEIGHT + MARGIN


def row(*interval):
    gain = dict(zip(("mean", "low", "high"), interval, strict=True)) if interval else None
    return {"against": {"unadapted": {"psnr_y": gain}}}


def test_every_variant_has_its_gain_and_interval(monkeypatch, tmp_path):
    drawn, draw = {}, Axes.errorbar

    def errorbar(panel, x, y, *, xerr, **options):
        drawn[y[0]] = (x[0], *(np.ravel(xerr) if xerr else ()))
        return draw(panel, x, y, xerr=xerr, **options)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    rows = {"bicubic": row(-2, None, None), "base": row(), "unadapted": {"against": {}}, "adapted": row(1, 0.5, 3)}
    plot_gains(tmp_path / "gains.png", {"iid": {"variants": rows}, "ood": {"variants": {}}}, "realesrgan")
    assert drawn == {"bicubic": (-2,), "adapted": (1, 0.5, 2), "realesrgan": (pytest.approx(np.nan, nan_ok=True),)}
    pixels = read_image(tmp_path / "gains.png").pixels
    assert (pixels[:, :, 2] - pixels[:, :, 0] > 0.3).any()


def test_pictures_show_results_pixel_for_pixel_but_for_damaged_ones(tmp_path):
    rng = np.random.default_rng(0)
    images = {}
    for preset, shape in (("iid", (40, 60, 3)), ("ood-tone", (50, 60, 3))):
        for name in ("bicubic", "unadapted", "adapted", "GT"):
            images[preset, name] = rng.integers(0, 256, shape, dtype=np.uint8)
            write_png(tmp_path / preset / name / "a.png", images[preset, name])
    write_png(tmp_path / "ood-tone" / "adapted" / "a.png", images["iid", "GT"])  # of another size
    (tmp_path / "ood-tone" / "unadapted" / "a.png").write_bytes(b"no picture")
    write_pictures(tmp_path / "pictures.png", {preset: (tmp_path / preset, "a") for preset in ("iid", "ood-tone")}, "x")
    shown = quantize(read_image(tmp_path / "pictures.png").pixels)
    np.testing.assert_array_equal(shown[TOP:TOP + 40, :60], images["iid", "bicubic"])
    np.testing.assert_array_equal(shown[TOP:TOP + 40, 66:126], images["iid", "unadapted"])
    below = 2 * TOP + 40 + MARGIN
    np.testing.assert_array_equal(shown[below:below + 40, :60], images["iid", "GT"])
    second = below + 40 + TOP
    np.testing.assert_array_equal(shown[second:second + 50, :60], images["ood-tone", "bicubic"])
    np.testing.assert_array_equal(shown[second:second + 50, 66:126], images["ood-tone", "GT"])
    assert len(shown) == second + 50
