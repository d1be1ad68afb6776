"""The framing of TFRecord files: checksums, records of any length, and what damage to headers costs."""

import struct
import tracemalloc

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from utils.data import tfrecord_files
from utils.data.tfrecord_files import DamagedImageError, RecordFile, pack_checksum, record_header
from utils.errors import UserError

RECORDS = [b"", b"123456789", bytes(300), b"ab" * 500]
STARTS = np.cumsum([0] + [16 + len(data) for data in RECORDS])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in RECORDS:
            writer.write(data)
    return path


def opened(path, *, skip_corrupt=False):
    return RecordFile(path, usual_header=record_header(9), skip_corrupt=skip_corrupt)


def edit(path, position, replacement):
    content = path.read_bytes()
    path.write_bytes(content[:position] + replacement + content[position + len(replacement):])


def test_stored_checksum_is_rotated_and_shifted_by_a_constant():
    crc = 0xE3069283  # the check value of CRC-32C: that of 123456789
    rotated = int(f"{crc:032b}"[-15:] + f"{crc:032b}"[:-15], 2)
    assert pack_checksum(crc) == struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def test_checksums_and_headers_are_tensorflows(path):
    content = path.read_bytes()
    assert content[STARTS[1]:STARTS[1] + 12] == record_header(9)
    assert content[STARTS[2] - 4:STARTS[2]] == pack_checksum(0xE3069283)


def test_records_of_any_length_are_found_and_read_in_any_order(path):
    file = opened(path)
    np.testing.assert_array_equal(file.offsets, STARTS[:-1] + 12)
    np.testing.assert_array_equal(file.lengths, [len(data) for data in RECORDS])
    for index in (3, 0, 2, 1, 1):
        assert file.read(index) == RECORDS[index]


def test_damage_is_placed_by_number_and_byte(path):
    edit(path, STARTS[2] + 100, b"x")
    file = opened(path)
    assert file.place(2) == f"image 2 (at byte {STARTS[2]})"
    with pytest.raises(DamagedImageError, match=rf"x.tfrecord is damaged: image 2 \(at byte {STARTS[2]}\) has data"):
        file.read(2)
    assert file.read(3) == RECORDS[3]


def test_length_that_its_checksum_contradicts_ends_reading_or_is_searched_over(path):
    edit(path, STARTS[2], b"\x07")
    with pytest.raises(UserError, match=rf"image 2 \(at byte {STARTS[2]}\) has a header that its checksum contradicts"):
        opened(path)
    file = opened(path, skip_corrupt=True)  # no later record is as long as the last intact one
    assert [file.read(index) for index in range(len(file.offsets))] == RECORDS[:2]
    assert len(file.faults) == 1


def test_file_cut_in_a_record_keeps_those_before_it(path):
    path.write_bytes(path.read_bytes()[:STARTS[3] + 500])
    with pytest.raises(UserError, match=rf"is truncated: image 3 \(at byte {STARTS[3]}\) lacks 516 bytes"):
        opened(path)
    file = opened(path, skip_corrupt=True)
    assert [file.read(index) for index in range(len(file.offsets))] == RECORDS[:3]
    assert (file.num_lost, len(file.faults)) == (1, 1)


def test_a_file_of_headers_alone_is_given_up_in_time_and_one_of_empty_records_read(tmp_path):
    (tmp_path / "x").write_bytes(record_header(21) * 100_000)  # each of them is found, behind one that is damaged
    with pytest.raises(UserError, match=r"x is damaged in more than 1000 places\. Fetch or make it again"):
        opened(tmp_path / "x", skip_corrupt=True)
    empty = record_header(0) + pack_checksum(0)
    (tmp_path / "x").write_bytes(empty * 100_000)
    tracemalloc.start()
    file = opened(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(file.offsets, 16 * np.arange(100_000) + 12)
    assert peak < 5 * 2**20  # two numbers of 8 bytes for each, twice


def test_search_for_the_next_header_crosses_its_chunks(tmp_path, monkeypatch):
    records = [bytes([number]) * 65 for number in range(5)]
    content = b"".join(record_header(65) + data + pack_checksum(google_crc32c.value(data)) for data in records)
    (tmp_path / "x").write_bytes(content[:81] + bytes(2 * 81) + content[3 * 81:])
    for chunk in range(1, 60):
        monkeypatch.setattr(tfrecord_files, "SEARCH_CHUNK", chunk)
        file = opened(tmp_path / "x", skip_corrupt=True)
        assert [file.read(index) for index in range(len(file.offsets))] == [records[0], records[3], records[4]]
        assert file.num_lost == 2
