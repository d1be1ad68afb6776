"""Work through photos so that the next one is read, and the one before encoded, while the networks are at one.

One thread reads, the caller's computes, one encodes, writes and reports. Results and rows are those of one photo after
the other.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from config import UpscalingConfig
from utils.errors import FatalError, UserError
from utils.image.listing import PlannedPhoto
from utils.inference.restoration import OnProgress, PhotoRestorer, Restored
from utils.inference.tiling import choose_tile_size, memory_needed

BYTES_PER_PIXEL_READ = 40  # of a photo with alpha while it is decoded; float32 RGB, once it waits, takes 12


def restore_photos(restorer: PhotoRestorer, photos: Sequence[PlannedPhoto], upscaling: UpscalingConfig, *,
                   on_turn: Callable[[PlannedPhoto], OnProgress], on_done: Callable[[dict], None]) -> None:
    """Restore photos; one that fails does not stop the others.

    A result waits to be written, or the next photo for its turn, only where the memory suffices for that beside the
    photo that is computed; otherwise one comes after the other.

    Args:
        restorer: does the work.
        photos: in order.
        upscaling: what the restorer was made with; its `memory_gib` is what all of it keeps to.
        on_turn: called when a photo's turn comes; gives what `PhotoRestorer.compute` tells.
        on_done: called with the row of each photo, in order and in one other thread, when its result is on disk or it
            has failed (`status` is then `error` and `reason` the message).

    Raises:
        FatalError: it makes no sense to go on. The photos before are reported, the present one is not.
    """
    rows = [{"file": photo.path.name} for photo in photos]
    reading: Future | None = None
    writing: Future | None = None
    waiting = 0  # bytes of the result that is being written
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            for number, (photo, row) in enumerate(zip(photos, rows, strict=True)):
                following = photos[number + 1] if number + 1 < len(photos) else None
                if writing and not _fits(photo, waiting, upscaling):
                    writing.result()
                    waiting = 0
                on_progress = on_turn(photo)
                reading = reading or reader.submit(restorer.read, photo.path, row)
                loaded, reason = _attempt(reading.result)
                reading = None
                if following and _fits(photo, waiting + _bytes_of_reading(following), upscaling):
                    reading = reader.submit(restorer.read, following.path, rows[number + 1])
                restored = None
                if loaded:
                    restored, reason = _attempt(restorer.compute, loaded, row, on_progress)
                if writing:
                    writing.result()  # at most one result waits
                waiting = restored.num_bytes if restored else 0
                writing = writer.submit(_finish, restorer, restored, reason, row, on_done)
                del loaded, restored  # the writer frees them
            if writing:
                writing.result()
        except BaseException:
            _settle(writing)
            raise


def _attempt(function: Callable, *arguments) -> tuple[Any, str]:
    """Call a stage of a photo; gives what it gives, and why the photo failed if it did.

    Raises:
        FatalError: it does.
    """
    try:
        return function(*arguments), ""
    except FatalError:
        raise
    except UserError as error:
        return None, str(error)


def _settle(writing: Future | None) -> None:
    """Wait for what is being written, though the user interrupts again: cut off, it would leave half a file."""
    while writing and not writing.done():
        with contextlib.suppress(KeyboardInterrupt):
            wait([writing])


def _bytes_of_reading(photo: PlannedPhoto) -> int:
    return BYTES_PER_PIXEL_READ * photo.height * photo.width


def _fits(photo: PlannedPhoto, waiting: int, upscaling: UpscalingConfig) -> bool:
    tile_size = choose_tile_size(photo.height, photo.width, tile_size=upscaling.tile_size,
                                 memory_gib=upscaling.memory_gib)
    return memory_needed(photo.height, photo.width, tile_size) + waiting <= upscaling.memory_gib * 2**30


def _finish(restorer: PhotoRestorer, restored: Restored | None, reason: str, row: dict,
            on_done: Callable[[dict], None]) -> None:
    """Write a result, if there is one, and report it."""
    if restored:
        _, reason = _attempt(restorer.write, restored, row)
    if reason:
        row.update(status="error", reason=reason)
    on_done(row)
