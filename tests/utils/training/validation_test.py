"""Validation: a fixed set of tasks, and scores that are worked out again step by step."""

import numpy as np
import pytest
import tensorflow as tf

from model.masknet import init_masknet, masknet
from model.rrdbnet import rrdbnet
from tests.helpers.degradations import shrink
from tests.helpers.small_networks import small_generator
from tests.helpers.training_workplace import write_record
from tests.helpers.workplace import picture
from utils.data import meta_tasks as training_data
from utils.data.tfrecords import Images
from utils.face.patches import Patches
from utils.image.io import quantize, to_float
from utils.image.resizing import resize_bicubic
from utils.metrics.fidelity import psnr_y
from utils.training.configuration import META_TRAINING, resolve_config
from utils.training.validation import ValidationTask, Validator, draw_validation_tasks

FACE_SIZE, SCENE_SIZE, NUM_FACES, NUM_SCENES = 32, 48, 5, 3
SETTINGS = [f"data.face_size={FACE_SIZE}", f"data.scene_size={SCENE_SIZE}", "data.face_patch_size=16",
            "data.scene_patch_size=32", "data.samples_per_task=2", "run.validation_tasks=4",
            "run.validation_scene_size=40", "run.validation_patch_size=16", "run.validation_patches=3",
            "run.image_tasks=1", "inner.learning_rate=0.05"]


def configure(*settings):
    return resolve_config(META_TRAINING, "smoke", [*SETTINGS, *settings])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Faces and scenes to validate on: the last images of records that have one more."""
    folder = tmp_path_factory.mktemp("records")
    return (Images(write_record(folder / "face", 0, NUM_FACES + 1, FACE_SIZE), 1, NUM_FACES),
            Images(write_record(folder / "scene", 100, NUM_SCENES + 1, SCENE_SIZE), 1, NUM_SCENES))


def flat_values(task):
    return [array for patches in task.patches for array in patches] + list(task[1:])


def assert_equal(left, right):
    for one, other in zip(flat_values(left), flat_values(right), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_tasks_are_the_same_for_every_run_with_these_records_and_this_seed(images):
    tasks = draw_validation_tasks(*images, configure(), None)
    same = configure("meta.num_iterations=9", "meta.tasks_per_batch=1", "meta.learning_rate=1", "data.num_workers=1",
                     "data.face_patch_size=32")
    for task, other in zip(tasks, draw_validation_tasks(*images, same, None), strict=True):
        assert_equal(task, other)
    for task, other in zip(tasks, draw_validation_tasks(*images, configure("meta.seed=1"), None), strict=True):
        assert (task.scene_lq != other.scene_lq).any()


@pytest.mark.parametrize("size", [40, 32, 48, 400])
def test_scenes_are_the_middle_of_the_records_images_unsharpened_and_aligned(images, monkeypatch, size):
    monkeypatch.setattr(training_data, "degrade", lambda image, *_: shrink(image))
    tasks = draw_validation_tasks(*images, configure(f"run.validation_scene_size={size}"), None)
    for number, task in enumerate(tasks):
        scene = picture(101 + number % NUM_SCENES, SCENE_SIZE, SCENE_SIZE)
        margin = max(0, SCENE_SIZE - size) // 2 // 4 * 4
        side = min(size, SCENE_SIZE)
        np.testing.assert_array_equal(task.scene_gt, to_float(scene[margin:margin + side, margin:margin + side]))
        np.testing.assert_array_equal(task.scene_lq, to_float(shrink(task.scene_gt)))


def test_faces_follow_each_other_and_come_round_again_with_aligned_patches(images, monkeypatch):
    monkeypatch.setattr(training_data, "degrade", lambda image, *_: shrink(image))
    tasks = draw_validation_tasks(*images, configure(), None)
    for number, task in enumerate(tasks):
        faces = [to_float(picture(1 + (2 * number + index) % NUM_FACES, FACE_SIZE, FACE_SIZE)) for index in range(2)]
        np.testing.assert_array_equal(task.face_hq, faces[0])
        np.testing.assert_array_equal(task.face_lq, to_float(shrink(faces[0])))
        assert len(task.patches) == 2
        for face, patches in zip(faces, task.patches, strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(face, (16, 16, 3))[::4, ::4, 0]
            for lq, hq in zip(patches.lq, patches.hq, strict=True):
                assert (windows == hq).all(axis=(2, 3, 4)).any()
                np.testing.assert_array_equal(lq, to_float(shrink(hq)))


def test_patches_are_cut_from_restored_faces(images):
    restored = []

    def restore(faces):
        restored.append(np.stack([np.full(face.shape, 40 * len(restored) + number, np.uint8)
                                  for number, face in enumerate(faces)]))
        return restored[-1]

    tasks = draw_validation_tasks(*images, configure(), restore)
    assert len(restored) == 4
    for number, task in enumerate(tasks):
        for index, patches in enumerate(task.patches):
            np.testing.assert_array_equal(patches.hq, np.full((3, 16, 16, 3), np.float32(40 * number + index) / 255))
        assert task.face_hq[0, 0, 0] == np.float32(40 * number) / 255


@pytest.fixture(scope="module")
def networks():
    generator = {name: tf.constant(value) for name, value in small_generator().items()}
    return generator, init_masknet(0, num_features=8, last_bias=1.0)


@pytest.fixture
def tasks():
    """Three tasks of smooth scenes, with faces that pull the generator in different directions."""
    made = []
    for number in range(3):
        rng = np.random.default_rng(number)
        scene = to_float(picture(number, 32, 24))
        face = to_float(picture(50 + number, 16, 16))
        hq = np.clip(face * 0.3 + number * 0.3, 0, 1)
        patches = [Patches(to_float(shrink(face))[None], hq[None]),
                   Patches(rng.random((2, 2, 3, 3), np.float32), rng.random((2, 8, 12, 3), np.float32))]
        made.append(ValidationTask(patches, to_float(shrink(face)), hq, to_float(shrink(scene)), scene))
    return made


def adapt(generator, mask, patches, *, learning_rate, num_steps):
    """Take the inner steps without the program's inner loop; gives parameters, first loss and the mean of W."""
    weights = [masknet(mask, *batch) for batch in patches]
    total = sum(tf.size(weight).numpy() for weight in weights)
    params, losses = dict(generator), []
    for _ in range(num_steps):
        with tf.GradientTape() as tape:
            tape.watch(params)
            # of all pixels and channels of all patches
            loss = tf.add_n([tf.reduce_sum(weight * tf.abs(batch.hq - rrdbnet(params, batch.lq))) / (3 * total)
                             for weight, batch in zip(weights, patches, strict=True)])
        gradients = tape.gradient(loss, params)
        params = {name: params[name] - learning_rate * gradients[name] for name in params}
        losses.append(float(loss))
    return params, losses[0], float(np.mean([np.mean(weight) for weight in weights]))


def upscaled(params, task):
    return np.clip(rrdbnet(params, task.scene_lq[None])[0].numpy(), 0, 1)


def test_scores_are_those_worked_out_step_by_step(networks, tasks):
    def distance(image, truth):
        return float(np.square(image - truth).mean())

    generator, mask = networks
    scores = Validator(tasks, configure("inner.num_steps=2"), distance).evaluate(*networks)[0]
    adapted = [adapt(generator, mask, task.patches, learning_rate=0.05, num_steps=2) for task in tasks]
    rows = []
    for number, task in enumerate(tasks):
        images = {"bicubic": resize_bicubic(task.scene_lq, 32, 24), "before": upscaled(generator, task),
                  "after": upscaled(adapted[number][0], task),
                  "other_faces": upscaled(adapted[(number + 1) % 3][0], task)}
        rows.append({f"psnr_{name}": psnr_y(quantize(image), quantize(task.scene_gt))
                     for name, image in images.items()})
        rows[-1].update(inner_loss=adapted[number][1], mask_mean=adapted[number][2],
                        lpips_before=distance(images["before"], task.scene_gt),
                        lpips_after=distance(images["after"], task.scene_gt))
    expected = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert scores == pytest.approx(expected, rel=1e-4)
    assert len({round(scores[f"psnr_{name}"], 2) for name in ("bicubic", "before", "after", "other_faces")}) == 4


def test_scores_depend_on_the_networks_alone(networks, tasks):
    generator, mask = networks
    brighter = {**generator, "conv_last/bias": generator["conv_last/bias"] + 0.1}
    validator = Validator(tasks[:2], configure())
    (first, pictures), (other, _), (again, same) = (validator.evaluate(params, mask) for params in
                                                    (generator, brighter, generator))
    assert first == again
    for name, image in pictures.items():
        np.testing.assert_array_equal(image, same[name])
    assert first["psnr_bicubic"] == other["psnr_bicubic"]
    for name in ("psnr_before", "psnr_after", "inner_loss"):
        assert abs(first[name] - other[name]) > 1e-3
    assert other == Validator(tasks[:2], configure()).evaluate(brighter, mask)[0]


def test_pictures_are_those_of_the_first_tasks(networks, tasks):
    generator, mask = networks
    pictures = Validator(tasks, configure("run.image_tasks=2")).evaluate(*networks)[1]
    assert {name.partition("/")[0] for name in pictures} == {"0", "1"}
    for number, task in enumerate(tasks[:2]):
        shown = {name.partition("/")[2]: image for name, image in pictures.items() if name.startswith(f"{number}/")}
        np.testing.assert_array_equal(shown["1_lq"][::4, ::4], task.scene_lq)
        np.testing.assert_allclose(shown["2_unadapted"], upscaled(generator, task), atol=1e-5)
        np.testing.assert_array_equal(shown["4_gt"], task.scene_gt)
        np.testing.assert_array_equal(shown["5_face_hq"], task.face_hq)
        weights = masknet(mask, task.face_lq[None], task.face_hq[None])[0].numpy()
        np.testing.assert_allclose(shown["6_W"], np.repeat(weights, 3, axis=2) / max(1, weights.max()), atol=1e-6)
        assert all(0 <= image.min() <= image.max() <= 1 for image in shown.values())
