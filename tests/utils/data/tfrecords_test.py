"""Records: TensorFlow's own bytes, random access, and what damage costs."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from utils.data.tfrecords import ImageRecords, record_files, shard_path, stored_size, write_image_records
from utils.errors import UserError

SIZE = 4
RECORD_BYTES = 12 + 17 + 48 + 4  # header, what the example puts before the samples, samples, checksum


def make_images(count, size=SIZE, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8))


def example(**values):
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for name, value in lists.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_with_tensorflow(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for serialized in examples:
            writer.write(serialized)


def read_all(records):
    return [records.read(index) for index in range(len(records))]


def numbers(found, images):
    """Which of `images` were found, by number."""
    known = {image.tobytes(): number for number, image in enumerate(images)}
    return [known[image.tobytes()] for image in found]


@pytest.fixture
def images():
    return make_images(5)


@pytest.fixture
def path(tmp_path, images):
    path = tmp_path / "x.tfrecord"
    assert write_image_records(path, images, SIZE) == 5
    return path


def edit(path, position, replacement, length=None):
    """Replace bytes of a file: as many as the replacement has, or `length`."""
    content = path.read_bytes()
    path.write_bytes(content[:position] + replacement
                     + content[position + (len(replacement) if length is None else length):])


@pytest.mark.parametrize("size", [4, 6, 7, 8, 72, 76, 836, 840])  # on both sides of the steps of varints
def test_bytes_are_those_that_tensorflow_writes(tmp_path, size):
    images = make_images(2, size)
    write_image_records(tmp_path / "ours", images, size)
    write_with_tensorflow(tmp_path / "theirs", [example(label=image.tobytes()) for image in images])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_tensorflow_reads_what_is_written(path, images):
    dataset = tf.data.TFRecordDataset(str(path))
    found = [tf.io.parse_single_example(item, {"label": tf.io.FixedLenFeature([], tf.string)})["label"].numpy()
             for item in dataset]
    assert found == [image.tobytes() for image in images]


def test_records_that_tensorflow_wrote_are_read(tmp_path, images):
    write_with_tensorflow(tmp_path / "theirs", [example(label=image.tobytes()) for image in images])
    np.testing.assert_array_equal(read_all(ImageRecords(tmp_path / "theirs", SIZE)), images)


def test_examples_with_further_features_are_read(tmp_path, images):
    write_with_tensorflow(tmp_path / "rich", [example(a=b"1" * number, label=image.tobytes(), z=b"2")
                                              for number, image in enumerate(images)])
    np.testing.assert_array_equal(read_all(ImageRecords(tmp_path / "rich", SIZE)), images)


def test_usual_records_are_read_without_tensorflow(path):
    program = ("import sys; from utils.data.tfrecords import ImageRecords, Path, stored_size\n"
               f"path = Path({str(path)!r})\n"
               f"assert stored_size(path) == len(ImageRecords(path, {SIZE}).read(1)) == {SIZE}\n"
               "assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("image", [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.float32),
                                   np.zeros((4, 4), np.uint8)], ids=["size", "type", "gray"])
def test_only_images_of_the_format_are_written(tmp_path, image):
    with pytest.raises(ValueError, match=r"must be uint8 \[4, 4, 3\]"):
        write_image_records(tmp_path / "x", [image], SIZE)
    assert os.listdir(tmp_path) == []


def test_images_are_read_in_any_order(path, images):
    records = ImageRecords(path, SIZE)
    assert len(records) == 5
    for index in (4, 0, 2, 2, 1, 3):
        np.testing.assert_array_equal(records.read(index), images[index])
        np.testing.assert_array_equal(records.read_or_next(index), images[index])
    assert records.num_skipped == 0
    assert records.faults == []


def test_what_is_read_may_be_changed(path, images):
    records = ImageRecords(str(path), SIZE)
    records.read(1)[:] = 0
    np.testing.assert_array_equal(records.read(1), images[1])


def test_opening_reads_headers_and_one_image(tmp_path, monkeypatch):
    size, count, num_read = 64, 50, []
    write_image_records(tmp_path / "x", make_images(count, size), size)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: num_read.append(len(data := pread(*args))) or data)
    assert len(ImageRecords(tmp_path / "x", size)) == count
    assert sum(num_read) < 12 * count + 3 * size**2 + 100


def test_threads_read_what_one_thread_reads(tmp_path):
    images = make_images(40, 32)
    write_image_records(tmp_path / "x", images, 32, num_shards=3)
    records = ImageRecords(tmp_path / "x", 32)
    order = np.random.default_rng(1).integers(0, 40, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert numbers(pool.map(records.read, order), images) == order


def test_files_are_closed_when_records_are_dropped(path):
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        ImageRecords(path, SIZE)
    assert len(os.listdir("/dev/fd")) == before


def test_size_is_found_in_the_record(tmp_path, path):
    assert stored_size(path) == SIZE
    edit(path, 40, b"damaged")
    assert stored_size(path) == SIZE
    write_with_tensorflow(tmp_path / "odd", [example(label=b"12345")])
    with pytest.raises(UserError, match="holds no square RGB images"):
        stored_size(tmp_path / "odd")


@pytest.mark.parametrize("num_shards", [2, 3, 5])
def test_shards_one_after_the_other_are_the_whole_record(tmp_path, path, images, num_shards):
    assert write_image_records(tmp_path / "y", images, SIZE, num_shards=num_shards) == 5
    files = [shard_path(tmp_path / "y", index, num_shards) for index in range(num_shards)]
    assert files[0].name == f"y-00000-of-0000{num_shards}"
    assert record_files(tmp_path / "y") == files
    assert b"".join(file.read_bytes() for file in files) == path.read_bytes()
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) - min(sizes) <= RECORD_BYTES
    np.testing.assert_array_equal(read_all(ImageRecords(tmp_path / "y", SIZE)), images)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_shuffling_keeps_every_image_and_depends_on_the_seed_alone(tmp_path, num_shards):
    images = make_images(30)
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        write_image_records(tmp_path / str(number), iter(images), SIZE, num_shards=num_shards, shuffle_seed=seed)
        orders.append(numbers(read_all(ImageRecords(tmp_path / str(number), SIZE)), images))
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == list(range(30)) != order


def test_missing_shard_is_named(tmp_path, images):
    write_image_records(tmp_path / "y", images, SIZE, num_shards=3)
    shard_path(tmp_path / "y", 1, 3).unlink()
    with pytest.raises(UserError, match="lacks 1 of 3 shards, as y-00001-of-00003"):
        ImageRecords(tmp_path / "y", SIZE)


def test_replacing_shards_that_ends_between_two_renames_leaves_too_few_and_no_mixture(tmp_path, images, monkeypatch):
    write_image_records(tmp_path / "y", images, SIZE, num_shards=3)
    replace, done = Path.replace, []

    def replace_once(self, target):
        if done:
            raise KeyboardInterrupt
        done.append(target)
        replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_once)
    with pytest.raises(KeyboardInterrupt):
        write_image_records(tmp_path / "y", make_images(5, seed=1), SIZE, num_shards=3)
    assert done == [shard_path(tmp_path / "y", 2, 3)]
    with pytest.raises(UserError, match="lacks 1 of 3 shards, as y-00000-of-00003"):
        ImageRecords(tmp_path / "y", SIZE)


def test_shards_of_two_divisions_are_refused(tmp_path, images):
    write_image_records(tmp_path / "y", images, SIZE, num_shards=3)
    shard_path(tmp_path / "y", 0, 3).with_name("y-00000-of-00002").touch()
    with pytest.raises(UserError, match="different divisions, 2 and 3"):
        ImageRecords(tmp_path / "y", SIZE)


def test_record_replaces_one_that_was_divided_otherwise(tmp_path):
    for seed, num_shards in enumerate((1, 3, 2, 1)):
        images = make_images(4, seed=seed)
        write_image_records(tmp_path / "y", images, SIZE, num_shards=num_shards)
        assert len(os.listdir(tmp_path)) == num_shards
        np.testing.assert_array_equal(read_all(ImageRecords(tmp_path / "y", SIZE)), images)


@pytest.mark.parametrize("options", [{}, {"num_shards": 2}, {"shuffle_seed": 1}], ids=str)
@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_interrupted_writing_leaves_what_was_there(tmp_path, path, images, options, error):
    def fail():
        yield images[0]
        raise error

    before = path.read_bytes()
    with pytest.raises(error):
        write_image_records(path, fail(), SIZE, **options)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize(("count", "num_shards"), [(0, 1), (2, 3)])
def test_too_few_images_write_nothing(tmp_path, count, num_shards):
    with pytest.raises(UserError, match=f"would get {count} images, too few for {num_shards} file"):
        write_image_records(tmp_path / "y", make_images(count), SIZE, num_shards=num_shards)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("name", "kind"), [("whole_face.tfrecord", "faces"), ("back400.tfrecord", "scenes")])
def test_missing_record_names_the_command_that_makes_it(tmp_path, name, kind):
    for path in (tmp_path / name, tmp_path / "missing" / name):
        with pytest.raises(UserError) as caught:
            ImageRecords(path, 320)
        assert f"python scripts/generate_tfrecord.py {kind} --input_dir PHOTOS --output {path} --size 320" in str(
            caught.value)
        assert "whole_face.tfrecord and back400.tfrecord" in str(caught.value)


@pytest.mark.parametrize("content", [b"x", b"no record, but long enough for a header", bytes(200)])
@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_other_files_are_no_records(tmp_path, content, skip_corrupt):
    (tmp_path / "y").write_bytes(content)
    with pytest.raises(UserError, match="y is no TFRecord"):
        ImageRecords(tmp_path / "y", SIZE, skip_corrupt=skip_corrupt)


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_empty_file_and_folder_are_refused(tmp_path, skip_corrupt):
    (tmp_path / "y").touch()
    with pytest.raises(UserError, match="y is empty"):
        ImageRecords(tmp_path / "y", SIZE, skip_corrupt=skip_corrupt)
    with pytest.raises(UserError, match="Is a directory"):
        ImageRecords(tmp_path, SIZE, skip_corrupt=skip_corrupt)


@pytest.mark.parametrize(("stored", "wanted", "hint"), [
    (256, 400, "256x256 images instead of 400x400: is this the face record?"),
    (400, 256, "400x400 images instead of 256x256: is this the scene record?"),
    (8, 4, "8x8 images instead of 4x4: is this the right record?")])
@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_images_of_another_size_are_refused_on_opening(tmp_path, stored, wanted, hint, skip_corrupt):
    write_image_records(tmp_path / "y", make_images(1, stored), stored)
    with pytest.raises(UserError) as caught:
        ImageRecords(tmp_path / "y", wanted, skip_corrupt=skip_corrupt)
    assert hint in str(caught.value)


@pytest.mark.parametrize(("data", "message"), [
    (example(label=b"123456789"), "9 bytes per image instead of 4x4"),
    (example(image=b"1", name=b"2"), "must have a feature `label` with one byte string. Its features: image, name"),
    (example(label=[b"1", b"2"]), "must have a feature `label` with one byte string"),
    (example(), "Its features: none"), (b"\xff\xff\xff", "is no tf.train.Example"),
    (example(**{f"a{index:02d}": b"1" for index in range(50)}), "a18, a19.")],
    ids=["bytes", "names", "two", "none", "data", "many"])
def test_records_of_something_else_are_refused(tmp_path, data, message):
    write_with_tensorflow(tmp_path / "y", [data])
    with pytest.raises(UserError) as caught:
        ImageRecords(tmp_path / "y", SIZE)
    assert message in str(caught.value)
    assert str(tmp_path / "y") in str(caught.value)


def test_every_damaged_byte_is_noticed_and_costs_one_image(tmp_path):
    images = make_images(3)
    path = tmp_path / "x"
    write_image_records(path, images, SIZE)
    content = path.read_bytes()
    assert len(content) == 3 * RECORD_BYTES
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(UserError) as caught:
            read_all(ImageRecords(path, SIZE))
        damaged = position // RECORD_BYTES
        assert str(path) in str(caught.value)
        assert f"(at byte {damaged * RECORD_BYTES})" in str(caught.value) or position < 12
        records = ImageRecords(path, SIZE, skip_corrupt=True)
        found = {number for index in range(len(records)) for number in numbers([records.read_or_next(index)], images)}
        assert found == {0, 1, 2} - {damaged}
        assert records.num_skipped == 1


def test_truncated_record_loses_its_end_alone(tmp_path, path, images):
    content = path.read_bytes()
    for length in range(RECORD_BYTES, len(content)):
        path.write_bytes(content[:length])
        intact, rest = divmod(length, RECORD_BYTES)
        if rest:
            with pytest.raises(UserError, match=f"is truncated: image {intact} .at byte {intact * RECORD_BYTES}. lacks "
                                                f"{RECORD_BYTES - rest} bytes"):
                ImageRecords(path, SIZE)
        records = ImageRecords(path, SIZE, skip_corrupt=True)
        np.testing.assert_array_equal(read_all(records), images[:intact])
        assert records.num_skipped == bool(rest)
        assert len(records.faults) == bool(rest)


@pytest.mark.parametrize(("position", "replacement", "length", "kept", "skipped"), [
    (RECORD_BYTES, bytes(2 * RECORD_BYTES), None, [0, 3, 4], 2),
    (0, bytes(RECORD_BYTES + 20), None, [2, 3, 4], 2),
    (2 * RECORD_BYTES + 3, bytes(3 * RECORD_BYTES - 3), None, [0, 1], 3),
    (RECORD_BYTES + 30, b"", 7, [0, 2, 3, 4], 1),
    (RECORD_BYTES + 30, b"", RECORD_BYTES, [0, 3, 4], 1),
    (RECORD_BYTES + 30, b"inserted", 0, [0, 2, 3, 4], 1)],
    ids=["zeroed middle", "zeroed begin", "zeroed end", "bytes lost", "a record's length lost", "bytes inserted"])
def test_reading_goes_on_behind_damaged_places(path, images, position, replacement, length, kept, skipped):
    edit(path, position, replacement, length)
    with pytest.raises(UserError, match=r"is damaged|is no TFRecord"):
        read_all(ImageRecords(path, SIZE))
    records = ImageRecords(path, SIZE, skip_corrupt=True)
    found = [number for index in range(len(records)) for number in numbers([records.read_or_next(index)], images)]
    assert sorted(set(found)) == kept
    assert records.num_skipped == skipped


def test_damaged_image_is_replaced_by_the_next_and_counted_once(path, images):
    for damaged in (1, 2, 4):
        edit(path, damaged * RECORD_BYTES + 50, b"damage")
    records = ImageRecords(path, SIZE, skip_corrupt=True)
    for _ in range(2):
        assert numbers(map(records.read_or_next, range(5)), images) == [0, 3, 3, 3, 0]
    assert records.num_skipped == 3
    with pytest.raises(UserError, match=rf"image 2 \(at byte {2 * RECORD_BYTES}\)"):
        records.read(2)


@pytest.mark.parametrize(("within", "found"), [
    (range(0, 3), [0, 0, 0]), (range(1, 4), [3, 3, 3]), (range(2, 5), [3, 3, 3]), (range(3, 4), [3]),
    (None, [0, 3, 3, 3, 0])], ids=str)
def test_replacement_of_a_damaged_image_comes_from_the_same_part(path, images, within, found):
    for damaged in (1, 2, 4):
        edit(path, damaged * RECORD_BYTES + 50, b"damage")
    records = ImageRecords(path, SIZE, skip_corrupt=True)
    read = [records.read_or_next(index, within=within) for index in within or range(5)]
    assert numbers(read, images) == found


def test_part_without_an_intact_image_is_refused(path):
    for damaged in (1, 2):
        edit(path, damaged * RECORD_BYTES + 50, b"damage")
    records = ImageRecords(path, SIZE, skip_corrupt=True)
    with pytest.raises(UserError, match=r"x\.tfrecord has no intact image"):
        records.read_or_next(1, within=range(1, 3))
    assert records.num_skipped == 2


def test_damaged_image_stops_who_does_not_skip(path, images):
    edit(path, RECORD_BYTES + 50, b"damage")
    records = ImageRecords(path, SIZE)
    np.testing.assert_array_equal(records.read_or_next(0), images[0])
    with pytest.raises(UserError, match=r"x.tfrecord is damaged: image 1 .*--skip_corrupt"):
        records.read_or_next(1)
    assert records.num_skipped == 0


def test_record_without_an_intact_image_is_refused(path):
    for damaged in range(5):
        edit(path, damaged * RECORD_BYTES + 50, b"damage")
    with pytest.raises(UserError, match="has no intact image"):
        ImageRecords(path, SIZE, skip_corrupt=True)


def test_damage_in_a_shard_names_its_file_and_byte(tmp_path, images):
    write_image_records(tmp_path / "y", images, SIZE, num_shards=2)
    edit(shard_path(tmp_path / "y", 1, 2), RECORD_BYTES + 50, b"damage")
    with pytest.raises(UserError, match=rf"y-00001-of-00002 is damaged: image 1 \(at byte {RECORD_BYTES}\)"):
        read_all(ImageRecords(tmp_path / "y", SIZE))
    records = ImageRecords(tmp_path / "y", SIZE, skip_corrupt=True)
    assert numbers(map(records.read_or_next, range(5)), images) == [0, 1, 2, 3, 0]
