"""Restorers behind one interface."""

import hashlib

import cv2
import numpy as np
import pytest
import skimage.data
import tensorflow as tf

import utils.face.restorers as module
import utils.weights.state_dicts as weights
from model.face_restorer import face_restorer
from model.gpen import GpenArchitecture, gpen, gpen_params_from_torch
from tests.helpers.reference_faces import reference_gpen_state
from tests.helpers.reference_restorer import small_restorer
from tests.helpers.small_networks import small_generator
from utils.errors import UserError
from utils.face.alignment import estimate_alignment, reference_points
from utils.face.restorers import (
    compile_face_restorer,
    load_face_restorer,
    open_restorer,
    restorer_label,
    save_face_restorer,
)
from utils.image.io import quantize
from utils.metrics.fidelity import psnr_y


@pytest.fixture(scope="module")
def faces():
    photo = skimage.data.astronaut()
    return np.stack([photo, photo[::-1], photo.swapaxes(0, 1)])


@pytest.mark.parametrize("width", [24, 80, 160])
def test_rrdb_face_restores_noisy_blurred_faces_from_24_to_160_pixels(width):
    """The astronaut's face, whose box is 83 pixels wide: as a photo of that size shows it, and aligned."""
    photo, landmarks = skimage.data.astronaut(), np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3],
                                                           [206.6, 142.1], [243.4, 142.8]])
    scale = width / 83
    truth = cv2.warpAffine(photo, estimate_alignment(landmarks), (512, 512), flags=cv2.INTER_CUBIC)
    small = cv2.resize(cv2.GaussianBlur(photo, (0, 0), 0.5 + 0.5 / scale), None, fx=scale, fy=scale,
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    noisy = quantize(((small + np.random.default_rng(0).normal(0, 30, small.shape)) / 255).astype(np.float32))
    aligned = cv2.warpAffine(noisy, estimate_alignment((landmarks + 0.5) * scale - 0.5), (512, 512))
    [restored] = open_restorer("rrdb-face", None)(aligned[None])
    left, top = (reference_points().min(axis=0) - 60).astype(int)
    right, bottom = (reference_points().max(axis=0) + 60).astype(int)
    face = slice(top, bottom), slice(left, right)
    assert psnr_y(restored[face], truth[face]) > psnr_y(aligned[face], truth[face]) + 0.5


def test_faces_of_training_are_enlarged_restored_and_shrunk(faces):
    """They are float32, and a little outside of 0 to 255 where cubic upsampling overshot."""
    params, lq = small_restorer(), faces[:1, ::8, ::8].astype(np.float32)
    [small] = [cv2.resize(face, (256, 256), interpolation=cv2.INTER_CUBIC) for face in lq]
    assert small.min() < -1
    assert small.max() > 256
    restored = compile_face_restorer(params)(params, small[None])
    enlarged = cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC)
    output = face_restorer({name: tf.constant(value) for name, value in params.items()}, enlarged[None] / 255)
    output = np.rint(np.clip(output, 0, 1) * 255)
    expected = output.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert (restored.shape, restored.dtype) == ((1, 256, 256, 3), np.uint8)
    assert np.abs(restored[0] - expected).max() <= 1
    assert np.abs(expected - small).mean() > 5


def test_the_repositorys_restorer_and_one_of_a_file_are_the_network_of_the_file(faces, monkeypatch, tmp_path):
    save_face_restorer(tmp_path / "x.npz", small_restorer())
    expected = compile_face_restorer(small_restorer())(load_face_restorer(tmp_path / "x.npz"), faces[:1])
    monkeypatch.setattr(module, "find_weights", lambda name, folder: {name: tmp_path / "x.npz"})
    for restorer in (open_restorer("rrdb-face", None), open_restorer(str(tmp_path / "x.npz"), None)):
        assert np.abs(restorer(faces[:1]).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("arrays", [
    {}, small_generator(), {"4/conv_in/weight": np.zeros(()), "2/conv_in/weight": np.zeros((3, 3, 12, 6))},
    {name: value for name, value in small_restorer().items() if name != "conv_last/bias"},
    small_restorer() | {"conv_last/bias": np.full_like(small_restorer()["conv_last/bias"], np.nan)}],
    ids=["nothing", "RRDBNet", "scalar", "incomplete", "not finite"])
def test_a_file_that_holds_no_face_restorer_is_one_line_with_its_name(tmp_path, arrays):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError) as caught:
        load_face_restorer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["magic", "magic.onn"])
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


def test_a_label_tells_files_and_fidelities_apart(tmp_path):
    for name, content in (("a.onnx", b"1"), ("b.onnx", b"2")):
        (tmp_path / name).write_bytes(content)
    labels = [restorer_label(str(tmp_path / name), fidelity) for name in ("a.onnx", "b.onnx") for fidelity in (0.5, 1)]
    assert len(set(labels)) == 4
    assert labels[0] == f"a.onnx {hashlib.sha256(b'1').hexdigest()[:8]}"
    assert restorer_label("gpen-512") == "gpen-512"
