"""The metrics of calculate_metrics.py."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scripts.benchmarks.inference import Setting
from scripts.benchmarks.timing import Rows
from utils.image.io import quantize, to_float, write_png

NUM_IMAGES = 40  # pairs per metric that is measured image by image
NUM_FEATURE_IMAGES = 16  # for Inception
SETS = (("psnr_y",), ("psnr_y", "psnr_rgb", "psnr_paper"), ("ssim",), ("psnr_y", "ssim"), ("niqe",), ("lpips",))


def metrics(setting: Setting) -> Rows:
    """Time every metric on pairs of PNGs, decoding included."""
    from model.inception import init_inception
    from model.lpips import init_lpips
    from utils.image.listing import group_images
    from utils.metrics.fid import extract_features, make_feature_extractor
    from utils.metrics.lpips import make_lpips_distance
    from utils.metrics.niqe import NUM_FEATURES, NiqeModel, niqe, yiq_luma
    from utils.metrics.suite import PAIR_FUNCTIONS, ImageMeter, measure_all

    photo, rng = setting.photo, np.random.default_rng(0)
    lpips, model = make_lpips_distance(init_lpips(0)), NiqeModel(np.zeros(NUM_FEATURES), np.eye(NUM_FEATURES))
    functions = {**PAIR_FUNCTIONS, "niqe": lambda image: niqe(yiq_luma(image), model),
                 "lpips": lambda image, truth: lpips(to_float(image), to_float(truth))}
    size = f"{photo.shape[1]}x{photo.shape[0]}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(NUM_IMAGES):
            noisy = photo + 0.02 * rng.standard_normal(photo.shape, np.float32)
            write_png(folder / "result" / f"{index}.png", quantize(noisy))
            write_png(folder / "truth" / f"{index}.png", quantize(photo))
        groups = group_images(folder / "result", truth_dir=folder / "truth")
        for names in SETS:
            meter = ImageMeter({name: functions[name] for name in names})
            rate = _images_per_second(lambda count, meter=meter: list(measure_all(groups[:count], meter)), NUM_IMAGES)
            yield f"{', '.join(names)}: images of {size} per second", f"{rate:.1f}"
        extract, files = make_feature_extractor(init_inception(0)), [group.result for group in groups]
        rate = _images_per_second(lambda count: extract_features(files[:count], extract), NUM_FEATURE_IMAGES)
        yield f"features for FID and KID: images of {size} per second", f"{rate:.1f}"


def _images_per_second(work: Callable[[int], object], count: int) -> float:
    work(1)  # may trace a network
    start = time.perf_counter()
    work(count)
    return count / (time.perf_counter() - start)
