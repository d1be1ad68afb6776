import numpy as np
import pytest
import tensorflow as tf

from config import FaceRestorerConfig
from model.face_restorer import (
    face_restorer,
    face_restorer_architecture,
    face_restorer_shapes,
    init_face_restorer,
)
from model.rrdbnet import rrdbnet_shapes
from tests.helpers.reference_restorer import SMALL_RESTORER, identity_restorer, reference_restore, small_restorer

ARCHITECTURES = [FaceRestorerConfig(), SMALL_RESTORER, FaceRestorerConfig((8, 4, 2), (16, 8, 6), (3, 1, 2)),
                 FaceRestorerConfig((16, 8, 4, 2), (12, 8, 6, 4), (1, 0, 1, 0)), FaceRestorerConfig((4,), (8,), (2,)),
                 FaceRestorerConfig((32, 16, 8), (8, 6, 4), (0, 1, 0))]


def tensors(params, kind=tf.float32):
    return {name: tf.cast(value, kind) for name, value in params.items()}


def draw_faces(seed, count, height, width):
    return np.random.default_rng(seed).random((count, height, width, 3), np.float32)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:], ids=str)
def test_network_equals_numpy(architecture):
    params, stride = small_restorer(architecture), architecture.strides[0]
    faces, corners = draw_faces(0, 2, 3 * stride, 4 * stride), [(0, 0), (96, 208)]
    restored = face_restorer(tensors(params), tf.constant(faces), tf.constant(corners)).numpy()
    for face, corner, found in zip(faces, corners, restored, strict=True):
        expected = reference_restore(params, face, corner, architecture=architecture)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert np.abs(expected - face).mean() > 0.05


def test_without_a_last_layer_faces_stay_as_they_are():
    faces = draw_faces(1, 2, 16, 24)
    np.testing.assert_array_equal(face_restorer(tensors(identity_restorer()), tf.constant(faces)), faces)


def test_a_new_network_is_close_to_the_identity():
    faces = draw_faces(2, 1, 64, 64)
    change = face_restorer(init_face_restorer(0, FaceRestorerConfig()), tf.constant(faces)) - faces
    assert 0 < np.abs(change).mean() < 0.1


def test_a_part_with_its_corner_is_restored_as_in_the_whole_face():
    """Away from the borders: 18 convolutions on a grid of 4 pixels and one on a grid of 2 see less than 80 pixels."""
    params, [face] = tensors(small_restorer()), draw_faces(3, 1, 512, 512)
    row, column, side, margin = 64, 168, 272, 80
    part = tf.constant(face[None, row:row + side, column:column + side])
    inside = slice(margin, side - margin)

    def interior(corners):
        return face_restorer(params, part, corners).numpy()[0, inside, inside]

    whole = face_restorer(params, tf.constant(face[None])).numpy()[0]
    expected = whole[row:row + side, column:column + side][inside, inside]
    np.testing.assert_allclose(interior(tf.constant([[row, column]])), expected, atol=1e-5)
    for wrong in (None, tf.constant([[column, row]]), tf.constant([[row, column + 64]])):
        assert np.abs(interior(wrong) - expected).mean() > 1e-3


def test_faces_without_corners_begin_at_the_first_pixel():
    params, faces = tensors(small_restorer()), tf.constant(draw_faces(4, 2, 32, 48))
    at_zero = face_restorer(params, faces, tf.zeros([2, 2], tf.int32))
    np.testing.assert_array_equal(face_restorer(params, faces), at_zero)


def test_each_face_has_its_own_corner():
    params, faces = tensors(small_restorer()), draw_faces(5, 2, 32, 32)
    corners = np.array([[0, 40], [400, 8]], np.int32)
    together = face_restorer(params, tf.constant(faces), tf.constant(corners)).numpy()
    for number in range(2):
        alone = face_restorer(params, tf.constant(faces[[number]]), tf.constant(corners[[number]]))
        np.testing.assert_allclose(together[number], alone[0], atol=1e-6)


def test_bfloat16_parameters_give_nearly_the_same_face():
    params, faces = small_restorer(), tf.constant(draw_faces(6, 1, 64, 64))
    exact = face_restorer(tensors(params), faces)
    rounded = face_restorer(tensors(params, tf.bfloat16), faces)
    assert rounded.dtype == tf.float32
    difference = np.abs(exact - rounded)
    assert 0 < difference.mean() < 0.01 * np.abs(exact - faces).mean()


def test_every_parameter_matters():
    params, faces = tensors(small_restorer()), tf.constant(draw_faces(7, 1, 24, 24))
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = tf.reduce_sum(face_restorer(params, faces) ** 2)
    gradients = tape.gradient(loss, params)
    assert [name for name, gradient in gradients.items() if not np.abs(gradient).max() > 0] == []


def test_network_of_three_scales_has_this_many_parameters():
    layers = {"8/conv_in": 9 * 194 * 64 + 64, "8/conv_body": 9 * 64 * 64 + 64, "4/conv_in": 9 * 48 * 32 + 32,
              "4/conv_up": 9 * 64 * 128 + 128, "4/conv_body": 9 * 32 * 32 + 32, "2/conv_in": 9 * 12 * 24 + 24,
              "2/conv_up": 9 * 32 * 96 + 96, "conv_last": 9 * 24 * 12 + 12}
    coarse, fine = (sum(9 * (2 + layer) * growth * growth + growth for layer in range(4)) + 9 * 6 * growth * 2 * growth
                    + 2 * growth for growth in (32, 16))
    shapes = face_restorer_shapes(FaceRestorerConfig((8, 4, 2), (64, 32, 24), (1, 1, 0)))
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert {name: sizes[f"{name}/weight"] + sizes[f"{name}/bias"] for name in layers} == layers
    assert sum(sizes.values()) == sum(layers.values()) + 3 * (coarse + fine) == 1_178_084
    assert len(shapes) == 2 * (8 + 2 * 3 * 5)


def test_blocks_of_every_scale_are_drawn_with_a_tenth_of_he_normals_deviation():
    params = init_face_restorer(0, FaceRestorerConfig())
    for stride, features in ((16, 64), (4, 32)):
        deviation = params[f"{stride}/body/0/rdb1/conv5/weight"].numpy().std()
        assert deviation == pytest.approx(0.1 * np.sqrt(2 / (9 * (features + 4 * features // 2))), rel=0.05)
        assert params[f"{stride}/conv_in/weight"].numpy().std() > 3 * deviation


def test_initialisation_depends_on_the_seed_alone():
    one, same, other = (init_face_restorer(seed, SMALL_RESTORER) for seed in (0, 0, 1))
    assert all((one[name].numpy() == same[name].numpy()).all() for name in one)
    assert (one["conv_last/weight"].numpy() != other["conv_last/weight"].numpy()).any()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_architecture_follows_from_the_shapes(architecture):
    assert face_restorer_architecture(face_restorer_shapes(architecture)) == architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_a_missing_parameter_is_named_whichever_it_is(architecture):
    shapes = face_restorer_shapes(architecture)
    for name in shapes:
        if not name.endswith("/conv_in/weight"):  # the scales are known by these
            with pytest.raises(ValueError, match=f"not those of face restorer.*missing: {name}$"):
                face_restorer_architecture({key: shape for key, shape in shapes.items() if key != name})


@pytest.mark.parametrize(("changes", "message"), [
    ({"conv_last/bias": (13,)}, r"wrong shape: conv_last/bias \(13,\) instead of \(12,\)"),
    ({"conv_hr/weight": (3, 3, 6, 6)}, "extra: conv_hr/weight"),
    ({"4/conv_in/weight": (3, 3, 51, 8)}, r"wrong shape: 4/conv_in/weight \(3, 3, 51, 8\) instead of \(3, 3, 50, 8"),
    ({"4/conv_in/weight": (50, 8)}, r"wrong shape: 4/conv_in/weight \(50, 8\) instead of"),
    ({"4/body/1/rdb1/conv1/weight": (3, 3, 8, 4)}, r"missing: 4/body/1/rdb1/conv1/bias, .* and 23 more"),
    ({"2/body/0/x": (1,)}, "missing: 2/body/0/rdb1/conv1/weight, .*; extra: 2/body/0/x")])
def test_what_does_not_fit_is_named_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        face_restorer_architecture(face_restorer_shapes(SMALL_RESTORER) | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shapes", [
    rrdbnet_shapes(2, 16, 8), {}, {"x": (3,)}, {"16/conv_in/weight": (3, 3, 770, 8), "4/conv_in/bias": (8,)},
    {"16/conv_in/weight": (3, 3, 770, 8), "4/conv_in/weight": (3, 3, 48, 8)}],
    ids=["RRDBNet", "nothing", "another", "one scale", "a scale left out"])
def test_another_network_is_told_what_it_lacks(shapes):
    with pytest.raises(ValueError, match=r"not those of face restorer\. missing: .*/conv_in/") as caught:
        face_restorer_architecture(shapes)
    assert "\n" not in str(caught.value)
