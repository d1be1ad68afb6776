"""The part of the benchmark that measures `calculate_metrics.py`; `scripts/benchmark.py` runs it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from utils.image.image_sets import ImageGroup, group_images
from utils.image.io import quantize, write_png
from utils.metrics.niqe import NUM_FEATURES, NiqeModel, niqe, yiq_luma
from utils.metrics.suite import NUM_WORKERS, ImageMeter, measure_all

NUM_IMAGES = 40  # pairs per metric that is measured image by image
NUM_FEATURE_IMAGES = 16  # for Inception
SETS = (("psnr_y",), ("psnr_y", "psnr_rgb", "psnr_paper"), ("ssim",), ("psnr_y", "ssim"), ("niqe",), ("lpips",))


def metrics(photo: np.ndarray) -> Iterator[tuple[str, str]]:
    """Time every metric on pairs of PNGs, with their decoding; networks have drawn weights.

    Args:
        photo: [h, w, 3] float32 in [0, 1].
    """
    from model.inception import init_inception
    from model.lpips import init_lpips
    from utils.metrics.fid import extract_features, make_feature_extractor
    from utils.metrics.lpips import make_lpips_distance

    lpips, model = make_lpips_distance(init_lpips(0)), NiqeModel(np.zeros(NUM_FEATURES), np.eye(NUM_FEATURES))
    size = f"{photo.shape[1]}x{photo.shape[0]}"
    with tempfile.TemporaryDirectory() as name:
        groups = _write_pairs(Path(name), photo)
        for names in SETS:
            meter = ImageMeter(names, niqe=lambda image: niqe(yiq_luma(image), model), lpips=lpips)
            rate = _rate(lambda count, meter=meter: list(measure_all(groups[:count], meter)), NUM_IMAGES)
            yield f"{', '.join(names)}: images of {size} per second, {NUM_WORKERS} threads", f"{rate:.1f}"
        extract, files = make_feature_extractor(init_inception(0)), [group.result for group in groups]
        rate = _rate(lambda count: extract_features(files[:count], extract), NUM_FEATURE_IMAGES)
        yield f"features for FID and KID: images of {size} per second", f"{rate:.1f}"


def _write_pairs(folder: Path, photo: np.ndarray) -> list[ImageGroup]:
    rng = np.random.default_rng(0)
    for index in range(NUM_IMAGES):
        noisy = photo + 0.02 * rng.standard_normal(photo.shape, np.float32)
        write_png(folder / "result" / f"{index}.png", quantize(noisy))
        write_png(folder / "truth" / f"{index}.png", quantize(photo))
    return group_images(folder / "result", truth_dir=folder / "truth")


def _rate(work: Callable[[int], object], count: int) -> float:
    """Give images per second; the first image, which may have to trace a network, does not count."""
    work(1)
    start = time.perf_counter()
    work(count)
    return count / (time.perf_counter() - start)
