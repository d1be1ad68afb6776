"""An evaluation goes on with the same settings only."""

import json

import numpy as np
import pytest

from utils.errors import UserError
from utils.evaluation.settings import FORMAT, check_settings, digest_params, digest_sources
from utils.image.listing import Source

OURS = {"seed": 0, "scenes": [["a.png", "12"]]}


def begin(folder, settings=OURS, *, overwrite=False):
    check_settings(folder / "settings.json", settings, ["iid"], overwrite=overwrite)
    return json.loads((folder / "settings.json").read_text())


def test_the_same_settings_keep_results_and_others_are_named(tmp_path):
    begin(tmp_path)
    begin(tmp_path, {**OURS, "seed": 1})  # nothing was made yet
    begin(tmp_path)
    (tmp_path / "iid").mkdir()
    begin(tmp_path, {"seed": 0, "scenes": [("a.png", "12")]})
    assert (tmp_path / "iid").exists()
    for settings, named in (({**OURS, "seed": 1}, r"\(seed\)"), ({"seed": 2, "scenes": []}, r"\(seed, scenes\)"),
                            ({**OURS, "format": 1}, r"\(format\)")):
        with pytest.raises(UserError, match=named):
            begin(tmp_path, settings)
    assert begin(tmp_path) == {"format": FORMAT, **OURS}


def test_overwriting_removes_results_and_nothing_else(tmp_path):
    begin(tmp_path)
    for name in ("iid", "mine"):
        (tmp_path / name).mkdir()
    assert begin(tmp_path, {**OURS, "seed": 1}, overwrite=True)["seed"] == 1
    assert not (tmp_path / "iid").exists()
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("content", [None, "{", '{"editor.tabSize": 4}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_that_no_evaluation_made_are_left_alone(tmp_path, content, overwrite):
    (tmp_path / "iid").mkdir()
    if content:
        (tmp_path / "settings.json").write_text(content)
    with pytest.raises(UserError, match=r"settings\.json"):
        begin(tmp_path, overwrite=overwrite)
    assert (tmp_path / "iid").exists()
    assert not content or (tmp_path / "settings.json").read_text() == content


def test_what_one_run_did_not_need_may_be_anything_and_is_remembered(tmp_path):
    begin(tmp_path)
    (tmp_path / "iid").mkdir()
    begin(tmp_path, {**OURS, "base": "abc"})
    assert begin(tmp_path)["base"] == "abc"
    with pytest.raises(UserError, match=r"\(base\)"):
        begin(tmp_path, {**OURS, "base": "def"})


def test_digests_depend_on_contents(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    sources = [Source("inner/a", tmp_path / "a"), Source("b", tmp_path / "missing")]
    assert digest_sources(sources) == [
        ["inner/a", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"], ["b", "unreadable"]]
    params = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    digests = {digest_params(params), digest_params({"b": params["b"], "a": params["a"]})}
    assert len(digests) == 1
    for other in ({**params, "a": params["a"].reshape(3, 2)}, {**params, "b": params["b"] * 2},
                  {"a": params["a"], "c": params["b"]}):
        assert digest_params(other) not in digests
