"""The face restorer in NumPy, float64, written from its description, and a small one with lively weights."""

import numpy as np

from config import FaceRestorerConfig
from model.face_restorer import face_restorer_shapes
from tests.helpers.reference_weights import draw

SMALL_RESTORER = FaceRestorerConfig(strides=(4, 2), features=(8, 6), blocks=(1, 0))


def small_restorer(architecture=SMALL_RESTORER, *, scale=1.0):
    """Return float32 arrays: `scale` is a factor of all kernels."""
    params = {}
    for name, shape in face_restorer_shapes(architecture).items():
        deviation = 0.05 if name.endswith("/bias") else 0.5 * scale * np.sqrt(2 / np.prod(shape[:3]))
        params[name] = draw(name, shape, deviation)
    return params


def identity_restorer(architecture=SMALL_RESTORER):
    """Return the parameters of a network that adds nothing."""
    params = small_restorer(architecture)
    return params | {name: np.zeros_like(params[name]) for name in ("conv_last/weight", "conv_last/bias")}


def reference_restore(params, face, corner=(0, 0), *, architecture=SMALL_RESTORER):
    """Restore one face [h, w, 3], or the part of one that begins at the row and column `corner`."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def conv(name, x):
        h, w = x.shape[:2]
        padded, kernel = np.pad(x, ((1, 1), (1, 1), (0, 0))), params[f"{name}/weight"]
        return sum(padded[i:i + h, j:j + w] @ kernel[i, j] for i in range(3) for j in range(3)) + params[f"{name}/bias"]

    def leaky(x):
        return np.where(x > 0, x, 0.2 * x)

    def fold(x, side):
        h, w, c = x.shape
        blocks = x.reshape(h // side, side, w // side, side, c).transpose(0, 2, 1, 3, 4)
        return blocks.reshape(h // side, w // side, -1)

    def unfold(x, side):
        h, w, c = x.shape
        blocks = x.reshape(h, w, side, side, c // side**2).transpose(0, 2, 1, 3, 4)
        return blocks.reshape(h * side, w * side, -1)

    def run_blocks(scope, count, x):
        first = x
        for block in range(count):
            outer = x
            for dense in (1, 2, 3):
                inner = grown = x
                for layer in (1, 2, 3, 4):
                    new = leaky(conv(f"{scope}/body/{block}/rdb{dense}/conv{layer}", grown))
                    grown = np.concatenate([grown, new], axis=2)
                x = inner + 0.2 * conv(f"{scope}/body/{block}/rdb{dense}/conv5", grown)
            x = outer + 0.2 * x
        return first + conv(f"{scope}/conv_body", x)

    face = np.asarray(face, np.float64)
    features = None
    for stride, count in zip(architecture.strides, architecture.blocks, strict=True):
        seen = fold(face - 0.5, stride)
        if features is None:
            rows, columns = ((start + stride * (np.arange(cells) + 0.5)) / 256 - 1
                             for start, cells in zip(corner, seen.shape[:2], strict=True))
            places = np.stack(np.broadcast_arrays(rows[:, None], columns[None]), axis=2)
            sums = conv(f"{stride}/conv_in", np.concatenate([seen, places], axis=2))
        else:
            sums = conv(f"{stride}/conv_in", seen) + unfold(conv(f"{stride}/conv_up", features), 2)
        features = leaky(sums)
        if count:
            features = run_blocks(stride, count, features)
    return face + unfold(conv("conv_last", features), architecture.strides[-1])
