"""Scores of restored and upscaled faces."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from model.layers import Params
from model.lpips import SMALLEST_SIDE, lpips_features, lpips_from_features
from utils.evaluation.face_restorer import Result
from utils.image.io import to_float
from utils.metrics.fidelity import psnr_y, ssim


class FaceMeter:
    """Scores faces against their truth by PSNR-Y, SSIM, brightness, and, with AlexNet, LPIPS and identity.

    Brightness is the error of the mean, in units of 1/255. Identity is the cosine similarity of AlexNet's features at
    the five landmarks, averaged over these and the layers.
    """

    def __init__(self, lpips_params: Params | None):
        """Take LPIPS's parameters; None: do without."""
        run = partial(lpips_features, lpips_params)
        self._params = lpips_params
        self._features = tf.function(run, input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])

    def measure(self, result: Result) -> dict[str, float]:
        """Return `METRIC_METHOD` -> value; metrics for which the face is too small are left out."""
        truth, scores = result.truth, {}
        large_enough = self._params is not None and min(truth.shape[:2]) >= SMALLEST_SIDE
        truth_features = self._features(to_float(truth)[None]) if large_enough else None
        for method, image in result.methods.items():
            values = {"psnr_y": psnr_y(image, truth), "ssim": ssim(image, truth),
                      "brightness": float(image.mean()) - float(truth.mean())}
            if large_enough:
                features = self._features(to_float(image)[None])
                values["lpips"] = float(lpips_from_features(self._params, features, truth_features)[0])
                values["identity"] = landmark_similarity(features, truth_features, result.landmarks, truth.shape[:2])
            scores |= {f"{metric}_{method}": value for metric, value in values.items()}
        return scores


def landmark_similarity(features: Sequence[tf.Tensor], others: Sequence[tf.Tensor], landmarks: np.ndarray,
                        size: tuple[int, int]) -> float:
    """Return the mean cosine similarity of features, maps [1, h, w, c] of unit length and any sizes, at landmarks.

    `landmarks` [n, 2] are x and y in pixels of images of `size` (height, width); those outside count as at the border.
    """
    similarities = []
    for one, other in zip(features, others, strict=True):
        cells = np.array(one.shape[1:3])
        places = ((landmarks[:, ::-1] + 0.5) / size * cells).astype(int).clip(0, cells - 1)
        similarities += [float(tf.reduce_sum(one[0, row, column] * other[0, row, column])) for row, column in places]
    return float(np.mean(similarities))
