"""Preparation of faces: rrdb-face against GPEN."""

import numpy as np

from scripts.benchmarks.inference import Setting
from scripts.benchmarks.timing import Rows, time_ratio
from utils.image.io import quantize

FACE_WIDTHS = (40, 80)  # pixels of the photo
ALIGNED_WIDTHS = 2.4  # side of the aligned crop over the face's width, nearly


def restorers(setting: Setting) -> Rows:
    """Compare the time of `rrdb-face` with that of GPEN-512, whose time does not depend on the face's size."""
    from model.gpen import GPEN_512, init_gpen
    from utils.face.alignment import ALIGNED_SIZE
    from utils.face.restorers import compile_gpen, open_restorer

    photo, own = quantize(setting.photo), open_restorer("rrdb-face", None)
    published = compile_gpen(init_gpen(0, GPEN_512))
    published(photo[None])
    for width in FACE_WIDTHS:
        matrix = np.eye(2, 3) * ALIGNED_SIZE / (ALIGNED_WIDTHS * width)
        box = (100, 100, round(1.3 * width), width)

        def restore(matrix=matrix, box=box) -> np.ndarray:
            return own.restore_region(photo, matrix, box)

        restore()
        ratio = time_ratio(restore, lambda: published(photo[None]), repeats=3)
        yield f"rrdb-face, face of {width} pixels: time over that of GPEN-512", f"{ratio:.2f}"
