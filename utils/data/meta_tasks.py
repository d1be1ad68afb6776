"""The tasks that meta-training learns from: drawn, degraded, restored and cropped ahead of their use.

Every task is a function of (seed, iteration, number of the task) and of the records, and of nothing else. So a run that
is resumed at an iteration goes on with the same data, bit for bit, and tasks can be divided among machines at will.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from config import SCALE, TrainingConfig
from model.meta_learner import Task
from utils.data.degradations import Degradation, degrade, sample_degradation, sample_noise, usm_sharpen
from utils.data.prefetching import Ahead
from utils.data.tfrecords import ImageRecords
from utils.errors import require
from utils.face.patches import log_gradient
from utils.face.restorers import Restorer
from utils.image.io import to_float

FACES, SCENES, DRAWS, CROPS, VALIDATION = range(5)  # separate streams of random numbers under one seed


class Degraded(NamedTuple):
    """The images of one task, uint8 RGB: faces [n, 256, 256, 3] and their quarter-size `face_lq`, scenes likewise.

    `scene_target` is what the scenes were degraded from, float32 in [0, 1]: sharpened in training.
    """

    face_gt: np.ndarray
    face_lq: np.ndarray
    scene_gt: np.ndarray
    scene_lq: np.ndarray
    scene_target: np.ndarray


class Images(NamedTuple):
    """A record, or a part of it: `count` images from `start` on."""

    records: ImageRecords
    start: int
    count: int

    def read(self, index: int) -> np.ndarray:
        """Give image `index`, uint8 RGB."""
        return self.records.read_or_next(self.start + index, within=range(self.start, self.start + self.count))

    def shuffled(self, position: int, seed: tuple[int, ...]) -> np.ndarray:
        """Give the image at a position of an endless sequence that goes through all, each time in another order."""
        epoch, place = divmod(position, self.count)
        return self.read(int(_order(self.count, (*seed, epoch))[place]))


def divide_record(path: str, validation_path: str, size: int, data: Any) -> tuple[Images, Images]:
    """Open a record, and give the images to train on and those to validate on.

    Args:
        path: of the record.
        validation_path: of one whose images are validated on; empty: the last images of the record itself.
        size: of the images, in pixels.
        data: settings with `num_validation` and `skip_corrupt`, as those of `config.DataConfig`.

    Raises:
        UserError: one is missing, damaged, of another image size, or has too few images to divide.
    """
    records = ImageRecords(path, size, skip_corrupt=data.skip_corrupt)
    if validation_path:
        kept = ImageRecords(validation_path, size, skip_corrupt=data.skip_corrupt)
        return Images(records, 0, len(records)), Images(kept, 0, len(kept))
    count = data.num_validation
    require(0 < count < len(records), f"{path} must have more images than the data.num_validation that are kept for "
            "validation, and these must be at least 1 unless there is a record of their own",
            f"{len(records)} images, {count} kept")
    return Images(records, 0, len(records) - count), Images(records, len(records) - count, count)


@lru_cache(maxsize=8)
def _order(count: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


class TaskSource:
    """Draws tasks from records of faces and of scenes."""

    def __init__(self, faces: Images, scenes: Images, config: TrainingConfig, restore: Restorer | None):
        """Set up.

        Args:
            faces: whole faces.
            scenes: crops of photographs.
            config: sizes, degradation, seed.
            restore: how degraded faces become the ones to learn from; None: the ground truth takes their place.
        """
        self.faces, self.scenes, self.config = faces, scenes, config
        self._restore = restore

    def batches(self, start: int, tasks: range) -> Iterator[Task]:
        """Give meta-batches without end, from iteration `start` on, prepared ahead in other threads.

        Args:
            start: iteration.
            tasks: which tasks of each meta-batch; consecutive numbers.

        Returns:
            `Task`s of float32 arrays with the axis of tasks in front.
        """
        ahead = Ahead(self.config.data.num_workers)
        degraded = ahead.draw(lambda draw: self.degraded(*_numbers(draw, tasks)), start * len(tasks),
                              [tf.uint8] * 4 + [tf.float32]).batch(len(tasks))
        numbered = tf.data.Dataset.zip((tf.data.Dataset.range(start, np.iinfo(np.int64).max), degraded))
        # one after the other: the restorer itself uses all threads. Were it not stateful, tf.data would run several
        finished = numbered.map(lambda iteration, images: tf.numpy_function(
            ahead.guard(lambda iteration, *images: self.finished(int(iteration), tasks, Degraded(*images))),
            [iteration, *images], [tf.float32] * 5, stateful=True))
        return ahead.iterate(finished, Task)

    def degraded(self, iteration: int, task: int) -> Degraded:
        """Draw one task's images and its degradation, and degrade them."""
        data, seed = self.config.data, self.config.meta.seed
        first = (iteration * self.config.meta.tasks_per_batch + task) * data.samples_per_task
        positions = range(first, first + data.samples_per_task)
        faces = [self.faces.shuffled(position, (seed, FACES)) for position in positions]
        scenes = [self.scenes.shuffled(position, (seed, SCENES)) for position in positions]
        rng = np.random.default_rng([seed, DRAWS, iteration, task])
        return degrade_together(faces, scenes, self.config, rng, sharpen=True)

    def finished(self, iteration: int, tasks: range, images: Degraded) -> Task:
        """Restore the faces of a meta-batch, all at once, and crop and flip the samples.

        Args:
            iteration: which.
            tasks: the numbers of its tasks.
            images: of these tasks, with the axis of tasks in front.
        """
        restored = restore_faces(self._restore, images)
        samples = []
        for row, task in enumerate(tasks):
            rng = np.random.default_rng([self.config.meta.seed, CROPS, iteration, task])
            samples.append([self._sample(rng, restored[row, number], *(part[row, number] for part in images[1:]))
                            for number in range(restored.shape[1])])
        return Task(*(np.stack([np.stack([sample[part] for sample in task]) for task in samples])
                      for part in range(len(Task._fields))))

    def _sample(self, rng: np.random.Generator, face_hq: np.ndarray, face_lq: np.ndarray, scene_gt: np.ndarray,
                scene_lq: np.ndarray, scene_target: np.ndarray) -> tuple[np.ndarray, ...]:
        data = self.config.data
        for _ in range(data.max_redraws + 1):
            patch_lq, patch_hq = _crop(rng, face_lq, face_hq, side=data.face_patch_size)
            if log_gradient(patch_hq) >= data.min_log_gradient:
                break
        lq, target, real = _crop(rng, scene_lq, scene_target, scene_gt, side=data.scene_patch_size)
        flip = -1 if rng.random() < 0.5 else 1
        return tuple(image[:, ::flip] for image in
                     (to_float(patch_lq), to_float(patch_hq), to_float(lq), target, to_float(real)))


def degrade_together(faces: list[np.ndarray], scenes: list[np.ndarray], config: TrainingConfig,
                     rng: np.random.Generator, *, sharpen: bool) -> Degraded:
    """Degrade uint8 faces and scenes with one degradation, each with noise of its own.

    Args:
        faces: [h, w, 3] each, all of one size.
        scenes: likewise.
        config: its `degradation` is used.
        rng: of everything that is drawn.
        sharpen: sharpen the scenes first, as training does.
    """
    degradation = sample_degradation(rng, config.degradation)
    face_lq = [_degrade(to_float(face), degradation, rng, config) for face in faces]
    targets = [usm_sharpen(to_float(scene)) if sharpen else to_float(scene) for scene in scenes]
    scene_lq = [_degrade(target, degradation, rng, config) for target in targets]
    return Degraded(*map(np.stack, (faces, face_lq, scenes, scene_lq, targets)))


def _degrade(image: np.ndarray, degradation: Degradation, rng: np.random.Generator,
             config: TrainingConfig) -> np.ndarray:
    return degrade(image, degradation, sample_noise(rng, degradation, config.degradation))


def restore_faces(restore: Restorer | None, images: Degraded) -> np.ndarray:
    """Restore the faces of tasks [t, n, ...] in one batch: uint8 [t, n, 256, 256, 3].

    The restorer gets them upsampled by cubic convolution (a = -0.75), neither clipped nor rounded, as published.
    """
    if restore is None:
        return images.face_gt
    size = images.face_gt.shape[-2]
    lq = images.face_lq.reshape(-1, *images.face_lq.shape[-3:]).astype(np.float32)
    upsampled = np.stack([cv2.resize(face, (size, size), interpolation=cv2.INTER_CUBIC) for face in lq])
    return restore(upsampled).reshape(images.face_gt.shape)


def _crop(rng: np.random.Generator, lq: np.ndarray, *hq: np.ndarray, side: int) -> tuple[np.ndarray, ...]:
    """Cut the same square out of a low-quality image and its partners of four times the size; `side` is theirs."""
    lq_side = side // SCALE
    top, left = (int(rng.integers(0, length - lq_side + 1)) for length in lq.shape[:2])
    return (lq[top:top + lq_side, left:left + lq_side],
            *(image[top * SCALE:top * SCALE + side, left * SCALE:left * SCALE + side] for image in hq))


def _numbers(draw: np.ndarray, tasks: range) -> tuple[int, int]:
    """Give the iteration and the task of a draw from an endless sequence of `tasks` over and over."""
    iteration, place = divmod(int(draw), len(tasks))
    return iteration, tasks[place]
