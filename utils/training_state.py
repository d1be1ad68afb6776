"""Checkpoints of meta-training: everything a run needs to go on, in one TF1 name-based checkpoint.

It holds the 2,204 variables of the original's checkpoints under their names, so the original code and `test.py` read
it, and a few more under `MetaF2N/` and `Average/`. Random state and data position are not stored: both follow from the
seed and the iteration (`utils.training_data`).
"""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from config import TrainingConfig
from model.meta_trainer import AVERAGE, FIRST, SECOND, MetaTrainer
from utils.checkpoints import (
    DISCRIMINATOR_SCOPE,
    GENERATOR_SCOPE,
    MASK_SCOPE,
    OPTIMIZER_SLOTS,
    read_tensors,
    write_tf1_checkpoint,
)
from utils.configuration import ARCHITECTURE, config_to_json, differences, parse_config
from utils.errors import UserError
from utils.files import atomic_path

SCOPES = {"generator": GENERATOR_SCOPE, "mask": MASK_SCOPE, "discriminator": DISCRIMINATOR_SCOPE,
          "vectors": DISCRIMINATOR_SCOPE}
AVERAGE_SCOPE = "Average/"
CONFIG, UPDATES = "MetaF2N/config", "MetaF2N/discriminator_updates"
BEGINNING = ("meta.init", "meta.mask_bias", "discriminator.init")
PREFIX = "model-"
AVERAGE_PREFIX = "average-"  # of a checkpoint with the moving averages of generator and MaskNet, for test.py


def checkpoint_name(kind: str, name: str) -> str:
    """Give the name in a checkpoint of a variable of `MetaTrainer`: ("mask/first", "conv1/kernel") is Mask/.../Adam."""
    network, _, slot = kind.partition("/")
    suffix = {FIRST: OPTIMIZER_SLOTS[0], SECOND: OPTIMIZER_SLOTS[1]}.get(slot, "")
    return (AVERAGE_SCOPE if slot == AVERAGE else "") + SCOPES[network] + name + suffix


def state_tensors(trainer: MetaTrainer) -> dict[str, Any]:
    """Give everything that a checkpoint of the trainer's present state holds."""
    tensors: dict[str, Any] = {checkpoint_name(*key): tf.convert_to_tensor(variable)
                               for key, variable in trainer.variables.items()}
    meta = trainer.config.meta
    # TF1's Adam starts these at beta, and multiplies them by beta at every update
    for suffix, updates in (("", trainer.iteration), ("_1", trainer.discriminator_updates)):
        tensors[f"beta1_power{suffix}"] = np.float32(meta.beta1 ** (updates + 1))
        tensors[f"beta2_power{suffix}"] = np.float32(meta.beta2 ** (updates + 1))
    tensors.update({"global_step": np.int32(trainer.iteration),
                    "stop_grad": np.bool_(trainer.iteration < trainer.config.inner.second_order_from),
                    UPDATES: np.int64(trainer.discriminator_updates),
                    CONFIG: np.array(config_to_json(trainer.config), object)})
    return tensors


class Checkpoints:
    """The checkpoints `model-<iteration>` of a folder, of which a few are kept."""

    def __init__(self, folder: Path, *, keep: int, keep_every: int):
        """Remember where.

        Args:
            folder: need not exist.
            keep: how many of the latest stay.
            keep_every: those of its multiples stay for good; 0: none.
        """
        self.folder = folder
        self._keep, self._keep_every = keep, keep_every

    def prefix(self, iteration: int) -> Path:
        """Give the path that `test.py --model_dir` takes."""
        return self.folder / f"{PREFIX}{iteration}"

    def iterations(self) -> list[int]:
        """List what is there, in ascending order."""
        found = [re.fullmatch(rf"{PREFIX}(\d+)\.index", path.name) for path in self.folder.glob(f"{PREFIX}*.index")]
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> int | None:
        """Give the iteration of the latest checkpoint; None if there is none."""
        return max(self.iterations(), default=None)

    def clean(self) -> None:
        """Remove what a process that was killed while it saved has left behind."""
        for path in self.folder.glob(".*"):
            if path.name.startswith((f".{PREFIX}", f".{AVERAGE_PREFIX}", ".checkpoint.")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for data in self.folder.glob("*.data-*"):
            if not data.with_suffix(".index").exists():
                data.unlink()

    def save(self, trainer: MetaTrainer) -> None:
        """Write a checkpoint of the present state, then remove those that are no longer kept.

        Raises:
            UserError: it cannot be written; earlier checkpoints are as they were.
        """
        tensors = state_tensors(trainer)
        write_tf1_checkpoint(self.prefix(trainer.iteration), tensors)
        averages = {name.removeprefix(AVERAGE_SCOPE): value for name, value in tensors.items()
                    if name.startswith(AVERAGE_SCOPE)}
        if averages:
            write_tf1_checkpoint(self.folder / f"{AVERAGE_PREFIX}{trainer.iteration}", averages)
        self._mark_latest(trainer.iteration)
        earlier = [number for number in self.iterations() if number <= trainer.iteration]
        for number in earlier[:-self._keep]:
            if not self._keep_every or number % self._keep_every:
                for prefix in (PREFIX, AVERAGE_PREFIX):
                    for file in sorted(self.folder.glob(f"{prefix}{number}.*"), reverse=True):  # the index first
                        file.unlink(missing_ok=True)

    def set_aside(self, iteration: int) -> Path | None:
        """Move the checkpoints of later iterations into a folder of their own, out of the way of new ones.

        Returns:
            The folder; None if there are none.
        """
        later = [number for number in self.iterations() if number > iteration]
        if not later:
            return None
        folder = self.folder / f"until_{later[-1]}_before_going_back_to_{iteration}"
        folder.mkdir(exist_ok=True)
        for number in later:
            for prefix in (PREFIX, AVERAGE_PREFIX):
                for file in sorted(self.folder.glob(f"{prefix}{number}.*"), reverse=True):
                    file.replace(folder / file.name)
        self._mark_latest(iteration)
        return folder

    def _mark_latest(self, iteration: int) -> None:
        """Name the latest checkpoint in the file by which TensorFlow finds it in a folder."""
        with atomic_path(self.folder / "checkpoint") as temporary:
            temporary.write_text(f'model_checkpoint_path: "{PREFIX}{iteration}"\n')

    def read_config(self, iteration: int) -> TrainingConfig:
        """Read what a checkpoint was trained with.

        Raises:
            UserError: it is no checkpoint of this program, or cannot be read.
        """
        prefix = self.prefix(iteration)
        tensors = read_tensors(prefix, lambda name: name == CONFIG)
        if CONFIG not in tensors:
            raise UserError(f"{prefix} holds no training state of this program. To start from its weights, give "
                            f"--init {prefix} and another --trial.")
        return parse_config(tensors[CONFIG], str(prefix))

    def restore(self, iteration: int, trainer: MetaTrainer) -> None:
        """Put a trainer into the state of a checkpoint.

        Raises:
            UserError: it was trained with another architecture or other losses, or cannot be read.
        """
        prefix = self.prefix(iteration)
        check_compatible(self.read_config(iteration), trainer.config, prefix)
        names = {checkpoint_name(*key): key for key in trainer.variables}
        tensors = read_tensors(prefix, lambda name: name in names or name == UPDATES)
        missing = [name for name in names if name not in tensors]
        wrong = [name for name in names if name in tensors and
                 tuple(tensors[name].shape) != tuple(trainer.variables[names[name]].shape)]
        if missing or wrong:
            raise UserError(f"{prefix} does not fit this configuration: it lacks {len(missing)} variables and "
                            f"{len(wrong)} are of another shape ({(missing + wrong)[0]} first). Go on with the "
                            "configuration it was trained with, or start another --trial.")
        for name, key in names.items():
            trainer.variables[key].assign(tensors[name])
        trainer.iteration, trainer.discriminator_updates = iteration, int(tensors[UPDATES])


def check_compatible(old: TrainingConfig, new: TrainingConfig, prefix: Path) -> None:
    """Compare what decides which variables there are, and what matters at the beginning alone.

    Raises:
        UserError: names the first setting that differs.
    """
    changed = differences(old, new)
    for key in BEGINNING:
        if key in changed:
            raise UserError(f"this run has begun with {key}={changed[key][0]} and is at {prefix}. To begin with "
                            f"{changed[key][1]} give another --trial.")
    switched = {"loss.gan": "the discriminator", "meta.ema_decay": "the moving average"}
    for key in (*ARCHITECTURE, *switched):
        before, now = changed.get(key, (0, 0))
        if before != now and (key in ARCHITECTURE or bool(before) != bool(now)):
            what = f" ({switched[key]})" if key in switched else ""
            raise UserError(f"{prefix} was trained with {key}={before}{what}, not {now}. Go on with that, or start "
                            "another --trial.")
