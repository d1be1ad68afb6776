"""The state of the face restorer's training, and one iteration of it."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from config import SCALE, RestorerTrainingConfig
from model.adam import AdamState, adam
from model.face_restorer import POSITION_WEIGHT, face_restorer
from model.layers import Params
from model.losses import l1_loss
from model.lpips import lpips
from model.muon import muon

NETWORK, M, V, AVERAGE = "network", "m", "v", "average"  # its values, Adam's moments, the moving average
BORDER = 2  # low-quality pixels at the edge of a sample, which lack their surroundings: they do not count
EMA_WARMUP = 10  # the decay of the moving average begins at 1 / EMA_WARMUP


class RestorerUpdate(NamedTuple):
    """The result of one forward and backward pass, not yet applied. `gradient_norm` is before clipping."""

    scalars: dict[str, float]
    gradient_norm: float
    gradients: dict[str, tf.Tensor]

    def summary(self) -> dict[str, float]:
        """Return one float per name."""
        return {**self.scalars, "gradient_norm": self.gradient_norm}

    def not_finite(self) -> list[str]:
        """Return the names of the values that are infinite or NaN."""
        return [name for name, value in self.summary().items() if not math.isfinite(value)]


class RestorerTrainer:
    """A face restorer with its optimiser's state. `variables` maps (kind, name) to a variable."""

    def __init__(self, config: RestorerTrainingConfig, params: Params, lpips_params: Params | None = None):
        """Make the state from start weights; `lpips_params` are needed where `loss.lpips` is not 0."""
        self.config = config
        self.iteration = 0
        self._lpips = lpips_params
        self.scalar_names = ["loss", "l1", *["lpips"] * bool(config.loss.lpips)]
        self._compute = tf.function(self._compute_in_graph, autograph=False)
        self._apply = tf.function(self._apply_in_graph, autograph=False)
        self.variables = {}
        for name, value in params.items():
            for kind in (NETWORK, AVERAGE):
                self.variables[kind, name] = tf.Variable(value, trainable=False)
            for kind in (M, V):
                self.variables[kind, name] = tf.Variable(tf.zeros_like(value), trainable=False)

    def params(self, kind: str = AVERAGE) -> dict[str, tf.Tensor]:
        """Return the parameters to use, those of the moving average, or all values of another kind."""
        return {name: tf.convert_to_tensor(variable) for (of, name), variable in self.variables.items() if of == kind}

    def learning_rate(self) -> float:
        """Return the rate of the coming update: it rises for `warmup_iters`, and falls along half a cosine."""
        settings = self.config.optimization
        progress = min(1.0, self.iteration / settings.num_iterations)
        decay = settings.min_lr_ratio + (1 - settings.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
        return settings.learning_rate * decay * min(1.0, (self.iteration + 1) / max(1, settings.warmup_iters))

    def compute(self, lq: np.ndarray, target: np.ndarray, positions: np.ndarray) -> RestorerUpdate:
        """Run a batch forward and backward; the arguments are those of a `utils.data.face_samples.FaceSample`."""
        scalars, norm, gradients = self._compute(*map(tf.constant, (lq, target, positions)))
        named = dict(zip(self.scalar_names, scalars.numpy().tolist(), strict=True))
        return RestorerUpdate({**named, "learning_rate": self.learning_rate()}, float(norm), gradients)

    def apply(self, update: RestorerUpdate) -> None:
        """Take the optimiser's step and advance the moving average."""
        settings = self.config.optimization
        scale = settings.clip_norm / max(update.gradient_norm, settings.clip_norm) if settings.clip_norm else 1.0
        done = self.iteration + 1
        decay = min(settings.ema_decay, (done + 1) / (done + EMA_WARMUP))
        # tensors, as TensorFlow would keep one of every Python number it ever saw
        self._apply(update.gradients, *(tf.constant(np.float32(number))
                                        for number in (scale, done, self.learning_rate(), decay)))
        self.iteration += 1

    def _compute_in_graph(self, lq: tf.Tensor, target: tf.Tensor, positions: tf.Tensor):
        lq = tf.cast(lq, tf.float32) / 255
        params = self.params(NETWORK)
        loss_weights = self.config.loss
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params)
            output = face_restorer(params, lq, positions)
            target, output = (image[:, SCALE * BORDER:-SCALE * BORDER, SCALE * BORDER:-SCALE * BORDER]
                              for image in (target, output))
            terms = {"l1": l1_loss(target, output)}
            if loss_weights.lpips:
                terms["lpips"] = tf.reduce_mean(lpips(self._lpips, output, target))
            loss = tf.add_n([getattr(loss_weights, name) * value for name, value in terms.items()])
        gradients = tape.gradient(loss, params)
        norm = tf.linalg.global_norm(list(gradients.values()))
        return tf.stack([loss, *terms.values()]), norm, gradients

    def _apply_in_graph(self, gradients: dict, scale: tf.Tensor, update: tf.Tensor, learning_rate: tf.Tensor,
                        decay: tf.Tensor) -> None:
        settings = self.config.optimization
        gradients = {name: scale * gradient for name, gradient in gradients.items()}
        # 99 % of all parameters
        kernels = {name: gradients[name] for name in gradients if name.startswith("body/") and name.endswith("/weight")}
        momenta, steps = muon({name: self.variables[M, name] for name in kernels}, kernels)
        for name, gradient in gradients.items():
            value, m, v, average = (self.variables[kind, name] for kind in (NETWORK, M, V, AVERAGE))
            rate = learning_rate * (settings.position_lr_ratio if name == POSITION_WEIGHT else 1.0)
            if name in steps:
                state = AdamState(value - rate * steps[name], momenta[name], v)
            else:
                state = adam(AdamState(value, m, v), gradient, update=update, learning_rate=rate,
                             beta1=settings.beta1, beta2=settings.beta2, epsilon=settings.epsilon)
            for variable, new in zip((value, m, v), state, strict=True):
                variable.assign(new)
            average.assign(decay * average + (1 - decay) * state.value)
