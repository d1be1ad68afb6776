"""Properties of the readers of others' files: what is written is read, and what is damaged is read right or refused."""

import csv
import io
import json
import math
import re
import resource
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.properties  # noqa: F401  sets Hypothesis up
from tests.file_readers import READERS, examine, same
from utils.data.tfrecords import ImageRecords, write_image_records
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS, read_boxes
from utils.image.io import quantize, read_image, write_png
from utils.weights.ncnn import load_ncnn_convolutions
from utils.weights.npz import read_npz_weights, write_npz_weights

MEMORY_LIMIT = 200 * 2**20  # bytes
EXTREMES = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -2**63)
TOKENS = (b"-1", b"0", b"9" * 400, b"9" * 5000, b"1e999", b"nan", b"\0", b"\n", b'"', b"[" * 2000, b"\xff", b" ", b",",
          b"null", b"..", b"/")
NUMBER = re.compile(rb"-?\d+(\.\d+)?")
SIDES = st.integers(1, 12)
NUMBERS = st.floats(-1e5, 1e5, width=32)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


def drawn_array(seed, shape, dtype):
    """Integers from the whole range of an integer type, or eighths that every float type holds."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "ui":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return (rng.integers(-800, 800, shape) / 8).astype(dtype)


@st.composite
def damaged(draw, seeds):
    """Give one of the sound files with bytes flipped, cut, inserted, repeated or made extreme, and which it was."""
    number = draw(st.integers(0, len(seeds) - 1))
    data = bytearray(seeds[number])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "end", "insert", "extreme", "token", "number", "repeat"]))
        if kind == "flip" and data:
            data[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[place:place + draw(st.integers(1, 40))]
        elif kind == "end":
            del data[place:]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "extreme":
            form = draw(st.sampled_from(["<i", ">i", "<q", ">q", "<h"]))
            size = struct.calcsize(form)
            value = draw(st.sampled_from(EXTREMES)) % 2 ** (8 * size)
            data[place:place + size] = value.to_bytes(size, "little" if form[0] == "<" else "big")
        elif kind == "token":
            data[place:place + draw(st.integers(0, 3))] = draw(st.sampled_from(TOKENS))
        elif kind == "number" and (numbers := [match.span() for match in NUMBER.finditer(data)]):
            start, end = numbers[draw(st.integers(0, len(numbers) - 1))]
            data[start:end] = draw(st.sampled_from(TOKENS))
        elif kind == "repeat":
            data[place:place] = data[place:place + draw(st.integers(1, 60))]
    return number, bytes(data)


def peak_memory():
    """Give the most memory this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_right_or_refused_in_one_line_that_names_it(tmp_path, name):
    reader = READERS[name]
    seeds = reader.make_seeds(tmp_path)
    contents = [examine(reader, data, tmp_path).content for data in seeds]
    refusals, before = [], peak_memory()

    @settings(max_examples=60)
    @given(damaged(seeds))
    def check(case):
        number, data = case
        content, refusal = examine(reader, data, tmp_path)
        if refusal is not None:
            refusals.append(refusal)
        elif reader.unchanged:
            assert same(content, contents[number])
        elif name.startswith("tfrecord") and name != "tfrecord example":
            assert set(content) <= set(contents[number])  # a file cut between two records is a sound one

    check()
    assert len(set(refusals)) > 1
    assert peak_memory() - before < MEMORY_LIMIT


@pytest.mark.parametrize("name", ["boxes json"])
def test_a_field_may_hold_anything(tmp_path, name):
    reader = READERS[name]
    [seed] = reader.make_seeds(tmp_path)
    values = st.sampled_from([10**400, -10**400, math.inf, math.nan, -1, 0, 2**63, 1e300, True, None, [], {}, "", "\n",
                              "\x1b[2J", "\ud800", "..", "/", "9" * 400, "x" * 10**5, [[[[1]]]], {"a": [1]}, "a\0b",
                              "https://[", "https://\u2028", [""] * 100])
    refusals = []

    @settings(max_examples=250)
    @given(st.randoms(use_true_random=False), values)
    def check(random, value):
        tree = json.loads(seed)
        node = tree
        while True:  # down to a field, at random
            key = random.choice(range(len(node)) if isinstance(node, list) else list(node))
            if not isinstance(node[key], (list, dict)) or not node[key] or random.random() < 0.1:
                break
            node = node[key]
        node[key] = value
        refusals.append(examine(reader, json.dumps(tree).encode(), tmp_path).refusal)

    check()
    assert len(set(refusals)) > 10


def test_convolutions_of_any_sizes_come_back_from_ncnn_files(tmp_path):
    convolution = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans(),
                            st.booleans())

    @settings(max_examples=40)
    @given(st.lists(convolution, max_size=4))
    def check(layers):
        lines, data, expected = [], b"", []
        for number, (outputs, inputs, height, width, has_bias, is_half) in enumerate(layers):
            weight = drawn_array(number, (outputs, inputs, height, width), np.float32)
            bias = drawn_array(number + 9, outputs, np.float32) * has_bias
            lines.append(f"Convolution c{number} 1 1 a b 0={outputs} 1={width} 11={height} 5={int(has_bias)} "
                         f"6={weight.size}")
            stored = weight.astype("<f2" if is_half else "<f4").tobytes()
            data += struct.pack("<I", 0x01306B47 if is_half else 0) + stored + bytes(-len(stored) % 4)
            data += bias.tobytes() * has_bias
            expected.append((f"c{number}", weight, bias))
        (tmp_path / "n.param").write_text("\n".join(["7767517", f"{len(lines)} 9", *lines]))
        (tmp_path / "n.bin").write_bytes(data)
        found = load_ncnn_convolutions(tmp_path / "n.param", tmp_path / "n.bin")
        assert [name for name, *_ in found] == [name for name, *_ in expected]
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(left[1], right[1])
            np.testing.assert_array_equal(left[2], right[2])

    check()


def test_any_images_come_back_from_records(tmp_path):
    @settings(max_examples=25)
    @given(SIDES, st.integers(1, 6), st.integers(0, 99))
    def check(size, count, seed):
        images = list(drawn_array(seed, (count, size, size, 3), np.uint8))
        write_image_records(tmp_path / "x.tfrecord", images, size)
        records = ImageRecords(tmp_path / "x.tfrecord", size)
        np.testing.assert_array_equal([records.read(index) for index in range(len(records))], images)

    check()


def test_any_samples_come_back_from_a_written_png(tmp_path):
    @settings(max_examples=40)
    @given(SIDES, SIDES, st.sampled_from([1, 3]), st.sampled_from([np.uint8, np.uint16]), st.booleans(),
           st.integers(0, 99))
    def check(height, width, channels, dtype, has_alpha, seed):
        samples, peak = drawn_array(seed, (height, width, channels), dtype), np.iinfo(dtype).max
        alpha = drawn_array(seed, (height, width), dtype) / np.float32(peak) if has_alpha else None
        write_png(tmp_path / "x.png", samples, alpha=alpha)
        photo = read_image(tmp_path / "x.png")
        assert photo.bit_depth == 8 * samples.dtype.itemsize
        np.testing.assert_array_equal(quantize(photo.pixels, bit_depth=photo.bit_depth),
                                      np.broadcast_to(samples, (height, width, 3)))
        if has_alpha:
            np.testing.assert_allclose(photo.alpha, alpha, atol=1e-7)
        else:
            assert photo.alpha is None

    check()


def test_any_faces_come_back_from_csv_and_json(tmp_path):
    face = st.tuples(NAMES, st.tuples(NUMBERS, NUMBERS, st.floats(0, 1e5), st.floats(0, 1e5)),
                     st.lists(NUMBERS, min_size=10, max_size=10), st.floats(0, 1))

    @settings(max_examples=40)
    @given(st.lists(face, max_size=5))
    def check(faces):
        faces = [(name, [x, y, x + width, y + height], points, score)
                 for name, (x, y, width, height), points, score in faces]
        (tmp_path / "b.json").write_text(json.dumps([
            {"file": name, "box": box, "landmarks": np.reshape(points, (5, 2)).tolist(), "score": score}
            for name, box, points, score in faces]))
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["file", *BOX_COLUMNS, *LANDMARK_COLUMNS, "score"])
        writer.writerows([name, *box, *points, score] for name, box, points, score in faces)
        (tmp_path / "b.csv").write_bytes(text.getvalue().encode())
        for path in (tmp_path / "b.json", tmp_path / "b.csv"):
            found = read_boxes(path)
            assert [(name, *map(np.ndarray.tolist, face[:2]), face.score) for name in found for face in found[name]] \
                == [(name, box, np.reshape(points, (5, 2)).tolist(), score)
                    for key in dict.fromkeys(face[0] for face in faces)
                    for name, box, points, score in faces if name == key]

    check()


def test_any_weights_come_back_from_npz_files_of_any_float_type(tmp_path):
    arrays = st.dictionaries(st.text("abc/_1", min_size=1, max_size=6).filter(lambda name: not name.startswith("/")),
                             st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(["e", "f", "d"]),
                                       st.sampled_from("CF")), max_size=5)

    @settings(max_examples=40)
    @given(arrays)
    def check(layout):
        values = {name: np.asarray(drawn_array(math.prod(shape), shape, kind), order=order)
                  for name, (shape, kind, order) in layout.items()}
        write_npz_weights(tmp_path / "own.npz", values)
        np.savez_compressed(tmp_path / "packed.npz", **values)
        for path in (tmp_path / "own.npz", tmp_path / "packed.npz"):
            found = read_npz_weights(path, holds="net", check=lambda shapes: None)
            assert same(dict(sorted(found.items())),
                        {name: np.asarray(values[name], np.float32, order="C") for name in sorted(values)})

    check()
