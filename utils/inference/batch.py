"""Restore many photos: the next one is read ahead, faults are reported, progress is shown in pixels."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from utils.console import Progress
from utils.errors import UserError, printable
from utils.image.io import image_size
from utils.image.listing import Source
from utils.inference.restoration import ADAPTED, LOSS_ROSE, OnProgress, PhotoPipeline

WITHOUT_FACES = "without faces"
READ_AHEAD_LIMIT = 4_000_000  # pixels: decoding takes 40 bytes each, which --memory_gib does not count


def restore_all(pipeline: PhotoPipeline, photos: Sequence[Source],
                on_row: Callable[[dict], None] = lambda row: None) -> Counter:
    """Restore photos as `restore_photos`, with a progress bar, errors and warnings.

    `on_row` takes the row of the report of each. Returns how many had which status, and how many no faces, under the
    key `WITHOUT_FACES`.
    """
    outcomes, sizes = Counter(), [_num_pixels(photo.path) for photo in photos]
    with Progress(sum(sizes), description="photos", unit="px", unit_scale=True) as progress:
        finished = 0

        def on_progress(what: str, share: float) -> None:
            progress.update(round(share * sizes[len(done)]), f"{len(done) + 1} of {len(photos)}, {what}")

        done = []
        for photo, row in zip(photos, restore_photos(pipeline, photos, on_progress), strict=True):
            on_row(row)
            done.append(photo)
            outcomes[row["status"]] += 1
            outcomes[WITHOUT_FACES] += row.get("faces") == 0
            reason = " ".join(row.get("reason", "").splitlines())
            if row["status"] == "error":
                progress.total -= sizes[len(done) - 1]  # its pixels are not work that was done
                sizes[len(done) - 1] = 0
                progress.write(f"error: {printable(photo.name)}: {reason}")
            elif reason and row["status"] in (ADAPTED, LOSS_ROSE):
                progress.write(f"warning: {printable(photo.name)}: {reason}")
            finished += sizes[len(done) - 1]
            progress.update(finished - progress.n)  # rounding, and photos that failed
    return outcomes


def restore_photos(pipeline: PhotoPipeline, photos: Sequence[Source], on_progress: OnProgress) -> Iterator[dict]:
    """Restore photos in order and yield the row of each; while one is computed, the next is read if it is not large.

    A photo that fails has the status `error` and the message as `reason`; only a FatalError stops the others.
    """
    rows = [{"file": photo.name} for photo in photos]
    following = None
    with ThreadPoolExecutor(1) as reader:
        for number, (photo, row) in enumerate(zip(photos, rows, strict=True)):
            reading = following or reader.submit(pipeline.read, photo, row)
            wait([reading])
            following = None
            if number + 1 < len(photos) and _num_pixels(photos[number + 1].path) <= READ_AHEAD_LIMIT:
                following = reader.submit(pipeline.read, photos[number + 1], rows[number + 1])
            name = printable(photo.name)
            try:
                pipeline.process(reading.result(), row,
                                 lambda what, share, name=name: on_progress(f"{name}: {what}", share))
            except UserError as error:
                row.update(status="error", reason=str(error))
            yield row


def _num_pixels(photo: Path) -> int:
    """Return the size of a photo; of one that cannot be read, which fails soon, 1."""
    try:
        return math.prod(image_size(photo))
    except UserError:
        return 1
