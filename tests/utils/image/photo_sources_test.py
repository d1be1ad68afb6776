"""Which files of which folders are chosen, and whom they show."""

import argparse
import re

import pytest

from utils.errors import UserError
from utils.image.photo_sources import add_source_options, list_chosen, list_sources, parse_people, person_of


@pytest.fixture
def folder(tmp_path):
    for name in ("b_1.png", "a_1.JPG", "inner/a_2.png", "inner/.hidden/a_3.png", "notes.txt"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12")
    return tmp_path / "photos"


def names(*folders, **options):
    return [source.name for source in list_sources(folders, **options)]


def test_files_are_sorted_by_their_paths_and_count_once(folder):
    assert names(folder) == ["a_1.JPG", "b_1.png", "inner/a_2.png"]
    assert names(folder / "inner", folder) == ["a_2.png", "a_1.JPG", "b_1.png"]
    assert {source.num_bytes for source in list_sources([folder])} == {2}


def test_patterns_fit_names_or_paths(folder):
    assert names(folder, match=["a_*"]) == ["a_1.JPG", "inner/a_2.png"]
    assert names(folder, match=["inner/*", "b*"]) == ["b_1.png", "inner/a_2.png"]
    assert names(folder, exclude=["a_*"]) == ["b_1.png"]
    assert names(folder, match=["*_1.*"], exclude=["inner/*", "b*"]) == ["a_1.JPG"]


def test_messages_name_the_options(folder, tmp_path):
    options = {"option": "--scenes", "match_option": "--scenes_match", "exclude_option": "--scenes_exclude"}
    with pytest.raises(UserError, match="--scenes must name folders"):
        names(tmp_path / "missing", **options)
    with pytest.raises(UserError, match="--scenes_match and --scenes_exclude leave none of the 3 images"):
        names(folder, match=["c*"], **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image in"):
        names(tmp_path / "empty", **options)


def test_unsupported_pictures_that_the_patterns_choose_are_counted_in_one_note(folder, capsys):
    for name in ("b_1.heic", "inner/a_9.HEIF", "inner/.hidden/a_1.heic", "c_1.avif"):
        (folder / name).touch()
    for _ in range(2):
        assert names(folder, folder / "inner", exclude=["c*"]) == ["a_1.JPG", "b_1.png", "inner/a_2.png"]
    assert capsys.readouterr().err == (f"note: left out of {folder}, {folder / 'inner'}: 2 HEIC or AVIF pictures, the "
                                       "first b_1.heic. Convert them to PNG or JPEG.\n")
    assert names(folder, match=["*.png"]) == ["b_1.png", "inner/a_2.png"]
    assert capsys.readouterr().err == ""


def test_folders_of_unsupported_pictures_alone_are_an_error_that_says_so(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("b.heic", "inner/a.avif"):
        (tmp_path / name).touch()
    with pytest.raises(UserError) as caught:
        names(tmp_path)
    assert str(caught.value) == (f"no image in {tmp_path}, but 2 HEIC or AVIF pictures, the first b.heic. "
                                 "Convert them to PNG or JPEG.")


def test_options_choose_files_and_are_named_in_messages(folder):
    parser = argparse.ArgumentParser()
    add_source_options(parser, "scenes", "scenes", required=True)
    args = parser.parse_args(["--scenes", str(folder), "--scenes_match", "a_*", "--scenes_exclude", "inner/*"])
    assert [source.name for source in list_chosen(args, "scenes")] == ["a_1.JPG"]
    args.scenes_match = ["c*"]
    with pytest.raises(UserError, match="--scenes_match and --scenes_exclude leave none"):
        list_chosen(args, "scenes")


def test_people_are_told_by_what_matches_or_else_by_the_whole_name():
    people = parse_people("^[a-z]+_[0-9]+")
    assert person_of("london_012_03", people) == "london_012"
    assert person_of("IMG 17", people) == "IMG 17"
    assert person_of("IMG 17", re.compile("x*")) == "IMG 17"  # an empty match is none
    with pytest.raises(UserError, match=r"--people must be a regular expression \(.*Received: \(\."):
        parse_people("(")
