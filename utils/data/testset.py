"""Test sets: GT/<stem>.png and its degraded version LQ/<stem>.png for every photo of a folder.

degradations.json states the steps for each photo, report.csv what became of it.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from config import SCALE
from utils.console import Progress
from utils.data.camera import Sharpen, steps_from_plain, steps_to_plain
from utils.data.presets import TESTSET_PRESETS
from utils.errors import UserError, printable, require
from utils.files import check_writable, read_bytes, write_text
from utils.image.io import quantize, read_image, to_float, write_png
from utils.image.listing import list_photos, photo_rng
from utils.plain_data import from_plain
from utils.report import Report

DEGRADATIONS, REPORT = "degradations.json", "report.csv"
TESTSET_COLUMNS = ("file", "status", "width", "height", "lq_width", "lq_height", "reason")
MIN_SIDE = 64  # of a photo in pixels: its LQ version then holds a face patch


@dataclass(frozen=True)
class SynthesisSettings:
    """How all photos are degraded, except for what is drawn for each.

    `usm`: sharpen before degrading, as training does; GT stays as it is. `crop`: side in pixels of a centre crop.
    """

    preset: str
    seed: int = 0
    usm: bool = False
    crop: int | None = None

    def __post_init__(self):
        require(self.seed >= 0, "--seed must be at least 0", self.seed)
        require(self.crop is None or (self.crop >= MIN_SIDE and self.crop % SCALE == 0),
                f"--crop must be divisible by {SCALE} and at least {MIN_SIDE}", self.crop)


def synthesize_testset(input_dir: Path, output_dir: Path, settings: SynthesisSettings, *, source: Path | None = None,
                       overwrite: bool = False, skip_existing: bool = False, num_workers: int = 0) -> dict[str, int]:
    """Degrade the photos of a folder. One that fails gets a row in the report and does not stop the others.

    `source`: a degradations.json, whose steps are applied to the photos of the same stems in place of `settings`.
    `skip_existing` keeps existing results, which must have been made with the same settings. `num_workers`: photos at a
    time; 0: as many as there are cores. Returns the number of photos by outcome: `existing`, `done`, `error`.
    """
    photos, folders = [photo.path for photo in list_photos(input_dir)], [output_dir / "GT", output_dir / "LQ"]
    require(input_dir.resolve() not in [folder.resolve() for folder in folders],
            "the GT/ and LQ/ of --output_dir must not be --input_dir: results would replace the photos", output_dir)
    present = [photo for photo in photos if all((folder / f"{photo.stem}.png").exists() for folder in folders)]
    if present and not (overwrite or skip_existing):
        raise UserError(f"{len(present)} of {len(photos)} results are already in {output_dir}. "
                        "Give --overwrite or --skip_existing.")
    check_writable(output_dir)
    if source:
        settings, entries = _read_degradations(source)
    else:
        sharpen, sample = [Sharpen()] * settings.usm, TESTSET_PRESETS[settings.preset].sample
        entries = {photo.stem: steps_to_plain([*sharpen, *sample(photo_rng(settings.seed, photo.stem))])
                   for photo in photos}
    record, finished = output_dir / DEGRADATIONS, present if skip_existing else []
    if finished:
        earlier_settings, earlier = _read_degradations(record)
        require(earlier_settings == settings, f"{record} must have the settings of this run; else give --overwrite or "
                "another --output_dir", asdict(earlier_settings))
        entries = {**entries, **earlier}
    entries = {photo.stem: entries[photo.stem] for photo in photos if photo.stem in entries}
    write_text(record, json.dumps({**asdict(settings), "photos": entries}, indent=1) + "\n")
    process = partial(_process, output_dir=output_dir, settings=settings, entries=entries, source=source or record)
    waiting, counts = sorted(set(photos) - set(finished)), {"existing": len(finished), "done": 0, "error": 0}
    with (Report(output_dir / REPORT, TESTSET_COLUMNS, keep=("done",) if skip_existing else ()) as report,
          ThreadPoolExecutor(num_workers or os.cpu_count()) as pool,
          Progress(len(waiting), description="photos", unit="photo") as progress):
        report.add_present(photo.name for photo in finished)
        for photo, row in zip(waiting, pool.map(process, waiting), strict=True):
            if row["status"] == "error":
                progress.write(f"error: {printable(photo.name)}: {' '.join(row['reason'].splitlines())}")
            counts[row["status"]] += 1
            report.add(row)
            progress.update(note=printable(photo.name))
    return counts


def _read_degradations(path: Path) -> tuple[SynthesisSettings, dict[str, Any]]:
    """Read a degradations.json: the settings, and by the photo's stem its steps for `steps_from_plain`."""
    try:
        content = json.loads(read_bytes(path))
        photos = dict(content.pop("photos"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} must be a degradations.json of synthesize_testset.py, with `photos`: {error}."
                        ) from error
    return from_plain(SynthesisSettings, content, str(path)), photos


def _process(photo: Path, *, output_dir: Path, settings: SynthesisSettings, entries: Mapping[str, Any],
             source: Path) -> dict:
    """Write GT and LQ of one photo; return its row of the report."""
    try:
        require(photo.stem in entries, f"{source} must have an entry for each photo", f"none for {photo.stem}")
        steps = steps_from_plain(entries[photo.stem], f"photo {photo.stem} of {source}")
        stored = read_image(photo)
        ground_truth = _crop(photo, quantize(stored.pixels), settings.crop)
        image = to_float(ground_truth)
        for step in steps:
            image = step(image)
        low_quality = quantize(image)
        for name, samples in (("GT", ground_truth), ("LQ", low_quality)):
            write_png(output_dir / name / f"{photo.stem}.png", samples, source=replace(stored, exif=None))
    except UserError as error:
        return {"file": photo.name, "status": "error", "reason": str(error)}
    (height, width), (lq_height, lq_width) = ground_truth.shape[:2], low_quality.shape[:2]
    return {"file": photo.name, "status": "done", "width": width, "height": height, "lq_width": lq_width,
            "lq_height": lq_height}


def _crop(photo: Path, samples: np.ndarray, side: int | None) -> np.ndarray:
    """Return the centre crop of that side; None: as much as has sides divisible by 4, from the upper left corner."""
    height, width = samples.shape[:2]
    smallest = side or MIN_SIDE
    require(min(height, width) >= smallest, f"{photo} must have at least {smallest} pixels in each direction"
            + ", or --crop must be smaller" * bool(side), f"{width}x{height}")
    if side:
        top, left = (height - side) // 2, (width - side) // 2
        return samples[top:top + side, left:left + side]
    return samples[:height // SCALE * SCALE, :width // SCALE * SCALE]
