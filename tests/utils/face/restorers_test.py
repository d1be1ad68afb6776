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
from tests.helpers.face_restorer import nearest_restorer, small_restorer
from tests.helpers.reference_faces import reference_gpen_state
from tests.helpers.small_networks import small_generator
from utils.errors import UserError
from utils.face.alignment import estimate_alignment
from utils.face.positions import position_maps
from utils.face.restorers import (
    RrdbFace,
    check_restorer,
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


@pytest.fixture(scope="module")
def rrdb_face():
    return open_restorer("rrdb-face", None)


@pytest.mark.parametrize("width", [24, 40, 60])
def test_rrdb_face_restores_noisy_blurred_faces_within_their_photo(rrdb_face, width):
    """The astronaut's face, whose box is 83 pixels wide, as a photo of another size shows it."""
    scale, photo = width / 83, skimage.data.astronaut()
    landmarks = np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3], [206.6, 142.1], [243.4, 142.8]])
    size = (round(512 * scale), round(512 * scale))
    truth = cv2.resize(photo, (4 * size[0], 4 * size[1]), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(cv2.GaussianBlur(photo, (0, 0), 0.5 + 0.5 / scale), size, interpolation=cv2.INTER_AREA)
    noisy = quantize(((small + np.random.default_rng(0).normal(0, 30, small.shape)) / 255).astype(np.float32))
    matrix = estimate_alignment((landmarks + 0.5) * scale - 0.5)
    top, left, height, width = (round(side * scale) for side in (63, 181, 108, 83))
    restored = rrdb_face.restore_region(noisy, matrix, (top, left, height, width))
    face = slice(4 * top, 4 * (top + height)), slice(4 * left, 4 * (left + width))
    bicubic = cv2.resize(noisy, truth.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert psnr_y(restored, truth[face]) > psnr_y(bicubic[face], truth[face]) + 1


def run_network(params, part, maps):
    """Return the network's output, clipped and in units of 1/255."""
    output = face_restorer({name: tf.constant(value) for name, value in params.items()},
                           tf.constant(part[None] / np.float32(255)), tf.constant(maps[None]))[0]
    return np.clip(output, 0, 1) * 255


MATRIX = np.array([[3.0, 0.4, -20], [-0.4, 3.0, 10]])


@pytest.mark.parametrize(("box", "seen"), [((30, 40, 20, 24), (18, 28, 44, 48)), ((0, 4, 20, 24), (0, 0, 32, 40))])
def test_a_region_is_restored_with_12_pixels_around_it_inside_the_photo(faces, box, seen):
    restored = RrdbFace(small_restorer()).restore_region(faces[0], MATRIX, box)
    top, left, height, width = seen
    part = faces[0, top:top + height, left:left + width].astype(np.float32)
    output = run_network(small_restorer(), part, position_maps(MATRIX, *seen))
    above, before = 4 * (box[0] - top), 4 * (box[1] - left)
    expected = output[above:above + 80, before:before + 96]
    assert (restored.shape, restored.dtype) == ((80, 96, 3), np.uint8)
    assert np.abs(restored - expected).max() < 0.6


def test_a_region_lies_where_an_upscaled_photo_has_it(faces):
    restored = RrdbFace(nearest_restorer()).restore_region(faces[0], MATRIX, (30, 40, 20, 24))
    np.testing.assert_array_equal(restored, np.repeat(np.repeat(faces[0, 30:50, 40:64], 4, 0), 4, 1))


def test_a_large_face_is_restored_at_a_smaller_size(faces):
    """The aligned crop covers 448 pixels of the photo: it is seen at 224."""
    matrix = np.array([[512 / 448, 0, 0], [0, 512 / 448, 0]])
    smooth = cv2.GaussianBlur(faces[0], (0, 0), 6)
    restored = RrdbFace(nearest_restorer()).restore_region(smooth, matrix, (100, 120, 201, 180))
    expected = cv2.resize(smooth, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)[400:1204, 480:1200]
    assert restored.shape == expected.shape
    assert np.abs(restored.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("size", [256, 512])
def test_aligned_faces_are_restored_from_what_they_were_upscaled_from(faces, size):
    """As float32 a little outside of 0 to 255, as cubic upsampling leaves them."""
    small = faces[:2, ::2048 // size, ::2048 // size].astype(np.float32)
    upscaled = np.stack([cv2.resize(face, (size, size), interpolation=cv2.INTER_CUBIC) for face in small])
    restored = RrdbFace(small_restorer())(upscaled)
    step = 2048 / size
    maps = position_maps(np.array([[step, 0, (step - 1) / 2], [0, step, (step - 1) / 2]]), 0, 0, *small.shape[1:3])
    assert (restored.shape, restored.dtype) == ((2, size, size, 3), np.uint8)
    for face, found in zip(small, restored, strict=True):
        assert np.abs(found - run_network(small_restorer(), face, maps)).mean() < 0.5


def test_the_repositorys_restorer_and_one_of_a_file_are_the_network_of_the_file(faces, monkeypatch, tmp_path):
    save_face_restorer(tmp_path / "x.npz", small_restorer())
    expected = RrdbFace(load_face_restorer(tmp_path / "x.npz"))(faces[:1, :64, :64])
    monkeypatch.setattr(module, "find_weights", lambda name, folder: {name: tmp_path / "x.npz"})
    for restorer in (open_restorer("rrdb-face", None), open_restorer(str(tmp_path / "x.npz"), None)):
        np.testing.assert_array_equal(restorer(faces[:1, :64, :64]), expected)


@pytest.mark.parametrize("arrays", [
    {}, small_generator(), {"conv_first/weight": np.zeros(()), "conv_position/weight": np.zeros((3, 3, 8, 6))},
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
        check_restorer(name, others=["ground-truth"])
    for part in ("gpen-512", "gpen-256", "rrdb-face", "ground-truth", ".npz", ".pth", ".onnx", f": {name}."):
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
