"""The variants of the evaluation are what test.py writes, given other faces or flags."""

import copy
import csv
import shutil

import numpy as np
import pytest

import model.super_resolver
from model.masknet import masknet_shapes
from model.super_resolver import SuperResolver
from tests.helpers.reference_weights import draw
from tests.helpers.small_networks import small_generator
from tests.helpers.workplace import Workplace, cli
from utils.evaluation.photos import KINDS, LEGACY, ORACLE, RESTORED
from utils.evaluation.runner import VariantRunner, find_partners
from utils.evaluation.variants import BASE, MODEL, VARIANTS
from utils.image.io import quantize, read_image
from utils.image.resizing import resize_bicubic
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint


def tiny_masknet():
    params = {name: draw(name, shape, 0.3) for name, shape in masknet_shapes(4).items()}
    return params | {"conv8/bias": np.full(1, 0.5, np.float32)}


def base_generator():
    params = small_generator()
    return params | {"conv_last/bias": params["conv_last/bias"] + np.float32(0.1)}


@pytest.fixture
def place(tmp_path):
    """Photos a and b with faces, c without; the oracle's and the legacy faces are others than the restored ones."""
    place = Workplace(tmp_path)
    write_tf1_checkpoint(tmp_path / "model-new", checkpoint_tensors(small_generator(), tiny_masknet()))
    place.add_photo("a.png", seed=1, faces=2)
    place.add_photo("b.png", seed=2, faces=1)
    place.add_photo("c.png", seed=3, faces=0)
    for kind in KINDS:
        for name in ("Face_LQ", "Face_HQ"):
            shutil.copytree(tmp_path / "data" / name, tmp_path / "set" / "faces" / kind / name)
    hq = tmp_path / "set" / "faces"
    shutil.copy(hq / RESTORED / "Face_HQ" / "b_0.png", hq / ORACLE / "Face_HQ" / "a_0.png")
    shutil.copy(hq / RESTORED / "Face_HQ" / "a_1.png", hq / ORACLE / "Face_HQ" / "b_0.png")
    shutil.copy(hq / RESTORED / "Face_HQ" / "a_1.png", hq / LEGACY / "Face_HQ" / "a_0.png")
    return place


@pytest.fixture(scope="module")
def networks():
    return {MODEL: SuperResolver(small_generator(), tiny_masknet()), BASE: SuperResolver(base_generator())}


def make_runner(place, networks, names):
    photos = sorted(place.lq.iterdir())
    return VariantRunner(names, place.root / "set", networks, photos=photos, seed=0, learning_rate=0.01,
                         people={photo.stem: [] for photo in photos})


def run(place, networks, *names, stems="abc"):
    runner = make_runner(place, networks, names)
    return [line for photo in runner.photos if photo.stem in stems for line in runner.run(photo, lambda _: None)]


def result(place, name, stem="a"):
    return (place.root / "set" / name / f"{stem}.png").read_bytes()


def expected(place, *flags, stem="a", faces=RESTORED):
    """What test.py writes of this photo with these faces."""
    out = place.root / "expected"
    arguments = place.arguments(*flags, "--overwrite", "--check_faces", "off", out=out)
    arguments[arguments.index("--input_dir") + 1] = str(place.lq / f"{stem}.png")
    arguments[arguments.index("--face_dir") + 1] = str(place.root / "set" / "faces" / faces)
    assert cli.main(arguments) == 0
    return (out / f"{stem}.png").read_bytes()


@pytest.fixture
def traced(networks, monkeypatch):
    """Let test.py take the networks that are traced already: tracing takes most of its time here."""
    def resolver(generator, mask, **_):
        taken = copy.copy(networks[MODEL])
        taken.set_weights(generator, mask)
        return taken

    monkeypatch.setattr(model.super_resolver, "SuperResolver", resolver)


@pytest.mark.usefixtures("traced")
def test_variants_equal_what_test_py_writes_bit_for_bit(place, networks):
    assert run(place, networks, *VARIANTS, stems="a") == []
    assert result(place, "adapted") == expected(place)
    assert result(place, "unadapted") == expected(place, "--fine_tune_num", "0")
    photo = read_image(place.lq / "a.png").pixels
    np.testing.assert_array_equal(quantize(read_image(place.root / "set" / "bicubic" / "a.png").pixels),
                                  quantize(resize_bicubic(photo, 4 * photo.shape[0], 4 * photo.shape[1])))
    assert result(place, "adapted-2") == expected(place, "--fine_tune_num", "2")
    assert result(place, "adapted-5") == expected(place, "--fine_tune_num", "5")
    assert result(place, "4-patches") == expected(place, "--patch_num_per_img", "4")
    assert result(place, "safeguard") == expected(place, "--safeguard", "backtrack")
    assert result(place, "oracle") == expected(place, faces=ORACLE)
    assert result(place, "legacy-alignment") == expected(place, faces=LEGACY)
    write_tf1_checkpoint(place.root / "model-new", checkpoint_tensors(small_generator()))
    assert result(place, "no-masknet") == expected(place)
    write_tf1_checkpoint(place.root / "model-new", checkpoint_tensors(base_generator()))
    assert result(place, "base") == expected(place, "--fine_tune_num", "0")
    assert len({result(place, name) for name in VARIANTS}) == len(VARIANTS)


@pytest.mark.usefixtures("traced")
def test_the_control_is_adapted_to_the_next_photos_faces(place, networks):
    run(place, networks, "other-faces", "other-oracle", "unadapted")
    for name, kind in (("other-faces", RESTORED), ("other-oracle", ORACLE)):
        before = {stem: result(place, name, stem) for stem in "abc"}
        faces = place.root / "set" / "faces" / kind
        for folder in ("Face_LQ", "Face_HQ"):  # of b, a gets them; a's go to b
            own = {path.name: path.read_bytes() for path in (faces / folder).iterdir()}
            for path in (faces / folder).iterdir():
                path.unlink()
            for file, content in own.items():
                (faces / folder / f"{'b' if file[0] == 'a' else 'a'}{file[1:]}").write_bytes(content)
        for stem in "ab":
            assert before[stem] == expected(place, stem=stem, faces=kind)
        assert before["c"] == result(place, "unadapted", "c")


def test_photos_without_faces_are_unadapted_in_every_variant(place, networks):
    runner = make_runner(place, networks, [])
    assert runner.num_faces == {"a": 2, "b": 1, "c": 0}
    assert runner.partners == {"a": "b", "b": "a"}
    run(place, networks, *VARIANTS, stems="c")
    assert {result(place, name, "c") for name in VARIANTS if name not in ("bicubic", "base")} == {
        result(place, "unadapted", "c")}


PARTNERS = [  # by number of faces and people of each photo, in order
    ({"a": 1, "b": 2, "c": 1, "d": 2, "e": 0}, {}, {"a": "c", "b": "d", "c": "a", "d": "b"}),
    ({"a": 1, "b": 1, "c": 1}, {}, {"a": "b", "b": "c", "c": "a"}),
    ({"a": 1, "b": 0, "c": 3, "d": 2}, {}, {"a": "c", "c": "d", "d": "a"}),
    ({"a": 1, "b": 1, "c": 1}, {"a": ["x"], "b": ["x", "y"]}, {"a": "c", "b": "c", "c": "a"}),
    ({"a": 1, "b": 1, "c": 2}, {"a": ["x"], "b": ["x"]}, {"a": "c", "b": "c", "c": "a"}),
    ({"a": 1, "b": 2, "c": 1}, {"a": ["x"], "b": ["x"], "c": ["x"]}, {"a": "c", "b": "c", "c": "a"}),
    ({"a": 1, "b": 0}, {}, {})]


@pytest.mark.parametrize(("num_faces", "people", "partners"), PARTNERS)
def test_partners_have_other_people_and_if_possible_as_many_faces(num_faces, people, partners):
    assert find_partners(num_faces, {stem: people.get(stem, []) for stem in num_faces}) == partners


def rows_of(place):
    with (place.root / "set" / "variants.csv").open(newline="") as file:
        return {(row["file"], row["variant"]): row for row in csv.DictReader(file)}


def test_a_control_whose_partner_has_changed_is_made_again(place, networks):
    run(place, networks, "adapted", "other-faces")
    assert {key: row["faces_of"] for key, row in rows_of(place).items()} == {
        ("a.png", "adapted"): "a", ("a.png", "other-faces"): "b", ("b.png", "adapted"): "b",
        ("b.png", "other-faces"): "a", ("c.png", "adapted"): "", ("c.png", "other-faces"): ""}
    for name in ("adapted", "other-faces"):
        for stem in "abc":
            (place.root / "set" / name / f"{stem}.png").write_bytes(b"mine")
    for kind in KINDS:  # c gets b's face, and so is b's and a's next with as many
        for name in ("Face_LQ", "Face_HQ"):
            folder = place.root / "set" / "faces" / kind / name
            shutil.copy(folder / "b_0.png", folder / "c_0.png")
    assert make_runner(place, networks, []).partners == {"a": "b", "b": "c", "c": "b"}
    run(place, networks, "adapted", "other-faces")
    assert result(place, "other-faces", "a") == result(place, "adapted", "a") == b"mine"
    assert result(place, "other-faces", "b") != b"mine"
    assert result(place, "other-faces", "c") != b"mine"
    assert result(place, "adapted", "b") == b"mine"
    assert rows_of(place)["b.png", "other-faces"]["faces_of"] == "c"


def test_a_result_that_fails_is_named_and_stops_nothing(place, networks):
    (place.root / "set" / "faces" / ORACLE / "Face_HQ" / "a_0.png").write_bytes(b"no picture")
    [line] = run(place, networks, "oracle", "adapted")
    assert "a.png oracle: cannot read the image" in line
    assert (place.root / "set" / "adapted" / "a.png").exists()
    assert (place.root / "set" / "oracle" / "b.png").exists()
    assert not (place.root / "set" / "oracle" / "a.png").exists()


def test_each_network_is_traced_once_for_all_variants(place, networks):
    run(place, networks, "base", "adapted", "no-masknet", "safeguard", stems="ab")
    assert networks[MODEL].num_traces() == 4  # forward, loss, gradient, MaskNet
    assert networks[BASE].num_traces() == 1
