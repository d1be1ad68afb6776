"""Restorers behind one interface."""

import numpy as np
import pytest
import skimage.data

import utils.face_restorers as module
from model.gpen import GPEN_256, GpenArchitecture, gpen, init_gpen
from utils.errors import UserError
from utils.face_restorers import check_restored, compile_gpen, make_gpen

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


def test_a_batch_gives_what_its_faces_give_alone(faces):
    restore = compile_gpen(init_gpen(1, SMALL))
    together = restore(faces)
    alone = np.concatenate([restore(face[None]) for face in faces])
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_faces_of_the_networks_size_are_not_resized():
    params = init_gpen(2, SMALL)
    faces = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = np.rint(np.clip(gpen(params, faces.astype(np.float32) / 255), 0, 1) * 255)
    assert np.abs(compile_gpen(params)(faces) - expected).max() <= 1


def test_weights_are_looked_up_by_the_restorers_name(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(module, "find_weights", lambda name, folder: asked.append((name, folder)) or {"g": tmp_path})
    monkeypatch.setattr(module, "load_state_dict", lambda path: {"style.1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match="does not fit") as error:
        make_gpen("gpen-256", tmp_path)
    assert "\n" not in str(error.value)
    assert asked == [("gpen-256", tmp_path)]


def test_restored_faces_of_another_size_are_refused(tmp_path):
    face = np.zeros((512, 512, 3), np.uint8)
    assert check_restored(face, tmp_path) is face
    with pytest.raises(UserError, match=r"must be 512x512. Received: 500x512"):
        check_restored(face[:, :500], tmp_path)


def test_gpen_256_is_half_the_aligned_size():
    assert GPEN_256.size == 256
