"""Listing photos, sharding them, and the random generator that belongs to each."""

import os
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.image.listing import list_images, list_photos, parse_shard, photo_rng


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_images_are_listed_by_name(tmp_path):
    images = ["10.png", "2.JPG", "a b.jpeg", "c.BMP", "d.webp", "e.tif", "f.TIFF", "写真.Png", "é.png", "-x.png"]
    touch(tmp_path, *images, "notes.txt", ".hidden.png", "._2.JPG", "png", "x.png.part", "report.csv")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing.png")
    assert [photo.name for photo in list_photos(tmp_path)] == sorted(images)


def test_linked_photos_count(tmp_path):
    (tmp_path / "real").mkdir()
    touch(tmp_path / "real", "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert [photo.name for photo in list_photos(tmp_path)] == ["b.png"]
    assert [photo.name for photo in list_photos(tmp_path / "link")] == ["a.png"]


def test_two_photos_of_one_stem_are_both_named(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "b.PNG", "b.1.png")
    with pytest.raises(UserError, match=r"b\.PNG and b\.jpg in .* b\.png"):
        list_photos(tmp_path)


def test_names_that_differ_behind_the_first_dot_are_two_photos(tmp_path):
    touch(tmp_path, "a.1.png", "a.2.png", "a.png")
    assert [photo.stem for photo in list_photos(tmp_path)] == ["a.1", "a.2", "a"]


def test_folder_that_is_none_is_named(tmp_path):
    touch(tmp_path, "file.png")
    for path in (tmp_path / "missing", tmp_path / "file.png", tmp_path / "file.png" / "below"):
        with pytest.raises(UserError, match=str(path)):
            list_photos(path)


def test_the_option_that_named_a_folder_is_said(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"Check --input_dir\."):
            list_photos(folder)
        with pytest.raises(UserError, match=r"Check --gt_dir\."):
            list_images(folder, "--gt_dir")


def test_folder_without_images_is_an_error(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(UserError, match="no image"):
        list_photos(tmp_path)


def test_pictures_of_unsupported_kinds_are_left_out_with_one_note(tmp_path, capsys):
    touch(tmp_path, "b.jpg", "b.HEIC", "a.avif", "c.heif", "d.hif", "._b.HEIC", "heic", "c.png")
    (tmp_path / "folder.heic").mkdir()
    for _ in range(2):
        assert [photo.name for photo in list_photos(tmp_path)] == ["b.jpg", "c.png"]
        assert list_images(tmp_path, "--gt_dir") == list_photos(tmp_path)
    assert capsys.readouterr().err == (f"note: left out of {tmp_path}: 4 HEIC or AVIF pictures, the first a.avif. "
                                       "Convert them to PNG or JPEG.\n")


def test_a_folder_of_unsupported_pictures_alone_is_an_error_that_says_so(tmp_path, capsys):
    touch(tmp_path, "IMG_0001.HEIC", "notes.txt")
    with pytest.raises(UserError) as caught:
        list_photos(tmp_path)
    assert str(caught.value) == (f"no image in {tmp_path}, but 1 HEIC or AVIF picture, IMG_0001.HEIC. "
                                 "Convert it to PNG or JPEG.")
    assert capsys.readouterr().err == ""  # once is enough


def test_folder_that_may_not_be_listed_is_an_error(tmp_path, monkeypatch):
    def iterdir(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(UserError, match="Permission denied"):
        list_photos(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_divide_the_photos_without_overlap(tmp_path, count):
    touch(tmp_path, *(f"{index}.png" for index in range(10)))
    photos = list_photos(tmp_path)
    shards = []
    for index in range(count):
        first, step = parse_shard(f"{index}/{count}")
        shards.append(photos[first::step])
    assert sorted(photo for shard in shards for photo in shard) == photos
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "", "/", "0/0", "1/", "/1", "0/1/2", "+0/1", "0 /1",
                                  "0.5/1", "0/-1", "1e0/2", "²/3"])
def test_shard_that_is_none_is_refused(text):
    with pytest.raises(UserError) as caught:
        parse_shard(text)
    assert text in str(caught.value)


def test_shard_is_parsed():
    assert parse_shard("3/12") == (3, 12)
    assert parse_shard("0/1") == (0, 1)


def test_random_numbers_of_a_photo_never_change():
    """Published results name a seed: these values are part of the program's behaviour."""
    assert photo_rng(0, "astronaut").integers(0, 1000, 5).tolist() == [871, 374, 577, 229, 683]
    assert photo_rng(7, "写真").integers(0, 1000, 5).tolist() == [778, 915, 338, 593, 908]


def test_random_numbers_depend_on_seed_and_stem_alone():
    def draw(seed, stem):
        return photo_rng(seed, stem).integers(0, 2**32, 8).tolist()

    np.random.seed(1)  # the global state must not matter
    before = draw(0, "a")
    np.random.seed(2)
    draw(0, "b")
    assert draw(0, "a") == before
    kinds = [draw(0, "a"), draw(1, "a"), draw(0, "b"), draw(0, "a "), draw(0, "A"), draw(2**40, "a"), draw(0, "")]
    assert len({tuple(kind) for kind in kinds}) == len(kinds)


def test_undecodable_names_have_random_numbers_too():
    stem = os.fsdecode(b"caf\xe9")
    assert photo_rng(0, stem).integers(0, 2**32) == photo_rng(0, stem).integers(0, 2**32)
