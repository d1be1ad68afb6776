"""Which files of which folders are chosen."""

import pytest

from utils.errors import UserError
from utils.photo_sources import list_sources


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
