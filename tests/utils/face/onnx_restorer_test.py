"""Face restorers as ONNX files, against the project's own arithmetic and against models of known effect."""

import sys

import numpy as np
import pytest
import skimage.data

import generate_test_faces
import main
from scripts import evaluate, evaluate_face_restorer
from tests.face_workplace import FaceWorkplace
from tests.onnx_models import Graph, affine_model, restorer_model
from tests.reference_restorer import SMALL_RESTORER, small_restorer
from utils.errors import UserError
from utils.face.restorers import load_face_restorer, open_restorer, save_face_restorer
from utils.image.io import quantize, read_image
from utils.training.configuration import META_TRAINING, resolve_config
from utils.training.setup import make_restorer

FACES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("batch", ["n", 1])
def test_an_exported_restorer_makes_the_same_faces_as_tensorflow(tmp_path, batch):
    save_face_restorer(tmp_path / "x.npz", small_restorer(scale=0.7))
    restorer_model(tmp_path / "x.onnx", load_face_restorer(tmp_path / "x.npz"), SMALL_RESTORER, 512, batch=batch)
    place, results = FaceWorkplace(tmp_path), []
    place.add_photo()
    for left in (0, 30, 60):
        place.add_face([181.0 + left, 63, 263 + left, 170])
    for name in ("x.npz", "x.onnx"):
        assert place.run("--overwrite", restorer=str(tmp_path / name)) == 0
        results.append([quantize(read_image(place.out / "Face_HQ" / f"astronaut_{index}.png").pixels).astype(int)
                        for index in range(3)])
        assert place.rows()[0]["restorer"].startswith(f"{name} ")
    for own, other in zip(*results, strict=True):
        assert np.abs(own - other).max() <= 1
    unrestored = skimage.data.astronaut()[63:171, 181:264].repeat(4, axis=0).repeat(4, axis=1)
    assert np.abs(results[0][0] - unrestored).mean() > 5


@pytest.mark.parametrize("batch", ["n", None, 1])
@pytest.mark.parametrize("size", [64, "size", None])
def test_samples_are_minus_one_to_one_and_any_number_of_faces_is_restored(tmp_path, batch, size):
    affine_model(tmp_path / "x.onnx", factor=0.5, batch=batch, size=size)
    faces = FACES if size == 64 else FACES.repeat(8, axis=1).repeat(8, axis=2)  # 512 where the size is open
    np.testing.assert_array_equal(open_restorer(str(tmp_path / "x.onnx"), None)(faces), np.rint(faces * 0.5 + 63.75))


def test_faces_are_resized_to_the_models_size_and_back(tmp_path):
    affine_model(tmp_path / "x.onnx", factor=-1.0, size=32)
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None, None] * 4, (2, 64, 64, 3))
    restored = open_restorer(str(tmp_path / "x.onnx"), None)(ramp)
    assert restored.shape == ramp.shape
    assert np.abs(restored[:, 4:-4] - (255.0 - ramp[:, 4:-4])).max() <= 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [[], [1], [1, 1], ["w"]])
def test_a_second_number_is_the_fidelity(tmp_path, kind, shape):
    affine_model(tmp_path / "x.onnx", fidelity=(kind, shape))
    restored = [open_restorer(str(tmp_path / "x.onnx"), None, **given)(FACES).astype(int)
                for given in ({}, {"fidelity": 0.25})]
    for result, fidelity in zip(restored, (0.5, 0.25), strict=True):
        assert np.abs(result - np.minimum(FACES * 0.5 + 63.75 + 127.5 * fidelity, 255)).max() <= 0.51


def test_a_fidelity_for_a_model_without_is_refused(tmp_path):
    affine_model(tmp_path / "x.onnx")
    with pytest.raises(UserError, match=r"--codeformer_fidelity.*x\.onnx"):
        open_restorer(str(tmp_path / "x.onnx"), None, fidelity=0.7)


def test_training_and_the_evaluations_take_a_model_and_its_fidelity(tmp_path):
    affine_model(tmp_path / "x.onnx", fidelity=(np.float32, [1]))
    flags = ["--restorer", str(tmp_path / "x.onnx"), "--codeformer_fidelity", "0.25"]
    config = resolve_config(META_TRAINING, "smoke", main.parse_args(flags).settings)
    restored = make_restorer(config, None)(FACES.astype(np.float32) - 3)  # beyond the range, as in training
    expected = np.clip((FACES - 3.0) * 0.5 + 63.75 + 127.5 * 0.25, 0, 255)
    assert np.abs(restored - expected).max() <= 0.51
    for parse_args in (evaluate.parse_args, evaluate_face_restorer.parse_args):
        args = parse_args(["--input_dir", str(tmp_path), *flags])
        assert (args.restorer, args.codeformer_fidelity) == (flags[1], 0.25)


def classifier(path):
    graph = Graph()
    result = graph.op("ReduceMean", "input", axes=[2, 3], keepdims=0)
    return graph.save(path, {"input": (np.float32, ["n", 3, 64, 64])}, {result: (np.float32, ["n", 3])})


def super_resolver(path):
    graph = Graph()
    result = graph.op("Concat", "input", "input", axis=3)
    shape = (np.float32, ["n", 3, "h", "w"])
    return graph.save(path, {"input": shape}, {result: shape})


@pytest.mark.parametrize("make", [
    classifier, super_resolver,
    lambda path: affine_model(path, channels=1), lambda path: affine_model(path, batch=4),
    lambda path: affine_model(path, size=8), lambda path: affine_model(path, fidelity=(np.float32, [64])),
    lambda path: affine_model(path, fidelity=(np.float32, ["n", 3, 64, 64])),
    lambda path: path.write_bytes(affine_model(path).read_bytes()[:-20]),
    lambda path: path.write_bytes(b""), lambda path: path.write_text("<html>"), lambda path: None],
    ids=["classifier", "super-resolution", "gray", "batch of 4", "8 pixels", "64 numbers", "two images", "cut off",
         "empty", "page", "missing"])
def test_a_file_that_holds_no_face_restorer_is_one_line_with_its_name(tmp_path, make):
    path = tmp_path / "x.onnx"
    make(path)
    with pytest.raises(UserError) as caught:
        open_restorer(str(path), None)(FACES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_it_says_what_to_install_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(UserError, match=r"requirements-onnx\.txt"):
        generate_test_faces.parse_args(["--restorer", str(tmp_path / "missing.onnx")])


@pytest.mark.parametrize("arguments", [("--codeformer_fidelity", "2", "--restorer", "x.onnx"),
                                       ("--codeformer_fidelity", "0.7", "--restorer", "gpen-512")])
def test_a_fidelity_outside_its_range_or_without_a_model_is_refused(arguments):
    with pytest.raises(UserError, match="--codeformer_fidelity"):
        generate_test_faces.parse_args(list(arguments))
