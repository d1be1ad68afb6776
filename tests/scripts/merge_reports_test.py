"""Merging the reports of shards: the report of a single run, or one line that says what is missing or too much."""

import contextlib
import csv
import os

import pytest
import tensorflow as tf

from scripts.merge_reports import main
from tests.generate_test_faces_test import FaceWorkplace
from tests.workplace import Workplace
from utils.errors import UserError
from utils.report import Report, report_name

COLUMNS = ("file", "status", "index", "seconds_total", "reason")
NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")


@pytest.fixture
def place(tmp_path):
    """Five photos, and the reports of three shards: photo 0, 3; 1, 4; 2."""
    (tmp_path / "LQ").mkdir()
    for name in NAMES:
        (tmp_path / "LQ" / name).touch()
    for index in range(3):
        write_report(tmp_path, (index, 3), NAMES[index::3])
    return tmp_path


def write_report(place, shard, names, *, kind="report", columns=COLUMNS):
    report = Report(place / "out" / report_name(kind, shard), columns)
    for name in names:
        report.add({"file": name, "status": "adapted", "seconds_total": 0.5, "reason": f'the "reason", {name}'})


def run(place, *extra):
    return main(["--input_dir", str(place / "LQ"), "--output_dir", str(place / "out"), *extra])


def read_without_seconds(path):
    """Give a report's bytes but for what depends on the clock."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    timed = [index for index, column in enumerate(rows[0]) if column.startswith("seconds_")]
    assert all(row[index] for row in rows[1:] for index in timed[-1:])
    cells = [["" if index in timed and number else cell for index, cell in enumerate(row)]
             for number, row in enumerate(rows)]
    return cells, path.read_bytes().count(b"\r\n")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four photos through test.py at once; the second has two faces, the third none."""
    place = Workplace(tmp_path_factory.mktemp("photos"))
    for seed, name in enumerate(("a.png", 'b "x", 写.png', "c.jpg", "d.png")):
        place.add_photo(name, seed=seed, faces=(1, 2, 0, 1)[seed])
    with untraced():
        place.run()
    return place


@contextlib.contextmanager
def untraced():
    """Tracing takes longer than such photos."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def test_a_single_run_needs_no_merging(photos, capsys):
    before = (photos.out / "report.csv").read_bytes()
    assert main(["--input_dir", str(photos.lq), "--output_dir", str(photos.out)]) == 0
    assert capsys.readouterr().out == f"{photos.out / 'report.csv'} is of a single run: nothing to merge\n"
    assert (photos.out / "report.csv").read_bytes() == before


@pytest.mark.parametrize("count", [3, 6])
def test_shards_of_test_py_are_a_single_run(photos, tmp_path, count):
    out = tmp_path / "out"
    with untraced():
        for index in reversed(range(count)):
            assert photos.run("--shard", f"{index}/{count}", out=out) == 0
    assert main(["--input_dir", str(photos.lq), "--output_dir", str(out)]) == 0
    assert photos.results(out) == photos.results()
    assert read_without_seconds(out / "report.csv") == read_without_seconds(photos.out / "report.csv")
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    assert photos.run("--skip_existing", out=out) == 0  # the merged report is one to go on from
    assert read_without_seconds(out / "report.csv") == read_without_seconds(photos.out / "report.csv")


@pytest.mark.parametrize("count", [3, 5])
def test_shards_of_generate_test_faces_are_a_single_run(tmp_path, count):
    place = FaceWorkplace(tmp_path)
    for name in ("a.png", "b.png", "c.png", "d.png"):
        place.add_photo(name)
    for file, score in (("a.png", 0.99), ("b.png", 0.98), ("b.png", 0.97), ("d.png", 0.96)):
        place.add_face(file=file, score=score)
    place.run()
    single, expected = place.out, {folder: place.names(folder) for folder in ("Face_LQ", "Aligned")}
    place.out = tmp_path / "shards"
    for index in range(count):
        assert place.run("--shard", f"{index}/{count}") == 0
    assert main(["--input_dir", str(place.root / "LQ"), "--output_dir", str(place.out)]) == 0
    assert (place.out / "faces.csv").read_bytes() == (single / "faces.csv").read_bytes()
    assert [row["file"] for row in place.rows()] == ["a.png", "b.png", "b.png", "c.png", "d.png"]
    for folder, names in expected.items():
        assert place.names(folder) == names
        for name in names:
            assert (place.out / folder / name).read_bytes() == (single / folder / name).read_bytes()


def test_rows_are_in_the_order_of_the_photos_whatever_that_of_the_reports(place):
    write_report(place, (0, 3), reversed(NAMES[0::3]))  # an error that was made good comes last
    assert run(place) == 0
    with (place / "out" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["reason"]) for row in rows] == [(name, f'the "reason", {name}') for name in NAMES]


def refuse(place, match, *extra):
    before = (place / "out" / "report.csv").read_bytes() if (place / "out" / "report.csv").exists() else None
    with pytest.raises(UserError, match=match) as caught:
        run(place, *extra)
    assert "\n" not in str(caught.value)
    after = (place / "out" / "report.csv").read_bytes() if (place / "out" / "report.csv").exists() else None
    assert before == after


def test_a_missing_shard_is_named(place):
    (place / "out" / "report-1-of-3.csv").unlink()
    refuse(place, r"lacks 1 of 3 reports, as report-1-of-3\.csv\. Run test\.py with --shard 1/3\.")


def test_a_shard_twice_is_named(place):
    write_report(place, (1, 2), NAMES[1::2])
    refuse(place, "several divisions, of 2 and of 3 shards")


def test_missing_photos_are_named_even_the_last(place):
    write_report(place, (1, 3), ["b.png"])
    refuse(place, r"report-1-of-3\.csv lacks 1 of 2 photos: e\.png\. .* --shard 1/3 --skip_existing")


def test_photos_of_another_shard_or_folder_are_named(place):
    write_report(place, (2, 3), ["c.png", "b.png"])
    refuse(place, r"report-2-of-3\.csv has photos that belong to other shards .*: b\.png\.")
    write_report(place, (2, 3), ["c.png", "z.png"])
    refuse(place, r"report-2-of-3\.csv has photos that are not in --input_dir: z\.png\.")


def test_a_photo_twice_in_one_report_is_named(place):
    path = place / "out" / "report-0-of-3.csv"
    text = path.read_text()
    path.write_text(text + text.splitlines(keepends=True)[1], newline="")
    refuse(place, r"report-0-of-3\.csv has photos more than once: a\.png")
    write_report(place, (0, 3), ["a.png"], columns=[name for name in COLUMNS if name != "index"])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1]]), newline="")
    refuse(place, r"report-0-of-3\.csv has photos more than once: a\.png")


def test_reports_of_other_flags_are_refused(place):
    write_report(place, (2, 3), ["c.png"], columns=(*COLUMNS, "loss_2"))
    refuse(place, r"report-2-of-3\.csv has other columns than .*report-0-of-3\.csv")


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe\0\0", b"a,b\n1,2\n", b"file,status\na.png\n",
                                     b'file,status\n"a.png', b"file\n" + b"x" * 200_000])
def test_garbage_is_named(place, garbage):
    (place / "out" / "report-0-of-3.csv").write_bytes(garbage)
    refuse(place, r"report-0-of-3\.csv is no report")


def test_a_merged_report_is_replaced_only_when_asked(place):
    run(place)
    write_report(place, (1, 3), ["e.png", "b.png"])
    refuse(place, r"report\.csv is there already. Give --overwrite")
    assert run(place, "--overwrite") == 0


def test_nothing_to_merge_is_one_line(place, tmp_path):
    for path in (place / "out").iterdir():
        path.unlink()
    refuse(place, "no report of a shard in")
    (place / "out").rmdir()
    refuse(place, "cannot list the folder")
