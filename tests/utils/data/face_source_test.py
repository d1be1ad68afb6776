"""Batches of faces: the same wherever a run starts, each face once per epoch, and errors as they were raised."""

import itertools

import numpy as np
import pytest

from model.face_restorer import FACE_SIZE
from tests.helpers.workplace import picture
from utils.data import face_samples
from utils.data.face_samples import FaceBatch, FaceSample, FaceSource, draw_face_sample, draw_validation_faces
from utils.data.tfrecords import ImageRecords, Images, write_image_records
from utils.errors import UserError
from utils.training.configuration import resolve_config
from utils.training.restorer_configuration import RESTORER_TRAINING

SIZE, PATCH, NUM_FACES = 64, 64, 7
SETTINGS = [f"data.face_size={SIZE}", f"data.patch_size={PATCH}", "optimization.batch_size=3", "optimization.seed=5",
            "data.num_workers=2", "jitter.lq_size_range=16,32"]


def configure(*settings):
    return resolve_config(RESTORER_TRAINING, "smoke", [*SETTINGS, *settings])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A record of faces that are unlike each other, of which the last two are kept."""
    path = tmp_path_factory.mktemp("records") / "faces"
    write_image_records(path, (picture(seed, SIZE, SIZE) for seed in range(NUM_FACES + 2)), SIZE)
    records = ImageRecords(path, SIZE)
    return Images(records, 0, NUM_FACES), Images(records, NUM_FACES, 2)


def take(source, start, count):
    batches = source.batches(start)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def flat_pair(face, *_):
    return FaceSample(face, face, np.zeros(2, np.int32), 1.0)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_batches_from_an_iteration_hold_the_samples_from_its_number_on(images, start):
    source = FaceSource(images[0], configure())
    for iteration, batch in enumerate(take(source, start, 2), start):
        samples = [source.sample(number) for number in range(3 * iteration, 3 * iteration + 3)]
        for name, part in (("degraded", "degraded"), ("target", "target"), ("corners", "corner")):
            expected = np.stack([getattr(sample, part) for sample in samples])
            np.testing.assert_array_equal(getattr(batch, name), expected, err_msg=name, strict=True)


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_batches_do_not_depend_on_the_number_of_threads(images, workers):
    [found] = take(FaceSource(images[0], configure(f"data.num_workers={workers}")), 2, 1)
    [expected] = take(FaceSource(images[0], configure()), 2, 1)
    for name in FaceBatch._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_samples_of_one_face_and_seeds_differ(images):
    one, other = (FaceSource(Images(images[0].records, 0, 1), configure(f"optimization.seed={seed}"))
                  for seed in (5, 6))
    samples = [source.sample(number) for source in (one, other) for number in range(3)]
    for name in ("degraded", "target"):
        assert len({getattr(sample, name).tobytes() for sample in samples}) == 6
    assert len({tuple(sample.corner) for sample in samples}) == 6


def test_samples_are_drawn_as_the_configuration_says(images, monkeypatch):
    asked = []
    monkeypatch.setattr(face_samples, "draw_face_sample",
                        lambda *given: asked.append(given) or draw_face_sample(*given))
    config = configure("data.patch_size=128", "jitter.tilt=3", "degradation.final_sinc_prob=0", "data.mild_share=0")
    sample = FaceSource(images[0], config).sample(0)
    assert asked[0][1:5] == (FACE_SIZE, 128, config.jitter, config.degradation)
    assert sample.degraded.shape == sample.target.shape == (128, 128, 3)


def test_that_share_of_the_samples_and_no_validation_face_is_degraded_mildly(images, monkeypatch):
    drawn = []
    monkeypatch.setattr(face_samples, "draw_face_sample", lambda *given: drawn.append(given[4]) or flat_pair(*given))
    config = configure("data.mild_share=0.3", "run.validation_faces=5")
    for number in range(300):
        FaceSource(images[0], config).sample(number)
    assert set(drawn) == {config.degradation, config.mild_degradation}
    assert drawn.count(config.mild_degradation) == pytest.approx(90, abs=25)
    drawn.clear()
    face_samples.draw_validation_faces(images[1], config)
    assert drawn == [config.degradation] * 5


def test_every_epoch_visits_each_face_of_its_part_once_in_another_order(images, monkeypatch):
    monkeypatch.setattr(face_samples, "draw_face_sample", flat_pair)
    faces = [images[0].read(number).tobytes() for number in range(NUM_FACES)]
    drawn = [target.tobytes() for batch in take(FaceSource(images[0], configure()), 0, 7) for target in batch.target]
    epochs = [tuple(map(faces.index, drawn[first:first + NUM_FACES])) for first in (0, 7, 14)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_FACES))] * 3
    assert len(set(epochs)) == 3


@pytest.mark.parametrize("error", [UserError("a face is damaged"), MemoryError("none left"), KeyError("x")], ids=repr)
def test_an_error_of_a_thread_arrives_as_it_was_raised_after_the_batches_before(images, monkeypatch, error):
    source = FaceSource(images[0], configure("data.num_workers=1"))
    faces = {images[0].read(number).tobytes(): number for number in range(NUM_FACES)}
    broken = faces[images[0].shuffled(6, (5, face_samples.ORDER)).tobytes()]  # the first of the third batch

    def draw(face, *_):
        if faces[face.tobytes()] == broken:
            raise error
        return flat_pair(face)

    monkeypatch.setattr(face_samples, "draw_face_sample", draw)
    batches = source.batches(0)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error


def test_a_damaged_face_is_named(tmp_path):
    write_image_records(tmp_path / "x", (picture(seed, 8, 8) for seed in range(4)), 8)
    content = bytearray((tmp_path / "x").read_bytes())
    content[2 * len(content) // 4 + 50] ^= 1
    (tmp_path / "x").write_bytes(content)
    source = FaceSource(Images(ImageRecords(tmp_path / "x", 8), 0, 4), configure("data.face_size=8"))
    with pytest.raises(UserError, match=rf"{tmp_path / 'x'}.*damaged"):
        take(source, 0, 4)


def test_validation_faces_are_the_same_twice_whatever_the_network_and_the_optimiser(images):
    one = draw_validation_faces(images[1], configure())
    two = draw_validation_faces(images[1], configure(
        "network.strides=4,2", "network.features=4,4", "network.blocks=0,0", "optimization.batch_size=1",
        "optimization.learning_rate=1", "data.patch_size=128", "data.num_workers=1"))
    other = draw_validation_faces(images[1], configure("optimization.seed=6"))
    for left, right, third in zip(one, two, other, strict=True):
        for name in FaceSample._fields:
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert (left.degraded != third.degraded).any()


def test_validation_faces_are_whole_and_go_round_the_part_that_is_kept(images, monkeypatch):
    drawn = draw_validation_faces(images[1], configure("run.validation_faces=3"))
    assert [face.target.shape for face in drawn] == [(FACE_SIZE, FACE_SIZE, 3)] * 3
    assert [face.corner.tolist() for face in drawn] == [[0, 0]] * 3
    monkeypatch.setattr(face_samples, "draw_face_sample", flat_pair)
    kept = [images[1].records.read(NUM_FACES + number) for number in (0, 1, 0, 1, 0)]
    for face, expected in zip(draw_validation_faces(images[1], configure("run.validation_faces=5")), kept, strict=True):
        np.testing.assert_array_equal(face.target, expected)


def test_validation_and_training_draw_from_separate_streams(images):
    validation = draw_validation_faces(images[0], configure("run.validation_faces=5"))
    source = FaceSource(images[0], configure())
    assert not {face.lq_size for face in validation} & {source.sample(number).lq_size for number in range(5)}
