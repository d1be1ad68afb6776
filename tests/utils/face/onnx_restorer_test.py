"""Face restorers as ONNX files, against models of known effect."""

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

import generate_test_faces
import main
from scripts import evaluate, evaluate_face_restorer
from tests.helpers.face_workplace import FaceWorkplace
from utils.errors import FatalError, UserError
from utils.face.restorers import RESTORERS, open_restorer
from utils.training.configuration import META_TRAINING, resolve_config
from utils.training.setup import make_restorer

FACES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.onnx"


def write_model(path, *, factor=0.5, size=64, batch="n", fidelity=None, channels=3, doubled=False):
    """Write a model that multiplies an image by `factor` and adds the fidelity: (type, shape) of a second input."""
    nodes = [helper.make_node("Mul", ["input", "factor"], ["product"])]
    inputs = [helper.make_tensor_value_info("input", FLOAT, [batch, channels, size, size])]
    if fidelity is not None:
        inputs.append(helper.make_tensor_value_info("weight", *fidelity))
        nodes += [helper.make_node("Cast", ["weight"], ["number"], to=FLOAT),
                  helper.make_node("Add", ["product", "number"], ["sum"])]
    nodes.append(helper.make_node("Concat", [nodes[-1].output[0]] * (1 + doubled), ["output"], axis=3))
    output = helper.make_tensor_value_info("output", FLOAT, [batch, channels, *(["h", "w"] if doubled else [size] * 2)])
    graph = helper.make_graph(nodes, "graph", inputs, [output], [numpy_helper.from_array(np.float32(factor), "factor")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.mark.parametrize("batch", ["n", None, 1])
@pytest.mark.parametrize("size", [64, "size", None])
def test_models_get_rgb_planes_of_minus_one_to_one_and_any_number_of_faces_is_restored(path, batch, size):
    faces = FACES if size == 64 else FACES.repeat(8, axis=1).repeat(8, axis=2)  # 512 where the size is open
    rows = np.linspace(0.25, 0.75, faces.shape[1])[:, None, None]
    factor = (rows * [1, 0.5, 0.75]).astype(np.float32)  # of each row and channel
    write_model(path, factor=factor.transpose(2, 0, 1), batch=batch, size=size)
    restored = open_restorer(str(path), None)(faces)
    assert np.abs(restored - ((faces / 127.5 - 1) * factor + 1) * 127.5).max() <= 0.501


def test_face_hq_is_that_of_the_same_network_in_tensorflow_to_a_level(path, tmp_path, monkeypatch):
    network = tf.function(lambda faces: tf.cast(tf.round(0.5 * tf.cast(faces, tf.float32) + 63.75), tf.uint8))
    monkeypatch.setitem(RESTORERS, "gpen-512", lambda name, weights_dir: lambda faces: network(faces).numpy())
    write_model(path, size=512, batch=1)
    found = []
    for name in ("gpen-512", str(path)):
        place = FaceWorkplace(tmp_path / f"place {len(found)}")
        place.add_photo()
        place.add_face()
        assert place.run(restorer=name) == 0
        found.append(place.read("Face_HQ"))
    assert np.abs(found[0] - found[1]).max() <= 1.01 / 255
    assert found[0].std() > 0.05


def test_faces_are_resized_to_the_models_size_and_back(path):
    write_model(path, factor=-1.0, size=32)
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None, None] * 4, (2, 64, 64, 3))
    restored = open_restorer(str(path), None)(ramp)
    assert restored.shape == ramp.shape
    assert np.abs(restored[:, 4:-4] - (255.0 - ramp[:, 4:-4])).max() <= 1


@pytest.mark.parametrize(("kind", "shape"), [(FLOAT, [1]), (DOUBLE, []), (FLOAT, ["w"])])
def test_a_second_number_is_the_fidelity_in_the_evaluations_and_training_too(path, tmp_path, kind, shape):
    write_model(path, fidelity=(kind, shape))
    flags = ["--restorer", str(path), "--codeformer_fidelity", "0.25"]
    config = resolve_config(META_TRAINING, "smoke", main.parse_args(flags).settings)
    for restore, fidelity in ((open_restorer(str(path), None), 0.5), (make_restorer(config, None), 0.25)):
        restored = restore(FACES.astype(np.float32) - 3)  # beyond the range, as in training
        expected = np.clip((FACES - 3.0) * 0.5 + 63.75 + 127.5 * fidelity, 0, 255)
        assert np.abs(restored - expected).max() <= 0.51
    for parse_args in (evaluate.parse_args, evaluate_face_restorer.parse_args):
        args = parse_args(["--input_dir", str(tmp_path), *flags])
        assert (args.restorer, args.codeformer_fidelity) == (flags[1], 0.25)


def test_a_fidelity_out_of_range_or_for_a_model_without_is_refused(path):
    write_model(path)
    with pytest.raises(UserError, match=r"--codeformer_fidelity.*x\.onnx"):
        open_restorer(str(path), None, fidelity=0.7)
    for fidelity, restorer in (("2", "x.onnx"), ("0.7", "gpen-512")):
        with pytest.raises(UserError, match="--codeformer_fidelity"):
            generate_test_faces.parse_args(["--codeformer_fidelity", fidelity, "--restorer", restorer])


@pytest.mark.parametrize("flaw", [
    {"doubled": True}, {"channels": 1}, {"batch": 4}, {"size": 8}, {"fidelity": (FLOAT, [64])},
    {"fidelity": (FLOAT, ["n", 3, 64, 64])}, "cut off", "missing"], ids=str)
def test_a_file_that_holds_no_face_restorer_is_one_line_with_its_name(path, flaw):
    if flaw != "missing":
        write_model(path, **({} if flaw == "cut off" else flaw))
    if flaw == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises((UserError, FatalError)) as caught:
        open_restorer(str(path), None)(FACES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_it_says_what_to_install_before_anything_is_read(path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-onnx\.txt"):
        generate_test_faces.parse_args(["--restorer", str(path)])
