"""An evaluation goes on with the same settings only."""

import json

import numpy as np
import pytest

from utils.errors import UserError
from utils.evaluation.settings import FORMAT, SETTINGS, check_settings, digest_params, digest_sources
from utils.image.listing import Source

OURS = {"seed": 0, "scenes": [["a.png", "12"]]}


def begin(folder, settings=OURS, *, made=("iid",), overwrite=False):
    check_settings(folder / SETTINGS, settings, [folder / name for name in made if (folder / name).exists()],
                   overwrite=overwrite)


def test_the_same_settings_keep_what_is_there(tmp_path):
    begin(tmp_path)
    (tmp_path / "iid").mkdir()
    begin(tmp_path, {"seed": 0, "scenes": [("a.png", "12")]})
    assert (tmp_path / "iid").exists()
    assert json.loads((tmp_path / SETTINGS).read_text()) == {"format": FORMAT, **OURS}


def test_other_settings_are_an_error_and_are_named(tmp_path):
    begin(tmp_path)
    (tmp_path / "iid").mkdir()
    with pytest.raises(UserError, match=r"other settings \(seed\)\. Give the same ones, --overwrite"):
        begin(tmp_path, {**OURS, "seed": 1})
    with pytest.raises(UserError, match=r"\(seed, scenes\)"):
        begin(tmp_path, {"seed": 2, "scenes": []})
    with pytest.raises(UserError, match=r"\(scenes\)"):
        begin(tmp_path, {"seed": 0})
    assert json.loads((tmp_path / SETTINGS).read_text()) == {"format": FORMAT, **OURS}


def test_results_of_another_format_are_an_error(tmp_path):
    (tmp_path / SETTINGS).write_text(json.dumps(OURS))
    (tmp_path / "iid").mkdir()
    with pytest.raises(UserError, match=r"\(format\)"):
        begin(tmp_path)


def test_overwriting_removes_results_and_nothing_else(tmp_path):
    begin(tmp_path)
    for name in ("iid", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "table.md").write_text("of other settings")
    begin(tmp_path, {**OURS, "seed": 1}, made=("iid", "table.md"), overwrite=True)
    assert not (tmp_path / "table.md").exists()
    assert not (tmp_path / "iid").exists()
    assert (tmp_path / "mine").exists()
    assert json.loads((tmp_path / SETTINGS).read_text())["seed"] == 1


def test_folders_that_no_evaluation_made_are_left_alone(tmp_path):
    (tmp_path / "iid").mkdir()
    with pytest.raises(UserError, match=r"iid exists without .*evaluation\.json"):
        begin(tmp_path, overwrite=True)
    assert (tmp_path / "iid").exists()


def test_damaged_settings_are_an_error(tmp_path):
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(UserError, match=r"evaluation\.json is damaged"):
        begin(tmp_path)


def test_what_no_result_depends_on_agrees_with_anything(tmp_path):
    (tmp_path / "iid").mkdir()
    (tmp_path / SETTINGS).write_text(json.dumps({"format": FORMAT, **OURS, "base": None}))
    begin(tmp_path, {**OURS, "base": "abc"})
    begin(tmp_path, {**OURS, "base": None})  # as the row is not asked for
    assert json.loads((tmp_path / SETTINGS).read_text())["base"] == "abc"
    with pytest.raises(UserError, match=r"\(base\)"):
        begin(tmp_path, {**OURS, "base": "def"})
    begin(tmp_path, {**OURS, "base": "def"}, made=())  # nothing is left that was made
    assert json.loads((tmp_path / SETTINGS).read_text())["base"] == "def"
    begin(tmp_path, {**OURS, "base": None}, overwrite=True)
    assert json.loads((tmp_path / SETTINGS).read_text())["base"] is None


def test_digests_tell_contents_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    sources = [Source("inner/a", tmp_path / "a", 3), Source("b", tmp_path / "missing", 3)]
    assert digest_sources(sources) == [
        ["inner/a", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"], ["b", "unreadable"]]
    params = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    digests = {digest_params(params), digest_params({"b": params["b"], "a": params["a"]})}
    assert len(digests) == 1
    for other in ({**params, "a": params["a"].reshape(3, 2)}, {**params, "b": params["b"] * 2},
                  {"a": params["a"], "c": params["b"]}):
        assert digest_params(other) not in digests
