"""Merging the reports of shards: the report of a single run, or one line that names what is missing or too much."""

import csv

import pytest

from scripts.merge_reports import main
from tests.helpers.tracing import untraced
from tests.helpers.workplace import Workplace
from utils.errors import UserError
from utils.report import Report, report_name

COLUMNS = ("file", "status", "index", "reason")
NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")


@pytest.fixture
def place(tmp_path):
    """Five photos, and the reports of three shards: photo 0, 3; 1, 4; 2."""
    (tmp_path / "LQ").mkdir()
    for name in NAMES:
        (tmp_path / "LQ" / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    for index in range(3):
        write_report(tmp_path, (index, 3), NAMES[index::3])
    return tmp_path


def write_report(place, shard, names, *, kind="report", columns=COLUMNS):
    with Report(place / "out" / report_name(kind, shard), columns) as report:
        for name in names:
            report.add(*({"file": name, "status": "ok", "index": index, "reason": f'the "reason", {name}'}
                         for index in range(2)))


def run(place, *extra):
    return main(["--input_dir", str(place / "LQ"), "--output_dir", str(place / "out"), *extra])


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(rows):
    return [{key: value for key, value in row.items() if not key.startswith("seconds_")} for row in rows]


def test_shards_of_test_py_are_a_single_run(tmp_path):
    place = Workplace(tmp_path)
    for seed, name in enumerate(("a.png", 'b "x", \u5199.png', "c.jpg", "d.png")):
        place.add_photo(name, seed=seed, faces=(1, 2, 0, 1)[seed])
    out, few = tmp_path / "shards", ("--patch_num_per_img", "2")
    with untraced():
        place.run(*few)
        for index in reversed(range(3)):
            assert place.run(*few, "--shard", f"{index}/3", out=out) == 0
        assert main(["--input_dir", str(place.lq), "--output_dir", str(out)]) == 0
        assert place.results(out) == place.results()
        assert without_seconds(read(out / "report.csv")) == without_seconds(read(place.out / "report.csv"))
        before = (out / "report.csv").read_bytes()
        assert place.run(*few, "--skip_existing", out=out) == 0  # the merged report is one to go on from
        assert (out / "report.csv").read_bytes() == before


def test_rows_are_in_the_order_of_the_photos_whatever_that_of_the_reports(place):
    write_report(place, (0, 3), reversed(NAMES[0::3]))  # an error that was fixed comes last
    assert run(place) == 0
    assert [(row["file"], row["index"], row["reason"]) for row in read(place / "out" / "report.csv")] == [
        (name, index, f'the "reason", {name}') for name in NAMES for index in "01"]
    write_report(place, (0, 1), NAMES, kind="faces")
    for index in range(2):
        write_report(place, (index, 2), NAMES[index::2], kind="faces")
    assert run(place, "--overwrite") == 0
    assert len(read(place / "out" / "faces.csv")) == 10


@pytest.mark.parametrize(("change", "names"), [
    (lambda place: (place / "out" / "report-1-of-3.csv").unlink(), ["report-1-of-3.csv", "--shard 1/3"]),
    (lambda place: write_report(place, (1, 2), NAMES[1::2]), ["2", "3"]),
    (lambda place: write_report(place, (1, 3), ["b.png"]), ["report-1-of-3.csv", "e.png", "--shard 1/3"]),
    (lambda place: (place / "out" / "report-0-of-3.csv").write_bytes(b"\xff\xfe\0\0"), ["report-0-of-3.csv"]),
    (lambda place: [path.unlink() for path in (place / "out").iterdir()], ["report-0-of-2.csv"]),
    (lambda place: write_report(place, (0, 1), NAMES), ["report.csv", "--overwrite"])],
    ids=["missing shard", "two divisions", "missing photo", "garbage", "nothing", "merged already"])
def test_what_does_not_fit_is_named_and_nothing_is_written(place, change, names):
    change(place)
    before = {path.name: path.read_bytes() for path in (place / "out").iterdir()}
    with pytest.raises(UserError) as caught:
        run(place)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in names)
    assert before == {path.name: path.read_bytes() for path in (place / "out").iterdir()}
