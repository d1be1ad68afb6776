"""Face patches for the inner step: sampling, held-out split, batches."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from config import SCALE

MAX_BATCH_PIXELS = 4096  # low-quality pixels per batch: its gradient takes about 1 GiB in the 23-block generator


class Patches(NamedTuple):
    """Patches of one size: `lq` [n, h, w, 3] and `hq` [n, 4h, 4w, 3], float32 RGB in [0, 1]."""

    lq: np.ndarray
    hq: np.ndarray


def sample_patches(face: Patches, rng: np.random.Generator, *, lq_patch_size: int, count: int) -> Patches:
    """Draw `count` patches of `lq_patch_size` at uniform positions of one face [1, h, w, 3].

    A face that is smaller than a patch in a direction is taken whole, once.
    """
    height, width, side = *face.lq.shape[1:3], lq_patch_size
    if height < side or width < side or (height, width) == (side, side):
        return face
    tops = rng.integers(0, height - side + 1, count)
    lefts = rng.integers(0, width - side + 1, count)
    return Patches(*(np.concatenate([
        image[:, top * scale:(top + side) * scale, left * scale:(left + side) * scale]
        for top, left in zip(tops, lefts, strict=True)]) for image, scale in ((face.lq, 1), (face.hq, SCALE))))


def hold_out(patches: list[Patches], fraction: float) -> tuple[list[Patches], list[Patches]]:
    """Split patches into (learn, held out): of each face the last `fraction`, at least one, is held out.

    Faces of a single patch are learnt from; if all are such, the last is held out, and a photo's only patch used for
    both. Patches of one face overlap: held-out ones show whether a step is too long, not how well it generalises.
    """
    learn, held = [], []
    for batch in patches:
        kept = len(batch.lq) - min(max(1, int(len(batch.lq) * fraction)), len(batch.lq) - 1)
        learn.append(Patches(batch.lq[:kept], batch.hq[:kept]))
        if kept < len(batch.lq):
            held.append(Patches(batch.lq[kept:], batch.hq[kept:]))
    if not held:
        return (learn[:-1], learn[-1:]) if len(learn) > 1 else (learn, learn)
    return learn, held


def batch_patches(patches: list[Patches]) -> Iterator[Patches]:
    """Join patches of one size into batches of bounded memory, sizes in order of first appearance."""
    by_size: dict[tuple[int, ...], list[Patches]] = {}
    for batch in patches:
        by_size.setdefault(batch.lq.shape[1:3], []).append(batch)
    for (height, width), batches in by_size.items():
        lq, hq = (np.concatenate(images) for images in zip(*batches, strict=True))
        step = max(1, MAX_BATCH_PIXELS // (height * width))
        for start in range(0, len(lq), step):
            yield Patches(lq[start:start + step], hq[start:start + step])


def log_gradient(patch: np.ndarray) -> float:
    """Return ln(mean squared gradient + 1e-10) of an image [h, w, c], float in [0, 1] or uint8, h and w > 1.

    A pixel's squared gradient is the sum of its squared differences to the pixels below and to the right.
    """
    values = patch / np.float32(255) if patch.dtype == np.uint8 else patch
    corner = values[:-1, :-1]
    squares = (corner - values[1:, :-1]) ** 2 + (corner - values[:-1, 1:]) ** 2
    return float(np.log(squares.mean(dtype=np.float64) + 1e-10))
