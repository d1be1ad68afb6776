"""A training run of the face restorer: its checkpoints, what it writes, and how it is put together."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from config import RANDOM, RestorerTrainingConfig
from model.face_restorer import init_face_restorer
from model.restorer_trainer import FIRST, SECOND, RestorerTrainer
from utils.data.restorer_data import FaceSource, draw_validation_faces
from utils.data.tfrecords import divide_record
from utils.errors import UserError
from utils.face.restorers import OWN, load_face_restorer
from utils.training.log import Panel, losses_panel
from utils.training.restorer_configuration import NETWORK_SETTINGS, RESTORER_TRAINING
from utils.training.restorer_validation import RestorerValidator
from utils.training.run import Run
from utils.training.state import Checkpoints, StateLayout
from utils.weights.checkpoints import OPTIMIZER_SLOTS, load_super_resolver, read_tensors
from utils.weights.manifest import find_weights

SCOPE = "FaceRestorer/"


class RestorerLayout(StateLayout):
    """The state of a `RestorerTrainer`."""

    kind = RESTORER_TRAINING
    architecture = NETWORK_SETTINGS
    init_only_settings = ("optimization.init",)

    def variable_name(self, key: tuple[str, str]) -> str:
        """Give the name in a checkpoint of a variable."""
        kind, name = key
        return SCOPE + name + {FIRST: OPTIMIZER_SLOTS[0], SECOND: OPTIMIZER_SLOTS[1]}.get(kind, "")


class RestorerRun(Run):
    """Training of the face restorer, on one device."""

    title = "training the face restorer"
    main_loss = "loss"
    oom_hint = "Lower optimization.batch_size or data.patch_size"
    not_finite_hint = "Lower optimization.learning_rate, or give --set optimization.bfloat16=false"

    def __init__(self, folder: Path, trainer: RestorerTrainer, source: FaceSource, validator: RestorerValidator,
                 checkpoints: Checkpoints):
        """Open the run's files, from the trainer's iteration on.

        Raises:
            UserError: the folder cannot be written.
        """
        super().__init__(folder, trainer, source.batches(trainer.iteration), validator, checkpoints,
                         num_iterations=trainer.config.optimization.num_iterations,
                         columns=[*trainer.scalar_names, "learning_rate", "gradient_norm"],
                         records=[source.faces.records])

    def score(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Score the present network."""
        return self._validator.evaluate(self.trainer.params())

    def panels(self) -> list[Panel]:
        """Show PSNR, SSIM and sharpness of the validation faces, and the losses."""
        column = self.validation.column
        return [Panel("validation: PSNR-Y of the face region",
                      {"degraded": column("psnr_input"), "restored": column("psnr")}, "dB"),
                Panel("validation: SSIM and sharpness", {
                    "SSIM, degraded": column("ssim_input"), "SSIM, restored": column("ssim"),
                    "sharpness of the restored relative to the truth": column("sharpness")}),
                losses_panel(self.training, ("loss", "l1", "gradient", "frequency"))]


def start_params(config: RestorerTrainingConfig, weights_dir: Path | None) -> dict[str, tf.Tensor]:
    """Draw the network; take the blocks of its coarsest scale from an RRDBNet, or all of it from a face restorer.

    Of a deeper RRDBNet the first blocks are taken.

    Raises:
        UserError: weights are missing or do not fit.
    """
    init = config.optimization.init
    params = init_face_restorer(config.optimization.seed, config.network)
    if init == RANDOM:
        return params
    if init in OWN or init.endswith(".npz"):
        [path] = find_weights(init).values() if init in OWN else [Path(init)]
        found = load_face_restorer(path)
        wanted = list(params)
    else:
        scope = f"{config.network.strides[0]}/"
        found = {scope + name: value for name, value in load_super_resolver(init, weights_dir=weights_dir
                                                                             ).generator.items()}
        wanted = [name for name in params if name.startswith((f"{scope}body/", f"{scope}conv_body/"))]
    if not wanted:
        raise UserError(f"{init} gives its blocks to the coarsest scale, and there network.blocks has none. Give it "
                        "some, or give --init random.")
    wrong = [name for name in wanted if name not in found or found[name].shape != params[name].shape]
    if wrong:
        raise UserError(f"{init} does not fit the configuration's network: there {wrong[0]} is missing or of another "
                        "shape. Change network.strides, network.features and network.blocks, or give --init random.")
    return {**params, **{name: tf.convert_to_tensor(found[name]) for name in wanted}}


def assemble_restorer(folder: Path, config: RestorerTrainingConfig, *, start: int, checkpoints: Checkpoints,
                      weights_dir: Path | None) -> RestorerRun:
    """Put a run together: open the records, load the network, go back to a checkpoint.

    Args:
        folder: of the run.
        config: of the run.
        start: iteration of the checkpoint to go on from; 0 to begin.
        checkpoints: of the run.
        weights_dir: where downloaded weights are looked up.

    Raises:
        UserError: for whatever is missing or does not fit.
    """
    data = config.data
    faces, kept = divide_record(data.face_record, data.validation_record, data.face_size, data)
    # a checkpoint brings the weights; those that the run began with may be gone by now
    params = init_face_restorer(0, config.network) if start else start_params(config, weights_dir)
    trainer = RestorerTrainer(config, params)
    if start:
        checkpoints.restore(start, trainer)
    checkpoints.resume_at(start)
    validator = RestorerValidator(draw_validation_faces(kept, config), config.run.image_faces)
    return RestorerRun(folder, trainer, FaceSource(faces, config), validator, checkpoints)


def checkpoint_params(prefix: Path) -> dict[str, np.ndarray]:
    """Read the network's parameters from a checkpoint of a run.

    Raises:
        UserError: it cannot be read, or is of another program.
    """
    tensors = read_tensors(prefix, lambda name: name.startswith(SCOPE) and not name.endswith(OPTIMIZER_SLOTS))
    if not tensors:
        raise UserError(f"{prefix} holds no face restorer. Give --run_dir and --trial of a run that trains one.")
    return {name.removeprefix(SCOPE): value for name, value in tensors.items()}
