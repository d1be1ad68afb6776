"""The report as a spreadsheet or another run of the program reads it."""

import csv
import os

import numpy as np
import pytest

from utils.errors import DiskFullError, UserError
from utils.report import Report, claim_report, read_rows, report_name

COLUMNS = ["file", "status", "width", "faces", "loss_0", "loss_1", "seconds_total", "reason"]
FINISHED = ("adapted", "base")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "report.csv"


def read(path):
    """Return all rows as another program sees them: complete, empty lines left out."""
    with path.open(newline="", encoding="utf-8") as file:
        columns, *rows = [row for row in csv.reader(file) if row]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def first_run(path, *names):
    with Report(path, COLUMNS) as report:
        for index, name in enumerate(names):
            report.add({"file": name, "status": "adapted", "loss_0": 0.5, "faces": index})


def statuses(path):
    return [(row["file"], row["status"]) for row in read(path)]


def test_every_row_is_on_disk_at_once_and_only_appended(path):
    report = Report(path, COLUMNS)
    assert path.read_bytes() == ",".join(COLUMNS).encode() + b"\r\n"
    inode, before = path.stat().st_ino, path.read_bytes()
    for count in range(1, 6):
        report.add({"file": f"{count}.png", "status": "adapted"})
        after = path.read_bytes()
        assert after.startswith(before)  # so a photo costs the same however many there are
        assert len(read(path)) == count
        before = after
    assert path.stat().st_ino == inode
    assert os.listdir(path.parent) == ["report.csv"]


def test_missing_values_stay_empty_and_floats_have_the_given_digits(path):
    with Report(path, COLUMNS) as report:
        report.add({"file": "a.png", "status": "adapted", "width": 10, "loss_0": 1 / 3, "seconds_total": 1234567.0,
                    "unknown": 5})
    assert {key: value for key, value in read(path)[0].items() if value} == {
        "file": "a.png", "status": "adapted", "width": "10", "loss_0": "0.333333", "seconds_total": "1.23457e+06"}
    with Report(path, COLUMNS, digits=None) as report:
        report.add({"file": "a.png", "status": "adapted", "loss_0": np.float64(1 / 3), "loss_1": float("inf")})
    assert (float(read(path)[0]["loss_0"]), read(path)[0]["loss_1"]) == (1 / 3, "inf")


def test_a_photo_may_have_several_rows_and_the_last_ones_count(path):
    with Report(path, COLUMNS) as report:
        report.add({"file": "a.png", "status": "adapted", "faces": 1}, {"file": "a.png", "status": "base", "faces": 2})
        report.add({"file": "b.png", "status": "adapted"}, {"file": "b.png", "status": "error"})
        report.add({"file": "c.png", "status": "error"})
        report.add({"file": "c.png", "status": "base", "faces": 3})
    assert [(row["file"], row["faces"]) for row in read(path)] == [
        ("a.png", "1"), ("a.png", "2"), ("b.png", ""), ("b.png", ""), ("c.png", "3")]
    kept = Report(path, COLUMNS, keep=FINISHED)
    assert [[row["faces"] for row in kept.earlier(f"{name}.png")] for name in "abc"] == [["1", "2"], [], ["3"]]
    kept.add({"file": "c.png", "status": "base", "faces": 4})  # next to the earlier row of the same photo
    assert [row["faces"] for row in read_rows(path)[1]["c.png"]] == ["4"]
    kept.close()
    assert [(row["file"], row["faces"]) for row in read(path)] == [("a.png", "1"), ("a.png", "2"), ("c.png", "4")]


@pytest.mark.parametrize("name", ['\u5199 "b", c.png', "two\nlines\t.png", " x .png", os.fsdecode(b"caf\xe9.png")])
def test_any_name_survives(path, name):
    with Report(path, COLUMNS) as report:
        report.add({"file": name, "status": "adapted", "faces": 3, "reason": 'so, "so"'})
    with Report(path, COLUMNS, keep=FINISHED) as report:
        report.add_present([name])
    [row] = read_rows(path)[1][name]
    assert (row["file"], row["faces"], row["reason"]) == (name, "3", 'so, "so"')
    assert os.fsencode(name.replace('"', '""')) in path.read_bytes()


def test_present_photos_keep_their_earlier_rows(path):
    first_run(path, "a.png", "b.png")
    with Report(path, COLUMNS, keep=FINISHED) as report:
        report.add_present(["b.png", "c.png"])
        report.add({"file": "a.png", "status": "error"})
    assert statuses(path) == [("a.png", "error"), ("b.png", "adapted"), ("c.png", "skipped")]
    with Report(path, COLUMNS, keep=FINISHED) as report:
        report.add_present(["a.png"])  # its result is there, though it failed before
    assert statuses(path) == [("b.png", "adapted"), ("a.png", "skipped")]
    Report(path, COLUMNS)
    assert read(path) == []  # without `keep`


def test_a_killed_run_loses_no_finished_row_and_the_next_one_orders_them(path):
    first_run(path, "c.png", "b.png", "other.png")
    report = Report(path, COLUMNS, keep=FINISHED)
    report.add({"file": "a.png", "status": "base"})
    with path.open("ab") as file:
        file.write(b"d.png,ada")  # torn
    names = ["a.png", "b.png", "c.png", "d.png"]
    with Report(path, COLUMNS, keep=FINISHED, order=names) as third:
        third.add_present(names)
    assert statuses(path) == [("a.png", "base"), ("b.png", "adapted"), ("c.png", "adapted"), ("d.png", "skipped"),
                              ("other.png", "adapted")]


def test_a_report_with_other_columns_and_a_byte_order_mark_is_read(path):
    first_run(path, "\u00e9.png")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    Report(path, [*COLUMNS, "loss_2"], keep=FINISHED)
    assert (read(path)[0]["loss_0"], read(path)[0]["loss_2"]) == ("0.5", "")


@pytest.mark.parametrize("garbage", [b"", b"\n\n", bytes(range(256)) * 50, b"a,b\n1,2\n", b'"' + b"x" * 200_000,
                                     b"file,status\na.png\n", b"file,status\na.png,adapted,more\n"])
def test_garbage_in_the_place_of_a_report_does_not_matter(path, garbage):
    path.parent.mkdir()
    path.write_bytes(garbage)
    Report(path, COLUMNS, keep=FINISHED).add_present(["a.png"])
    assert statuses(path) == [("a.png", "skipped")]


def test_a_full_disk_is_named_as_such(path, monkeypatch):
    report = Report(path, COLUMNS)

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(DiskFullError, match=str(path)):
        report.add({"file": "a.png", "status": "base"})


def test_one_process_at_a_time_writes_a_report_and_shards_do_so_beside_each_other(tmp_path):
    whole, first, second = (tmp_path / report_name("report", shard) for shard in ((0, 1), (0, 2), (1, 2)))
    assert [path.name for path in (whole, first, second)] == ["report.csv", "report-0-of-2.csv", "report-1-of-2.csv"]
    with claim_report(whole, []), pytest.raises(UserError, match="--shard"), claim_report(whole, []):
        pytest.fail("both write it")
    with claim_report(first, []), claim_report(second, []), pytest.raises(UserError), claim_report(first, []):
        pytest.fail("both write it")
    assert os.listdir(tmp_path) == []


def test_leftovers_are_removed_unless_shards_are_at_work(tmp_path):
    left = tmp_path / "results" / ".a.png.0123abcd.part"
    left.parent.mkdir()
    left.touch()
    with claim_report(tmp_path / "report-0-of-2.csv", []), claim_report(tmp_path / "report.csv", [left.parent]):
        assert left.exists()
    with claim_report(tmp_path / "report.csv", [left.parent]):
        assert not left.exists()
