"""Restorers behind one interface."""

import hashlib
import io
import os
import zipfile

import cv2
import numpy as np
import pytest
import skimage.data
import tensorflow as tf

import utils.face.restorers as module
import utils.weights.state_dicts as weights
from model.face_restorer import face_restorer
from model.gpen import GpenArchitecture, gpen, gpen_params_from_torch, init_gpen
from tests.reference_faces import reference_gpen_state
from tests.reference_restorer import small_restorer
from tests.small_networks import small_generator
from tests.torch_file_writers import dict_code, tensor_code, write_zip
from utils.errors import UserError
from utils.face.restorers import (
    compile_face_restorer,
    compile_gpen,
    load_face_restorer,
    open_restorer,
    restorer_label,
    save_face_restorer,
)

SMALL = GpenArchitecture(size=64, channel_multiplier=1, narrow=0.0625)


@pytest.fixture(scope="module")
def faces():
    photo = skimage.data.astronaut()
    return np.stack([photo, photo[::-1], photo.swapaxes(0, 1)])


def test_faces_are_shrunk_restored_rounded_and_enlarged(faces):
    params = init_gpen(0, SMALL)
    restored = compile_gpen(params)(faces)
    assert (restored.shape, restored.dtype) == (faces.shape, np.uint8)
    small = faces.reshape(3, 64, 8, 64, 8, 3).mean(axis=(2, 4))
    expected = np.rint(np.clip(gpen(params, (np.rint(small) / 255).astype(np.float32)), 0, 1) * 255)
    shrunk = restored.reshape(3, 64, 8, 64, 8, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - expected)[:, 2:-2, 2:-2].mean() < 3  # cubic enlargement nearly keeps the means
    assert restored.std() > 1


def test_faces_of_the_networks_size_are_not_resized_and_do_not_depend_on_their_batch():
    params = init_gpen(2, SMALL)
    faces, restore = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8), compile_gpen(params)
    expected = np.rint(np.clip(gpen(params, faces.astype(np.float32) / 255), 0, 1) * 255)
    for restored in (restore(faces), np.concatenate([restore(face[None]) for face in faces])):
        assert np.abs(restored - expected).max() <= 1


def test_weights_are_looked_up_by_the_restorers_name(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(module, "find_weights", lambda name, folder: asked.append((name, folder)) or {"g": tmp_path})
    monkeypatch.setattr(weights, "load_state_dict", lambda path: {"style.1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=str(tmp_path)):
        open_restorer("gpen-256", tmp_path)
    assert asked == [("gpen-256", tmp_path)]


@pytest.fixture(scope="module")
def restore():
    return compile_face_restorer(small_restorer())


def run_network(params, faces):
    return face_restorer({name: tf.constant(value) for name, value in params.items()}, tf.constant(faces)).numpy()


def test_aligned_faces_are_the_networks_output_clipped_and_rounded(faces, restore):
    params = small_restorer()
    restored = restore(params, faces[:2])
    output = run_network(params, faces[:2].astype(np.float32) / 255)
    assert output.min() < -0.02
    assert output.max() > 1.02
    assert restored.dtype == np.uint8
    exact = np.clip(output.astype(np.float64), 0, 1) * 255
    assert np.abs(restored - exact).max() < 0.501
    assert np.abs(exact - faces[:2]).mean() > 5


def test_faces_of_training_are_enlarged_restored_and_shrunk(faces, restore):
    """They are float32, and a little outside of 0 to 255 where cubic upsampling overshot."""
    params, lq = small_restorer(), faces[:1, ::8, ::8].astype(np.float32)
    [small] = [cv2.resize(face, (256, 256), interpolation=cv2.INTER_CUBIC) for face in lq]
    assert small.min() < -1
    assert small.max() > 256
    restored = restore(params, small[None])
    enlarged = cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC)
    output = np.rint(np.clip(run_network(params, enlarged[None] / np.float32(255)), 0, 1) * 255)
    expected = output.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert (restored.shape, restored.dtype) == ((1, 256, 256, 3), np.uint8)
    assert np.abs(restored[0] - expected).max() <= 1
    assert np.abs(expected - small).mean() > 5


def test_saved_parameters_come_back_rounded_to_float16_and_equal_ones_as_equal_bytes(tmp_path):
    params = small_restorer()
    for name in ("a.npz", "b.npz"):
        save_face_restorer(tmp_path / name, params)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_face_restorer(tmp_path / "a.npz")
    assert list(loaded) == sorted(params)
    for name, value in params.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], value.astype(np.float16))


def test_the_repositorys_restorer_and_one_of_a_file_are_the_network_of_the_file(faces, monkeypatch, tmp_path):
    save_face_restorer(tmp_path / "x.npz", small_restorer())
    expected = compile_face_restorer(small_restorer())(load_face_restorer(tmp_path / "x.npz"), faces[:1])
    monkeypatch.setattr(module, "find_weights", lambda name, folder: {name: tmp_path / "x.npz"})
    for restorer in (open_restorer("rrdb-face", None), open_restorer(str(tmp_path / "x.npz"), None)):
        assert np.abs(restorer(faces[:1]).astype(int) - expected).max() <= 1


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [
    b"", b"PK\x03\x04", b"<html>", npy(np.zeros(3)), npz(), npz(x=np.zeros(3)), npz(x=np.array("text")),
    npz(x=np.array({"a": 1}, object)), npz(**small_generator()), zipped(x=b"", y=b"\x80\x04K\x01."),
    npz(**{"4/conv_in/weight": np.zeros(()), "2/conv_in/weight": np.zeros((3, 3, 12, 6))}),
    npz(**{name: value for name, value in small_restorer().items() if name != "conv_last/bias"})],
    ids=["empty", "cut off", "page", "array", "nothing", "another", "text", "pickled", "RRDBNet", "no arrays", "scalar",
         "incomplete"])
def test_a_file_that_holds_no_face_restorer_is_one_line_with_its_name(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_face_restorer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_of_a_file_is_run(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(x=np.array(Bomb(tmp_path / "harm"), object)))
    with pytest.raises(UserError):
        load_face_restorer(tmp_path / "x.npz")
    assert not (tmp_path / "harm").exists()


def test_a_missing_file_is_one_line_with_its_name(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "x.npz")):
        load_face_restorer(tmp_path / "x.npz")


@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_values_that_are_not_finite_in_float16_are_neither_written_nor_read(tmp_path, value):
    params = small_restorer()
    params["conv_last/bias"] = np.full_like(params["conv_last/bias"], value)
    with pytest.raises(UserError, match="conv_last/bias"):
        save_face_restorer(tmp_path / "x.npz", params)
    assert list(tmp_path.iterdir()) == []
    with np.errstate(over="ignore"):
        np.savez(tmp_path / "x.npz", **{name: np.asarray(array, np.float16) for name, array in params.items()})
    with pytest.raises(UserError, match=r"x\.npz.* conv_last/bias"):
        load_face_restorer(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["magic", "magic.onn", "onnx", "x.pt"])
def test_a_restorer_that_is_neither_a_name_nor_a_file_is_refused_with_what_there_is(name):
    with pytest.raises(UserError) as caught:
        open_restorer(name, None, others=["ground-truth"])
    for part in ("gpen-512", "gpen-256", "rrdb-face-tone", "ground-truth", ".npz", ".pth", ".onnx", f": {name}."):
        assert part in str(caught.value)


@pytest.mark.parametrize(("size", "ending"), [(256, "PTH"), (512, "safetensors")])
def test_a_file_of_gpen_is_told_apart_by_its_shapes(monkeypatch, faces, size, ending):
    architecture = GpenArchitecture(size=size, channel_multiplier=1, narrow=0.0625)
    monkeypatch.setattr(weights, "load_state_dict", lambda path: reference_gpen_state(architecture))
    inputs = np.ascontiguousarray(faces[:1, :size, :size])
    params = gpen_params_from_torch(reference_gpen_state(architecture))
    expected = np.rint(np.clip(gpen(params, inputs.astype(np.float32) / 255), 0, 1) * 255)
    assert np.abs(open_restorer(f"my/GPEN.{ending}", None)(inputs) - expected).max() <= 1
    assert expected.std() > 1


def test_a_pth_of_another_network_is_refused_with_its_name(tmp_path):
    write_zip(tmp_path / "gfpgan.pth", dict_code(conv_body_first=tensor_code()))
    with pytest.raises(UserError, match=r"gfpgan\.pth.*\.onnx"):
        open_restorer(str(tmp_path / "gfpgan.pth"), None)


def test_a_label_tells_files_and_fidelities_apart(tmp_path):
    for name, content in (("a.onnx", b"1"), ("b.onnx", b"2")):
        (tmp_path / name).write_bytes(content)
    labels = [restorer_label(str(tmp_path / name), fidelity) for name in ("a.onnx", "b.onnx") for fidelity in (0.5, 1)]
    assert len(set(labels)) == 4
    assert labels[0] == f"a.onnx {hashlib.sha256(b'1').hexdigest()[:8]}"
    assert restorer_label("gpen-512") == "gpen-512"
