"""What a training run tells: CSV files, TensorBoard events, a plot of its curves."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from utils.errors import UserError
from utils.files import atomic_path

ITERATION = "iteration"


class History:
    """A CSV with a row per logged iteration, appended to as training goes."""

    def __init__(self, path: Path, columns: Sequence[str], *, until: int):
        """Open it.

        Rows of iterations after `until`, where training goes on from, are dropped: they will come again. So is a last
        row that was cut off when the process was killed.

        Raises:
            UserError: it cannot be read or written.
        """
        self.path = path
        self._columns = [ITERATION, *columns]
        self.rows = [row for row in _read_rows(path) if row[ITERATION] <= until]
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows({name: _text(value) for name, value in row.items()} for row in self.rows)

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append a row.

        Raises:
            UserError: it cannot be written.
        """
        row = {ITERATION: iteration, **values}
        self.rows.append(row)
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, restval="", extrasaction="ignore").writerow(
                    {name: _text(value) for name, value in row.items()})
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}. Check the free space.") from error

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Give the iterations that have a value of this name, and the values."""
        there = [row for row in self.rows if row.get(name) is not None]
        return [row[ITERATION] for row in there], [row[name] for row in there]


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _read_rows(path: Path) -> list[dict[str, float]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error
    rows = []
    for row in csv.DictReader(line for line in lines if line.endswith("\n")):
        try:
            values = {name: float(value) for name, value in row.items() if value}
            rows.append({**values, ITERATION: int(row[ITERATION])})
        except (KeyError, TypeError, ValueError, AttributeError):  # not a row of ours
            continue
    return rows


class EventWriter:
    """Scalars and images for TensorBoard."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer = tf.summary.create_file_writer(str(folder))

    def scalars(self, iteration: int, values: Mapping[str, float], group: str) -> None:
        """Write scalars as `group/name`."""
        def write() -> None:
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", np.float32(value))  # TensorFlow keeps every Python number it sees

        self._write(iteration, write)

    def images(self, iteration: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write float32 RGB pictures [h, w, 3] in [0, 1]."""
        def write() -> None:
            for name, picture in pictures.items():
                tf.summary.image(name, picture[None])

        self._write(iteration, write)

    def _write(self, iteration: int, write: Callable[[], None]) -> None:
        try:
            with self._writer.as_default(step=np.int64(iteration)):
                write()
            self._writer.flush()
        except tf.errors.OpError as error:
            raise UserError(f"cannot write in {self._folder}: {error.message}. Check the free space.") from error

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def plot_curves(path: Path, training: History, validation: History) -> None:
    """Draw the validation scores and the training losses over the iterations, as PNG."""
    import matplotlib  # takes a second, so only when there is something to draw

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (scores, gain, losses) = pyplot.subplots(1, 3, figsize=(16, 4.5), constrained_layout=True)
    for name, label in (("psnr_bicubic", "bicubic"), ("psnr_before", "un-adapted"), ("psnr_after", "adapted"),
                        ("psnr_other_faces", "adapted with another task's faces")):
        scores.plot(*validation.column(name), marker=".", label=label)
    scores.set(title="validation: PSNR-Y", ylabel="dB")
    iterations, after = validation.column("psnr_after")
    for name, label in (("psnr_before", "over un-adapted"), ("psnr_other_faces", "over another task's faces")):
        gain.plot(iterations, np.subtract(after, validation.column(name)[1]), marker=".", label=label)
    gain.axhline(0, color="black", linewidth=0.8)
    gain.set(title="validation: gain of the adapted", ylabel="dB")
    for name in ("outer_loss", "inner_loss", "l1", "lpips", "gan", "discriminator_loss"):
        iterations, values = training.column(name)
        if values:
            losses.plot(iterations, values, label=name, linewidth=0.8)
    losses.set(title="training losses", yscale="log")
    for axes in (scores, gain, losses):
        axes.set_xlabel("iteration")
        if axes.lines:
            axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
    pyplot.close(figure)
