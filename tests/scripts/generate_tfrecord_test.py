"""Making records of folders of photos, and verifying them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scripts import generate_tfrecord
from scripts.generate_tfrecord import crop_face, crop_scene, main, parse_args
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


def arguments(tmp_path, *extra, output="out.tfrecord", size=16):
    return ["faces", "--input_dir", str(tmp_path / "photos"), "--output", str(tmp_path / output),
            "--size", str(size), "--threads", "2", *extra]


def faces(tmp_path, *extra, **options):
    return main(arguments(tmp_path, *extra, **options))


def read(path, size=16):
    records = ImageRecords(path, size)
    return [records.read(index) for index in range(len(records))]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(("height", "width", "top", "left"), [(16, 16, 0, 0), (16, 22, 0, 3), (23, 16, 3, 0)])
def test_middle_square_of_a_face_is_taken(height, width, top, left):
    image = picture(0, height, width)
    crops = crop_face(image, 16)
    np.testing.assert_array_equal(crops.images, [image[top:top + 16, left:left + 16]])
    assert crops.notes["cut_to_square"] == (height != width)


def test_crops_lie_at_multiples_of_the_stride_including_the_last_that_fits():
    image = picture(0, 20, 29)
    crops = crop_scene(image, 8, stride=6, scales=[1.0], min_log_gradient=None)
    expected = [image[top:top + 8, left:left + 8] for top in (0, 6, 12) for left in (0, 6, 12, 18)]
    np.testing.assert_array_equal(crops.images, expected)


def test_every_scale_that_is_large_enough_is_cropped():
    smooth = cv2.resize(picture(0, 5, 5), (32, 32), interpolation=cv2.INTER_LINEAR)
    crops = crop_scene(smooth, 8, stride=8, scales=[1.0, 0.5, 0.2], min_log_gradient=None)
    assert len(crops.images) == 16 + 4
    half = np.concatenate([np.concatenate(crops.images[16:18], axis=1), np.concatenate(crops.images[18:], axis=1)])
    averages = smooth.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - averages)[1:-1, 1:-1].mean() < 2
    assert crops.notes["too_small"] == 0
    assert crop_scene(smooth, 40, stride=8, scales=[1.0], min_log_gradient=None).notes["too_small"] == 1


def test_faces_are_written_in_the_order_of_their_names(tmp_path, photos, capsys):
    assert faces(tmp_path) == 0
    np.testing.assert_array_equal(read(tmp_path / "out.tfrecord"), list(photos.values()))
    assert "6 images of 16x16 from 6 photos" in capsys.readouterr().out


def test_scenes_are_written_photo_by_photo(tmp_path, capsys):
    first = save(tmp_path / "photos" / "a.png", picture(0, 8, 16))
    save(tmp_path / "photos" / "b.png", picture(1, 8, 7))
    last = save(tmp_path / "photos" / "c.png", np.full((12, 12, 3), 9, np.uint8))
    output = tmp_path / "out.tfrecord"
    scenes = ["scenes", "--input_dir", str(tmp_path / "photos"), "--output", str(output), "--size", "8",
              "--stride", "4"]
    assert main(scenes) == 0
    np.testing.assert_array_equal(read(output, 8), [first[:, :8], first[:, 4:12], first[:, 8:], *[last[:8, :8]] * 4])
    assert main([*scenes, "--min_log_gradient", "-6", "--overwrite"]) == 0
    np.testing.assert_array_equal(read(output, 8), [first[:, :8], first[:, 4:12], first[:, 8:]])
    assert "1 too small, 4 crops too flat" in capsys.readouterr().out


def test_threads_do_not_change_a_byte(tmp_path, photos):
    for threads in ("1", "3", "20"):
        faces(tmp_path, "--threads", threads, output=threads)
    assert len({(tmp_path / str(threads)).read_bytes() for threads in (1, 3, 20)}) == 1


def test_unreadable_photos_are_listed_and_stop_nothing(tmp_path, photos, capsys):
    for name in list(photos)[:5]:
        (tmp_path / "photos" / name).write_bytes(b"x")
    assert faces(tmp_path) == 2
    errors = capsys.readouterr().err
    assert [str(tmp_path / "photos" / name) in errors for name in photos] == [True] * 5 + [False]
    np.testing.assert_array_equal(read(tmp_path / "out.tfrecord"), [photos["p3_b.png"]])


def test_record_without_images_is_an_error_and_leaves_nothing(tmp_path, photos):
    with pytest.raises(UserError, match="6 too small"):
        faces(tmp_path, size=20)
    assert os.listdir(tmp_path) == ["photos"]
    for name in photos:
        (tmp_path / "photos" / name).write_bytes(b"x")
    with pytest.raises(UserError, match="6 unreadable"):
        faces(tmp_path)


def test_existing_record_is_replaced_only_on_demand(tmp_path, photos):
    faces(tmp_path)
    with pytest.raises(UserError, match=r"out\.tfrecord exists.*--overwrite"):
        faces(tmp_path)
    assert faces(tmp_path, "--overwrite", "--exclude", "p2_*", "--match", "p1*", "p2*") == 0
    np.testing.assert_array_equal(read(tmp_path / "out.tfrecord"), [photos["p1_a.png"], photos["p1_b.png"]])


@pytest.mark.parametrize(("extra", "message"), [
    (["--size", "6"], "--size .*: 6"), (["--size", "0"], "--size"), (["--threads", "0"], "--threads"),
    (["--shuffle", "-1"], "--shuffle"), (["--stride", "0"], "--stride"),
    (["--scales", "1", "1.5"], "--scales"), (["--scales", "nan"], "--scales"), (["--unknown"], "--unknown")])
def test_wrong_arguments_are_named(extra, message):
    with pytest.raises(UserError, match=message):
        parse_args(["scenes", "--input_dir", ".", "--output", "x", *extra])


def test_sound_records_verify(tmp_path, photos, capsys):
    faces(tmp_path)
    write_image_records(tmp_path / "other", [picture(0, 8, 8)] * 3, 8)
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "out.tfrecord"), str(tmp_path / "other")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert f"{tmp_path / 'out.tfrecord'}: 6 intact images of 16x16" in first
    assert f"{tmp_path / 'other'}: 3 intact images of 8x8" in second


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
    named = [f"(at byte {index * record_bytes})" for index in (5, 1, 3)]
    assert all(name in line for name, line in zip(named, errors, strict=True))


def test_record_that_cannot_be_opened_does_not_stop_the_others(tmp_path, photos, capsys):
    faces(tmp_path)
    assert main(["verify", str(tmp_path / "missing"), str(tmp_path / "out.tfrecord")]) == 2
    captured = capsys.readouterr()
    assert str(tmp_path / "missing") in captured.err
    assert "6 intact images" in captured.out
    assert main(["verify", str(tmp_path / "out.tfrecord"), "--size", "8"]) == 2
    assert "16x16" in capsys.readouterr().err


def test_killed_run_leaves_the_earlier_record_and_the_next_run_removes_its_leftovers(tmp_path, photos):
    faces(tmp_path)
    before = contents(tmp_path)
    options = ("--shuffle", "1", "--overwrite")
    program = ("import time; from scripts import generate_tfrecord as tool; read = tool.read_image\n"
               "tool.read_image = lambda path: time.sleep(600) if path.name == 'p3_b.png' else read(path)\n"
               f"tool.main({arguments(tmp_path, *options)})")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=SCRIPT.parents[1], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".out*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith(".")} == before
    assert faces(tmp_path, *options) == 0
    assert contents(tmp_path).keys() == before.keys()
    assert main(["verify", str(tmp_path / "out.tfrecord")]) == 0


def test_a_second_process_is_refused_and_leftovers_of_other_records_stay(tmp_path, photos):
    (tmp_path / ".other.tfrecord.0123abcd.part").write_bytes(b"half")
    with exclusive(tmp_path / ".out.tfrecord.lock", "x"), pytest.raises(UserError, match=r"out\.tfrecord"):
        faces(tmp_path)
    assert faces(tmp_path) == 0
    assert (tmp_path / ".other.tfrecord.0123abcd.part").exists()
