"""Making records of folders of photos, and verifying them."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scripts import generate_tfrecord
from scripts.generate_tfrecord import Source, Tally, chosen_sources, cut_all, cut_face, cut_scene, main, parse_args
from utils.data.tfrecords import ImageRecords, write_image_records
from utils.errors import UserError
from utils.files import exclusive

SCRIPT = Path(generate_tfrecord.__file__).resolve()


def picture(seed, height=16, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples).save(path)
    return samples


@pytest.fixture
def photos(tmp_path):
    """Six faces of 16x16 of three people."""
    folder = tmp_path / "photos"
    return {name: save(folder / name, picture(number)) for number, name in enumerate(
        ("p1_a.png", "p1_b.png", "p2_a.png", "p2_b.png", "p3_a.png", "p3_b.png"))}


def faces(tmp_path, *extra, output="out.tfrecord", size=16):
    return main(["faces", "--input_dir", str(tmp_path / "photos"), "--output", str(tmp_path / output),
                 "--size", str(size), "--threads", "2", *extra])


def read(path, size=16):
    records = ImageRecords(path, size)
    return [records.read(index) for index in range(len(records))]


def sidecar(path):
    return json.loads(path.with_name(f"{path.name}.json").read_text())


def names(*arguments):
    return [source.name for source in chosen_sources(parse_args(["faces", "--output", "x", *map(str, arguments)]))]


# --- which files ---

def test_files_are_listed_folder_by_folder_sorted_and_once(tmp_path):
    for name in ("b/2.PNG", "b/10.png", "b/deep/er/1.jpg", "a/z.png", "a/.hidden.png", "a/.cache/1.png", "a/notes.txt"):
        save(tmp_path / name, picture(0)) if name.endswith(("g", "G")) else (tmp_path / name).write_text("x")
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "a" / "z.png")
    b_first = ["10.png", "2.PNG", "deep/er/1.jpg", "link.png"]
    assert names("--input_dir", tmp_path / "b", tmp_path / "a") == b_first
    assert names("--input_dir", tmp_path / "a", tmp_path / "b") == b_first[-1:] + b_first[:-1]
    assert names("--input_dir", tmp_path / "b" / "deep", tmp_path / "b") == ["er/1.jpg", "10.png", "2.PNG"]


def test_patterns_divide_people_between_training_and_validation(tmp_path, photos):
    training = names("--input_dir", tmp_path / "photos", "--exclude", "p2_*")
    validation = names("--input_dir", tmp_path / "photos", "--match", "p2_*")
    assert training == ["p1_a.png", "p1_b.png", "p3_a.png", "p3_b.png"]
    assert validation == ["p2_a.png", "p2_b.png"]
    assert names("--input_dir", tmp_path / "photos", "--match", "p1*", "*_b.png", "--exclude", "p3*") == [
        "p1_a.png", "p1_b.png", "p2_b.png"]


def test_patterns_fit_names_and_paths_below_the_folder(tmp_path):
    for name in ("anna/1.png", "anna/2.png", "bert/1.png"):
        save(tmp_path / name, picture(0))
    assert names("--input_dir", tmp_path, "--match", "anna/*") == ["anna/1.png", "anna/2.png"]
    assert names("--input_dir", tmp_path, "--exclude", "1.png") == ["anna/2.png"]


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "no image in"), (["--match", "q*"], "leave none of the 1 images"),
    (["--exclude", "*"], "leave none of the 1 images")])
def test_nothing_to_read_is_an_error(tmp_path, arguments, message):
    if arguments:
        save(tmp_path / "a.png", picture(0))
    with pytest.raises(UserError, match=message):
        names("--input_dir", tmp_path, *arguments)
    with pytest.raises(UserError, match="must name folders"):
        names("--input_dir", tmp_path / "missing", *arguments)


# --- how images are cut ---

def test_face_of_the_size_is_kept_as_it_is():
    image = picture(0)
    [kept] = cut_face(image, 16).images
    np.testing.assert_array_equal(kept, image)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(16, 22, 0, 3), (23, 16, 3, 0)])
def test_of_a_face_that_is_not_square_the_middle_is_taken(height, width, top, left):
    image = picture(0, height, width)
    cut = cut_face(image, 16)
    np.testing.assert_array_equal(cut.images, [image[top:top + 16, left:left + 16]])
    assert cut.cropped


def test_shrinking_neither_aliases_nor_shifts_nor_swaps_colours():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    [small] = cut_face(stripes, 16).images
    assert np.abs(small[:, 2:-2].astype(int) - 128).max() <= 2
    spot = np.zeros((64, 64, 3), np.uint8)
    spot[8:40, 24:56] = 255, 128, 0
    [small] = cut_face(spot, 16).images
    y, x = np.mgrid[:16, :16]
    assert (small[:, :, 0] * y).sum() / small[:, :, 0].sum() == pytest.approx(5.5, abs=0.02)
    assert (small[:, :, 0] * x).sum() / small[:, :, 0].sum() == pytest.approx(9.5, abs=0.02)
    np.testing.assert_allclose(small[4:8, 8:12].mean(axis=(0, 1)) / 255, [1, 0.5, 0], atol=0.01)


def test_crops_lie_at_multiples_of_the_stride_the_last_that_fits_included():
    image = picture(0, 20, 29)
    cut = cut_scene(image, 8, stride=6, scales=[1.0], min_log_gradient=None)
    expected = [image[top:top + 8, left:left + 8] for top in (0, 6, 12) for left in (0, 6, 12, 18)]
    np.testing.assert_array_equal(cut.images, expected)
    assert len(cut_scene(picture(0, 20, 30), 8, stride=11, scales=[1.0], min_log_gradient=None).images) == 2 * 3


def test_every_scale_is_cropped_that_is_large_enough():
    smooth = cv2.resize(picture(0, 5, 5), (32, 32), interpolation=cv2.INTER_LINEAR)
    cut = cut_scene(smooth, 8, stride=8, scales=[1.0, 0.5, 0.2], min_log_gradient=None)
    assert len(cut.images) == 16 + 4
    half = np.concatenate([np.concatenate(cut.images[16:18], axis=1), np.concatenate(cut.images[18:], axis=1)])
    averages = smooth.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - averages)[1:-1, 1:-1].mean() < 2
    assert not cut.small
    assert cut_scene(smooth, 40, stride=8, scales=[1.0], min_log_gradient=None).small


def test_flat_crops_are_left_out():
    image = picture(0, 8, 24)
    image[:, 8:16] = 77
    cut = cut_scene(image, 8, stride=8, scales=[1.0], min_log_gradient=-6)
    np.testing.assert_array_equal(cut.images, [image[:, :8], image[:, 16:]])
    assert cut.num_flat == 1


# --- the record ---

def test_faces_are_written_in_the_order_of_their_names(tmp_path, photos, capsys):
    assert faces(tmp_path) == 0
    np.testing.assert_array_equal(read(tmp_path / "out.tfrecord"), list(photos.values()))
    assert "6 images of 16x16 from 6 photos, 0.0 MB" in capsys.readouterr().out


def test_kinds_of_files_become_8_bit_rgb(tmp_path):
    gray = picture(0)[:, :, 0]
    folder = tmp_path / "photos"
    save(folder / "1 gray.png", gray)
    save(folder / "2 alpha.png", np.dstack([picture(1), picture(2)[:, :, 0]]))
    (folder / "3 deep.png").write_bytes(cv2.imencode(".png", gray.astype(np.uint16) * 257)[1])
    Image.fromarray(picture(3)).save(folder / "4 turned.png", exif=bytes.fromhex(
        "4d4d002a00000008000101120003000000010006000000000000"))
    assert faces(tmp_path) == 0
    as_rgb = gray[:, :, None].repeat(3, axis=2)
    expected = [as_rgb, picture(1), as_rgb, np.rot90(picture(3), -1)]
    np.testing.assert_array_equal(read(tmp_path / "out.tfrecord"), expected)


def test_scenes_are_written_photo_by_photo(tmp_path, capsys):
    first = save(tmp_path / "photos" / "a.png", picture(0, 8, 16))
    save(tmp_path / "photos" / "b.png", picture(1, 8, 7))
    last = save(tmp_path / "photos" / "c.png", np.full((12, 12, 3), 9, np.uint8))
    output = tmp_path / "out.tfrecord"
    scenes = ["scenes", "--input_dir", str(tmp_path / "photos"), "--output", str(output), "--size", "8",
              "--stride", "4"]
    assert main(scenes) == 0
    np.testing.assert_array_equal(read(output, 8), [first[:, :8], first[:, 4:12], first[:, 8:], *[last[:8, :8]] * 4])
    assert "7 images of 8x8 from 3 photos (1 smaller than 8 pixels)" in capsys.readouterr().out
    assert main([*scenes, "--min_log_gradient", "-6", "--overwrite"]) == 0
    np.testing.assert_array_equal(read(output, 8), [first[:, :8], first[:, 4:12], first[:, 8:]])
    assert "(1 smaller than 8 pixels, 4 crops too flat)" in capsys.readouterr().out
    assert sidecar(output)["left_out"] == {"unreadable": 0, "too_small": 1, "flat_crops": 4}


@pytest.mark.parametrize("threads", [1, 3, 20])
def test_threads_do_not_change_a_byte(tmp_path, photos, threads):
    faces(tmp_path, output="one")
    faces(tmp_path, "--threads", str(threads), output="many")
    for suffix in ("", ".json"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"many{suffix}").read_bytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_images_read_ahead_are_bounded(tmp_path, threads):
    save(tmp_path / "a.png", picture(0))
    started = []

    def cut(samples):
        started.append(samples)
        return generate_tfrecord.Cut([samples])

    crops = cut_all([Source("a.png", tmp_path / "a.png", 0)] * 30, cut, threads, Tally())
    for number, _ in enumerate(crops):
        assert len(started) <= number + 2 * threads
    assert len(started) == 30


def test_shuffled_shards_hold_every_image(tmp_path, photos):
    assert faces(tmp_path, "--shuffle", "3", "--shards", "2") == 0
    found = {image.tobytes() for image in read(tmp_path / "out.tfrecord")}
    assert found == {image.tobytes() for image in photos.values()}
    assert sorted(os.listdir(tmp_path)) == ["out.tfrecord-00000-of-00002", "out.tfrecord-00001-of-00002",
                                            "out.tfrecord.json", "photos"]
    assert main(["verify", str(tmp_path / "out.tfrecord")]) == 0


def test_file_beside_the_record_says_how_it_was_made(tmp_path, photos):
    faces(tmp_path, "--exclude", "p3*")
    found = sidecar(tmp_path / "out.tfrecord")
    listed = "".join(f"{name}\t{(tmp_path / 'photos' / name).stat().st_size}\n" for name in list(photos)[:4])
    assert found["sources_sha256"] == hashlib.sha256(listed.encode()).hexdigest()
    assert (found["format_version"], found["count"], found["size"], found["num_sources"]) == (1, 4, 16, 4)
    assert found["file_bytes"] == [(tmp_path / "out.tfrecord").stat().st_size]
    assert found["arguments"] == {"command": "faces", "input_dir": [str(tmp_path / "photos")], "size": 16,
                                  "match": None, "exclude": ["p3*"], "shuffle": None, "shards": 1}


def test_unreadable_image_is_listed_and_stops_nothing(tmp_path, photos, capsys):
    damaged = tmp_path / "photos" / "p2_a.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert faces(tmp_path) == 2
    captured = capsys.readouterr()
    assert f"error: cannot read the image {damaged}" in captured.err
    assert "5 images of 16x16 from 6 photos (1 unreadable)" in captured.out
    kept = [image for name, image in photos.items() if name != "p2_a.png"]
    np.testing.assert_array_equal(read(tmp_path / "out.tfrecord"), kept)
    [line] = sidecar(tmp_path / "out.tfrecord")["unreadable"]
    assert str(damaged) in line


def test_only_so_many_unreadable_images_are_listed(tmp_path, photos, capsys, monkeypatch):
    monkeypatch.setattr(generate_tfrecord, "MAX_LISTED", 2)
    for name in list(photos)[:5]:
        (tmp_path / "photos" / name).write_bytes(b"x")
    assert faces(tmp_path) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: cannot read") == 2
    assert f"and 3 more: {tmp_path / 'out.tfrecord.json'} names all" in errors


def test_record_without_images_is_an_error_and_leaves_nothing(tmp_path, photos):
    with pytest.raises(UserError, match=r"not one image of 20x20 came of 6 photo\(s\): 6 smaller than 20 pixels"):
        faces(tmp_path, size=20)
    assert os.listdir(tmp_path) == ["photos"]
    for name in photos:
        (tmp_path / "photos" / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"6 unreadable.* The first error: cannot read the image .*p1_a.png"):
        faces(tmp_path)


@pytest.mark.parametrize("options", [(), ("--shards", "2"), ("--shuffle", "1")])
def test_interruption_leaves_nothing(tmp_path, photos, monkeypatch, options):
    def interrupted(path):
        if path.name == "p2_b.png":
            raise KeyboardInterrupt
        return read_image(path)

    read_image = generate_tfrecord.read_image
    monkeypatch.setattr(generate_tfrecord, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        faces(tmp_path, *options)
    assert os.listdir(tmp_path) == ["photos"]


def test_record_that_is_there_is_replaced_only_on_demand(tmp_path, photos):
    faces(tmp_path)
    for options in ((), ("--shards", "2")):
        with pytest.raises(UserError, match=r"out\.tfrecord is there already. Give --overwrite"):
            faces(tmp_path, *options)
    assert faces(tmp_path, "--shards", "2", "--overwrite", "--match", "p1*") == 0
    with pytest.raises(UserError, match=r"out\.tfrecord-00000-of-00002 is there already"):
        faces(tmp_path)
    np.testing.assert_array_equal(read(tmp_path / "out.tfrecord"), [photos["p1_a.png"], photos["p1_b.png"]])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--size", "6"], "--size must be a positive multiple of 4. Received: 6"), (["--size", "0"], "--size must be"),
    (["--threads", "0"], "--threads must be at least 1"), (["--shards", "0"], "--shards must lie between 1 and"),
    (["--shuffle", "-1"], "--shuffle must be at least 0"), (["--stride", "0"], "--stride must be at least 1"),
    (["--scales", "1", "1.5"], "--scales must be above 0 and at most 1"), (["--scales", "nan"], "--scales must be"),
    (["--unknown"], "unrecognized arguments: --unknown")])
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError) as caught:
        parse_args(["scenes", "--input_dir", ".", "--output", "x", *arguments])
    assert message in str(caught.value)


def test_output_must_not_be_a_folder(tmp_path, photos):
    with pytest.raises(UserError, match="--output must be a file"):
        faces(tmp_path, output="photos")


def test_errors_are_one_line_and_status_2(tmp_path):
    run = subprocess.run([sys.executable, str(SCRIPT), "scenes", "--input_dir", str(tmp_path), "--output",
                          str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == f"error: no image in {tmp_path}. Known endings: .png, .jpg, .jpeg, .bmp, .webp, .tif, .tiff.\n"


# --- verifying ---

def test_sound_records_verify(tmp_path, photos, capsys):
    faces(tmp_path)
    write_image_records(tmp_path / "other", [picture(0, 8, 8)] * 3, 8)
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "out.tfrecord"), str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'out.tfrecord'}: 6 intact images of 16x16, 0.0 MB, as the file beside it says",
        f"{tmp_path / 'other'}: 3 intact images of 8x8, 0.0 MB"]


def test_every_damage_is_found_and_its_byte_named(tmp_path, photos, capsys):
    faces(tmp_path)
    path = tmp_path / "out.tfrecord"
    content = bytearray(path.read_bytes())
    record_bytes = len(content) // 6
    content[record_bytes + 300] ^= 1
    content[3 * record_bytes + 2] ^= 1
    path.write_bytes(content[:-5])
    assert main(["verify", str(path)]) == 2
    captured = capsys.readouterr()
    assert "3 intact images of 16x16" in captured.out
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    for index, what in ((1, "data that its checksum"), (3, "header that its checksum"), (5, "lacks 5 bytes")):
        [_] = [line for line in errors if f"(at byte {index * record_bytes})" in line and what in line]
    assert f"{path}.json says 6 in [{len(content)}]" in errors[-1]
    assert len(errors) == 4


def test_record_that_is_not_the_one_described_is_reported(tmp_path, photos, capsys):
    faces(tmp_path)
    write_image_records(tmp_path / "out.tfrecord", [picture(0)] * 5, 16)
    assert main(["verify", str(tmp_path / "out.tfrecord")]) == 2
    assert "has 5 images" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [
    ("{", "was not written by this tool"), ("[]", "was not written by this tool"),
    ('{"format_version": 9}', "must be of format version 1. Received: 9")])
def test_file_beside_the_record_that_says_nothing_is_reported(tmp_path, photos, capsys, text, message):
    faces(tmp_path)
    (tmp_path / "out.tfrecord.json").write_text(text)
    assert main(["verify", str(tmp_path / "out.tfrecord")]) == 2
    assert message in capsys.readouterr().err


def test_record_that_cannot_be_opened_does_not_stop_the_others(tmp_path, photos, capsys):
    faces(tmp_path)
    assert main(["verify", str(tmp_path / "missing"), str(tmp_path / "out.tfrecord")]) == 2
    captured = capsys.readouterr()
    assert f"error: there is no record {tmp_path / 'missing'}" in captured.err
    assert "6 intact images" in captured.out
    assert main(["verify", str(tmp_path / "out.tfrecord"), "--size", "8"]) == 2
    assert "16x16 images instead of 8x8" in capsys.readouterr().err


# --- what a disk or another process does ---

def test_a_second_process_is_refused_and_leftovers_of_this_record_are_removed(tmp_path, photos):
    for name in (".out.tfrecord.0123abcd.part", ".out.tfrecord-00001-of-00002.89abcdef.part",
                 ".out.tfrecord.json.89abcdef.part", ".other.tfrecord.0123abcd.part"):
        (tmp_path / name).write_bytes(b"half")
    with exclusive(tmp_path / ".out.tfrecord.lock", "x"), pytest.raises(UserError, match="another process is working"):
        faces(tmp_path)
    assert faces(tmp_path, "--shards", "2") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.tfrecord.0123abcd.part", "out.tfrecord-00000-of-00002", "out.tfrecord-00001-of-00002",
        "out.tfrecord.json", "photos"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("extra", [(), ("--shuffle", "1")])
def test_a_disk_that_takes_no_more_leaves_the_record_before(tmp_path, photos, monkeypatch, number, extra):
    faces(tmp_path, "--match", "p1*")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("out*")}

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("utils.data.tfrecords._write_images", refuse)
    with pytest.raises(UserError, match=f"cannot write .*out.tfrecord: {os.strerror(number)}"):
        faces(tmp_path, "--overwrite", *extra)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
