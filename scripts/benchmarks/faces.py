"""Preparation of faces: RetinaFace, GPEN, rrdb-face."""

import numpy as np

from scripts.benchmarks.inference import Setting
from scripts.benchmarks.timing import Rows, graph_operations, relative_rate, time_ratio
from utils.image.io import quantize


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
