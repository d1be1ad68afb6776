"""How far two sets of images are apart as sets: FID and KID, on features of Inception-v3.

FID is the Fréchet distance between Gaussians fitted to the features (Heusel et al., 2017), KID a squared maximum mean
discrepancy (Bińkowski et al., 2018), which unlike FID has no bias for small sets. Features are [n, d], d = 2048.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy import linalg

from model.inception import NUM_FEATURES, inception_params_from_torch, pool3, resize_to_input
from model.layers import Params
from utils.errors import UserError, require
from utils.files import atomic_path, check_writable, read_bytes
from utils.image.io import read_image
from utils.weights.npz import Shapes, read_npz_weights
from utils.weights.params import load_params

BATCH_SIZE = 16  # images
NUM_READERS = min(4, os.cpu_count() or 1)  # threads that decode
SINGULAR_OFFSET = 1e-6  # added to the variances when the covariances have no square root
LARGEST_IMAGINARY = 1e-3  # of the root's diagonal that still counts as rounding
CACHE_VERSION = "1"  # of the way from a file to its features: another one makes old caches unused
CACHE_OVERHEAD = 2**16  # bytes of a cache file beside its float32 values, at most


@dataclass(frozen=True)
class FeatureExtractor:
    """Call it with images to get their features; `weights_digest` identifies the weights."""

    run: Callable[[Sequence[np.ndarray]], np.ndarray]
    weights_digest: str

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Compute features [n, 2048] float32.

        Args:
            images: an array [n, h, w, 3], or arrays [h, w, 3] of any sizes: RGB, uint8 or float32 in [0, 1]. They are
                one batch: what the network needs is reserved for all of them at once.
        """
        return self.run(images)


def load_inception(weights_dir: Path | str | None = None) -> dict[str, tf.Tensor]:
    """Load the Inception-v3 of FID, as published with pytorch-fid.

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


def extract_features(files: Sequence[Path], extract: FeatureExtractor, *, batch_size: int = BATCH_SIZE,
                     advance: Callable[[int], object] | None = None) -> np.ndarray:
    """Compute the features of image files, which are decoded in parallel; alpha is left out, gray becomes RGB.

    Args:
        files: one or more.
        extract: as `make_feature_extractor` gives.
        batch_size: how many images are in memory decoded, twice: one batch is read while another is computed.
        advance: called with the number of images after each batch.

    Returns:
        [len(files), 2048] float32, in the order of the files.

    Raises:
        UserError: a file cannot be read.
    """
    parts = []
    for images in _decoded_batches(files, batch_size):
        parts.append(extract(images))
        if advance:
            advance(len(images))
    return np.concatenate(parts)


def _decoded_batches(files: Sequence[Path], batch_size: int) -> Iterator[list[np.ndarray]]:
    batches = [files[first:first + batch_size] for first in range(0, len(files), batch_size)]
    pool = ThreadPoolExecutor(NUM_READERS)
    try:
        ahead = pool.map(_pixels, batches[0])
        for following in [*batches[1:], []]:
            current, ahead = ahead, pool.map(_pixels, following)
            yield list(current)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for what is under way


def _pixels(file: Path) -> np.ndarray:
    return read_image(file).pixels


def cached_features(files: Sequence[Path], extract: FeatureExtractor, cache_dir: Path, *,
                    batch_size: int = BATCH_SIZE, advance: Callable[[int], object] | None = None) -> np.ndarray:
    """Give `extract_features`, computed once for each set of images and kept in a folder.

    What is kept is found by the content of the files and the weights; names, places and order of the files do not
    matter. A file of the cache that is damaged, or was not written here, is computed anew; no code that it may contain
    is run.

    Args:
        files: one or more.
        extract: as `make_feature_extractor` gives.
        cache_dir: the folder; it is created when missing.
        batch_size: as for `extract_features`.
        advance: likewise; not called for features that were kept.

    Raises:
        UserError: a file cannot be read, or the folder not be written.
    """
    with ThreadPoolExecutor(NUM_READERS) as pool:
        digests = list(pool.map(lambda file: hashlib.sha256(read_bytes(file)).hexdigest(), files))
    order = np.argsort(digests, kind="stable")  # of the features that are kept
    key = hashlib.sha256("".join([CACHE_VERSION, extract.weights_digest, *sorted(digests)]).encode()).hexdigest()
    path = Path(cache_dir) / f"inception-{key[:32]}.npz"
    kept = _read_cache(path, len(files))
    if kept is not None:
        return kept[np.argsort(order)]
    check_writable(cache_dir)
    features = extract_features(files, extract, batch_size=batch_size, advance=advance)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features[order])
    return features


def _read_cache(path: Path, count: int) -> np.ndarray | None:
    """Read the features of `count` images; None if there is no such file, or it is damaged or something else."""
    shape = (count, NUM_FEATURES)

    def check(shapes: Shapes) -> None:
        if shapes != {"features": shape}:
            raise ValueError(f"it holds {shapes}")

    try:
        if not path.is_file() or path.stat().st_size > 4 * math.prod(shape) + CACHE_OVERHEAD:
            return None  # whatever it is, it is not read into memory
        return read_npz_weights(path, holds="features", check=check)["features"]
    except (OSError, UserError):
        return None


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Give the Fréchet distance between Gaussians of the features' means and (unbiased) covariances: the FID.

    When a side has no more images than features, its covariance is singular. A matrix root then takes long and meets
    its limits; what is needed of it, the trace, is the sum of roots of eigenvalues of a small symmetric matrix.

    Args:
        features_a: [n, d], n > 1. The value depends strongly on n when it is small.
        features_b: [m, d], m > 1.

    Returns:
        A number >= 0; what rounding leaves below counts as 0.

    Raises:
        UserError: a side has less than two images, or see `frechet_distance_of_moments`.
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
    """Give |mean_a - mean_b|^2 + trace(A + B - 2 (AB)^(1/2)) of two Gaussians with covariances A and B.

    The root is SciPy's, as in pytorch-fid. When it is not finite, 1e-6 is added to all variances under it.

    Args:
        mean_a: [d] float64.
        covariance_a: [d, d] float64.
        mean_b: [d] float64.
        covariance_b: [d, d] float64.

    Returns:
        A number >= 0; what rounding leaves below counts as 0.

    Raises:
        UserError: the root has an imaginary part that is no rounding.
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
    return max(0.0, float(difference @ difference + traces - 2 * root_trace))


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # in an estimate of its error, for a matrix of zeros
        root, _ = linalg.sqrtm(matrix, disp=False)  # otherwise it prints remarks on singular matrices
    return root


def kernel_distance(features_a: np.ndarray, features_b: np.ndarray, *, seed: int = 0, num_subsets: int = 100,
                    subset_size: int = 1000) -> tuple[float, float | None]:
    """Give the KID: mean and standard deviation of the squared MMD over random subsets; a single one has no deviation.

    The kernel is (x.y / d + 1)^3, the estimate without bias: for sets of one distribution it lies around 0 on either
    side.

    Args:
        features_a: [n, d], n > 1.
        features_b: [m, d], m > 1.
        seed: of the subsets.
        num_subsets: how many; one when a subset is all of both sides.
        subset_size: images of each side in a subset; at most the number of the smaller side.

    Raises:
        UserError: a side has less than two images.
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
    """Estimate the squared maximum mean discrepancy of equally many samples [m, d] float64 without bias."""
    size = len(subset_a)
    within = 0.0
    for subset in (subset_a, subset_b):
        kernel = _kernel(subset, subset)
        within += (kernel.sum() - np.trace(kernel)) / (size * (size - 1))
    return within - 2 * _kernel(subset_a, subset_b).mean()


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    base = left @ right.T / left.shape[1] + 1
    return base * base * base  # much faster than a power
