"""Scores of the face restorer on faces that are known in full."""


import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio

from tests.helpers.reference_restorer import identity_restorer
from utils.data.face_samples import FaceSample
from utils.training import face_restorer
from utils.training.face_restorer import RestorerValidator

ROWS, COLUMNS = slice(100, 432), slice(136, 376)


def make_face(lq_size, seed=0, noise=8):
    target = np.roll(skimage.data.astronaut(), 7 * seed, axis=1)
    disturbed = target + np.random.default_rng(seed).normal(0, noise, target.shape)
    return FaceSample(np.clip(disturbed, 0, 255).astype(np.uint8), target, np.zeros(2, np.int32), lq_size)


@pytest.fixture
def score(monkeypatch):
    """Return the validation of faces with a function in place of the network."""
    def evaluate(restore, faces, num_pictures=0):
        monkeypatch.setattr(face_restorer, "compile_face_restorer",
                            lambda _: lambda params, batch: np.stack([restore(face) for face in batch]))
        return RestorerValidator(faces, num_pictures).evaluate({})

    return evaluate


def test_a_network_that_adds_nothing_scores_as_its_input():
    faces = [make_face(48, 0), make_face(200, 1, noise=20)]
    scores = RestorerValidator(faces, 0).evaluate(identity_restorer()).scores
    assert list(scores) == list(RestorerValidator.columns)
    assert scores["psnr"] == scores["psnr_input"]
    assert scores["ssim"] == scores["ssim_input"] < 0.95
    assert scores["sharpness"] > 1  # noise makes neighbours differ


def test_scores_are_means_over_faces_of_the_region_of_the_face(score):
    faces = [make_face(48, 0), make_face(200, 1, noise=20)]
    outside = [face._replace(degraded=np.zeros_like(face.degraded)) for face in faces]
    for whole, face in zip(outside, faces, strict=True):
        whole.degraded[ROWS, COLUMNS] = face.degraded[ROWS, COLUMNS]
    scores = score(lambda face: face, outside).scores
    luma = np.array([65.481, 128.553, 24.966]) / 255
    expected = [peak_signal_noise_ratio(*(np.rint(image[ROWS, COLUMNS] @ luma + 16)
                                          for image in (face.target, face.degraded)), data_range=255) for face in faces]
    assert scores["psnr_input"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert abs(expected[0] - expected[1]) > 5
    assert scores == score(lambda face: face, faces).scores


def test_small_faces_are_those_of_fewer_than_96_pixels(score):
    faces = [make_face(size, seed, noise=6 * (seed + 1)) for seed, size in enumerate((95.9, 96.0, 300.0, 50.0))]
    alone = [score(lambda face: face, [face]).scores["psnr"] for face in faces]
    scores = score(lambda face: face, faces).scores
    assert scores["psnr_small"] == pytest.approx((alone[0] + alone[3]) / 2)
    assert scores["psnr"] == pytest.approx(np.mean(alone))


def test_a_perfect_restorer_has_an_infinite_psnr_an_ssim_of_1_and_the_truths_sharpness(score):
    face = make_face(48)
    scores = score(lambda _: face.target, [face, face]).scores
    assert scores["psnr"] == scores["psnr_small"] == np.inf
    assert scores["ssim"] == pytest.approx(1)
    assert scores["sharpness"] == 1
    assert np.isfinite(scores["psnr_input"])


def test_sharpness_is_the_ratio_of_differences_between_neighbours(score):
    """Half the contrast differs half as much, whatever the brightness."""
    target = make_face(48).target // 2 * 2
    face = FaceSample(target, target, np.zeros(2, np.int32), 48.0)
    assert score(lambda _: target // 2 + 60, [face]).scores["sharpness"] == pytest.approx(0.5, rel=1e-5)


def test_pictures_show_degraded_restored_and_true_faces_of_the_first(score):
    faces = [make_face(48, seed) for seed in range(3)]
    pictures = score(lambda face: 255 - face, faces, num_pictures=2).pictures
    assert list(pictures) == ["face_0", "face_1"]
    for picture, face in zip(pictures.values(), faces, strict=False):
        expected = np.concatenate([face.degraded, 255 - face.degraded, face.target], axis=1) / 255
        np.testing.assert_allclose(picture, expected, atol=1e-6)
