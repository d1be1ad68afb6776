"""Work through photos so that the next one is read, and the one before encoded, while the networks are at one.

One thread reads, the caller's computes, one encodes, writes and reports. Results and rows are those of one photo after
the other.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from config import UpscalingConfig
from utils.errors import FatalError, UserError
from utils.photos import PlannedPhoto
from utils.restoration import OnProgress, PhotoRestorer, Restored
from utils.tiling import choose_tile_size, memory_needed

BYTES_PER_PIXEL_READ = 12  # float32 RGB of a photo that waits for its turn


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
        for number, photo in enumerate(photos):
            if writing and not _fits(photo, waiting, upscaling):
                writing.result()
                waiting = 0
            on_progress = on_turn(photo)
            restored, error = None, None
            try:
                loaded = (reading or reader.submit(restorer.read, photo.path, rows[number])).result()
            except FatalError:
                raise
            except UserError as raised:
                loaded, error = None, raised
            following = photos[number + 1] if number + 1 < len(photos) else None
            reading = None
            if following and _fits(photo, waiting + BYTES_PER_PIXEL_READ * following.height * following.width,
                                   upscaling):
                reading = reader.submit(restorer.read, following.path, rows[number + 1])
            if loaded:
                try:
                    restored = restorer.compute(loaded, rows[number], on_progress)
                except FatalError:
                    raise
                except UserError as raised:
                    error = raised
            if writing:
                writing.result()  # at most one result waits
            writing = writer.submit(_finish, restorer, restored, error, rows[number], on_done)
            waiting = restored.num_bytes if restored else 0
            loaded = restored = None  # the writer frees them
        if writing:
            writing.result()


def _fits(photo: PlannedPhoto, waiting: int, upscaling: UpscalingConfig) -> bool:
    tile_size = choose_tile_size(photo.height, photo.width, tile_size=upscaling.tile_size,
                                 memory_gib=upscaling.memory_gib)
    return memory_needed(photo.height, photo.width, tile_size) + waiting <= upscaling.memory_gib * 2**30


def _finish(restorer: PhotoRestorer, restored: Restored | None, error: UserError | None, row: dict,
            on_done: Callable[[dict], None]) -> None:
    try:
        if restored:
            restorer.write(restored, row)
    except FatalError:
        raise
    except UserError as raised:
        error = raised
    if error:
        row.update(status="error", reason=str(error))
    on_done(row)
