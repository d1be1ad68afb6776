"""The batches that a face restorer learns from, drawn and degraded ahead of their use.

Every sample is a function of the seed, its number and the record, so that a run that is resumed goes on with the same
data, bit for bit.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from config import RestorerTrainingConfig
from model.face_restorer import FACE_SIZE
from utils.data.face_samples import FaceSample, draw_face_sample
from utils.data.meta_tasks import PREFETCHED, prefetch, stack_items
from utils.data.tfrecords import Images

ORDER, DRAWS, VALIDATION = range(3)  # separate streams of random numbers under one seed


class FaceBatch(NamedTuple):
    """Parts of aligned faces: `degraded` and `target` uint8 RGB [n, s, s, 3], `corners` [n, 2] int32."""

    degraded: np.ndarray
    target: np.ndarray
    corners: np.ndarray


class FaceSource:
    """Draws batches from a record of aligned faces."""

    def __init__(self, faces: Images, config: RestorerTrainingConfig):
        """Set up."""
        self.faces, self.config = faces, config

    def batches(self, start: int) -> Iterator[FaceBatch]:
        """Give batches without end, from iteration `start` on, prepared ahead in other threads."""
        size = self.config.optimization.batch_size
        samples = prefetch(lambda number: self.sample(number)[:3], start * size,
                           num_workers=self.config.data.num_workers)
        return prefetch(lambda _: FaceBatch(*stack_items(islice(samples, size))), start, num_workers=1,
                        num_ahead=PREFETCHED)

    def sample(self, number: int) -> FaceSample:
        """Give sample `number` of an endless sequence that goes through all faces, each time in another order."""
        config, seed = self.config, self.config.optimization.seed
        rng = np.random.default_rng([seed, DRAWS, number])
        degradation = config.mild_degradation if rng.random() < config.data.mild_share else config.degradation
        return draw_face_sample(self.faces.shuffled(number, (seed, ORDER)), FACE_SIZE, config.data.patch_size,
                                config.jitter, degradation, rng)


def draw_validation_faces(faces: Images, config: RestorerTrainingConfig) -> list[FaceSample]:
    """Draw the validation set, of whole faces: the same for every run with this record, seed and settings.

    None is degraded mildly. If there are more faces than are wanted, they are taken evenly: those of one person are
    next to each other.
    """
    step = max(1.0, faces.count / config.run.validation_faces)
    streams = [np.random.default_rng([config.optimization.seed, VALIDATION, number])
               for number in range(config.run.validation_faces)]
    return [draw_face_sample(faces.read(int(number * step) % faces.count), FACE_SIZE, FACE_SIZE, config.jitter,
                             config.degradation, rng) for number, rng in enumerate(streams)]
