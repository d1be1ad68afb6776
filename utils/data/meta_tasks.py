"""The tasks of meta-training: drawn from records, degraded, restored and cropped, prefetched in other threads.

Every task is a function of the seed, the iteration, the number of the task, and the records. So a resumed run gets the
same data bit for bit, and tasks can be divided among machines. `degrade_together` draws the degradation of a task.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from config import SCALE, TrainingConfig
from model.meta_learner import Task
from utils.data.degradations import degrade, sample_degradation, sample_noise, usm_sharpen
from utils.data.tfrecords import Images
from utils.face.patches import log_gradient
from utils.face.restorers import Restorer
from utils.image.io import to_float

FACES, SCENES, DRAWS, CROPS, VALIDATION = range(5)  # independent random streams of one seed
PREFETCHED = 2  # batches
Item = TypeVar("Item")


class Degraded(NamedTuple):
    """The images of one task, uint8 RGB: faces [n, 256, 256, 3] and `face_lq` [n, 64, 64, 3], scenes likewise.

    `scene_target` is the input of the degradation, float32 in [0, 1]: the scenes, sharpened in training.
    """

    face_gt: np.ndarray
    face_lq: np.ndarray
    scene_gt: np.ndarray
    scene_lq: np.ndarray
    scene_target: np.ndarray


def prefetch(function: Callable[[int], Item], start: int, *, num_workers: int, num_ahead: int = 0) -> Iterator[Item]:
    """Yield `function(start)`, `function(start + 1)`, ..., computed in threads; re-raises worker exceptions.

    `num_workers` 0: as many threads as cores; 1: calls are in order and never overlap. At most `num_ahead` results wait
    (0: two for each thread).
    """
    num_workers = num_workers or os.cpu_count()
    pool = ThreadPoolExecutor(num_workers)
    try:
        first = start + (num_ahead or 2 * num_workers)
        pending = deque(pool.submit(function, number) for number in range(start, first))
        for number in count(first):
            item = pending.popleft().result()
            pending.append(pool.submit(function, number))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def stack_items(items: Iterable[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Return the arrays of tuples, those of one place stacked along a new first axis."""
    return [np.stack(arrays) for arrays in zip(*items, strict=True)]


class TaskSource:
    """Draws tasks from records of faces and of scenes."""

    def __init__(self, faces: Images, scenes: Images, config: TrainingConfig, restore: Restorer | None):
        """`restore`: the face restorer; None: the ground truth replaces restored faces."""
        self.faces, self.scenes, self.config, self._restore = faces, scenes, config, restore

    def batches(self, start: int, tasks: range) -> Iterator[Task]:
        """Return an endless iterator of meta-batches from iteration `start` on, prefetched in other threads.

        `tasks` are consecutive numbers: the tasks of each meta-batch to make, along the first axis of the arrays.
        """
        def degraded_task(number: int) -> Degraded:
            iteration, place = divmod(number, len(tasks))
            return self.degraded(iteration, tasks[place])

        degraded = prefetch(degraded_task, start * len(tasks), num_workers=self.config.data.num_workers)

        def finished_batch(iteration: int) -> Task:
            return self.finished(iteration, tasks, Degraded(*stack_items(islice(degraded, len(tasks)))))

        # one worker: the restorer itself uses all cores, and `degraded` yields in order
        return prefetch(finished_batch, start, num_workers=1, num_ahead=PREFETCHED)

    def degraded(self, iteration: int, task: int) -> Degraded:
        """Draw the images and the degradation of one task, and degrade them."""
        data, seed = self.config.data, self.config.meta.seed
        first = (iteration * self.config.meta.tasks_per_batch + task) * data.samples_per_task
        positions = range(first, first + data.samples_per_task)
        faces = [self.faces.shuffled(position, (seed, FACES)) for position in positions]
        scenes = [self.scenes.shuffled(position, (seed, SCENES)) for position in positions]
        rng = np.random.default_rng([seed, DRAWS, iteration, task])
        return degrade_together(faces, scenes, self.config, rng, sharpen=True)

    def finished(self, iteration: int, tasks: range, images: Degraded) -> Task:
        """Restore the faces of a meta-batch in one batch, and crop and flip the samples; `images` are stacked tasks."""
        restored = restore_faces(self._restore, images)
        samples = []
        for row, task in enumerate(tasks):
            rng = np.random.default_rng([self.config.meta.seed, CROPS, iteration, task])
            samples.append(stack_items(
                self._sample(rng, restored[row, number], *(part[row, number] for part in images[1:]))
                for number in range(restored.shape[1])))
        return Task(*stack_items(samples))

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
    """Draw one degradation, and degrade faces and scenes, uint8 RGB [h, w, 3], by it, each with its own noise.

    `sharpen`: sharpen the scenes first, as training does.
    """
    degradation = sample_degradation(rng, config.degradation)
    targets = [usm_sharpen(to_float(scene)) if sharpen else to_float(scene) for scene in scenes]
    face_lq, scene_lq = ([degrade(image, degradation, sample_noise(rng, degradation, config.degradation))
                          for image in images] for images in (map(to_float, faces), targets))
    return Degraded(*map(np.stack, (faces, face_lq, scenes, scene_lq, targets)))


def restore_faces(restore: Restorer | None, images: Degraded) -> np.ndarray:
    """Restore the faces of tasks [t, n, ...] in one batch: uint8 [t, n, 256, 256, 3].

    The restorer gets them after bicubic upsampling (a = -0.75), neither clipped nor rounded, as published.
    """
    if restore is None:
        return images.face_gt
    size = images.face_gt.shape[-2]
    lq = images.face_lq.reshape(-1, *images.face_lq.shape[-3:]).astype(np.float32)
    upsampled = np.stack([cv2.resize(face, (size, size), interpolation=cv2.INTER_CUBIC) for face in lq])
    return restore(upsampled).reshape(images.face_gt.shape)


def _crop(rng: np.random.Generator, lq: np.ndarray, *hq: np.ndarray, side: int) -> tuple[np.ndarray, ...]:
    """Draw a square and crop it from an LQ image and from its HQ versions, where it is `side` pixels wide."""
    top, left = (int(rng.integers(0, length - side // SCALE + 1)) for length in lq.shape[:2])
    return tuple(image[top * ratio:top * ratio + width, left * ratio:left * ratio + width]
                 for image, ratio, width in ((lq, 1, side // SCALE), *((image, SCALE, side) for image in hq)))
