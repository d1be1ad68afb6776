"""Files made to exhaust whoever reads them: refused by name within a second and 200 MiB.

All of them are read by one process that may not have more memory than that, whoever asks for it.
"""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.torch_file_writers import MAGIC, SIX, dict_code, literal, storage_code, tensor_code, write_legacy, write_zip

ROOT = Path(__file__).parents[3]
MEMORY_LIMIT, TIME_LIMIT = 200 * 2**20, 1.0  # bytes; CPU seconds
READ_ALL = """
import json, resource, sys, time
from utils.errors import UserError
from utils.weights.torch_files import load_torch_file

with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
for path in sys.argv[2:]:
    started = time.process_time()
    try:
        outcome = "read: " + " ".join(load_torch_file(path))[:80]
    except UserError as error:
        outcome = str(error)
    print(json.dumps([path, outcome, time.process_time() - started]), flush=True)
"""
W = literal("w")


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_entries(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            archive.writestr(name, content)
    return path


SOUND = ("archive/data.pkl", dict_code(w=tensor_code())), ("archive/data/0", SIX.tobytes())


def write_with_a_long_directory(path, count=150_000):
    """A zip archive whose table of contents lists one part under many names."""
    write_entries(path, SOUND)
    content = path.read_bytes()
    at = content.rfind(b"PK\x01\x02")
    end = content.rfind(b"PK\x05\x06")
    entry = bytearray(content[at:end])
    directory = content[content.find(b"PK\x01\x02"):end]
    name_at = entry.find(b"archive/data/0")
    entry[28:30] = struct.pack("<H", 20)
    parts = [bytes(entry[:name_at]) + f"archive/data/{index:07d}".encode() + bytes(entry[name_at + 14:])
             for index in range(count)]
    directory += b"".join(parts)
    start = content.find(b"PK\x01\x02")
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count % 65536, count % 65536, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + tail)
    return path


def write_overlapping(path, size=2**20, count=40):
    """A zip archive, all of whose storages are the same bytes."""
    names = {f"w{index}": tensor_code(storage_code(size, "ByteStorage", str(index)), 0, (1,)) for index in range(count)}
    write_entries(path, [("archive/data.pkl", dict_code(**names)), ("archive/data/00", bytes(size))])
    content = path.read_bytes()
    at, end = content.rfind(b"PK\x01\x02"), content.rfind(b"PK\x05\x06")
    entries = [content[at:end].replace(b"archive/data/00", f"archive/data/{index:02d}".encode())
               for index in range(count)]
    start = content.find(b"PK\x01\x02")
    directory = content[start:at] + b"".join(entries)
    path.write_bytes(content[:start] + directory + struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, count + 1, count + 1, len(directory), start, 0))
    return path


def call(function, *arguments):
    return pickle.dumps({"w": Calls(function, *arguments)}, 2)


def memo_doubling(make):
    """Each level holds the last one twice, through the memo: 2**40 entries in 40 steps."""
    return b"\x80\x02}" + W + b"N" + b"".join(b"r" + struct.pack("<I", level) + b"0" + make(level)
                                              for level in range(40)) + b"s."


def get(level):
    return b"j" + struct.pack("<I", level)


PICKLES = {  # name -> pickle, what the refusal says
    "os.system": (call(os.system, "true"), r"refuses to load \w+\.system,"),
    "eval": (call(eval, "1"), r"refuses to load .*builtin.*\.eval,"),
    "a call of any global": (call(os.path.join, "a", "b"), r"refuses to load \w+path\.join,"),
    "a global made of pieces": (b"\x80\x04}" + W + b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85Rs.",
                                r"refuses to load os\.system,"),
    "billion laughs in tuples": (memo_doubling(lambda level: get(level) * 2 + b"\x86"), "repeats itself without end"),
    "billion laughs in lists": (memo_doubling(lambda level: b"](" + get(level) * 2 + b"e"),
                                "repeats itself without end"),
    "billion laughs in dictionaries": (memo_doubling(lambda level: b"}(" + literal("a") + get(level) + literal("b")
                                                     + get(level) + b"u"), "repeats itself without end"),
    "a memo filled without end": (b"\x80\x02}" + b"".join(b"}r" + struct.pack("<I", index) for index in range(250_000))
                                  + b".", "far longer than that of a weight file"),
    "a stack filled without end": (b"\x80\x02" + b"]" * 500_000 + b".", "far longer than that of a weight file"),
    "lists in lists": (b"\x80\x02}" + W + b"]" * 140_000 + b"a" * 139_999 + b"s.", "nested too deeply"),
    "tensors of nothing without end": (b"\x80\x02}" + W + b"](" + tensor_code(None, 0, (0,) * 32, (0,) * 32)
                                       + b"2" * 150_000 + b"es.", "repeats itself without end"),
    "tensors of one element without end": (b"\x80\x02}" + W + b"](" + tensor_code(None, 0, (1,) * 32, (0,) * 32)
                                           + b"2" * 150_000 + b"es.", "repeats itself without end"),
    "a text of 2 GiB": (b"\x80\x04}\x8d" + (2**31).to_bytes(8, "little") + b"w.", "but only .* remain"),
    "a number of 2 GiB": (b"\x80\x02}\x8b" + (2**31 - 1).to_bytes(4, "little") + b"1.", "not enough data"),
    "more elements than addresses": (dict_code(w=tensor_code(None, 0, (2**40, 2**40, 0), (1, 1, 1))),
                                     "larger than any memory"),
    "a tensor far larger than its numbers": (dict_code(w=tensor_code(None, 0, (2**40, 2**20), (0, 0))),
                                             "expand to more than 64 MiB"),
    "negative strides": (dict_code(w=tensor_code(None, 5, (6,), (-1,))), "impossible shape, stride or offset"),
    "a storage larger than the file": (dict_code(w=tensor_code(storage_code(2**34), 0, (2,))),
                                       "does not have the stated 17179869184 elements"),
}
FILES = {  # name -> what writes it, what the refusal says
    "a part outside": (lambda path: write_entries(path, [*SOUND, ("archive/../../etc/passwd", b"x")]),
                       r"part archive/\.\./\.\./etc/passwd lies outside"),
    "data.pkl outside": (lambda path: write_entries(path, [("../data.pkl", SOUND[0][1])]),
                         r"part \.\./data\.pkl lies outside"),
    "an absolute part": (lambda path: write_entries(path, [*SOUND, ("/etc/passwd", b"x")]),
                         "part /etc/passwd lies outside"),
    "a part with backslashes": (lambda path: write_entries(path, [*SOUND, ("archive\\..\\..\\x", b"x")]),
                                "lies outside"),
    "two data.pkl": (lambda path: write_entries(path, [*SOUND, SOUND[0]]), r"part archive/data\.pkl is there twice"),
    "one storage twice": (lambda path: write_entries(path, [*SOUND, SOUND[1]]), "part archive/data/0 is there twice"),
    "a pickle of zeros, compressed": (lambda path: write_entries(path, [
        ("archive/data.pkl", b"\x80\x02" + bytes(2**26)), SOUND[1]], zipfile.ZIP_DEFLATED), "is compressed"),
    "a storage of zeros, compressed": (lambda path: write_entries(path, [
        SOUND[0], ("archive/data/0", bytes(2**26))], zipfile.ZIP_DEFLATED), "is compressed"),
    "storages that overlap": (write_overlapping, "larger than the file, or overlap"),
    "a table of contents without end": (write_with_a_long_directory, "table of contents is far larger"),
    "a long platform": (lambda path: path.write_bytes(pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + b"\x80\x02}"
                                                      + b"N0" * 200_000 + b".") and path,
                        "far longer than that of a weight file"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of every file, and the CPU seconds it took, by its name."""
    folder, paths = tmp_path_factory.mktemp("hostile"), {}
    for name, (code, _) in PICKLES.items():
        paths["zip", name] = write_zip(folder / f"{len(paths)}.pth", code)
        storages = None if b"storage" in code else {}
        paths["legacy", name] = write_legacy(folder / f"{len(paths)}.pth", code, storages)
    for name, (write, _) in FILES.items():
        paths["file", name] = write(folder / f"{len(paths)}.pth")
    run = subprocess.run([sys.executable, "-c", READ_ALL, str(MEMORY_LIMIT), *map(str, paths.values())], cwd=ROOT,
                         env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    found = {path: (outcome, seconds) for path, outcome, seconds in map(json.loads, run.stdout.splitlines())}
    return {key: (path, *found[str(path)]) for key, path in paths.items()}


def refused(outcome, message):
    path, text, seconds = outcome
    assert re.search(message, text), text
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    assert seconds < TIME_LIMIT


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_hostile_pickle_is_refused_by_name_in_a_second_and_200_mib(outcomes, kind, name):
    refused(outcomes[kind, name], PICKLES[name][1])


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_archive_is_refused_by_name_in_a_second_and_200_mib(outcomes, name):
    refused(outcomes["file", name], FILES[name][1])


def test_the_limit_of_memory_is_one(tmp_path):
    size = MEMORY_LIMIT
    path = tmp_path / "large.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dict_code(w=tensor_code(storage_code(size, "ByteStorage"), 0, (size,))))
        with archive.open("archive/data/0", "w") as part:
            for _ in range(size // 2**20):
                part.write(np.zeros(2**20, np.uint8).tobytes())
    run = subprocess.run([sys.executable, "-c", READ_ALL, str(MEMORY_LIMIT), str(path)], cwd=ROOT, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    assert "there is not enough memory for it" in run.stdout
