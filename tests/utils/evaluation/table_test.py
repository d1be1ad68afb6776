"""Means, differences and tables of scores that are made up."""

import csv

import pytest

from tests.helpers.evaluation_scores import scores, summarize
from utils.evaluation.table import format_made, format_tables, summarize_set, write_scores


def cells_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]


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
    values = [score for score in scores() if (score["variant"], score["photo"]) != ("adapted", "b")]
    [first] = [score for score in values if (score["variant"], score["photo"]) == ("adapted", "a")]
    del first["niqe"]
    summary = summarize(values)
    found = summary["variants"]["adapted"]
    assert found["photos"] == 2
    assert found["means"] == {"psnr_y": 23.5, "niqe": 6.0}
    assert found["against"]["unadapted"]["psnr_y"]["photos"] == 2
    assert found["against"]["unadapted"]["niqe"] == {"mean": 0.0, "low": None, "high": None, "photos": 1}
    [cells] = [line for line in cells_of(format_tables({"iid": summary}, ["psnr_y", "niqe"]))
               if line[0] == "adapted" and line[1].startswith("+")]
    assert cells[4] == "+0.00"  # one pair has no interval


def test_without_the_variants_to_compare_with_there_are_only_means():
    rows = [row for row in scores() if row["variant"] == "adapted"]
    summary = summarize(rows)
    assert summary["variants"]["adapted"]["against"] == summary["own_against_other"] == {}
    text = format_tables({"iid": summary}, ["psnr_y", "niqe"])
    assert "| adapted | 3      | 24.00 " in text
    assert "Differences" not in text
    only = {"iid": summarize([row for row in scores() if row["variant"] == "bicubic"])}
    assert "Differences" not in format_tables(only, ["psnr_y", "niqe"])


def test_the_tables_show_what_was_found():
    text = format_tables({"iid": summarize()}, ["psnr_y", "niqe"])
    assert "## iid: 3 photos; in 1 no face was found: c" in text
    lines = cells_of(text)
    assert ["adapted", "3", "24.00", "6.00"] in lines
    assert ["variant", "PSNR-Y (dB) - unadapted", "PSNR-Y (dB) - base", "PSNR-Y (dB) - bicubic", "NIQE - unadapted",
            "NIQE - base", "NIQE - bicubic"] in lines
    [cells] = [line for line in lines if line[0] == "adapted" and "[" in line[1]]
    assert (cells[1], cells[3]) == ("+1.00 [+0.00, +2.00]", "+3.00 [+2.00, +4.00]")
    [cells] = [line for line in lines if line[0] == "iid"]
    assert cells[:4] == ["iid", "adapted - other-faces", "2", "+0.750 [+0.500, +1.000]"]
    assert "## Own faces against another photo's faces" in text
    assert "no two photos" in format_tables({"iid": summarize(paired=[])}, ["psnr_y", "niqe"])


def test_degradations_of_one_photo_have_no_intervals():
    summary = summarize(intervals=False)
    text = format_tables({"iid": summary}, ["psnr_y", "niqe"], one_photo=True)
    assert "## iid: over 3 degradations of one photo" in text
    assert "## Own faces against the same face, degraded differently" in text
    assert ["iid", "adapted - other-faces", "2", "+0.750", "+0.000"] in cells_of(text)
    assert "+1.00" in text
    assert "[" not in text
    assert "interval" not in text


def test_every_metric_is_compared():
    rows = [{**row, "lpips": row["psnr_y"] / 100} for row in scores()]
    summary = summarize_set(rows, ["psnr_y", "lpips"], with_faces=["a", "b"], paired=["a", "b"])
    found = summary["variants"]["adapted"]["against"]["unadapted"]["lpips"]
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.01, 0.0, 0.02))
    assert "+0.0100 [+0.0000, +0.0200]" in format_tables({"iid": summary}, ["psnr_y", "lpips"])


def test_a_set_without_a_score_has_a_table():
    summary = summarize([], paired=["a", "b"])
    assert "## iid: 0 photos" in format_tables({"iid": summary}, ["psnr_y", "niqe"])


def test_what_an_evaluation_was_made_with_is_listed():
    assert format_made({"model": "m.npz", "seed": 3}) == "# Evaluation\n\n* model: m.npz\n* seed: 3\n"


def test_scores_have_a_line_per_photo_and_variant(tmp_path):
    write_scores(tmp_path / "scores.csv", scores(), ["psnr_y", "niqe"])
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert rows[9] == {"set": "iid", "photo": "a", "variant": "adapted", "num_faces": "1", "partner": "b",
                       "partner_faces": "2", "psnr_y": "23", "niqe": "7"}
