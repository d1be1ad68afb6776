"""Logs of a training run: CSV files, TensorBoard events, a plot of its curves."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import tensorflow as tf

from utils.files import atomic_path, read_bytes, write_errors
from utils.tensorflow_setup import load_pyplot
from utils.weights.checkpoints import tensorflow_write_errors

ITERATION = "iteration"


class History:
    """A CSV with a row per logged iteration, appended to as training goes on."""

    def __init__(self, path: Path, columns: Sequence[str], *, until: int):
        """Open it.

        Rows of iterations after `until`, where training resumes, are dropped, and a last row that was cut off when the
        process was killed. Columns of terms that are no longer used are kept, after the others.
        """
        self.path = path
        self.rows = [row for row in _read_rows(path) if row[ITERATION] <= until]
        self._columns = list(dict.fromkeys([ITERATION, *columns, *(name for row in self.rows for name in row)]))
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerow(self._columns)
            self._write(file, self.rows)

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        self.rows.append({ITERATION: iteration, **values})
        with write_errors(self.path), self.path.open("a", newline="") as file:
            self._write(file, self.rows[-1:])

    def _write(self, file: TextIO, rows: Sequence[Mapping[str, float]]) -> None:
        csv.writer(file).writerows(
            [value if isinstance(value := row.get(name, ""), int | str) else f"{value:.6g}" for name in self._columns]
            for row in rows)

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Return the iterations that have a value of this name, and the values."""
        found = [row for row in self.rows if name in row]
        return [row[ITERATION] for row in found], [row[name] for row in found]


def _read_rows(path: Path) -> list[dict[str, float]]:
    rows, text = [], read_bytes(path).decode(errors="replace") if path.exists() else ""
    lines = text.splitlines(keepends=True)
    for row in csv.DictReader(line for line in lines if line.endswith("\n")):
        try:
            rows.append({ITERATION: int(row.pop(ITERATION)),
                         **{name: float(value) for name, value in row.items() if value}})
        except (KeyError, TypeError, ValueError):  # not a row of ours
            continue
    return rows


class EventWriter:
    """Scalars and images for TensorBoard."""

    def __init__(self, folder: Path):
        """Open a file in a folder, which need not exist."""
        self._folder = folder
        with tensorflow_write_errors(f"in {folder}"):
            self._writer = tf.summary.create_file_writer(str(folder))

    def add(self, iteration: int, group: str, scalars: Mapping[str, float],
            pictures: Mapping[str, np.ndarray] | None = None) -> None:
        """Write scalars as `group/name`, and float32 RGB pictures [h, w, 3] in [0, 1]."""
        with tensorflow_write_errors(f"in {self._folder}"), self._writer.as_default(step=np.int64(iteration)):
            for name, value in scalars.items():
                tf.summary.scalar(f"{group}/{name}", np.float32(value))  # TensorFlow caches every Python number
            for name, picture in (pictures or {}).items():
                tf.summary.image(name, picture[None])
            self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class Panel(NamedTuple):
    """One diagram: `lines` maps labels to iterations and values.

    `logarithmic` draws thin lines, for losses of many iterations; otherwise every value has a marker. `zero` draws a
    line at 0.
    """

    title: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    unit: str = ""
    logarithmic: bool = False
    zero: bool = False


def losses_panel(training: History, names: Sequence[str]) -> Panel:
    """Return a diagram of those losses that the history has values of."""
    columns = {name: training.column(name) for name in names}
    return Panel("training losses", {name: column for name, column in columns.items() if column[1]}, logarithmic=True)


def plot_curves(path: Path, panels: Sequence[Panel]) -> None:
    """Draw diagrams over the iterations side by side, as PNG."""
    pyplot = load_pyplot()
    figure, row = pyplot.subplots(1, len(panels), figsize=(16 * len(panels) / 3, 4.5), constrained_layout=True,
                                  squeeze=False)
    for axes, panel in zip(row[0], panels, strict=True):
        style = {"linewidth": 0.8} if panel.logarithmic else {"marker": "."}
        for label, (iterations, values) in panel.lines.items():
            axes.plot(iterations, values, label=label, **style)
        if panel.zero:
            axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=panel.title, ylabel=panel.unit, xlabel="iteration",
                 yscale="log" if panel.logarithmic else "linear")
        if axes.lines:
            axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
    pyplot.close(figure)
