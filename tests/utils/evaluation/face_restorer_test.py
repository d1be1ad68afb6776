"""The comparison of restorers: the same face, degraded, at the same place for every method."""

import cv2
import numpy as np
import pytest
import skimage.data
from scipy.stats import spearmanr

from model.lpips import init_lpips
from utils.data.presets import TESTSET_PRESETS
from utils.evaluation.face_restorer import (
    DEGRADATIONS,
    METHODS,
    FaceMeter,
    Result,
    draw_subject,
    landmark_similarity,
    restore_subject,
)
from utils.face.detection import Face
from utils.image.io import quantize, read_image, to_float
from utils.image.listing import photo_rng
from utils.metrics.fidelity import psnr_y

PHOTO = skimage.data.astronaut()
FACE = Face(np.array([172.0, 62, 276, 196]),
            np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3], [206.6, 142.1], [243.4, 142.8]]), 0.99)
# its size alone matters
EDGE = Face(np.array([0.0, 0, 104, 4]), FACE.landmarks, 0.99)


def bicubic(part):
    return cv2.resize(part, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)


def moved(face, shift):
    return Face(face.box + shift, face.landmarks + shift, face.score)


def widths(sizes, seeds, **options):
    """Return the widths of a face of 104 pixels in a narrow photo."""
    return [float(np.ptp(draw_subject("a", PHOTO[:16], EDGE, sizes, seed, **options).face.box[::2])) for seed in seeds]


def test_the_face_is_where_it_was_once_the_photo_has_another_size():
    subject = draw_subject("a", PHOTO, FACE, (20, 20), seed=0)
    ratio = np.array(subject.photo.shape[1::-1]) / 512
    assert subject.photo.shape[0] % 4 == subject.photo.shape[1] % 4 == 0
    assert subject.face.box[2] - subject.face.box[0] == pytest.approx(20, rel=0.02)
    np.testing.assert_allclose(4 * (subject.face.landmarks + 0.5), ratio * (FACE.landmarks + 0.5), rtol=1e-6)
    expected = cv2.resize(PHOTO, subject.photo.shape[1::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(subject.photo, expected)


def test_sizes_are_even_in_their_logarithm_and_depend_on_seed_and_name_alone():
    sizes = widths((24, 160), range(60), upscale=True)
    assert sizes[7] == widths((24, 160), [7], upscale=True)[0]
    assert min(sizes) > 23
    assert max(sizes) < 162
    assert np.median(sizes) == pytest.approx(np.sqrt(24 * 160), rel=0.25)


def test_a_photo_is_upscaled_only_when_that_is_asked_for():
    """The face is 104 pixels wide: 26 in the degraded photo."""
    sizes = widths((20, 160), range(20))
    assert min(sizes) > 19.5
    assert 24 < max(sizes) <= 26.2
    assert draw_subject("a", PHOTO, FACE, (30, 160), 0) is None


def test_the_size_of_a_face_says_nothing_about_its_degradation():
    lengths = [TESTSET_PRESETS["ood-motion"].sample(photo_rng(seed, "a"))[0].length for seed in range(80)]
    assert abs(spearmanr(widths((24, 160), range(80), upscale=True), lengths)[0]) < 0.3


def test_a_photo_keeps_its_size_when_none_is_asked_for():
    np.testing.assert_array_equal(draw_subject("a", PHOTO, FACE, (0, 0), 0).photo, PHOTO)
    subject = draw_subject("a", PHOTO[:510, :509], FACE, (0, 0), 0)
    np.testing.assert_array_equal(subject.photo, PHOTO[:508, :508])
    np.testing.assert_allclose(4 * subject.face.landmarks + 1.5, FACE.landmarks)


@pytest.fixture
def subject():
    return draw_subject("a", PHOTO, FACE, (0, 0), 0)


def restore(subject, folder, *faces, upscale=bicubic, restorer=lambda aligned: aligned):
    return restore_subject(subject, "clean", folder, restore=restorer, detect=lambda *_: list(faces), upscale=upscale,
                           seed=0)


def test_all_methods_show_the_region_that_the_truth_shows(subject, tmp_path):
    seen = []
    result = restore(subject, tmp_path, moved(subject.face, 1.0), restorer=lambda faces: seen.append(faces) or faces)
    top, left, (height, width) = 16, 43, result.low_quality.shape[:2]
    low_quality = quantize(read_image(tmp_path / "LQ" / "a.png").pixels)
    np.testing.assert_array_equal(result.low_quality, low_quality[top:top + height, left:left + width])
    np.testing.assert_array_equal(
        result.truth, PHOTO[4 * top:4 * (top + height), 4 * left:4 * (left + width)])
    np.testing.assert_allclose(result.landmarks, FACE.landmarks - (4 * left, 4 * top))
    assert set(result.methods) == set(METHODS)
    # nothing restores, so that all of them are the upscaled face, up to the kind of interpolation
    for image in result.methods.values():
        assert psnr_y(image, result.truth) > 25
        assert psnr_y(image, result.methods["bicubic"]) > 32
    assert [faces.shape for faces in seen] == [(1, 512, 512, 3)]


def test_a_face_that_is_not_found_again_gives_nothing_and_nor_does_another_one(subject, tmp_path):
    assert restore(subject, tmp_path / "none") is None
    assert restore(subject, tmp_path / "other", moved(subject.face, 60.0)) is None


def test_the_upscaler_sees_the_face_with_a_margin(subject, tmp_path):
    sizes = []
    restore(subject, tmp_path, subject.face, upscale=lambda part: sizes.append(part.shape[:2]) or bicubic(part))
    [(height, width)] = sizes
    assert (height, width) == (15 + 34 + 24, 27 + 2 * 24)  # only 15 pixels lie above the face


@pytest.mark.parametrize("preset", ["clean", "mild"])
def test_slight_degradations_quarter_the_photo_and_nearly_keep_it(preset):
    [step] = DEGRADATIONS[preset].sample(np.random.default_rng(0))
    small = step(to_float(PHOTO))
    assert small.shape == (128, 128, 3)
    assert psnr_y(quantize(small), cv2.resize(PHOTO, (128, 128), interpolation=cv2.INTER_AREA)) > 22


@pytest.fixture
def result():
    """Methods: the truth, the truth 3/255 darker, and another face."""
    truth = PHOTO[60:200, 170:280]
    methods = {"bicubic": truth, "realesrgan": truth - np.uint8(3) * (truth > 2), "restored": truth[:, ::-1].copy()}
    return Result("a", "iid", truth[::4, ::4], truth, FACE.landmarks - (170, 60), methods)


def test_scores_are_best_for_the_truth_and_brightness_is_signed(result):
    scores = FaceMeter(init_lpips(0)).measure(result)
    assert (scores["lpips_bicubic"], scores["brightness_bicubic"]) == (0, 0)
    assert scores["identity_bicubic"] == pytest.approx(1, abs=1e-5)
    assert scores["ssim_bicubic"] == pytest.approx(1)
    assert scores["brightness_realesrgan"] == pytest.approx(-3, abs=0.2)
    assert 0 < scores["lpips_realesrgan"] < scores["lpips_restored"]
    assert scores["identity_realesrgan"] > scores["identity_restored"]
    assert scores["psnr_y_restored"] == psnr_y(result.methods["restored"], result.truth)


def test_metrics_that_need_alexnet_or_a_larger_face_are_left_out(result):
    small = result._replace(truth=result.truth[:30], methods={name: image[:30]
                                                              for name, image in result.methods.items()})
    for scores in (FaceMeter(None).measure(result), FaceMeter(init_lpips(0)).measure(small)):
        assert {name.rpartition("_")[0] for name in scores} == {"psnr_y", "ssim", "brightness"}


def test_landmark_similarity_by_hand():
    """On maps of 2x2 cells: landmarks of 8x8 pixels lie in the upper left and lower right cells, and outside."""
    one = np.zeros((1, 2, 2, 2), np.float32)
    one[..., 0] = 1
    other = one.copy()
    other[0, 1, 1] = (0.6, 0.8)
    other[0, 0, 1] = (0, 1)
    landmarks = np.array([[1.0, 2], [5, 6], [20, -3]])
    assert landmark_similarity([one], [other], landmarks, (8, 8)) == pytest.approx((1 + 0.6 + 0) / 3)
