"""The demo: its degradation, its face as generate_test_faces.py restores it, and its scores."""

import cv2
import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio

import generate_test_faces
from scripts import make_demo
from scripts.make_demo import build, degrade, summarize
from tests.helpers.tracing import untraced
from utils.face.detection import open_detector
from utils.face.pairs import FaceFolder, locate_face
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.resizing import resize_bicubic
from utils.metrics.fidelity import psnr_y


@pytest.fixture(scope="session")
def ground_truth():
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def low_quality(ground_truth):
    return degrade(ground_truth)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    build(folder)
    arguments = ["--input_dir", folder / "LQ", "--output_dir", folder, "--detector", "mtcnn", "--restorer", "rrdb-face"]
    with untraced():
        assert generate_test_faces.main([*map(str, arguments), "--gpu", "-1"]) == 0
    return folder


def stored(path):
    return quantize(read_image(path).pixels)


def test_degradation_has_known_strength(ground_truth, low_quality):
    assert low_quality.shape == (128, 128, 3)
    assert low_quality.dtype == np.uint8
    np.testing.assert_allclose(low_quality.mean(axis=(0, 1)) / 255, [0.556, 0.415, 0.38], atol=1e-2)
    reference = cv2.resize(ground_truth, (128, 128), interpolation=cv2.INTER_AREA)
    assert peak_signal_noise_ratio(reference, low_quality) == pytest.approx(28.3, abs=0.5)


def detail(face):
    return (face - cv2.GaussianBlur(face, (0, 0), 2)).std()


def test_the_restored_face_has_the_detail_of_the_truth(demo, ground_truth, low_quality):
    [pair] = FaceFolder(demo).pairs("astronaut")
    face_hq = stored(pair.hq)
    place = locate_face(to_float(low_quality), read_image(pair.lq).pixels)
    top, left, height, width = (4 * side for side in place)
    region = np.s_[top:top + height, left:left + width]
    bicubic = quantize(resize_bicubic(to_float(low_quality), 512, 512))[region]
    ratios = [detail(to_float(face)) / detail(to_float(ground_truth[region])) for face in (bicubic, face_hq)]
    assert ratios[0] < 0.5
    assert 0.7 < ratios[1] < 1.4
    assert psnr_y(face_hq, ground_truth[region]) > psnr_y(bicubic, ground_truth[region]) - 1


def test_summary_prints_the_scores_of_every_version(tmp_path, capsys, ground_truth):
    build(tmp_path / "demo")
    head = stored(tmp_path / "demo" / "photos" / "astronaut_head.png")
    np.testing.assert_array_equal(head, ground_truth[make_demo.HEAD])
    for level, name in enumerate(make_demo.RESULTS.values()):
        noise = np.random.default_rng(level).normal(0, 4 + level, ground_truth.shape)
        write_png(tmp_path / name / "astronaut.png", quantize((ground_truth / 255 + noise / 255).astype(np.float32)))
        write_png(tmp_path / name / "astronaut_head.png", head.repeat(4, axis=0).repeat(4, axis=1))
    summarize(tmp_path / "demo", tmp_path, lambda image, reference: np.abs(image - reference).mean())
    lines = capsys.readouterr().out.splitlines()
    for label, name in make_demo.RESULTS.items():
        of_photo, of_face = ([float(score) for score in line[len(label):].split()] for line in lines
                             if line.startswith(label + " "))
        image = stored(tmp_path / name / "astronaut.png")
        for scores, region in ((of_photo, np.s_[:]), (of_face, make_demo.FACE)):
            assert scores[0] == pytest.approx(psnr_y(image[region], ground_truth[region]), abs=0.006)
            assert 0.5 < scores[1] < 1
            assert scores[2] == pytest.approx(cv2.absdiff(image, ground_truth)[region].mean() / 255, abs=6e-5)
    assert sum(line.startswith("photo (bicubic) ") for line in lines) == 2  # the portrait and its face
    assert read_image(tmp_path / "comparison.png").pixels.shape[1] == 4 * 480 + 3 * 6
    assert read_image(tmp_path / "photo.png").pixels.shape[1] == 3 * 480 + 2 * 6


def test_the_face_that_is_scored_is_that_of_the_portrait(low_quality):
    """The region covers the face that MTCNN finds, and is hardly larger."""
    with open_detector("mtcnn") as detect:
        [face] = detect(to_float(low_quality), "astronaut")
    left, top, right, bottom = 4 * face.box
    rows, columns = make_demo.FACE
    overlap = ((min(bottom, rows.stop) - max(top, rows.start)) * (min(right, columns.stop) - max(left, columns.start)))
    union = (bottom - top) * (right - left) + (rows.stop - rows.start) * (columns.stop - columns.start) - overlap
    assert overlap / union > 0.7
