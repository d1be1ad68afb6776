"""FID and KID: distances between two sets of images, on features of Inception-v3.

FID is the Fréchet distance between Gaussians fitted to the features (Heusel et al., 2017), KID a squared maximum mean
discrepancy (Bińkowski et al., 2018), which unlike FID is unbiased for small sets. Features are [n, d], d = 2048.
"""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy import linalg

from model.inception import NUM_FEATURES, inception_params_from_torch, pool3, resize_to_input
from model.layers import Params
from utils.errors import UserError, require
from utils.files import atomic_path, check_writable, read_bytes
from utils.image.io import read_image
from utils.weights.params import load_params

BATCH_SIZE = 16  # images; two batches are in memory: one is decoded while another is computed
NUM_READERS = min(4, os.cpu_count() or 1)  # threads that decode
FEWEST_IN_SET = 2  # images, for a covariance
SINGULAR_OFFSET = 1e-6  # added to the variances when the covariances have no square root
LARGEST_IMAGINARY = 1e-3  # of the root's diagonal that still counts as rounding
CACHE_VERSION = "1"  # change it with anything that changes the features of a file

Advance = Callable[[int], object]  # called with a number of images that are done


class SetDistance(NamedTuple):
    """A distance of two sets and its standard deviation over subsets, if any; or the reason why there is none."""

    value: float | None
    deviation: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class FeatureExtractor:
    """`run`: RGB images [h, w, 3], uint8 or float32 in [0, 1] -> features [n, 2048] float32."""

    run: Callable[[Sequence[np.ndarray]], np.ndarray]
    weights_digest: str


def load_inception(weights_dir: Path | str | None = None) -> dict[str, tf.Tensor]:
    """Load the Inception-v3 of pytorch-fid.

    Raises:
        UserError: the file is missing, damaged or of another network.
    """
    return load_params("inception", inception_params_from_torch, weights_dir=weights_dir)


def make_feature_extractor(params: Params) -> FeatureExtractor:
    """Compile the network; traced once for all numbers and sizes of images."""
    image = tf.TensorSpec([None, None, 3], tf.float32)
    resize = tf.function(lambda pixels: resize_to_input(pixels[None]), input_signature=[image])
    batch = tf.TensorSpec([None, None, None, 3], tf.float32)
    compute = tf.function(lambda images: pool3(params, images), input_signature=[batch])

    def run(images: Sequence[np.ndarray]) -> np.ndarray:
        # each is resized by itself, so that images of different sizes make a batch
        return compute(tf.concat([resize(_to_float(image)) for image in images], axis=0)).numpy()

    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(params[name]))
    return FeatureExtractor(run, digest.hexdigest())


def _to_float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image


def extract_features(files: Sequence[Path], extractor: FeatureExtractor, *, advance: Advance | None = None
                     ) -> np.ndarray:
    """Return the features [len(files), 2048] float32 of image files; alpha is ignored, gray becomes RGB.

    Raises:
        UserError: a file cannot be read.
    """
    parts = []
    for images in _decoded_batches(files):
        parts.append(extractor.run(images))
        if advance:
            advance(len(images))
    return np.concatenate(parts)


def _decoded_batches(files: Sequence[Path]) -> Iterator[list[np.ndarray]]:
    batches = [files[first:first + BATCH_SIZE] for first in range(0, len(files), BATCH_SIZE)]
    pool = ThreadPoolExecutor(NUM_READERS)
    try:
        pending = pool.map(_read_pixels, batches[0])
        for following in [*batches[1:], []]:
            current, pending = pending, pool.map(_read_pixels, following)
            yield list(current)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for pending images


def _read_pixels(file: Path) -> np.ndarray:
    return read_image(file).pixels


def cached_features(files: Sequence[Path], extractor: FeatureExtractor, cache_dir: Path, *,
                    advance: Advance | None = None) -> np.ndarray:
    """Return `extract_features`, kept in `cache_dir` by the content of the files and the weights.

    Names and order of the files do not matter. A damaged cache file is computed anew.

    Raises:
        UserError: a file cannot be read, or the folder not be written.
    """
    with ThreadPoolExecutor(NUM_READERS) as pool:
        digests = list(pool.map(lambda file: hashlib.sha256(read_bytes(file)).hexdigest(), files))
    order = np.argsort(digests, kind="stable")
    key = hashlib.sha256("".join([CACHE_VERSION, extractor.weights_digest, *sorted(digests)]).encode()).hexdigest()
    path = Path(cache_dir) / f"inception-{key[:32]}.npz"
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        with np.load(path, allow_pickle=False) as arrays:
            kept = arrays["features"]
        if kept.shape == (len(files), NUM_FEATURES) and kept.dtype == np.float32:
            return kept[np.argsort(order)]
    check_writable(cache_dir)
    features = extract_features(files, extractor, advance=advance)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features[order])
    return features


class SetMeter:
    """Measures FID and KID of folders against one reference folder."""

    def __init__(self, reference: Sequence[Path], cache_dir: Path, *, weights_dir: Path | None = None, seed: int = 0,
                 advance: Advance | None = None):
        """Load the network and the reference's features; `seed`: of KID's subsets.

        Raises:
            UserError: the weights are missing or damaged, an image cannot be read, or the cache not be written.
        """
        self._seed = seed
        self._extractor = make_feature_extractor(load_inception(weights_dir))
        self._reference = cached_features(reference, self._extractor, cache_dir, advance=advance)

    def measure(self, files: Sequence[Path], names: Sequence[str], *, advance: Advance | None = None
                ) -> dict[str, SetDistance]:
        """Return those of `fid` and `kid` that `names` contains; a value that is impossible has a reason."""
        functions = {"fid": lambda features: (frechet_distance(features, self._reference),),
                     "kid": lambda features: kernel_distance(features, self._reference, seed=self._seed)}
        try:
            require(len(files) >= FEWEST_IN_SET, f"it needs at least {FEWEST_IN_SET} images that can be read",
                    len(files))
            features = extract_features(files, self._extractor, advance=advance)
        except UserError as error:
            return dict.fromkeys(names, SetDistance(None, reason=str(error)))
        distances = {}
        for name in names:
            try:
                distances[name] = SetDistance(*functions[name](features))
            except UserError as error:  # some sets have no real matrix root
                distances[name] = SetDistance(None, reason=str(error))
        return distances


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the FID of features [n, d] and [m, d], n, m > 1; it depends strongly on n and m when they are small.

    When a side has no more images than features its covariance is singular, and a matrix root is slow and imprecise.
    What is needed of it, the trace, is then the sum of the roots of the eigenvalues of a small symmetric matrix.

    Raises:
        UserError: a side has fewer than two images, or see `frechet_distance_of_moments`.
    """
    few, many = (np.asarray(features, np.float64) for features in sorted((features_a, features_b), key=len))
    require(len(few) > 1, "FID needs at least 2 images on each side", len(few))
    mean, covariance = many.mean(axis=0), np.cov(many, rowvar=False)
    if len(few) > few.shape[1]:
        return frechet_distance_of_moments(few.mean(axis=0), np.cov(few, rowvar=False), mean, covariance)
    centred = (few - few.mean(axis=0)) / np.sqrt(len(few) - 1)  # its square is the covariance
    eigenvalues = linalg.eigvalsh(centred @ covariance @ centred.T)
    return _distance(few.mean(axis=0) - mean, np.square(centred).sum() + np.trace(covariance),
                     np.sqrt(np.maximum(eigenvalues, 0)).sum())


def frechet_distance_of_moments(mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray,
                                covariance_b: np.ndarray) -> float:
    """Return |mean_a - mean_b|^2 + trace(A + B - 2 (AB)^(1/2)) of Gaussians with covariances A, B [d, d] float64.

    The root is SciPy's, as in pytorch-fid. When it is not finite, 1e-6 is added to all variances.

    Raises:
        UserError: the root has an imaginary part that is not due to rounding.
    """
    root = _matrix_root(covariance_a @ covariance_b)
    if not np.isfinite(root).all():
        offset = SINGULAR_OFFSET * np.eye(len(mean_a))
        root = _matrix_root((covariance_a + offset) @ (covariance_b + offset))
    diagonal = np.diagonal(root)
    imaginary = np.abs(diagonal.imag).max()
    require(imaginary <= LARGEST_IMAGINARY, "FID cannot be computed: the product of the covariances must have a real "
            "square root. Use more images", f"an imaginary part of {imaginary:.3g}")
    return _distance(mean_a - mean_b, np.trace(covariance_a) + np.trace(covariance_b), diagonal.real.sum())


def _distance(difference: np.ndarray, traces: float, root_trace: float) -> float:
    return max(0.0, float(difference @ difference + traces - 2 * root_trace))  # below 0: rounding


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # in its error estimate, for a matrix of zeros
        root, _ = linalg.sqrtm(matrix, disp=False)  # otherwise it prints remarks on singular matrices
    return root


def kernel_distance(features_a: np.ndarray, features_b: np.ndarray, *, seed: int = 0, num_subsets: int = 100,
                    subset_size: int = 1000) -> tuple[float, float | None]:
    """Return the KID: mean and standard deviation of the squared MMD over random subsets.

    The kernel is (x.y / d + 1)^3 and the estimate unbiased: for sets of one distribution it is around 0, on either
    side. When one subset contains all images there is only that one, and no deviation.

    Raises:
        UserError: a side has fewer than two images.
    """
    smaller, larger = sorted((len(features_a), len(features_b)))
    require(smaller > 1, "KID needs at least 2 images on each side", smaller)
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
    within = 0.0
    for subset in (subset_a, subset_b):
        kernel = _kernel(subset, subset)
        within += (kernel.sum() - np.trace(kernel)) / (size * (size - 1))
    return within - 2 * _kernel(subset_a, subset_b).mean()


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    base = left @ right.T / left.shape[1] + 1
    return base * base * base  # much faster than a power
