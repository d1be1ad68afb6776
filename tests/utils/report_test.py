"""The report as a spreadsheet or another run of the program reads it."""

import csv
import os

import pytest

from utils.errors import UserError
from utils.report import Report, claim_report, report_name

COLUMNS = ["file", "status", "width", "height", "faces", "patches", "mask_mean", "loss_0", "loss_1", "seconds_total",
           "reason"]
FINISHED = ("adapted", "base")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert all(len(row) == len(rows[0]) for row in rows)
    return rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def files(path):
    return [row["file"] for row in read(path)[1]]


def test_columns_are_written_before_any_row(tmp_path):
    Report(tmp_path / "report.csv", ["file", "status", "loss_0"])
    assert read(tmp_path / "report.csv") == (["file", "status", "loss_0"], [])


def test_a_photo_may_have_several_rows(tmp_path):
    report = Report(tmp_path / "report.csv", COLUMNS)
    report.add({"file": "a.png", "status": "adapted", "faces": 1}, {"file": "a.png", "status": "base", "faces": 2})
    report.add({"file": "b.png", "status": "base"})
    report.add({"file": "c.png", "status": "adapted"}, {"file": "c.png", "status": "error"})  # not finished
    kept = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    assert [[row["faces"] for row in kept.earlier(f"{name}.png")] for name in "abc"] == [["1", "2"], [""], []]
    kept.add({"file": "a.png", "status": "base", "faces": 0})
    assert [(row["file"], row["faces"]) for row in read(tmp_path / "report.csv")[1]] == [("a.png", "0"), ("b.png", "")]


def test_missing_values_stay_empty_and_floats_are_short(tmp_path):
    report = Report(tmp_path / "report.csv", COLUMNS)
    report.add({"file": "a.png", "status": "adapted", "width": 10, "loss_0": 1 / 3, "seconds_total": 1234567.0,
                "mask_mean": 0.1, "unknown": 5})
    _, [row] = read(tmp_path / "report.csv")
    assert {key: value for key, value in row.items() if value} == {
        "file": "a.png", "status": "adapted", "width": "10", "loss_0": "0.333333", "seconds_total": "1.23457e+06",
        "mask_mean": "0.1"}


def test_report_is_complete_after_every_photo(tmp_path):
    report = Report(tmp_path / "report.csv", COLUMNS)
    for count in range(1, 6):
        report.add({"file": f"{count}.png", "status": "adapted"})
        assert files(tmp_path / "report.csv") == [f"{index}.png" for index in range(1, count + 1)]
        assert os.listdir(tmp_path) == ["report.csv"]


def test_folder_is_made(tmp_path):
    Report(tmp_path / "a" / "b" / "report.csv", COLUMNS)
    assert (tmp_path / "a" / "b" / "report.csv").exists()


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match=r"report\.csv"):
        Report(tmp_path / "a" / "report.csv", COLUMNS)


def test_second_row_of_a_photo_replaces_the_first(tmp_path):
    report = Report(tmp_path / "report.csv", COLUMNS)
    report.add({"file": "a.png", "status": "error"})
    report.add({"file": "a.png", "status": "base"})
    assert [row["status"] for row in read(tmp_path / "report.csv")[1]] == ["base"]


@pytest.mark.parametrize("name", ["写真 é.png", 'a "b", c.png', "two\nlines.png", "a;b\t.png", " x .png", "=1+1.png"])
def test_any_name_survives(tmp_path, name):
    report = Report(tmp_path / "report.csv", COLUMNS)
    report.add({"file": name, "status": "adapted", "faces": 3, "reason": 'so, "so"'})
    assert files(tmp_path / "report.csv") == [name]
    kept = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    kept.add_present([name])
    _, [row] = read(tmp_path / "report.csv")
    assert (row["file"], row["faces"], row["reason"]) == (name, "3", 'so, "so"')


def test_undecodable_name_survives(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Report(tmp_path / "report.csv", COLUMNS).add({"file": name, "status": "adapted", "faces": 3})
    assert b"caf\xe9.png,adapted,,,3" in (tmp_path / "report.csv").read_bytes()
    Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED).add_present([name])
    assert b"caf\xe9.png,adapted,,,3" in (tmp_path / "report.csv").read_bytes()


def first_run(path, *names):
    report = Report(path, COLUMNS)
    for index, name in enumerate(names):
        report.add({"file": name, "status": "adapted", "loss_0": 0.5, "faces": index})


def test_skipped_photos_keep_their_earlier_rows(tmp_path):
    first_run(tmp_path / "report.csv", "a.png", "b.png")
    report = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    report.add_present(["b.png"])
    report.add({"file": "a.png", "status": "error"})
    report.add_present(["c.png"])
    _, rows = read(tmp_path / "report.csv")
    assert [(row["file"], row["status"], row["loss_0"], row["faces"], row["reason"]) for row in rows] == [
        ("b.png", "adapted", "0.5", "1", ""), ("a.png", "error", "", "", ""),
        ("c.png", "skipped", "", "", "the result was there")]


def test_rows_stand_in_the_given_order_whenever_they_come(tmp_path):
    first_run(tmp_path / "report.csv", "d.png", "b.png", "other.png")
    report = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED, order=["a.png", "b.png", "c.png", "d.png"])
    assert files(tmp_path / "report.csv") == ["b.png", "d.png", "other.png"]
    report.add_present(["d.png"])
    report.add({"file": "c.png", "status": "error"})
    report.add({"file": "a.png", "status": "adapted"})
    assert files(tmp_path / "report.csv") == ["a.png", "b.png", "c.png", "d.png", "other.png"]


def test_without_keep_earlier_rows_are_gone(tmp_path):
    first_run(tmp_path / "report.csv", "a.png")
    report = Report(tmp_path / "report.csv", COLUMNS)
    assert files(tmp_path / "report.csv") == []
    report.add_present(["a.png"])
    assert [row["status"] for row in read(tmp_path / "report.csv")[1]] == ["skipped"]


def test_interrupting_a_second_run_loses_no_row(tmp_path):
    first_run(tmp_path / "report.csv", "a.png", "b.png", "c.png")
    report = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    assert files(tmp_path / "report.csv") == ["a.png", "b.png", "c.png"]
    report.add_present(["b.png"])
    assert files(tmp_path / "report.csv") == ["b.png", "a.png", "c.png"]
    third = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    for name in ("a.png", "b.png", "c.png"):
        third.add_present([name])
    _, rows = read(tmp_path / "report.csv")
    assert [(row["file"], row["faces"]) for row in rows] == [("a.png", "0"), ("b.png", "1"), ("c.png", "2")]


def test_earlier_failure_is_not_kept_as_a_result(tmp_path):
    Report(tmp_path / "report.csv", COLUMNS).add({"file": "a.png", "status": "error", "reason": "no"})
    report = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    report.add_present(["a.png"])
    assert [row["status"] for row in read(tmp_path / "report.csv")[1]] == ["skipped"]


def test_rows_of_a_run_with_more_steps_are_taken_over(tmp_path):
    first_run(tmp_path / "report.csv", "a.png")
    Report(tmp_path / "report.csv", [*COLUMNS, "loss_2"], keep=FINISHED).add_present(["a.png"])
    header, [row] = read(tmp_path / "report.csv")
    assert "loss_2" in header
    assert (row["loss_0"], row["loss_2"]) == ("0.5", "")
    Report(tmp_path / "report.csv", ["file", "status", "reason"], keep=FINISHED).add_present(["a.png"])
    header, [row] = read(tmp_path / "report.csv")
    assert "loss_0" not in header
    assert row["status"] == "adapted"


def test_report_that_a_spreadsheet_saved_is_read(tmp_path):
    first_run(tmp_path / "report.csv", "é.png")
    text = (tmp_path / "report.csv").read_text("utf-8")
    (tmp_path / "report.csv").write_text("\ufeff" + text, "utf-8")
    Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED).add_present(["é.png"])
    assert [row["status"] for row in read(tmp_path / "report.csv")[1]] == ["adapted"]


@pytest.mark.parametrize("garbage", [
    b"", b"\n\n", bytes(range(256)) * 50, b"file\n", b"a,b\n1,2\n", b'"' + b"x" * 200_000, b"file,status\na.png\n",
    b"file,status\na.png,adapted,more,and,more\n", b"\0\0\0", b"file,file,status\na.png,b.png,adapted\n"])
def test_garbage_in_the_place_of_a_report_does_not_matter(tmp_path, garbage):
    (tmp_path / "report.csv").write_bytes(garbage)
    report = Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    report.add_present(["z.png"])
    report.add_present(["a.png"])
    assert {"z.png", "a.png"} <= set(files(tmp_path / "report.csv"))


def test_no_earlier_report_is_no_error(tmp_path):
    Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED).add_present(["a.png"])
    assert files(tmp_path / "report.csv") == ["a.png"]


def test_an_earlier_report_that_cannot_be_read_is_not_replaced(tmp_path, monkeypatch):
    first_run(tmp_path / "report.csv", "a.png")
    before = (tmp_path / "report.csv").read_bytes()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "open", refuse)
        with pytest.raises(UserError, match=r"cannot read .*report\.csv: Permission denied"):
            Report(tmp_path / "report.csv", COLUMNS, keep=FINISHED)
    assert (tmp_path / "report.csv").read_bytes() == before


def test_one_process_at_a_time_writes_a_report_and_shards_do_so_beside_each_other(tmp_path):
    whole, first, second = (tmp_path / report_name("report", shard) for shard in ((0, 1), (0, 2), (1, 2)))
    assert [path.name for path in (whole, first, second)] == ["report.csv", "report-0-of-2.csv", "report-1-of-2.csv"]
    with claim_report(whole, []), pytest.raises(UserError, match=r"report\.csv \(several at once: each with its "), \
            claim_report(whole, []):
        pytest.fail("both write it")
    with claim_report(first, []), claim_report(second, []), pytest.raises(UserError), claim_report(first, []):
        pytest.fail("both write it")
    assert os.listdir(tmp_path) == []


def test_leftovers_are_removed_by_who_has_the_folder_alone(tmp_path):
    left = tmp_path / "results" / ".a.png.0123abcd.part"
    left.parent.mkdir()
    left.touch()
    with claim_report(tmp_path / "report-0-of-2.csv", [left.parent]):
        assert left.exists()
        with claim_report(tmp_path / "report.csv", [left.parent]):
            assert left.exists()
    with claim_report(tmp_path / "report.csv", [left.parent]):
        assert not left.exists()
