"""Checkpoints of training: everything a run needs to resume, in one TF1 name-based checkpoint.

That of meta-training holds the 2,204 variables of the original's checkpoints under their names, so the original code
and `test.py` read it, and a few more under `MetaF2N/` and `Average/`. Random state and data position are not stored:
both follow from the seed and the iteration (`utils.data.meta_tasks`).
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from model.meta_trainer import AVERAGE, M, MetaTrainer, V
from utils.errors import UserError
from utils.files import write_errors, write_text
from utils.training.configuration import META_TRAINING, Kind, check_resumable, config_to_json, parse_config
from utils.weights.checkpoints import (
    DISCRIMINATOR_SCOPE,
    GENERATOR_SCOPE,
    MASK_SCOPE,
    OPTIMIZER_SLOTS,
    read_tensors,
    write_tf1_checkpoint,
)

SCOPES = {"generator": GENERATOR_SCOPE, "mask": MASK_SCOPE, "discriminator": DISCRIMINATOR_SCOPE,
          "vectors": DISCRIMINATOR_SCOPE}
AVERAGE_SCOPE = "Average/"
CONFIG, UPDATES = "MetaF2N/config", "MetaF2N/discriminator_updates"
PREFIX = "model-"
AVERAGE_PREFIX = "average-"  # of a checkpoint with the moving averages alone, under the networks' own names
CHECKPOINT_FILE = re.compile(rf"(?:{PREFIX}|{AVERAGE_PREFIX})(\d+)\.(?:index|data-.+)")


class StateLayout(NamedTuple):
    """How the state of one training program's trainer is stored in checkpoints.

    The trainer has `variables` (any key -> variable), `iteration` and `config`, of kind `kind`. `variable_name` returns
    the name of a key in a checkpoint: for a moving average `AVERAGE_SCOPE` and that of the variable it is an average
    of. `extras` returns by name what else is stored; `restore_extras` puts that back into a restored trainer.
    """

    kind: Kind
    variable_name: Callable[[Any], str]
    extras: Callable[[Any], dict[str, Any]] = lambda trainer: {}
    restore_extras: Callable[[Mapping[str, Any], Any], None] = lambda tensors, trainer: None

    def tensors(self, trainer: Any) -> dict[str, Any]:
        """Return everything that a checkpoint of the trainer's present state holds."""
        variables = {self.variable_name(key): tf.convert_to_tensor(variable)
                     for key, variable in trainer.variables.items()}
        return {**variables, **self.extras(trainer), "global_step": np.int32(trainer.iteration),
                CONFIG: np.array(config_to_json(trainer.config), object)}


def _meta_name(key: tuple[str, str]) -> str:
    """Return the name of a `MetaTrainer`'s variable: ("mask/m", "conv1/kernel") is Mask/conv1/kernel/Adam."""
    network, _, slot = key[0].partition("/")
    suffix = {M: OPTIMIZER_SLOTS[0], V: OPTIMIZER_SLOTS[1]}.get(slot, "")
    return AVERAGE_SCOPE * (slot == AVERAGE) + SCOPES[network] + key[1] + suffix


def _meta_counters(trainer: MetaTrainer) -> dict[str, Any]:
    meta, updates = trainer.config.meta, trainer.discriminator_updates
    counters = {"stop_grad": np.bool_(trainer.iteration < trainer.config.inner.second_order_from),
                UPDATES: np.int64(updates)}
    # TF1's Adam starts these at beta, and multiplies them by beta at every update
    for suffix, count in (("", trainer.iteration), ("_1", updates)):
        counters[f"beta1_power{suffix}"] = np.float32(meta.beta1 ** (count + 1))
        counters[f"beta2_power{suffix}"] = np.float32(meta.beta2 ** (count + 1))
    return counters


def _restore_counters(tensors: Mapping[str, Any], trainer: MetaTrainer) -> None:
    trainer.discriminator_updates = int(tensors[UPDATES])  # the others follow from it and from the iteration


META_LAYOUT = StateLayout(META_TRAINING, _meta_name, _meta_counters, _restore_counters)


class Checkpoints:
    """The checkpoints `model-<iteration>` of a folder, of which a few are kept."""

    def __init__(self, folder: Path, layout: StateLayout, *, keep: int, keep_every: int):
        """Take a folder, which need not exist; keep the latest `keep` checkpoints and multiples of `keep_every`."""
        self.folder, self._layout = folder, layout
        self._keep, self._keep_every = keep, keep_every

    def prefix(self, iteration: int) -> Path:
        """Return the prefix of a checkpoint's files, as `test.py --model_dir` takes those of main.py."""
        return self.folder / f"{PREFIX}{iteration}"

    def _files(self) -> dict[int, list[Path]]:
        """List every iteration's files: the index of the checkpoint first, if it is there, those of averages last."""
        with write_errors(self.folder):
            names = os.listdir(self.folder) if self.folder.exists() else []
        files: dict[int, list[Path]] = {}
        for name in sorted(names, reverse=True):
            if match := CHECKPOINT_FILE.fullmatch(name):
                files.setdefault(int(match[1]), []).append(self.folder / name)
        return files

    def iterations(self) -> list[int]:
        """List the checkpoints' iterations in ascending order."""
        return sorted(number for number, files in self._files().items() if files[0].name == f"{PREFIX}{number}.index")

    def latest(self) -> int | None:
        """Return the iteration of the latest checkpoint; None if there is none."""
        return max(self.iterations(), default=None)

    def save(self, trainer: Any) -> None:
        """Write a checkpoint of the present state, then remove those that are no longer kept.

        If it cannot be written, earlier checkpoints are as they were.
        """
        tensors = self._layout.tensors(trainer)
        averages = {name.removeprefix(AVERAGE_SCOPE): value for name, value in tensors.items()
                    if name.startswith(AVERAGE_SCOPE)}
        try:
            if averages:  # first: a run that finds the checkpoint does not save it again
                write_tf1_checkpoint(self.folder / f"{AVERAGE_PREFIX}{trainer.iteration}", averages)
            write_tf1_checkpoint(self.prefix(trainer.iteration), tensors)
        except UserError:
            with contextlib.suppress(OSError, UserError):  # the first error is raised
                self._remove([trainer.iteration])
            raise
        self._mark_latest(trainer.iteration)
        earlier = [number for number in self.iterations() if number <= trainer.iteration]
        self._remove([number for number in earlier[:-self._keep] if not self._keep_every or number % self._keep_every])

    def _remove(self, numbers: list[int]) -> None:
        files = self._files()
        with write_errors(self.folder):
            for number in numbers:
                for file in files.get(number, ()):
                    file.unlink()

    def resume(self, iteration: int, trainer: Any) -> None:
        """Restore a trainer from the checkpoint of an iteration (0: none), and make that the latest one."""
        if iteration:
            self.restore(iteration, trainer)
        self.resume_at(iteration)

    def resume_at(self, iteration: int) -> None:
        """Make the checkpoint of an iteration the latest one, and remove what a killed process left behind.

        Later ones are moved to the folder `until_<latest>_before_going_back_to_<iteration>`.
        """
        complete, files = self.iterations(), self._files()
        self._remove([number for number in files if number not in complete])
        with write_errors(self.folder):
            for path in list(self.folder.glob(".*")):  # half-written
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if complete and complete[-1] > iteration:
                aside = self.folder / f"until_{complete[-1]}_before_going_back_to_{iteration}"
                aside.mkdir(exist_ok=True)
                for file in (file for number in complete if number > iteration for file in files[number]):
                    file.replace(aside / file.name)
        if iteration:
            self._mark_latest(iteration)

    def _mark_latest(self, iteration: int) -> None:
        """Name the latest checkpoint in the file by which TensorFlow finds it in a folder."""
        file, text = self.folder / "checkpoint", f'model_checkpoint_path: "{PREFIX}{iteration}"\n'
        if not file.exists() or file.read_text(errors="replace") != text:
            write_text(file, text)

    def restore(self, iteration: int, trainer: Any) -> None:
        """Put a trainer into the state of a checkpoint, which must be of the same architecture and losses."""
        prefix = self.prefix(iteration)
        variables = {self._layout.variable_name(key): variable for key, variable in trainer.variables.items()}
        wanted = {CONFIG, *variables, *self._layout.extras(trainer)}
        tensors = read_tensors(prefix, lambda name: name in wanted)
        if CONFIG not in tensors:
            raise UserError(f"{prefix} holds no training state of this program. To start from its weights, give "
                            f"--init {prefix} and another --trial.")
        kind = self._layout.kind
        check_resumable(kind, parse_config(kind, tensors[CONFIG], str(prefix)), trainer.config, prefix)
        wrong = [name for name, variable in variables.items()
                 if name not in tensors or tuple(tensors[name].shape) != tuple(variable.shape)]
        if wrong:
            raise UserError(f"{prefix} does not fit this configuration: {len(wrong)} variables are missing or of "
                            f"another shape, {wrong[0]} first. Resume with the configuration it was trained with, or "
                            "start another --trial.")
        for name, variable in variables.items():
            variable.assign(tensors[name])
        trainer.iteration = iteration
        self._layout.restore_extras(tensors, trainer)
