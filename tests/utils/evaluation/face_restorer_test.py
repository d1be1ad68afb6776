"""The comparison of restorers: the same face, degraded, at the same place for every method."""

import cv2
import numpy as np
import pytest
import skimage.data
from scipy.stats import spearmanr

from utils.data.camera import Shrink
from utils.data.presets import PRESETS, Preset
from utils.evaluation.face_restorer import ALIGNED, FOUND, METHODS, draw_subject, restore_subject
from utils.face.detection import Face
from utils.image.io import quantize, read_image, write_png
from utils.image.listing import photo_rng
from utils.metrics.fidelity import psnr_y

# the astronaut's, in the photo of 512x512
FACE = Face(np.array([172.0, 62, 276, 196]),
            np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3], [206.6, 142.1], [243.4, 142.8]]), 0.99)


@pytest.fixture
def path(tmp_path):
    write_png(tmp_path / "in" / "a.png", skimage.data.astronaut())
    return tmp_path / "in" / "a.png"


@pytest.fixture
def only_shrunk(monkeypatch):
    monkeypatch.setitem(PRESETS, "iid", Preset("", lambda rng: [Shrink("area")]))


def bicubic(part):
    return cv2.resize(part, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)


def moved(face, shift):
    return Face(face.box + shift, face.landmarks + shift, face.score)


def test_the_face_is_where_it_was_once_the_photo_has_another_size(path):
    subject = draw_subject(path, [FACE], (20, 20), seed=0)
    ratio = np.array(subject.photo.shape[1::-1]) / 512
    assert subject.photo.shape[0] % 4 == subject.photo.shape[1] % 4 == 0
    assert subject.face.box[2] - subject.face.box[0] == pytest.approx(20, rel=0.02)
    np.testing.assert_allclose(4 * (subject.face.landmarks + 0.5), ratio * (FACE.landmarks + 0.5), rtol=1e-6)
    expected = cv2.resize(skimage.data.astronaut(), subject.photo.shape[1::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(subject.photo, expected)


def test_sizes_are_even_in_their_logarithm_and_depend_on_seed_and_name_alone(path):
    def size(seed):
        return float(np.ptp(draw_subject(path, [FACE], (24, 160), seed, enlarge=True).face.box[::2]))

    sizes = [size(seed) for seed in range(60)]
    assert sizes[7] == size(7)
    assert min(sizes) > 23
    assert max(sizes) < 162
    assert np.median(sizes) == pytest.approx(np.sqrt(24 * 160), rel=0.25)


def test_a_photo_is_enlarged_only_when_that_is_asked_for(path):
    """The face is 104 pixels wide: 26 in the degraded photo."""
    sizes = [float(np.ptp(draw_subject(path, [FACE], (20, 160), seed).face.box[::2])) for seed in range(20)]
    assert min(sizes) > 19.5
    assert 24 < max(sizes) <= 26.2
    assert draw_subject(path, [FACE], (30, 160), 0) is None


def test_the_size_of_a_face_says_nothing_about_its_degradation(path):
    widths = [np.ptp(draw_subject(path, [FACE], (24, 160), seed, enlarge=True).face.box[::2]) for seed in range(80)]
    lengths = [PRESETS["ood-motion"].sample(photo_rng(seed, "a"))[0].length for seed in range(80)]
    assert abs(spearmanr(widths, lengths)[0]) < 0.3


def test_a_photo_keeps_its_size_when_none_is_asked_for_and_one_without_a_face_gives_nothing(path):
    np.testing.assert_array_equal(draw_subject(path, [FACE], None, 0).photo, skimage.data.astronaut())
    write_png(path, skimage.data.astronaut()[:510, :509])
    subject = draw_subject(path, [FACE], None, 0)
    np.testing.assert_array_equal(subject.photo, skimage.data.astronaut()[:508, :508])
    np.testing.assert_allclose(4 * subject.face.landmarks + 1.5, FACE.landmarks)
    assert draw_subject(path, [], None, 0) is None


def test_all_methods_show_the_region_that_the_truth_shows(path, tmp_path, only_shrunk):
    subject = draw_subject(path, [FACE], None, 0)
    seen = []
    results = list(restore_subject(subject, "iid", tmp_path, restore=lambda faces: seen.append(faces) or faces,
                                   detect=lambda *_: [moved(subject.face, 1.0)], upscale=bicubic, seed=0))
    assert [result.kind for result in results] == [ALIGNED, FOUND]
    for result, (top, left) in zip(results, ((15, 42), (16, 43)), strict=True):
        height, width = result.low_quality.shape[:2]
        low_quality = quantize(read_image(tmp_path / "LQ" / "a.png").pixels)
        np.testing.assert_array_equal(result.low_quality, low_quality[top:top + height, left:left + width])
        np.testing.assert_array_equal(
            result.truth, skimage.data.astronaut()[4 * top:4 * (top + height), 4 * left:4 * (left + width)])
        assert set(result.methods) == set(METHODS)
        # nothing restores, so that all of them are the enlarged face, up to the kind of interpolation
        for image in result.methods.values():
            assert psnr_y(image, result.truth) > 25
            assert psnr_y(image, result.methods["bicubic"]) > 32
    assert [faces.shape for faces in seen] == [(1, 512, 512, 3)] * 2


def test_a_face_that_is_not_found_again_or_another_one_gives_one_result(path, tmp_path, only_shrunk):
    subject = draw_subject(path, [FACE], None, 0)
    for number, there in enumerate(([], [moved(subject.face, 60.0)])):
        results = restore_subject(subject, "iid", tmp_path / str(number), restore=lambda faces: faces,
                                  detect=lambda *_, there=there: there, upscale=bicubic, seed=0)
        assert [result.kind for result in results] == [ALIGNED]


def test_the_enlargement_sees_the_face_with_a_margin_once_for_both_regions(path, tmp_path, only_shrunk):
    subject, sizes = draw_subject(path, [FACE], None, 0), []
    list(restore_subject(subject, "iid", tmp_path, restore=lambda faces: faces, detect=lambda *_: [subject.face],
                         upscale=lambda part: sizes.append(part.shape[:2]) or bicubic(part), seed=0))
    [(height, width)] = sizes
    assert (height, width) == (15 + 34 + 24, 27 + 2 * 24)  # only 15 pixels lie above the face
