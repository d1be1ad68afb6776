"""Parameters from entries of the manifest and from files of the user's own."""

import re

import pytest

from tests.torch_file_writers import SIX, dict_code, tensor_code, write_zip
from utils.errors import UserError
from utils.weights.manifest import Entry, UrlSource, Variant, WeightFile
from utils.weights.params import load_params


@pytest.fixture(autouse=True)
def entry(monkeypatch):
    """An entry of two files without hashes, one with a hash, known as the manifest's only ones."""
    source = (UrlSource("https://example.org/net"),)
    entries = {
        "pair": Entry("pair", "two files", "MIT", ("main.py",), (
            Variant("v", (WeightFile("a.pth"), WeightFile("b.pth")), source),)),
        "pinned": Entry("pinned", "one file", "MIT", ("main.py",), (
            Variant("v", (WeightFile("a.pth", None, "0" * 64),), source),), given_by="--net {file}")}
    monkeypatch.setattr("utils.weights.manifest.load_manifest", lambda: entries)


def convert(state):
    if "a" not in state:
        raise ValueError("missing: a")
    return {name: array.sum() for name, array in state.items()}


def test_the_files_of_an_entry_are_converted_together(tmp_path):
    for name in "ab":
        write_zip(tmp_path / f"{name}.pth", dict_code(**{name: tensor_code()}))
    assert load_params("pair", convert, weights_dir=tmp_path) == {"a": SIX.sum(), "b": SIX.sum()}


def test_a_file_given_by_path_is_not_compared_with_a_hash(tmp_path):
    path = write_zip(tmp_path / "a.pth", dict_code(a=tensor_code()))
    assert load_params(str(path), convert) == {"a": SIX.sum()}
    with pytest.raises(UserError, match=rf"wrong hash.*--net {path}"):
        load_params("pinned", convert, weights_dir=tmp_path)


def test_missing_weights_are_named_with_the_alternative(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth.*download_weights\.py pair .*\. Or leave it out\.$"):
        load_params("pair", convert, weights_dir=tmp_path, alternative="Or leave it out.")


@pytest.mark.parametrize("by_path", [True, False])
def test_weights_of_another_network_are_named_with_what_differs(tmp_path, by_path):
    for name in "ab":
        write_zip(tmp_path / f"{name}.pth", dict_code(other=tensor_code()))
    source = str(tmp_path / "a.pth") if by_path else "pair"
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "a.pth")) + ".*missing: a"):
        load_params(source, convert, weights_dir=tmp_path)
