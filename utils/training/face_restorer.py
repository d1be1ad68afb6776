"""A training run of the face restorer: its checkpoints, its validation, and how it is put together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from config import RANDOM, SCALE, RestorerTrainingConfig
from model.face_restorer import add_positions, face_restorer_architecture, init_face_restorer
from model.layers import Params
from model.restorer_trainer import AVERAGE, BORDER, NETWORK, M, RestorerTrainer, V
from utils.data.face_samples import FaceSample, draw_validation_samples, face_batches, list_portraits
from utils.errors import UserError
from utils.face.restorers import compile_face_restorer, load_face_restorer
from utils.image.io import quantize, to_float
from utils.image.resizing import resize_to
from utils.metrics.fidelity import psnr_y
from utils.metrics.lpips import load_lpips, make_lpips_distance
from utils.training.configuration import RESTORER_TRAINING
from utils.training.log import Panel, losses_panel
from utils.training.run import Run
from utils.training.state import AVERAGE_SCOPE, Checkpoints, StateLayout
from utils.weights.checkpoints import OPTIMIZER_SLOTS, load_super_resolver, read_tensors
from utils.weights.manifest import find_weights

SCOPE = "FaceRestorer/"
SUFFIXES = {NETWORK: "", M: OPTIMIZER_SLOTS[0], V: OPTIMIZER_SLOTS[1], AVERAGE: ""}


def _variable_name(key: tuple[str, str]) -> str:
    return AVERAGE_SCOPE * (key[0] == AVERAGE) + SCOPE + key[1] + SUFFIXES[key[0]]


RESTORER_LAYOUT = StateLayout(RESTORER_TRAINING, _variable_name)


class RestorerValidator:
    """Scores the network on fixed samples: `psnr` (luma), `lpips`, and `brightness`, the mean error in units of 1/255.

    `psnr_bicubic` and `lpips_bicubic` are those of a bicubic upscale, for comparison. `num_pictures` samples are shown;
    `distance` is LPIPS of two images, None leaves it out.
    """

    def __init__(self, samples: list[FaceSample], num_pictures: int, distance: Callable | None):
        self.columns = ["psnr_bicubic", "psnr", *["lpips_bicubic", "lpips"] * (distance is not None), "brightness"]
        self._samples, self._num_pictures, self._distance = samples, num_pictures, distance
        self._restore = None  # compiled once, at the first use

    def evaluate(self, params: Params) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return mean scores by name, and pictures, float32 RGB [h, w, 3] in [0, 1], by name."""
        self._restore = self._restore or compile_face_restorer(params)
        rows, pictures = [], {}
        for number, sample in enumerate(self._samples):
            restored = self._restore(params, sample.lq, sample.positions)
            bicubic = quantize(resize_to(to_float(sample.lq), *sample.target.shape[:2], "bicubic"))
            rows.append(self._score(bicubic, restored, quantize(sample.target)))
            if number < self._num_pictures:
                shown = (to_float(bicubic), to_float(restored), sample.target)
                pictures[f"face_{number}"] = np.concatenate(shown, axis=1)
        return {name: float(np.mean([row[name] for row in rows])) for name in self.columns}, pictures

    def _score(self, *images: np.ndarray) -> dict[str, float]:
        inside = slice(SCALE * BORDER, -SCALE * BORDER)
        bicubic, restored, target = (image[inside, inside] for image in images)
        scores = {"psnr_bicubic": psnr_y(bicubic, target), "psnr": psnr_y(restored, target),
                  "brightness": float(restored.mean() - target.mean())}
        if self._distance is not None:
            scores |= {name: self._distance(to_float(image), to_float(target))
                       for name, image in (("lpips_bicubic", bicubic), ("lpips", restored))}
        return scores


class RestorerRun(Run):
    """Training of the face restorer, on one device."""

    title = "training the face restorer"
    main_loss = "loss"
    oom_hint = "Lower optimization.batch_size or data.patch_size"
    not_finite_hint = "Lower optimization.learning_rate"

    def score(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Score the moving average."""
        return self._validator.evaluate(self.trainer.params())

    def panels(self) -> list[Panel]:
        """Return diagrams of the validation's PSNR and LPIPS, and of the losses."""
        column = self.validation.column
        return [Panel("validation: PSNR-Y", {"bicubic": column("psnr_bicubic"), "restored": column("psnr")}, "dB"),
                Panel("validation: LPIPS (lower is better)", {"restored": column("lpips")}),
                losses_panel(self.training, ("loss", "l1", "lpips"))]


def start_params(config: RestorerTrainingConfig, weights_dir: Path | None) -> dict[str, tf.Tensor]:
    """Return the weights to start from: drawn, a face restorer's, or those of an RRDBNet."""
    init = config.optimization.init
    if init == RANDOM:
        return init_face_restorer(config.optimization.seed, config.network)
    if init == "rrdb-face" or init.endswith(".npz"):
        [path] = find_weights(init).values() if init == "rrdb-face" else [Path(init)]
        params = load_face_restorer(path)
    else:
        params = add_positions(load_super_resolver(init, weights_dir=weights_dir).generator)
    found = face_restorer_architecture({name: tuple(value.shape) for name, value in params.items()})
    if found != config.network:
        raise UserError(f"{init} has another architecture than the configuration: {found}. Set network.num_blocks, "
                        "network.num_features and network.growth to these, or give --init random.")
    return {name: tf.convert_to_tensor(value) for name, value in params.items()}


def assemble_restorer(folder: Path, config: RestorerTrainingConfig, *, start: int, checkpoints: Checkpoints,
                      weights_dir: Path | None) -> RestorerRun:
    """Build a run: list the portraits, load the networks, restore a checkpoint.

    `start` is the iteration of the checkpoint to resume from; 0 to begin.
    """
    data = config.data
    portraits = list_portraits(Path(data.photo_dir), Path(data.faces), exclude=data.held_out)
    kept = list_portraits(Path(data.photo_dir), Path(data.faces), match=data.validation)
    lpips = load_lpips(weights_dir, alternative="Or train without: --set loss.lpips=0.") if config.loss.lpips else None
    # a checkpoint brings the weights; those that the run began with may be gone by now
    params = init_face_restorer(0, config.network) if start else start_params(config, weights_dir)
    trainer = RestorerTrainer(config, params, lpips)
    checkpoints.resume(start, trainer)
    validator = RestorerValidator(draw_validation_samples(kept, config), config.run.image_faces,
                                  make_lpips_distance(lpips) if lpips is not None else None)
    return RestorerRun(folder, trainer, face_batches(portraits, config, start), validator, checkpoints,
                       num_iterations=config.optimization.num_iterations,
                       columns=[*trainer.scalar_names, "learning_rate", "gradient_norm"])


def checkpoint_params(prefix: Path) -> dict[str, np.ndarray]:
    """Read the moving average of the network's parameters from a checkpoint of a run."""
    scope = AVERAGE_SCOPE + SCOPE
    tensors = read_tensors(prefix, lambda name: name.startswith(scope))
    if not tensors:
        raise UserError(f"{prefix} holds no face restorer. Give --run_dir and --trial of a run that trains one.")
    return {name.removeprefix(scope): value for name, value in tensors.items()}
