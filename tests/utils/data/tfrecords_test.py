"""Records: TensorFlow's own bytes, random access, and what damage costs."""

import os

import numpy as np
import pytest
import tensorflow as tf

from utils.data.tfrecords import ImageRecords, write_image_records
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


def edit(path, position, replacement):
    content = path.read_bytes()
    path.write_bytes(content[:position] + replacement + content[position + len(replacement):])


def damage(path, *indices):
    for index in indices:
        edit(path, index * RECORD_BYTES + 50, b"damage")


def test_bytes_are_those_that_tensorflow_writes(tmp_path):
    for size in (4, 8, 76, 256):
        images = make_images(2, size)
        write_image_records(tmp_path / "ours", images, size)
        write_with_tensorflow(tmp_path / "theirs", [example(label=image.tobytes()) for image in images])
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("extra", [{}, {"a": b"1", "z": b"2"}], ids=["as published", "with further features"])
def test_records_that_tensorflow_wrote_are_read(tmp_path, images, extra):
    write_with_tensorflow(tmp_path / "theirs", [example(label=image.tobytes(), **extra) for image in images])
    records = ImageRecords(tmp_path / "theirs")
    assert records.size == SIZE
    np.testing.assert_array_equal(read_all(records), images)


def test_images_are_read_in_any_order_and_may_be_changed(path, images):
    records = ImageRecords(path, SIZE)
    assert (len(records), records.num_skipped, records.faults) == (5, 0, [])
    for index in (4, 0, 2, 2, 1, 3):
        image = records.read(index)
        np.testing.assert_array_equal(image, images[index])
        np.testing.assert_array_equal(records.read_or_next(index), images[index])
        image[:] = 0


def test_shuffling_keeps_every_image_and_depends_on_the_seed_only(tmp_path):
    images, orders = make_images(30), []
    for number, seed in enumerate((0, 0, 1)):
        write_image_records(tmp_path / str(number), iter(images), SIZE, shuffle_seed=seed)
        orders.append(numbers(read_all(ImageRecords(tmp_path / str(number), SIZE)), images))
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == list(range(30)) != order


@pytest.mark.parametrize("options", [{}, {"shuffle_seed": 1}], ids=str)
def test_interrupted_writing_keeps_the_earlier_record(tmp_path, path, images, options):
    def fail():
        yield images[0]
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_image_records(path, fail(), SIZE, **options)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "kind"), [("whole_face.tfrecord", "faces"), ("back400.tfrecord", "scenes")])
def test_missing_record_names_the_command_that_makes_it(tmp_path, name, kind):
    for path in (tmp_path / name, tmp_path / "missing" / name):
        with pytest.raises(UserError) as caught:
            ImageRecords(path, 320)
        command = f"python scripts/generate_tfrecord.py {kind} --input_dir PHOTOS --output {path}"
        assert command in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x", b"no record, but long enough for a header", bytes(200)])
@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_other_files_are_no_records(tmp_path, content, skip_corrupt):
    (tmp_path / "y").write_bytes(content)
    with pytest.raises(UserError, match="y is no TFRecord"):
        ImageRecords(tmp_path / "y", SIZE, skip_corrupt=skip_corrupt)
    with pytest.raises(UserError, match=str(tmp_path)):
        ImageRecords(tmp_path, SIZE, skip_corrupt=skip_corrupt)


@pytest.mark.parametrize(("stored", "expected", "hint"), [
    (256, 400, "256x256.* 400x400.* the face record"), (400, 256, "400x400.* 256x256.* the scene record"),
    (8, 4, "8x8.* 4x4.*data.scene_size and data.face_size")])
@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_images_of_another_size_are_refused_on_opening(tmp_path, stored, expected, hint, skip_corrupt):
    write_image_records(tmp_path / "y", make_images(1, stored), stored)
    with pytest.raises(UserError, match=hint):
        ImageRecords(tmp_path / "y", expected, skip_corrupt=skip_corrupt)


@pytest.mark.parametrize(("data", "message"), [
    (example(label=b"123456789"), "9 bytes"), (example(image=b"1"), "`label`"),
    (example(label=[b"1", b"2"]), "`label`"), (example(), "`label`"), (b"\xff\xff\xff", "tf.train.Example")],
    ids=["bytes", "names", "two", "none", "data"])
def test_records_of_something_else_are_refused(tmp_path, data, message):
    write_with_tensorflow(tmp_path / "y", [data])
    with pytest.raises(UserError, match=rf"{tmp_path / 'y'}.*{message}"):
        ImageRecords(tmp_path / "y", SIZE)


def test_every_damaged_byte_behind_the_first_header_is_noticed_and_costs_one_image(tmp_path):
    images = make_images(3)
    path = tmp_path / "x"
    write_image_records(path, images, SIZE)
    content = path.read_bytes()
    assert len(content) == 3 * RECORD_BYTES
    for position in range(12, len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        damaged = position // RECORD_BYTES
        with pytest.raises(UserError) as caught:
            read_all(ImageRecords(path, SIZE))
        assert f"{path}: image {damaged} (at byte {damaged * RECORD_BYTES})" in str(caught.value)
        records = ImageRecords(path, SIZE, skip_corrupt=True)
        found = {number for index in range(3) for number in numbers([records.read_or_next(index)], images)}
        assert found == {0, 1, 2} - {damaged}
        assert records.num_skipped == 1


def test_truncated_record_loses_its_last_image_only(path, images):
    content = path.read_bytes()
    for length in (RECORD_BYTES + 1, 2 * RECORD_BYTES - 1, 3 * RECORD_BYTES + 40, len(content) - 3):
        path.write_bytes(content[:length])
        intact, rest = divmod(length, RECORD_BYTES)
        with pytest.raises(UserError, match=rf"image {intact} .at byte {intact * RECORD_BYTES}. lacks "
                                            rf"{RECORD_BYTES - rest} bytes.*--skip_corrupt"):
            ImageRecords(path, SIZE)
        records = ImageRecords(path, SIZE, skip_corrupt=True)
        np.testing.assert_array_equal(read_all(records), images[:intact])
        assert (records.num_skipped, len(records.faults)) == (1, 1)


@pytest.mark.parametrize(("within", "found"), [
    (range(0, 3), [0, 0, 0]), (range(1, 4), [3, 3, 3]), (range(2, 5), [3, 3, 3]), (range(3, 4), [3]),
    (None, [0, 3, 3, 3, 0])], ids=str)
def test_damaged_image_is_replaced_by_the_next_of_the_same_part(path, images, within, found):
    damage(path, 1, 2, 4)
    records = ImageRecords(path, SIZE, skip_corrupt=True)
    for _ in range(2):
        assert numbers([records.read_or_next(index, within=within) for index in within or range(5)], images) == found
    assert records.num_skipped == len({1, 2, 4} & set(within or range(5)))  # each counts once
    with pytest.raises(UserError, match=rf"image 2 \(at byte {2 * RECORD_BYTES}\)"):
        records.read(2)


def test_parts_and_records_without_an_intact_image_are_refused(path):
    damage(path, 1, 2)
    with pytest.raises(UserError, match=r"x\.tfrecord has no intact image"):
        ImageRecords(path, SIZE, skip_corrupt=True).read_or_next(1, within=range(1, 3))
    damage(path, 0, 3, 4)
    with pytest.raises(UserError, match=r"x\.tfrecord has no intact image"):
        ImageRecords(path, SIZE, skip_corrupt=True)
