"""The parts of the benchmark that the preparation of faces has; `scripts/benchmark.py` runs them.

Networks that the project has no weights of have drawn ones.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from utils.image.io import quantize, write_png

RESTORED = 100  # faces of `restorers`
CROWD = 40  # faces in the photo of `faces`


def retinaface_rate(photo: np.ndarray, relative_rate: Callable,
                    graph_operations: Callable) -> Iterator[tuple[str, str]]:
    """Compare RetinaFace's rate with the product's, with drawn weights."""
    from model.retinaface import compile_retinaface, init_retinaface, preprocess, retinaface

    params, images = init_retinaface(0), preprocess(np.resize(photo, (640, 640, 3)))
    forward = compile_retinaface(params)
    rate = relative_rate(graph_operations(retinaface, params, images.shape), lambda: forward(images))
    yield "RetinaFace, 640x640, rate over tf.matmul's", f"{rate:.0%}"


def gpen_rate(photo: np.ndarray, relative_rate: Callable,
              graph_operations: Callable) -> Iterator[tuple[str, str]]:
    """Compare GPEN's rate with the product's, with drawn weights."""
    from model.gpen import GPEN_256, GPEN_512, gpen, init_gpen
    from utils.face.restorers import compile_gpen

    for architecture in (GPEN_512, GPEN_256):
        params, size = init_gpen(0, architecture), architecture.size
        faces = quantize(np.resize(photo, (2, size, size, 3)).reshape(2 * size, size, 3))
        faces = faces.reshape(2, size, size, 3)
        restore = compile_gpen(params)
        restore(faces)
        rate = relative_rate(graph_operations(gpen, params, faces.shape), lambda run=restore, x=faces: run(x))
        yield f"GPEN-{size}, 2 faces, rate over tf.matmul's", f"{rate:.0%}"


def restorers(photo: np.ndarray) -> Iterator[tuple[str, str]]:
    """Restore aligned faces with `rrdb-face` and, in turn with it, with GPEN-256 of drawn weights."""
    from model.gpen import GPEN_256, init_gpen
    from utils.face.preparation import BATCH
    from utils.face.restorers import compile_gpen, open_restorer

    faces = np.stack([quantize(np.resize(photo, (512, 512, 3)))] * BATCH)
    restorers = [open_restorer("rrdb-face", None), compile_gpen(init_gpen(0, GPEN_256))]
    seconds = np.zeros(2)
    for restore in restorers:
        restore(faces)
    for _ in range(RESTORED // BATCH):
        for number, restore in enumerate(restorers):
            start = time.perf_counter()
            restore(faces)
            seconds[number] += time.perf_counter() - start
    yield f"{RESTORED} faces, rrdb-face, time per face", f"{seconds[0] / RESTORED:.3f} s"
    yield "the same: time over that of GPEN-256", f"{seconds[0] / seconds[1]:.2f}"


def faces(photo: np.ndarray) -> Iterator[tuple[str, str]]:
    """Prepare a crowd in one large photo with GPEN-512 (drawn weights), and read this process's peak memory."""
    from model.gpen import init_gpen
    from utils.face.detection import Face
    from utils.face.preparation import FacePreparer, PreparationSettings
    from utils.face.restorers import compile_gpen

    landmarks = np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3], [206.6, 142.1], [243.4, 142.8]])
    corners = [(left, top) for top in range(0, 2000, 250) for left in range(0, 3000, 500)][:CROWD]
    crowd = [Face(np.array([left + 100, top + 20, left + 180, top + 120]),
                  landmarks + np.array([left - 80, top - 50]), 0.99) for left, top in corners]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "crowd.png", quantize(np.tile(photo, (4, 6, 1))[:2000, :3000]))
        preparer = FacePreparer(lambda *_: crowd, compile_gpen(init_gpen(0)), folder,
                                PreparationSettings(detector="boxes", restorer="gpen-512"))
        start = time.perf_counter()
        rows = preparer.prepare(folder / "crowd.png", lambda _: None)
        seconds = (time.perf_counter() - start) / len(rows)
        pairs = len(list((folder / "Face_HQ").iterdir()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    yield f"{pairs} faces in a 3000x2000 photo, GPEN-512: peak resident memory", f"{peak:.2f} GiB"
    yield "the same, time per face", f"{seconds:.2f} s"
