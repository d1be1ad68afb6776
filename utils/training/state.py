"""Checkpoints of training: everything a run needs to go on, in one TF1 name-based checkpoint.

That of meta-training holds the 2,204 variables of the original's checkpoints under their names, so the original code
and `test.py` read it, and a few more under `MetaF2N/` and `Average/`. Random state and data position are not stored:
both follow from the seed and the iteration (`utils.data.meta_tasks`).
"""

import abc
import contextlib
import os
import re
import shutil
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from model.meta_trainer import AVERAGE, M, MetaTrainer, V
from utils.errors import UserError
from utils.files import atomic_path
from utils.training.configuration import ARCHITECTURE, META_TRAINING, Kind, config_to_json, differences, parse_config
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
ASIDE = "until_"  # folders of checkpoints that a run went back from
AVERAGE_PREFIX = "average-"  # of a checkpoint with the moving averages alone, under the networks' own names


class StateLayout(abc.ABC):
    """How one training program's state lies in its checkpoints, and which of its settings a checkpoint fits.

    Its trainer has `variables` (any key -> variable), `iteration` and `config`. `kind` is that of its configuration.
    `architecture`: settings that a checkpoint must have been trained with. `switches`: settings of which it matters
    only whether they are 0, with what they switch on. `beginning`: settings that matter at iteration 0 alone.
    """

    kind: Kind
    architecture: tuple[str, ...] = ()
    switches: ClassVar[Mapping[str, str]] = {}
    beginning: tuple[str, ...] = ()

    @abc.abstractmethod
    def variable_name(self, key: Hashable) -> str:
        """Give the name in a checkpoint of one of the trainer's variables.

        A moving average has `AVERAGE_SCOPE` before the name of the variable it is an average of.
        """

    def extras(self, trainer: Any) -> dict[str, Any]:
        """Give by name what a checkpoint holds besides the variables, the iteration and the configuration."""
        return {}

    def restore_extras(self, tensors: Mapping[str, Any], trainer: Any) -> None:  # noqa: B027  not every one has any
        """Put what `extras` gave back into a trainer, which has its variables and its iteration already."""

    def tensors(self, trainer: Any) -> dict[str, Any]:
        """Give everything that a checkpoint of the trainer's present state holds."""
        variables = {self.variable_name(key): tf.convert_to_tensor(variable)
                     for key, variable in trainer.variables.items()}
        return {**variables, **self.extras(trainer), "global_step": np.int32(trainer.iteration),
                CONFIG: np.array(config_to_json(trainer.config), object)}

    def check_compatible(self, old: Any, new: Any, prefix: Path) -> None:
        """Compare what decides which variables there are, and what matters at the beginning alone.

        Raises:
            UserError: names the first setting that differs.
        """
        changed = differences(old, new)
        for key in self.beginning:
            if key in changed:
                raise UserError(f"this run has begun with {key}={changed[key][0]} and is at {prefix}. To begin with "
                                f"{changed[key][1]} give another --trial.")
        for key in (*self.architecture, *self.switches):
            before, now = changed.get(key, (0, 0))
            if before != now and (key in self.architecture or bool(before) != bool(now)):
                what = f" ({self.switches[key]})" if key in self.switches else ""
                raise UserError(f"{prefix} was trained with {key}={before}{what}, not {now}. Go on with that, or "
                                "start another --trial.")


class MetaLayout(StateLayout):
    """The state of a `MetaTrainer`."""

    kind = META_TRAINING
    architecture = ARCHITECTURE
    switches: ClassVar[Mapping[str, str]] = {"loss.gan": "the discriminator", "meta.ema_decay": "the moving average"}
    beginning = ("meta.init", "meta.mask_bias", "discriminator.init")

    def variable_name(self, key: tuple[str, str]) -> str:
        """Give the name in a checkpoint of a variable: ("mask/first", "conv1/kernel") is Mask/.../Adam."""
        kind, name = key
        network, _, slot = kind.partition("/")
        suffix = {M: OPTIMIZER_SLOTS[0], V: OPTIMIZER_SLOTS[1]}.get(slot, "")
        return (AVERAGE_SCOPE if slot == AVERAGE else "") + SCOPES[network] + name + suffix

    def extras(self, trainer: MetaTrainer) -> dict[str, Any]:
        """Give the counters."""
        meta, updates = trainer.config.meta, trainer.discriminator_updates
        extras = {"stop_grad": np.bool_(trainer.iteration < trainer.config.inner.second_order_from),
                  UPDATES: np.int64(updates)}
        # TF1's Adam starts these at beta, and multiplies them by beta at every update
        for suffix, count in (("", trainer.iteration), ("_1", updates)):
            extras[f"beta1_power{suffix}"] = np.float32(meta.beta1 ** (count + 1))
            extras[f"beta2_power{suffix}"] = np.float32(meta.beta2 ** (count + 1))
        return extras

    def restore_extras(self, tensors: Mapping[str, Any], trainer: MetaTrainer) -> None:
        """Put back the one counter that does not follow from the others."""
        trainer.discriminator_updates = int(tensors[UPDATES])


class Checkpoints:
    """The checkpoints `model-<iteration>` of a folder, of which a few are kept."""

    def __init__(self, folder: Path, layout: StateLayout, *, keep: int, keep_every: int):
        """Remember where.

        Args:
            folder: need not exist.
            layout: of the program whose checkpoints they are.
            keep: how many of the latest stay.
            keep_every: those of its multiples stay for good; 0: none.
        """
        self.folder, self._layout = folder, layout
        self._keep, self._keep_every = keep, keep_every

    def prefix(self, iteration: int) -> Path:
        """Give the path by which a checkpoint goes, as `test.py --model_dir` takes those of main.py."""
        return self.folder / f"{PREFIX}{iteration}"

    def iterations(self) -> list[int]:
        """List what is there, in ascending order.

        Raises:
            UserError: the folder cannot be read: what is in it must not be taken for missing.
        """
        with self._disk_errors("read"):
            names = os.listdir(self.folder) if self.folder.exists() else []
        found = [re.fullmatch(rf"{PREFIX}(\d+)\.index", name) for name in names]
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> int | None:
        """Give the iteration of the latest checkpoint; None if there is none."""
        return max(self.iterations(), default=None)

    def clean(self) -> None:
        """Remove what a process that was killed while it saved has left behind, and finish what it had begun.

        Raises:
            UserError: the folder cannot be written.
        """
        with self._disk_errors("clean"):
            for path in self.folder.glob(".*"):
                if path.name.startswith((f".{PREFIX}", f".{AVERAGE_PREFIX}", ".checkpoint.")):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for average in self.folder.glob(f"{AVERAGE_PREFIX}*.index"):  # saved before the checkpoint, which is not
                if not average.with_name(average.name.replace(AVERAGE_PREFIX, PREFIX)).exists():
                    average.unlink()
            for data in self.folder.glob("*.data-*"):
                if not data.with_suffix(".index").exists():
                    self._follow_or_remove(data)
        latest = self.latest()
        if latest is not None:
            self._mark_latest(latest)

    def _follow_or_remove(self, data: Path) -> None:
        """Deal with data that have no index: `set_aside` was to move them after it, or saving was interrupted."""
        for index in self.folder.glob(f"{ASIDE}*/{data.stem}.index"):
            if not index.with_name(data.name).exists():
                data.replace(index.with_name(data.name))
                return
        data.unlink()

    @contextlib.contextmanager
    def _disk_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot {what} {self.folder}: {error.strerror or error}. Check its permissions and the "
                            "free space.") from error

    def save(self, trainer: Any) -> None:
        """Write a checkpoint of the present state, then remove those that are no longer kept.

        Raises:
            UserError: it cannot be written; earlier checkpoints are as they were.
        """
        tensors = self._layout.tensors(trainer)
        averages = {name.removeprefix(AVERAGE_SCOPE): value for name, value in tensors.items()
                    if name.startswith(AVERAGE_SCOPE)}
        if averages:  # first: a run that finds the checkpoint does not save it again
            write_tf1_checkpoint(self.folder / f"{AVERAGE_PREFIX}{trainer.iteration}", averages)
        try:
            write_tf1_checkpoint(self.prefix(trainer.iteration), tensors)
        except UserError:
            with contextlib.suppress(OSError):  # what was wrong first is said
                self._remove(f"{AVERAGE_PREFIX}{trainer.iteration}")  # of no use alone, and the disk may be full
            raise
        self._mark_latest(trainer.iteration)
        earlier = [number for number in self.iterations() if number <= trainer.iteration]
        with self._disk_errors("clean"):
            for number in earlier[:-self._keep]:
                if not self._keep_every or number % self._keep_every:
                    self._remove(f"{PREFIX}{number}")
                    self._remove(f"{AVERAGE_PREFIX}{number}")

    def _remove(self, name: str) -> None:
        for file in sorted(self.folder.glob(f"{name}.*"), reverse=True):  # the index first
            file.unlink(missing_ok=True)

    def set_aside(self, iteration: int) -> Path | None:
        """Move the checkpoints of later iterations into a folder of their own, out of the way of new ones.

        Returns:
            The folder; None if there are none.

        Raises:
            UserError: they cannot be moved.
        """
        later = [number for number in self.iterations() if number > iteration]
        if not later:
            return None
        folder = self.folder / f"{ASIDE}{later[-1]}_before_going_back_to_{iteration}"
        with self._disk_errors("write in"):
            folder.mkdir(exist_ok=True)
            for number in later:
                for prefix in (AVERAGE_PREFIX, PREFIX):  # `clean` removes averages whose checkpoint has gone
                    for file in sorted(self.folder.glob(f"{prefix}{number}.*"), reverse=True):
                        file.replace(folder / file.name)
        self._mark_latest(iteration)
        return folder

    def _mark_latest(self, iteration: int) -> None:
        """Name the latest checkpoint in the file by which TensorFlow finds it in a folder."""
        file, text = self.folder / "checkpoint", f'model_checkpoint_path: "{PREFIX}{iteration}"\n'
        with self._disk_errors("read"):
            if file.exists() and file.read_text(errors="replace") == text:
                return
        with atomic_path(file) as temporary:
            temporary.write_text(text)

    def read_config(self, iteration: int) -> Any:
        """Read what a checkpoint was trained with.

        Raises:
            UserError: it is no checkpoint of this program, or cannot be read.
        """
        prefix = self.prefix(iteration)
        tensors = read_tensors(prefix, lambda name: name == CONFIG)
        if CONFIG not in tensors:
            raise UserError(f"{prefix} holds no training state of this program. To start from its weights, give "
                            f"--init {prefix} and another --trial.")
        return parse_config(self._layout.kind, tensors[CONFIG], str(prefix))

    def restore(self, iteration: int, trainer: Any) -> None:
        """Put a trainer into the state of a checkpoint.

        Raises:
            UserError: it was trained with another architecture or other losses, or cannot be read.
        """
        prefix = self.prefix(iteration)
        self._layout.check_compatible(self.read_config(iteration), trainer.config, prefix)
        names = {self._layout.variable_name(key): key for key in trainer.variables}
        extras = self._layout.extras(trainer)
        tensors = read_tensors(prefix, lambda name: name in names or name in extras)
        missing = [name for name in names if name not in tensors]
        wrong = [name for name in names if name in tensors and
                 tuple(tensors[name].shape) != tuple(trainer.variables[names[name]].shape)]
        if missing or wrong:
            raise UserError(f"{prefix} does not fit this configuration: it lacks {len(missing)} variables and "
                            f"{len(wrong)} are of another shape ({(missing + wrong)[0]} first). Go on with the "
                            "configuration it was trained with, or start another --trial.")
        for name, key in names.items():
            trainer.variables[key].assign(tensors[name])
        trainer.iteration = iteration
        self._layout.restore_extras(tensors, trainer)
