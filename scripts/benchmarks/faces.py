"""Preparation of faces: RetinaFace, GPEN, rrdb-face, a crowd."""

import tempfile
import time
from pathlib import Path

import numpy as np

from scripts.benchmarks.inference import Setting
from scripts.benchmarks.timing import Rows, graph_operations, peak_memory, relative_rate, time_ratio
from utils.image.io import quantize, write_png

CROWD = 40  # faces in the photo


def retinaface(setting: Setting) -> Rows:
    """Compare RetinaFace's rate with the matrix product's."""
    from model.retinaface import compile_retinaface, init_retinaface, preprocess
    from model.retinaface import retinaface as network

    params, images = init_retinaface(0), preprocess(np.resize(setting.photo, (640, 640, 3)))
    run = compile_retinaface(params)
    rate = relative_rate(graph_operations(network, params, images.shape), lambda: run(images))
    yield "RetinaFace, 640x640, rate over `tf.matmul`'s", f"{rate:.0%}"


def gpen(setting: Setting) -> Rows:
    """Compare GPEN's rate with the matrix product's."""
    from model.gpen import GPEN_256, GPEN_512, init_gpen
    from model.gpen import gpen as network
    from utils.face.restorers import compile_gpen

    for architecture in (GPEN_512, GPEN_256):
        params, size = init_gpen(0, architecture), architecture.size
        faces = quantize(np.resize(setting.photo, (2, size, size, 3)).reshape(2 * size, size, 3))
        faces, restore = faces.reshape(2, size, size, 3), compile_gpen(params)
        restore(faces)
        rate = relative_rate(graph_operations(network, params, faces.shape), lambda run=restore, x=faces: run(x))
        yield f"GPEN-{size}, 2 faces, rate over `tf.matmul`'s", f"{rate:.0%}"


def restorers(setting: Setting) -> Rows:
    """Compare the time of `rrdb-face` with that of GPEN-512."""
    from model.gpen import GPEN_512, init_gpen
    from utils.face.preparation import BATCH
    from utils.face.restorers import compile_gpen, open_restorer

    faces = np.stack([quantize(np.resize(setting.photo, (512, 512, 3)))] * BATCH)
    own, published = open_restorer("rrdb-face", None), compile_gpen(init_gpen(0, GPEN_512))
    for restore in (own, published):
        restore(faces)
    ratio = time_ratio(lambda: own(faces), lambda: published(faces), repeats=5)
    yield "rrdb-face: time per face over that of GPEN-512", f"{ratio:.2f}"


def crowd(setting: Setting) -> Rows:
    """Prepare many faces of one large photo with GPEN-512; read this process's peak memory."""
    from model.gpen import init_gpen
    from utils.face.detection import Face
    from utils.face.preparation import FacePreparer, PreparationSettings
    from utils.face.restorers import compile_gpen

    landmarks = np.array([[203.4, 102.1], [247.4, 103.8], [224.9, 128.3], [206.6, 142.1], [243.4, 142.8]])
    corners = [(left, top) for top in range(0, 2000, 250) for left in range(0, 3000, 500)][:CROWD]
    faces = [Face(np.array([left + 100, top + 20, left + 180, top + 120]),
                  landmarks + np.array([left - 80, top - 50]), 0.99) for left, top in corners]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "crowd.png", quantize(np.tile(setting.photo, (4, 6, 1))[:2000, :3000]))
        preparer = FacePreparer(lambda *_: faces, compile_gpen(init_gpen(0)), folder,
                                PreparationSettings(detector="boxes", restorer="gpen-512"))
        start = time.perf_counter()
        rows = preparer.prepare(folder / "crowd.png", lambda _: None)
        seconds = (time.perf_counter() - start) / len(rows)
        pairs = len(list((folder / "Face_HQ").iterdir()))
    yield f"{pairs} faces in a 3000x2000 photo, GPEN-512: peak resident memory", f"{peak_memory():.2f} GiB"
    yield "the same, time per face", f"{seconds:.2f} s"
