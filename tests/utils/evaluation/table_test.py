"""Means, differences and tables of scores that are made up."""

import csv

import pytest

from utils.evaluation.table import format_tables, summarize_set, write_scores

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
