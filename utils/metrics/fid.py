"""FID (Heusel et al., 2017) and KID (Bińkowski et al., 2018): distances between two sets of images.

Both compare features [n, d] of Inception-v3, d = 2048. KID is unbiased for small sets, FID is not.
"""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.inception import NUM_FEATURES, inception_params_from_torch, pool3, resize_to_input
from model.layers import Params
from utils.console import Progress, interruptible
from utils.errors import UserError, require
from utils.files import atomic_path, check_writable, read_bytes
from utils.image.io import read_image, to_float
from utils.metrics.suite import FEWEST_IN_SET
from utils.metrics.summary import not_measured
from utils.weights.state_dicts import load_params

BATCH_SIZE = 16  # images
NUM_READERS = min(4, os.cpu_count() or 1)  # threads that decode
CACHE_VERSION = "2"  # change it with anything that changes the features of a file, as the weights' hash

Extractor = Callable[[Sequence[np.ndarray]], np.ndarray]  # RGB [h, w, 3], uint8 or float32 in [0, 1] -> [n, 2048]


def make_feature_extractor(params: Params) -> Extractor:
    """Compile the network; traced once for all numbers and sizes of images."""
    image = tf.TensorSpec([None, None, 3], tf.float32)
    resize = tf.function(lambda pixels: resize_to_input(pixels[None]), input_signature=[image])
    batch = tf.TensorSpec([None, None, None, 3], tf.float32)
    compute = tf.function(lambda images: pool3(params, images), input_signature=[batch])

    def run(images: Sequence[np.ndarray]) -> np.ndarray:
        floats = [to_float(image) if image.dtype == np.uint8 else image for image in images]
        return compute(tf.concat([resize(image) for image in floats], axis=0)).numpy()

    return run


def extract_features(files: Sequence[Path], extractor: Extractor, *, description: str = "features") -> np.ndarray:
    """Return the features [len(files), 2048] float32 of image files; alpha is ignored, gray becomes RGB."""
    features = []
    with (ThreadPoolExecutor(NUM_READERS) as readers,
          Progress(len(files), description=description, unit="image") as progress):
        for start in range(0, len(files), BATCH_SIZE):
            images = list(readers.map(read_image, files[start:start + BATCH_SIZE]))
            features.append(interruptible(extractor, [image.pixels for image in images]))
            progress.update(len(images))
    return np.concatenate(features)


def cached_features(files: Sequence[Path], extractor: Extractor, cache_dir: Path) -> np.ndarray:
    """Return `extract_features` of the reference, kept in `cache_dir` by the content of the files.

    Names and order of the files do not matter. A damaged cache file is computed anew.
    """
    with ThreadPoolExecutor(NUM_READERS) as pool:
        digests = list(pool.map(lambda file: hashlib.sha256(read_bytes(file)).hexdigest(), files))
    order = np.argsort(digests, kind="stable")
    key = hashlib.sha256("".join([CACHE_VERSION, *sorted(digests)]).encode()).hexdigest()
    path = Path(cache_dir) / f"inception-{key[:32]}.npz"
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        with np.load(path, allow_pickle=False) as arrays:
            kept = arrays["features"]
        if kept.shape == (len(files), NUM_FEATURES) and kept.dtype == np.float32:
            return kept[np.argsort(order)]
    check_writable(cache_dir)
    features = extract_features(files, extractor, description="reference features")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features[order])
    return features


class SetMeter:
    """Measures FID and KID of folders against one reference folder of two images at least."""

    def __init__(self, reference: Sequence[Path], cache_dir: Path, *, weights_dir: Path | None = None, seed: int = 0):
        """Load the network and the reference's features; `seed`: of KID's subsets."""
        self._seed = seed
        params = load_params("inception", inception_params_from_torch, weights_dir=weights_dir)
        self._extractor = make_feature_extractor(params)
        self._reference = cached_features(reference, self._extractor, cache_dir)

    def measure(self, files: Sequence[Path], names: Sequence[str]) -> dict[str, dict]:
        """Return the summaries of those of `fid` and `kid` that `names` contains."""
        try:
            require(len(files) >= FEWEST_IN_SET, f"it needs at least {FEWEST_IN_SET} images that can be read",
                    len(files))
            features = extract_features(files, self._extractor)
        except UserError as error:
            return dict.fromkeys(names, not_measured(str(error)))
        summaries = {}
        if "fid" in names:
            summaries["fid"] = {"mean": interruptible(frechet_distance, features, self._reference)}
        if "kid" in names:
            value, deviation = interruptible(kernel_distance, features, self._reference, seed=self._seed)
            summaries["kid"] = {"mean": value, "deviation": deviation}
        return {name: {**summary, "images": len(files)} for name, summary in summaries.items()}


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the FID of features [n, d] and [m, d]: the Fréchet distance between Gaussians fitted to them.

    It is |mean_a - mean_b|^2 + trace(A + B - 2 (AB)^(1/2)) with covariances A, B. With A = R^T R the eigenvalues of AB
    are those of the symmetric R B R^T, which is small when there are few images, and has no imaginary roots.
    """
    few, many = (np.asarray(features, np.float64) for features in sorted((features_a, features_b), key=len))
    root = np.linalg.qr((few - few.mean(axis=0)) / np.sqrt(len(few) - 1), mode="r")
    covariance = np.cov(many, rowvar=False)
    eigenvalues = np.linalg.eigvalsh(root @ covariance @ root.T)
    difference = few.mean(axis=0) - many.mean(axis=0)
    traces = np.square(root).sum() + np.trace(covariance)
    distance = difference @ difference + traces - 2 * np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return max(0.0, float(distance))  # below 0: rounding


def kernel_distance(features_a: np.ndarray, features_b: np.ndarray, *, seed: int = 0, num_subsets: int = 100,
                    subset_size: int = 1000) -> tuple[float, float | None]:
    """Return the KID: mean and standard deviation of the squared MMD over random subsets.

    The kernel is (x.y / d + 1)^3; the unbiased estimate may be negative. When one subset contains all images there is
    only that one, and no deviation (None).
    """
    smaller, larger = sorted((len(features_a), len(features_b)))
    size = min(subset_size, smaller)
    rng = np.random.default_rng(seed)
    distances = []
    for _ in range(1 if size == larger else num_subsets):
        subsets = (features[rng.choice(len(features), size, replace=False)].astype(np.float64)
                   for features in (features_a, features_b))
        distances.append(_squared_mmd(*subsets))
    return float(np.mean(distances)), float(np.std(distances)) if len(distances) > 1 else None


def _squared_mmd(subset_a: np.ndarray, subset_b: np.ndarray) -> float:
    size = len(subset_a)
    kernels = [_kernel(subset, subset) for subset in (subset_a, subset_b)]
    within = sum((kernel.sum() - np.trace(kernel)) / (size * (size - 1)) for kernel in kernels)
    return within - 2 * _kernel(subset_a, subset_b).mean()


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    base = left @ right.T / left.shape[1] + 1
    return base * base * base  # much faster than a power
