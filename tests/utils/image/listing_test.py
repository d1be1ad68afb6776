"""Which images folders hold, which belong together, shards, people and random generators."""

import argparse
import os
import re
import unicodedata

import pytest

from tests.helpers.picture_files import encode, smooth
from utils.errors import UserError
from utils.image.listing import (
    Source,
    add_source_options,
    group_images,
    list_chosen,
    list_images,
    list_photos,
    list_sources,
    parse_people,
    parse_shard,
    person_of,
    photo_rng,
)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12")
    return folder


def fails(function, *args, names=(), **kwargs):
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def names(paths):
    return [path.name for path in paths]


def test_images_are_listed_by_name_whatever_the_case_of_their_ending(tmp_path):
    images = ["10.png", "2.JPG", "a b.jpeg", "b.jfif", "b2.jpe", "c.BMP", "d.webp", "e.tif", "f.TIFF", "g.HEIC",
              "h.avif", "i.gif", "\u5199\u771f.Png", "\u00e9.png", "-x.png"]
    touch(tmp_path, *images, "notes.txt", ".hidden.png", "png", "x.png.part", "report.csv")
    (tmp_path / "jpeg").write_bytes(encode(smooth(8, 8), "JPEG"))  # content counts where the ending says nothing
    (tmp_path / "linked.png").symlink_to(tmp_path / "10.png")
    assert names(list_photos(tmp_path)) == sorted([*images, "jpeg", "linked.png"])


def test_input_dir_may_be_a_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    assert list_photos(tmp_path / "a.jpg") == [Source("a.jpg", tmp_path / "a.jpg")]


def test_a_folder_without_images_says_what_is_there(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").write_text("text")
    fails(list_photos, tmp_path, names=(str(tmp_path), "sub", "notes.txt"))


def test_whatever_is_not_used_is_counted_in_one_note(tmp_path, capsys):
    touch(tmp_path, "a.png", "notes.txt", "notes2.txt", "notes3.txt", ".DS_Store", ".b.jpg", "folder.png/b.png",
          "report.csv")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing.png")
    for _ in range(2):
        assert names(list_photos(tmp_path)) == ["a.png"]
    [note] = capsys.readouterr().err.splitlines()
    assert all(part in note for part in (
        str(tmp_path), "7 (", "subfolder: 1 (folder.png)", "dangling link: 1 (nowhere.png)", "hidden: 1 (.b.jpg)",
        "not an image: 4 (notes.txt, notes2.txt, notes3.txt, ...)"))


def test_two_photos_of_one_stem_are_both_named(tmp_path):
    touch(tmp_path, "a.1.png", "a.2.png", "a.png")
    assert names(list_photos(tmp_path)) == ["a.1.png", "a.2.png", "a.png"]
    touch(tmp_path, "a.JPG")
    fails(list_photos, tmp_path, names=("a.JPG and a.png", str(tmp_path)))


def test_names_that_differ_in_unicode_normalisation_alone_are_one(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    touch(tmp_path / "result", f"{composed}.png")
    touch(tmp_path / "truth", f"{decomposed}.png")
    [group] = group_images(tmp_path / "result", truth_dir=tmp_path / "truth")
    assert (group.result.key, group.truth.key) == (composed, decomposed)
    touch(tmp_path / "result", f"{decomposed}.png")
    fails(list_photos, tmp_path / "result", names=(composed, decomposed))


def test_folders_that_are_none_or_empty_are_named_with_their_option(tmp_path):
    touch(tmp_path, "file.txt")
    for path in (tmp_path / "missing", tmp_path / "file.txt", tmp_path):
        fails(list_images, path, "--gt_dir", names=(str(path), "--gt_dir"))


# images that belong together


def members(group):
    return tuple(path.name if path else None for path in (group.result, group.other, group.truth))


def test_images_belong_together_by_stem_whatever_the_ending(tmp_path):
    result = touch(tmp_path / "r", "b.png", "a.JPG", "a.b.png")
    other = touch(tmp_path / "o", "a.webp", "a.b.tif", "b.bmp")
    truth = touch(tmp_path / "t", "a.png", "b.jpeg", "a.b.PNG", "notes.txt", ".hidden.png", "comparison/c.png")
    groups = group_images(result, truth_dir=truth, other_dir=other)
    assert [(group.key, *members(group)) for group in groups] == [
        ("a", "a.JPG", "a.webp", "a.png"), ("a.b", "a.b.png", "a.b.tif", "a.b.PNG"), ("b", "b.png", "b.bmp", "b.jpeg")]
    assert members(group_images(result)[0]) == ("a.JPG", None, None)


def test_missing_partners_are_named_unless_allowed(tmp_path):
    result = touch(tmp_path / "r", "a.png", "b.png")
    truth = touch(tmp_path / "t", "a.png", *(f"t{index}.png" for index in range(5)))
    fails(group_images, result, truth_dir=truth, names=(str(result), "t0, t1, t2", "2 more", "--allow_missing"))
    groups = group_images(result, truth_dir=truth, allow_missing=True)
    assert [members(group) for group in groups][:3] == [("a.png", None, "a.png"), ("b.png", None, None),
                                                      (None, None, "t0.png")]
    fails(group_images, result, truth_dir=touch(tmp_path / "x", "x.png"), allow_missing=True, names=(str(result), "/x"))
    touch(result, "a.jpg")
    fails(group_images, result, names=("a.jpg", "a.png", str(result)))


# sources


@pytest.fixture
def folder(tmp_path):
    return touch(tmp_path / "photos", "b_1.png", "a_1.JPG", "inner/a_2.png", "inner/.hidden/a_3.png", "notes.txt")


def found(*folders, **options):
    return [source.name for source in list_sources(folders, **options)]


def test_files_of_subfolders_are_sorted_by_their_paths_and_count_once(folder, capsys):
    assert found(folder) == ["a_1.JPG", "b_1.png", "inner/a_2.png"]
    assert found(folder / "inner", folder) == ["a_2.png", "a_1.JPG", "b_1.png"]
    assert "notes.txt" in capsys.readouterr().err.splitlines()[0]


def test_patterns_fit_names_or_paths(folder):
    assert found(folder, match=["a_*"]) == ["a_1.JPG", "inner/a_2.png"]
    assert found(folder, match=["inner/*", "b*"]) == ["b_1.png", "inner/a_2.png"]
    assert found(folder, exclude=["a_*"]) == ["b_1.png"]
    assert found(folder, match=["*_1.*"], exclude=["inner/*", "b*"]) == ["a_1.JPG"]


def test_options_choose_files_and_are_named_in_messages(folder, tmp_path):
    parser = argparse.ArgumentParser()
    add_source_options(parser, "scenes", "scenes")
    args = parser.parse_args(["--scenes", str(folder), "--scenes_match", "a_*", "--scenes_exclude", "inner/*"])
    assert [source.name for source in list_chosen(args, "scenes")] == ["a_1.JPG"]
    args.scenes_match = ["c*"]
    fails(list_chosen, args, "scenes", names=("--scenes", "patterns", str(folder)))
    args.scenes = [tmp_path / "missing"]
    fails(list_chosen, args, "scenes", names=("--scenes", "missing"))
    args.scenes, args.scenes_match = [touch(tmp_path / "other", "a.txt")], None
    fails(list_chosen, args, "scenes", names=("--scenes", "a.txt"))


def test_people_are_told_by_what_matches_or_else_by_the_whole_name():
    people = parse_people("^[a-z]+_[0-9]+")
    assert person_of("london_012_03", people) == "london_012"
    assert person_of("IMG 17", people) == "IMG 17"
    assert person_of("IMG 17", re.compile("x*")) == "IMG 17"  # an empty match is none
    fails(parse_people, "(", names=("--people", "("))


# shards and random numbers


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "", "0/0", "1/", "/1", "0/1/2", "+0/1", "\u00b2/3"])
def test_a_shard_is_parsed_and_what_is_none_is_refused(text):
    assert parse_shard("3/10") == (3, 10)
    fails(parse_shard, text, names=("--shard", text))


def test_random_numbers_of_a_photo_never_change():
    """Published results name a seed: these values are part of the program's behaviour."""
    assert photo_rng(0, "astronaut").integers(0, 1000, 5).tolist() == [871, 374, 577, 229, 683]
    assert photo_rng(7, "\u5199\u771f").integers(0, 1000, 5).tolist() == [778, 915, 338, 593, 908]
    stem = os.fsdecode(b"caf\xe9")
    assert photo_rng(0, stem).integers(0, 2**32) == photo_rng(0, stem).integers(0, 2**32)
