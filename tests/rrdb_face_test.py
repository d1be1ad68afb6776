"""The restorer that needs no download, and one's own, in generate_test_faces.py and in meta-training."""

import cv2
import numpy as np
import pytest
import skimage.data

from tests.generate_test_faces_test import FaceWorkplace, fails
from tests.reference_restorer import SMALL_RESTORER, identity_restorer, small_restorer
from tests.training_workplace import TrainingWorkplace
from utils.data.meta_tasks import Degraded, restore_faces
from utils.face.alignment import estimate_alignment, reference_points
from utils.face.restorers import open_restorer, save_face_restorer
from utils.image.io import quantize, read_image
from utils.metrics.fidelity import psnr_y


@pytest.fixture
def place(tmp_path):
    place = FaceWorkplace(tmp_path)
    place.add_photo()
    place.add_face()
    return place


@pytest.fixture(scope="module")
def rrdb_face():
    return open_restorer("rrdb-face", None)


def test_a_file_of_ones_own_restores_and_a_replaced_one_does_so_again(place, capsys):
    own = place.root / "own.npz"
    save_face_restorer(own, identity_restorer())
    assert place.run(restorer=str(own)) == 0
    before = read_image(place.out / "Face_HQ" / "astronaut_0.png").pixels
    enlarged = cv2.resize(skimage.data.astronaut(), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)[252:684, 724:1056]
    assert psnr_y(quantize(before), enlarged) > 35  # nothing is restored: there and back again
    [row] = place.rows()
    assert row["restorer"].startswith("own.npz ")
    assert place.run("--skip_existing", restorer=str(own)) == 0
    assert "1 photos there already" in capsys.readouterr().out
    save_face_restorer(own, small_restorer(SMALL_RESTORER))
    assert place.run("--skip_existing", restorer=str(own)) == 0
    assert place.rows()[0]["restorer"] != row["restorer"]
    assert np.abs(read_image(place.out / "Face_HQ" / "astronaut_0.png").pixels - before).mean() > 0.01


@pytest.mark.parametrize(("name", "message"), [
    ("magic", "--restorer is one of gpen-512, gpen-256, rrdb-face, rrdb-face-tone, none, or a .npz file"),
    ("missing.npz", "missing.npz")])
def test_a_restorer_that_does_not_exist_is_one_line(place, capsys, name, message):
    fails(capsys, lambda: place.run(restorer=name), message=message)
    assert place.names("Face_HQ") == []


@pytest.mark.parametrize("width", [24, 40, 80, 160])
def test_rrdb_face_restores_noisy_blurred_faces_from_24_to_160_pixels(rrdb_face, width):
    """The astronaut's face, whose box is 83 pixels wide: as a photo of that size shows it, and aligned."""
    photo, landmarks = skimage.data.astronaut(), np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3],
                                                           [206.6, 142.1], [243.4, 142.8]])
    scale = width / 83
    truth = cv2.warpAffine(photo, estimate_alignment(landmarks), (512, 512), flags=cv2.INTER_CUBIC)
    small = cv2.resize(cv2.GaussianBlur(photo, (0, 0), 0.5 + 0.5 / scale), None, fx=scale, fy=scale,
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    noisy = quantize(((small + np.random.default_rng(0).normal(0, 30, small.shape)) / 255).astype(np.float32))
    aligned = cv2.warpAffine(noisy, estimate_alignment((landmarks + 0.5) * scale - 0.5), (512, 512))
    [restored] = rrdb_face(aligned[None])
    left, top = (reference_points().min(axis=0) - 60).astype(int)
    right, bottom = (reference_points().max(axis=0) + 60).astype(int)
    face = slice(top, bottom), slice(left, right)
    assert psnr_y(restored[face], truth[face]) > psnr_y(aligned[face], truth[face]) + 0.5


def test_rrdb_face_restores_the_faces_of_training(rrdb_face):
    """A task's face of 256x256, seen at a quarter of that, blurred and noisy."""
    photo = cv2.resize(skimage.data.astronaut(), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    landmarks = 4 * np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3], [206.6, 142.1], [243.4, 142.8]]) + 1.5
    truth = cv2.resize(cv2.warpAffine(photo, estimate_alignment(landmarks), (512, 512)), (256, 256),
                       interpolation=cv2.INTER_AREA)
    small = cv2.resize(cv2.GaussianBlur(truth, (0, 0), 2), (64, 64), interpolation=cv2.INTER_AREA)
    lq = quantize(((small + np.random.default_rng(0).normal(0, 20, small.shape)) / 255).astype(np.float32))
    seen = []

    def restore(faces):
        seen.append(faces)
        return rrdb_face(faces)

    images = Degraded(truth[None, None], lq[None, None], None, None, None)
    [[restored]] = restore_faces(restore, images)
    [[enlarged]] = seen
    face = slice(60, 200), slice(70, 186)
    assert (restored.shape, restored.dtype) == ((256, 256, 3), np.uint8)
    assert psnr_y(restored[face], truth[face]) > psnr_y(quantize(enlarged / 255)[face], truth[face]) + 1


def test_meta_training_runs_with_rrdb_face(tmp_path):
    place = TrainingWorkplace(tmp_path)
    assert place.run("--restorer", "rrdb-face", "--iterations", "1", run__validate_every=5) == 0
    assert place.checkpoints() == ["model-1"]
