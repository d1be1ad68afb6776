"""Tasks: the same wherever a run starts and however tasks are divided, aligned, of one degradation, fairly drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from model.meta_learner import Task
from tests.helpers.degradations import shrink
from tests.helpers.training_workplace import write_record
from tests.helpers.workplace import picture
from utils.data import meta_tasks
from utils.data.degradations import usm_sharpen
from utils.data.meta_tasks import Degraded, TaskSource, degrade_together, restore_faces
from utils.data.tfrecords import Images
from utils.errors import UserError
from utils.image.io import to_float
from utils.training.configuration import META_TRAINING, resolve_config

FACE_SIZE, SCENE_SIZE, FACE_PATCH, SCENE_PATCH = 64, 80, 48, 64
NUM_FACES, NUM_SCENES = 6, 5
SETTINGS = [f"data.face_size={FACE_SIZE}", f"data.scene_size={SCENE_SIZE}", f"data.face_patch_size={FACE_PATCH}",
            f"data.scene_patch_size={SCENE_PATCH}", "data.samples_per_task=2", "meta.tasks_per_batch=3",
            "meta.seed=7", "data.num_workers=2"]


def configure(*settings):
    return resolve_config(META_TRAINING, "smoke", [*SETTINGS, *settings])


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of faces and of scenes."""
    folder = tmp_path_factory.mktemp("records")
    return (write_record(folder / "face", 0, NUM_FACES, FACE_SIZE),
            write_record(folder / "scene", 100, NUM_SCENES, SCENE_SIZE))


@pytest.fixture
def make_source(records):
    def make(*settings, restore=None):
        faces, scenes = records
        return TaskSource(Images(faces, 0, NUM_FACES), Images(scenes, 0, NUM_SCENES), configure(*settings), restore)

    return make


@pytest.fixture
def area_only(monkeypatch):
    """Degrade by the mean of 4x4 pixels and nothing else."""
    monkeypatch.setattr(meta_tasks, "degrade", lambda image, *_: shrink(image))


def take(source, start, count, tasks=range(3)):
    """Return meta-batches from an iteration on."""
    batches = source.batches(start, tasks)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal(left, right):
    for name, value in left._asdict().items():
        np.testing.assert_array_equal(value, getattr(right, name), err_msg=name, strict=True)


@pytest.mark.parametrize(("start", "workers"), [(1, 2), (3, 5), (0, 0)])
def test_tasks_depend_neither_on_the_iteration_a_stream_starts_at_nor_on_the_number_of_threads(make_source, start,
                                                                                               workers):
    whole = take(make_source("data.num_workers=1"), 0, 4)
    part = take(make_source(f"data.num_workers={workers}"), start, 4 - start)
    for found, expected in zip(part, whole[start:], strict=True):
        assert_equal(found, expected)


@pytest.mark.parametrize("tasks", [range(0, 1), range(1, 3), range(2, 3)], ids=str)
def test_tasks_are_the_same_in_whichever_share_of_a_batch_they_come(make_source, tasks):
    for part, whole in zip(take(make_source(), 5, 2, tasks), take(make_source(), 5, 2), strict=True):
        assert_equal(part, Task(*(images[tasks.start:tasks.stop] for images in whole)))


@pytest.mark.parametrize(("start", "count"), [(0, NUM_FACES), (1, 4), (5, 1)])
def test_every_image_of_a_part_appears_once_in_each_epoch(records, start, count):
    images = Images(records[0], start, count)
    expected = {records[0].read(index).tobytes() for index in range(start, start + count)}
    epochs = [[images.shuffled(epoch * count + place, (1, 2)).tobytes() for place in range(count)]
              for epoch in range(4)]
    assert all(set(epoch) == expected for epoch in epochs)
    assert len(set(map(tuple, epochs))) == (4 if count > 1 else 1)


def test_tasks_go_through_the_records_without_a_gap(make_source, records):
    """12 samples of 2 iterations are 2 epochs of the 6 faces."""
    source = make_source()
    drawn = [face.tobytes() for iteration in (0, 1) for task in range(3)
             for face in source.degraded(iteration, task).face_gt]
    faces = {records[0].read(index).tobytes() for index in range(NUM_FACES)}
    assert set(drawn[:NUM_FACES]) == set(drawn[NUM_FACES:]) == faces


def test_images_of_a_task_share_a_degradation_and_tasks_and_noises_differ(make_source, monkeypatch):
    calls = []
    monkeypatch.setattr(meta_tasks, "degrade", lambda image, degradation, noise:
                        calls.append((degradation, noise)) or shrink(image))
    source = make_source()
    tasks = []
    for iteration, task in ((0, 0), (0, 1), (1, 0)):
        calls.clear()
        source.degraded(iteration, task)
        assert len(calls) == 4  # two faces, two scenes
        [shared] = {degradation for degradation, _ in calls}
        assert len({noise.seed for _, noise in calls}) == 4
        tasks.append(shared)
    assert len(set(tasks)) == 3


@pytest.mark.parametrize("sharpen", [False, True])
def test_scenes_are_sharpened_before_degrading_and_faces_are_not(area_only, sharpen):
    faces, scenes = [picture(1, 16, 16)], [picture(2, 48, 48)]
    result = degrade_together(faces, scenes, configure(), np.random.default_rng(0), sharpen=sharpen)
    np.testing.assert_array_equal(result.face_lq[0], shrink(to_float(faces[0])))
    scene = to_float(scenes[0])
    np.testing.assert_array_equal(result.scene_lq[0], shrink(usm_sharpen(scene) if sharpen else scene))
    np.testing.assert_array_equal(result.face_gt, faces)
    np.testing.assert_array_equal(result.scene_gt, scenes)
    assert np.abs(usm_sharpen(scene) - scene).max() > 0.05


def places(patch, images, *, step=4):
    """Return every (number, top, left, flipped) at which a patch lies in one of the images."""
    side = len(patch)
    return [(number, top, left, flipped) for number, image in enumerate(images)
            for top in range(0, len(image) - side + 1, step) for left in range(0, len(image) - side + 1, step)
            for flipped in (False, True)
            if np.allclose(patch[:, ::-1] if flipped else patch, image[top:top + side, left:left + side], atol=1e-6)]


def test_crops_lie_in_the_images_aligned_flipped_together_and_only_the_target_is_sharpened(make_source, records,
                                                                                           area_only):
    faces, scenes = ([to_float(part.read(index)) for index in range(len(part))] for part in records)
    sharpened = [usm_sharpen(scene) for scene in scenes]
    flips, tops, lefts = set(), set(), set()
    for batch in take(make_source(), 0, 3):
        samples = Task(*(images.reshape(-1, *images.shape[2:]) for images in batch))
        for face_lq, face_hq, scene_lq, target, real in zip(*samples, strict=True):
            [(*_, face_flipped)] = places(face_hq, faces)
            [place] = places(target, sharpened)
            assert places(real, scenes) == [place]
            assert place[-1] == face_flipped
            flips.add(face_flipped)
            tops.add(place[1])
            lefts.add(place[2])
            np.testing.assert_allclose(face_lq * 255, shrink(face_hq), atol=1e-4)
            np.testing.assert_allclose(scene_lq * 255, shrink(target), atol=1e-4)
    assert flips == {False, True}
    assert tops == lefts == {0, 4, 8, 12, 16}  # 80 - 64: the last position included


@pytest.mark.parametrize(("gradients", "num_draws"), [
    ([-6.0], 1), ([-6.1, -5.9], 2), ([-7, -8, -9, -10], 4), ([-7] * 6, 6)])
def test_flat_faces_are_drawn_again_so_many_times_at_most(make_source, monkeypatch, gradients, num_draws):
    calls = []
    source = make_source("data.samples_per_task=1", f"data.max_redraws={len(gradients) - 1}")
    monkeypatch.setattr(meta_tasks, "log_gradient", lambda patch: calls.append(patch) or gradients[len(calls) - 1])
    images = source.degraded(0, 0)
    batch = source.finished(0, range(1), Degraded(*(part[None] for part in images)))
    assert len(calls) == num_draws
    last = to_float(calls[-1])
    assert any((batch.face_hq[0, 0] == face).all() for face in (last, last[:, ::-1]))
    assert len({patch.tobytes() for patch in calls}) > 1 or num_draws == 1


def test_restorer_gets_upsampled_faces_neither_clipped_nor_rounded():
    """Equal to the input that the original code made of the same face."""
    received = []
    with np.load(Path(__file__).parents[2] / "data" / "gpen.npz") as reference:
        face_lq, expected = reference["g256_b_lr"], reference["g256_b_input_sub16"]
    images = Degraded(np.zeros((1, 2, 256, 256, 3), np.uint8), np.stack([face_lq, face_lq[::-1]])[None],
                      *[np.zeros(0)] * 3)
    restore_faces(lambda faces: received.append(faces) or faces, images)
    [faces] = received
    assert faces.shape == (2, 256, 256, 3)
    np.testing.assert_allclose(faces[0, ::16, ::16], expected, atol=2e-3)
    np.testing.assert_allclose(faces[1], faces[0, ::-1], atol=1e-3)
    assert faces.min() < -20
    assert faces.max() > 260


def test_restorer_is_called_once_per_batch_and_its_faces_are_learnt_from(make_source):
    sizes = []

    def restore(faces):
        sizes.append(len(faces))
        return np.rint(255 - np.clip(faces, 0, 255)).astype(np.uint8)

    source = make_source("data.min_log_gradient=-99", restore=restore)
    for iteration in (0, 1):
        images = Degraded(*map(np.stack, zip(*(source.degraded(iteration, task) for task in range(3)), strict=True)))
        batch = source.finished(iteration, range(3), images)
        small = batch.face_hq.reshape(6, FACE_PATCH // 4, 4, FACE_PATCH // 4, 4, 3).mean(axis=(2, 4))
        given = 1 - batch.face_lq.reshape(small.shape)
        for number in range(6):  # smooth, but like the degraded face of this number only
            errors = [np.abs(small[number] - other).mean() for other in given]
            assert np.argmin(errors) == number
    assert sizes == [6, 6]


@pytest.mark.parametrize("place", ["degrade", "restore_faces"])
def test_worker_exceptions_are_reraised_after_the_batches_before(make_source, monkeypatch, place):
    error, calls, original = UserError("x.tfrecord is damaged"), [], getattr(meta_tasks, place)

    def fail(*args):
        calls.append(1)
        if len(calls) > (2 if place == "restore_faces" else 24):  # 3 tasks of 4 images make a batch
            raise error
        return original(*args)

    monkeypatch.setattr(meta_tasks, place, fail)
    batches = make_source("data.num_workers=1").batches(0, range(3))
    assert [next(batches).face_hq.shape[0] for _ in range(2)] == [3, 3]
    with pytest.raises(UserError) as caught:
        next(batches)
    assert caught.value is error
