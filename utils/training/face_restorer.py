"""A training run of the face restorer: its state, its validation, and how it is assembled."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from config import RANDOM, RestorerTrainingConfig
from model.face_restorer import init_face_restorer
from model.layers import Params
from model.restorer_trainer import M, RestorerTrainer, V
from utils.data.face_samples import FaceSample, FaceSource, draw_validation_faces
from utils.data.tfrecords import divide_record
from utils.errors import UserError
from utils.face.restorers import OWN, compile_face_restorer, load_face_restorer
from utils.metrics.fidelity import psnr_y, ssim
from utils.training.log import Panel, losses_panel
from utils.training.restorer_configuration import NETWORK_SETTINGS, RESTORER_TRAINING
from utils.training.run import Run
from utils.training.state import Checkpoints, StateLayout
from utils.weights.checkpoints import OPTIMIZER_SLOTS, load_super_resolver, read_tensors
from utils.weights.manifest import find_weights

SCOPE = "FaceRestorer/"
# the part of an aligned face that detectors' boxes cover on average: rows, columns
FACE_REGION = (slice(100, 432), slice(136, 376))
SMALL = 96  # pixels: aligned crops of fewer in the degraded photo, faces of about 45, are scored apart


class RestorerLayout(StateLayout):
    """The state of a `RestorerTrainer`."""

    kind = RESTORER_TRAINING
    architecture = NETWORK_SETTINGS
    init_only_settings = ("optimization.init",)

    def variable_name(self, key: tuple[str, str]) -> str:
        """Return the name in a checkpoint of a variable."""
        kind, name = key
        return SCOPE + name + {M: OPTIMIZER_SLOTS[0], V: OPTIMIZER_SLOTS[1]}.get(kind, "")


class RestorerValidation(NamedTuple):
    """`scores` maps names to means over the faces; `pictures` maps names to float32 RGB [h, w, 3] in [0, 1]."""

    scores: dict[str, float]
    pictures: dict[str, np.ndarray]


class RestorerValidator:
    """Scores states of the network on the same faces.

    `psnr_input` and `ssim_input` are of the degraded faces, `psnr` and `ssim` (Y) of the restored ones, on the face
    region; `psnr_small` is of small faces alone. `sharpness` is how much neighbours differ, relative to the truth.
    """

    columns = ("psnr_input", "psnr", "psnr_small", "ssim_input", "ssim", "sharpness")

    def __init__(self, faces: list[FaceSample], num_pictures: int):
        """Take whole faces, and how many of them are shown."""
        self._faces, self._num_pictures = faces, num_pictures
        self._restore = None  # compiled once, at the first use

    def evaluate(self, params: Params) -> RestorerValidation:
        """Score the network's parameters."""
        if self._restore is None:
            self._restore = compile_face_restorer(params)
        rows, pictures = [], {}
        for number, face in enumerate(self._faces):
            restored = self._restore(params, face.degraded[None])[0]
            rows.append(_score(face, restored))
            if number < self._num_pictures:
                shown = np.concatenate([face.degraded, restored, face.target], axis=1)
                pictures[f"face_{number}"] = shown.astype(np.float32) / 255
        return RestorerValidation({name: _mean([row[name] for row in rows]) for name in self.columns},
                                  pictures)


def _mean(values: list[float]) -> float:
    """Return the mean of those that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _score(face: FaceSample, restored: np.ndarray) -> dict[str, float]:
    degraded, restored, target = (image[FACE_REGION] for image in (face.degraded, restored, face.target))
    psnr, roughness = psnr_y(restored, target), _roughness(target)
    return {"psnr_input": psnr_y(degraded, target), "psnr": psnr,
            "psnr_small": psnr if face.lq_size < SMALL else np.nan,
            "ssim_input": ssim(degraded, target), "ssim": ssim(restored, target),
            "sharpness": _roughness(restored) / roughness if roughness else np.nan}


def _roughness(image: np.ndarray) -> float:
    gray = image.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())


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
                losses_panel(self.training, ("loss",))]


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
    """Assemble a run: open the records, load the network, restore a checkpoint.

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
