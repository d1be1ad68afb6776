"""Validation of meta-training: a fixed set of tasks, adapted with the code of `test.py`."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from config import SCALE, TrainingConfig
from model.super_resolver import SuperResolver
from utils.data.meta_tasks import VALIDATION, Degraded, degrade_together, restore_faces
from utils.data.tfrecords import Images
from utils.face.patches import Patches, batch_patches, sample_patches
from utils.face.restorers import Restorer
from utils.image.io import quantize, to_float
from utils.image.resizing import resize_bicubic
from utils.metrics.fidelity import psnr_y

Distance = Callable[[np.ndarray, np.ndarray], float]  # of two images, float32 RGB [h, w, 3]


class ValidationTask(NamedTuple):
    """Faces of one degradation as patches, and the middle of a scene under it, float32 RGB.

    `face_lq` and `face_hq` are whole faces, for pictures; `scene_lq` [h, w, 3], `scene_gt` [4h, 4w, 3].
    """

    patches: list[Patches]
    face_lq: np.ndarray
    face_hq: np.ndarray
    scene_lq: np.ndarray
    scene_gt: np.ndarray


def draw_validation_tasks(faces: Images, scenes: Images, config: TrainingConfig,
                          restore: Restorer | None) -> list[ValidationTask]:
    """Draw the validation set: the same for every run with these records, seed and settings.

    Scenes are not sharpened before they are degraded, and outputs are compared with the original scenes.
    """
    tasks = []
    for number in range(config.run.validation_tasks):
        rng = np.random.default_rng([config.meta.seed, VALIDATION, number])
        count = config.data.samples_per_task
        chosen = [faces.read((number * count + index) % faces.count) for index in range(count)]
        images = degrade_together(chosen, [scenes.read(number % scenes.count)], config, rng, sharpen=False)
        tasks.append(_task(images, restore, config, rng))
    return tasks


def _task(images: Degraded, restore: Restorer | None, config: TrainingConfig, rng: np.random.Generator
          ) -> ValidationTask:
    restored = restore_faces(restore, Degraded(*(part[None] for part in images)))[0]
    patches = [sample_patches(Patches(to_float(lq)[None], to_float(hq)[None]), rng, count=config.run.validation_patches,
                              lq_patch_size=config.run.validation_patch_size // SCALE)
               for lq, hq in zip(images.face_lq, restored, strict=True)]
    # cut at whole low-quality pixels, so that the scene and its degraded version stay aligned
    side = min(config.run.validation_scene_size, config.data.scene_size) // SCALE
    top, left = ((length - side) // 2 for length in images.scene_lq.shape[1:3])
    scene_lq, scene_gt = (to_float(image[0, top * scale:(top + side) * scale, left * scale:(left + side) * scale])
                          for image, scale in ((images.scene_lq, 1), (images.scene_gt, SCALE)))
    return ValidationTask(patches, to_float(images.face_lq[0]), to_float(restored[0]), scene_lq, scene_gt)


class Validator:
    """Scores states of the networks on the same tasks; the names of the scores are `columns`.

    `psnr_before` and `psnr_after` are PSNR-Y of the scenes without adaptation and after the inner steps on the task's
    own faces. `psnr_other_faces` is after the steps on the faces of the next task, which has another degradation: the
    gain of `psnr_after` over it is due to this task's degradation. `distance` is LPIPS, None leaves it out.
    """

    def __init__(self, tasks: list[ValidationTask], config: TrainingConfig, distance: Distance | None = None):
        self._tasks, self._config, self._distance = tasks, config, distance
        self.columns = ["psnr_bicubic", "psnr_before", "psnr_after", "psnr_other_faces", "inner_loss", "mask_mean",
                        *["lpips_before", "lpips_after"] * (distance is not None)]
        self._resolver: SuperResolver | None = None  # compiled once, at the first use

    def evaluate(self, generator: dict, mask: dict) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Score a state of the networks; parameters as from `MetaTrainer.params`.

        Returns the means of the scores over the tasks, and pictures, float32 RGB [h, w, 3] in [0, 1]; both by name.
        """
        if self._resolver is None:
            self._resolver = SuperResolver(generator, mask)
        self._resolver.set_weights(generator, mask)
        supports = [[self._resolver.weigh_patches(*batch) for batch in batch_patches(task.patches)]
                    for task in self._tasks]
        # the faces of each task adapt the networks once, for its own scene and for that of the task before
        after, with_other, losses = {}, {}, {}
        for number, support in enumerate(supports):
            adapted = self._resolver.adapt(support, learning_rate=self._config.inner.learning_rate,
                                           num_steps=self._config.inner.num_steps)
            before = (number - 1) % len(supports)
            after[number] = self._upscale(adapted.params, self._tasks[number])
            with_other[before] = self._upscale(adapted.params, self._tasks[before])
            losses[number] = adapted.losses[0]
        rows, pictures = [], {}
        for number, task in enumerate(self._tasks):
            unadapted = self._upscale(self._resolver.generator, task)
            row = self._score(task, before=unadapted, after=after[number], other_faces=with_other[number])
            row["inner_loss"] = losses[number]
            row["mask_mean"] = float(np.mean([np.mean(support.weights) for support in supports[number]]))
            rows.append(row)
            if number < self._config.run.image_tasks:
                shown = self._pictures(task, unadapted, after[number])
                pictures.update({f"{number}/{name}": image for name, image in shown.items()})
        return {name: float(np.mean([row[name] for row in rows])) for name in self.columns}, pictures

    def _score(self, task: ValidationTask, **outputs: np.ndarray) -> dict[str, float]:
        """Compare bicubic upsampling and outputs, by name, with the ground truth."""
        outputs["bicubic"] = resize_bicubic(task.scene_lq, *task.scene_gt.shape[:2])
        truth = quantize(task.scene_gt)
        row = {f"psnr_{name}": psnr_y(quantize(image), truth) for name, image in outputs.items()}
        if self._distance is not None:
            row.update({f"lpips_{name}": self._distance(outputs[name], task.scene_gt) for name in ("before", "after")})
        return row

    def _pictures(self, task: ValidationTask, before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
        weights = np.asarray(self._resolver.weigh_patches(task.face_lq[None], task.face_hq[None]).weights[0])
        lq = cv2.resize(task.scene_lq, task.scene_gt.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return {"1_lq": lq, "2_unadapted": before, "3_adapted": after, "4_gt": task.scene_gt,
                "5_face_hq": task.face_hq, "6_W": np.repeat(weights / max(1.0, weights.max()), 3, axis=2)}

    def _upscale(self, params: dict, task: ValidationTask) -> np.ndarray:
        return np.clip(self._resolver.upscaler(params)(task.scene_lq[None])[0], 0, 1)
