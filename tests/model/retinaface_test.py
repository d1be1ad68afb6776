"""The detector against the outputs of the published code, and its parts against NumPy and hand-made figures.

The arrays in tests/data/retinaface.npz come from the original detector run in PyTorch with the weights of
tests/helpers/reference_detector.py, on crops and upscaled copies of scikit-image's astronaut.
"""

from pathlib import Path

import numpy as np
import pytest
import skimage

from model.resnet import resnet50
from model.retinaface import (
    Detections,
    compile_retinaface,
    context_module,
    decode_boxes,
    decode_landmarks,
    detect,
    feature_pyramid,
    non_maximum_suppression,
    preprocess,
    prior_boxes,
    retinaface_params_from_torch,
    retinaface_shapes,
    shrink_photo,
)
from tests.helpers.reference_detector import reference_detector_state

CROPS = {"a": (slice(40, 200), slice(130, 322)), "b": (slice(35, 185), slice(120, 323))}  # b: odd on all levels


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "data" / "retinaface.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut().astype(np.float32) / 255


@pytest.fixture(scope="module")
def params():
    return retinaface_params_from_torch(reference_detector_state())


@pytest.fixture(scope="module")
def forward(params):
    return compile_retinaface(params)


def repeated(photo, height, width):
    """Repeat every pixel four times in both directions, then repeat the whole and cut it to size."""
    photo = photo.repeat(4, axis=0).repeat(4, axis=1)
    return np.tile(photo, (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1))[:height, :width]


def original_landmarks(detections):
    """Order landmarks as the original code does: all x, then all y."""
    return detections.landmarks.transpose(0, 2, 1).reshape(-1, 10)


def test_parameters_have_the_listed_names_and_shapes(params):
    assert {name: tuple(value.shape) for name, value in params.items()} == retinaface_shapes()
    assert list(params) == list(retinaface_shapes())
    assert sum(int(np.prod(shape)) for shape in retinaface_shapes().values()) == 27_264_608


def test_features_equal_the_original(params, astronaut, golden):
    stages = resnet50(params, "body", preprocess(astronaut[CROPS["a"]]))
    pyramid = feature_pyramid(params, stages)
    features = {"layer2": stages[0], "layer3": stages[1], "layer4": stages[2], "fpn1": pyramid[0], "fpn3": pyramid[2],
                "ssh1": context_module(params, "ssh1", pyramid[0]), "ssh3": context_module(params, "ssh3", pyramid[2])}
    for name, feature in features.items():
        values = feature.numpy()[0]
        statistics = [values.mean(dtype=np.float64), values.std(dtype=np.float64)]
        np.testing.assert_allclose(statistics, golden[f"a_feat_{name}_mean_std"], rtol=1e-4, err_msg=name)
        centre = values[values.shape[0] // 2, values.shape[1] // 2, :8]
        np.testing.assert_allclose(centre, golden[f"a_feat_{name}_c8"], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("crop", CROPS)
def test_raw_outputs_equal_the_original(forward, astronaut, golden, crop):
    boxes, scores, landmarks = (output.numpy()[0] for output in forward(preprocess(astronaut[CROPS[crop]])))
    assert len(boxes) == {"a": 1260, "b": 1318}[crop]
    np.testing.assert_allclose(boxes[::3], golden[f"{crop}_boxes_raw_sub3"], atol=1e-4)
    np.testing.assert_allclose(scores[::3], golden[f"{crop}_scores_sub3"], atol=1e-4)
    np.testing.assert_allclose(landmarks[::3], golden[f"{crop}_landmarks_raw_sub3"], atol=1e-4)


@pytest.mark.parametrize("crop", CROPS)
def test_priors_and_decoding_equal_the_original(astronaut, golden, crop):
    size = astronaut[CROPS[crop]].shape[:2]
    priors = prior_boxes(*size)[::3]
    np.testing.assert_allclose(priors, golden[f"{crop}_priors_sub3"], atol=1e-7, rtol=0)
    boxes = decode_boxes(golden[f"{crop}_boxes_raw_sub3"], priors, *size)
    landmarks = decode_landmarks(golden[f"{crop}_landmarks_raw_sub3"], priors, *size)
    np.testing.assert_allclose(boxes, golden[f"{crop}_boxes_sub3"], atol=2e-3)
    np.testing.assert_allclose(landmarks.reshape(-1, 10), golden[f"{crop}_landmarks_sub3"], atol=2e-3)


@pytest.mark.parametrize("crop", CROPS)
def test_detections_equal_the_original_in_the_same_order(forward, astronaut, golden, crop):
    found = detect(forward, astronaut[CROPS[crop]])
    expected = golden[f"{crop}_detections"]
    assert found.boxes.shape == (len(expected), 4)
    np.testing.assert_allclose(found.boxes, expected[:, :4], atol=0.02)
    np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-4)
    np.testing.assert_allclose(original_landmarks(found), golden[f"{crop}_detected_landmarks"], atol=0.02)


def test_faces_of_a_large_photo_equal_the_original_but_for_its_scaled_scores(forward, astronaut, golden):
    found = detect(forward, repeated(astronaut, 1501, 1000))
    expected = golden["big_detections"]
    # two scores lie so close that their faces may be swapped
    pairs = np.abs(found.boxes[:, None] - expected[None, :, :4]).max(axis=2).argmin(axis=1)
    assert sorted(pairs) == list(range(72))
    np.testing.assert_allclose(found.boxes, expected[pairs, :4], atol=0.1)
    np.testing.assert_allclose(original_landmarks(found), golden["big_detected_landmarks"][pairs], atol=0.1)
    np.testing.assert_allclose(found.scores, expected[pairs, 4] * 1000 / 1501, atol=1e-4)
    assert found.scores.max() < 1 < expected[:, 4].max()
    assert (np.diff(found.scores) <= 0).all()


def test_graph_is_traced_once_for_photos_of_any_size(forward):
    for height, width in [(1, 1), (7, 40), (33, 65)]:
        outputs = forward(preprocess(np.full((height, width, 3), 0.5, np.float32)))
        assert [output.shape[1] for output in outputs] == [len(prior_boxes(height, width))] * 3
        assert all(np.isfinite(output).all() for output in outputs)
    assert forward.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("percent", [30, 40, 70])
def test_suppression_keeps_the_original_indices(golden, percent):
    boxes = golden["nms_boxes"]
    kept = non_maximum_suppression(boxes[:, :4], boxes[:, 4], percent / 100)
    np.testing.assert_array_equal(kept, golden[f"nms_keep_{percent}"])


def test_boxes_include_their_last_pixel_and_may_overlap_as_much_as_the_threshold():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 4]], np.float32)  # 100 and 50 pixels
    scores = np.array([0.8, 0.9], np.float32)
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [1, 0]
    assert non_maximum_suppression(boxes, scores, 0.49).tolist() == [1]


def test_large_photos_get_the_original_sizes(golden):
    for height, width, new_height, new_width, scale in golden["resize_rows"]:
        shrunk, actual = shrink_photo(np.zeros((int(height), int(width), 1), np.float32))
        assert shrunk.shape == (new_height, new_width, 1)
        assert actual == scale


@pytest.mark.parametrize("size", [(900, 1600), (1501, 1000), (2001, 3000)])
def test_large_photos_get_the_original_pixels(astronaut, golden, size):
    shrunk, _ = shrink_photo(repeated(astronaut, *size))
    expected = golden[f"resize_{size[0]}x{size[1]}_sub16"]
    np.testing.assert_allclose(preprocess(shrunk)[0, ::16, ::16], expected, atol=1e-2)


def test_network_sees_blue_green_red_without_its_mean():
    image = preprocess(np.array([[[1.0, 0.5, 0.0]]], np.float32))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, [[[[0 - 104, 127.5 - 117, 255 - 123]]]])


def fake_forward(scores):
    """Return a network that places each face exactly on its anchor, with the given scores {anchor: score}."""
    def forward(images):
        num_anchors = len(prior_boxes(*images.shape[1:3]))
        values = np.full((1, num_anchors), 0.01, np.float32)
        values[0, list(scores)] = list(scores.values())
        return np.zeros((1, num_anchors, 4), np.float32), values, np.zeros((1, num_anchors, 10), np.float32)
    return forward


def test_detections_of_a_scaled_photo_are_in_its_own_pixels_with_scores_as_they_are():
    # the first anchor, 16 pixels at (4, 4) of the photo scaled by one third
    found = detect(fake_forward({0: 0.95}), np.zeros((3000, 1500, 3), np.float32))
    np.testing.assert_allclose(found.boxes, [[-12, -12, 36, 36]], atol=1e-4)
    np.testing.assert_allclose(found.landmarks, np.full((1, 5, 2), 12), atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.95])


def test_faces_are_filtered_and_ordered_by_score_and_position():
    photo = np.zeros((64, 640, 3), np.float32)
    network = fake_forward({0: 0.92, 20: 0.97, 40: 0.92, 60: 0.9, 80: 0.5})  # 16 pixels wide, 80 pixels apart
    assert [round(float(box[0])) for box in detect(network, photo).boxes] == [76, -4, 156]
    assert [round(float(box[0])) for box in detect(network, photo, max_faces=2).boxes] == [76, -4]
    assert [round(float(box[0])) for box in detect(network, photo, max_candidates=1).boxes] == [76]
    assert len(detect(network, photo, min_confidence=0.4).boxes) == 5


def test_a_photo_without_faces_gives_empty_arrays():
    found = detect(fake_forward({}), np.zeros((40, 50, 3), np.float32))
    assert isinstance(found, Detections)
    assert [array.shape for array in found] == [(0, 4), (0,), (0, 5, 2)]
