"""The manifest's facts, and finding and checking weight files."""

import hashlib

import pytest

from utils.errors import UserError
from utils.weights import manifest as module
from utils.weights.manifest import (
    Entry,
    FileSet,
    PackageSource,
    State,
    UrlSource,
    WeightFile,
    find_weights,
    load_manifest,
    verify,
)

BODY = b"weights"
SHA256 = hashlib.sha256(BODY).hexdigest()
MANIFEST = load_manifest()
OWN = [name for name, entry in MANIFEST.items() if entry.in_repository]


def test_every_file_has_a_source_and_every_address_is_encrypted():
    for entry in MANIFEST.values():
        assert entry.licence
        for file_set in entry.file_sets:
            sources = file_set.sources
            assert all(set(file.sha256) <= set("0123456789abcdef") for file in file_set.files)
            assert all(len(source.sha256) == 64 for source in sources if isinstance(source, PackageSource))
            assert all(source.url.startswith("https://") for source in sources if isinstance(source, UrlSource))
            assert all(any(source.provides(file.name) for source in sources) for file in file_set.files) \
                or (not sources and (entry.by_hand or entry.in_repository))
    assert [name for name, entry in MANIFEST.items() if entry.manual] == ["metaf2n"]
    assert all("non-commercial" in MANIFEST[name].licence for name in ("gpen-256", "gpen-512"))


@pytest.fixture
def entry(monkeypatch):
    """An entry of two file_sets, known as the manifest's only one."""
    entry = Entry("net", "a network", "MIT", ("main.py", "test.py"), (
        FileSet("float32", (WeightFile("net.pth", len(BODY), SHA256),), (UrlSource("https://example.org/net"),)),
        FileSet("half", (WeightFile("net.param", None, SHA256[:8]), WeightFile("net.bin")),
                (UrlSource("https://example.org/net2"),))), given_by="--net {file}")
    monkeypatch.setattr(module, "load_manifest", lambda: {"net": entry})
    return entry


def test_the_first_complete_variant_is_found(entry, tmp_path):
    for name in ("net.param", "net.bin"):
        (tmp_path / name).write_bytes(BODY)
    assert find_weights("net", tmp_path) == {"net.param": tmp_path / "net.param", "net.bin": tmp_path / "net.bin"}
    (tmp_path / "net.pth").write_bytes(BODY)
    assert find_weights("net", str(tmp_path)) == {"net.pth": tmp_path / "net.pth"}


def test_a_missing_file_is_named_with_what_needs_it_and_the_command_that_gets_it(entry, tmp_path):
    folder = tmp_path / "my weights"
    with pytest.raises(UserError) as caught:
        find_weights("net", folder)
    for part in ("net.pth", "net.param", "net.bin", "main.py, test.py",
                 f"python scripts/download_weights.py net --weights_dir '{folder}'"):
        assert part in str(caught.value)
    assert "--net " not in str(caught.value)


@pytest.mark.parametrize(("name", "alternative"), [
    ("retinaface", "--detector mtcnn"), ("gpen-512", "--restorer rrdb-face"), ("realesrgan", "metaf2n-small")])
def test_what_is_missing_is_named_with_what_needs_no_download(name, alternative, tmp_path):
    with pytest.raises(UserError) as caught:
        find_weights(name, tmp_path)
    assert caught.value.entry == MANIFEST[name]
    assert alternative in str(caught.value)


@pytest.mark.parametrize("body", [BODY[:3], BODY[::-1]])
def test_another_file_under_the_managed_name_is_not_used_and_the_message_says_how_to_use_it(entry, tmp_path, body):
    (tmp_path / "net.pth").write_bytes(body)
    with pytest.raises(UserError, match=rf"^{tmp_path / 'net.pth'}: .*download_weights\.py net .*"
                                        rf"--net {tmp_path / 'net.pth'}$"):
        find_weights("net", tmp_path)


def test_without_a_folder_the_repositorys_is_used_whatever_the_current_one_is(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "DEFAULT_WEIGHTS_DIR", tmp_path / "default")
    with pytest.raises(UserError, match=r"default .*download_weights\.py net$"):
        find_weights("net")
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "net.pth").write_bytes(BODY)
    assert find_weights("net") == {"net.pth": tmp_path / "default" / "net.pth"}


def test_the_published_checkpoint_is_looked_for_in_pretrained_models(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    with pytest.raises(UserError, match=rf"model-new\.index .*https://drive.*{tmp_path}/pretrained_models$"):
        find_weights("metaf2n", tmp_path)
    (tmp_path / "pretrained_models").mkdir()
    files = [file.name for file in MANIFEST["metaf2n"].file_sets[0].files]
    for name in files:
        (tmp_path / "pretrained_models" / name).write_bytes(BODY)
    assert list(find_weights("metaf2n", tmp_path)) == files


@pytest.mark.parametrize("own", OWN)
def test_what_is_part_of_the_repository_is_there_and_verified(tmp_path, monkeypatch, own):
    [(name, path)] = find_weights(own, tmp_path).items()
    assert path == module.REPOSITORY / "pretrained_models" / name
    [file] = MANIFEST[own].file_sets[0].files
    assert (verify(file, path), len(file.sha256)) == (State.VERIFIED, 64)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    with pytest.raises(UserError, match=rf"git -C {tmp_path} checkout -- pretrained_models/{name}$"):
        find_weights(own)


def test_an_unknown_name_gets_a_suggestion(entry):
    with pytest.raises(UserError, match=r"'nett'.*'net'"):
        find_weights("nett")


@pytest.mark.parametrize(("body", "file", "state"), [
    (BODY, WeightFile("f", len(BODY), SHA256), State.VERIFIED),
    (BODY, WeightFile("f", None, SHA256[:8]), State.VERIFIED),
    (BODY, WeightFile("f", len(BODY)), State.UNHASHED),
    (BODY[:-1], WeightFile("f", len(BODY), SHA256), State.WRONG_SIZE),
    (b"", WeightFile("f"), State.WRONG_SIZE),
    (BODY[::-1], WeightFile("f", len(BODY), SHA256), State.WRONG_HASH),
    (None, WeightFile("f"), State.MISSING),
])
def test_every_state_of_a_file_is_recognised(tmp_path, body, file, state):
    if body is not None:
        (tmp_path / "f").write_bytes(body)
    assert verify(file, tmp_path / "f") is state
    assert verify(file, tmp_path) is State.MISSING  # a folder
