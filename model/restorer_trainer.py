"""The state of a face restorer's training, and one iteration of it."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from config import RestorerTrainingConfig
from model.adam import AdamState, adam
from model.face_restorer import face_restorer
from model.layers import Params
from model.losses import l1_loss

NETWORK, M, V = "restorer", "restorer/first", "restorer/second"  # its values, and Adam's moments m and v


class RestorerUpdate(NamedTuple):
    """What one forward and backward pass gave; it has changed nothing yet. `gradient_norm` is before clipping."""

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

    def __init__(self, config: RestorerTrainingConfig, params: Params):
        """Make the state from start weights."""
        self.config = config
        self.iteration = 0
        self.scalar_names = ["loss"]
        self._compute = tf.function(self._compute_in_graph, autograph=False)
        self._apply = tf.function(self._apply_in_graph, autograph=False)
        self.variables = {}
        for name, value in params.items():
            self.variables[NETWORK, name] = tf.Variable(value, trainable=False)
            for slot in (M, V):
                self.variables[slot, name] = tf.Variable(tf.zeros_like(value), trainable=False)

    def params(self) -> dict[str, tf.Tensor]:
        """Return the network's parameters."""
        return {name: tf.convert_to_tensor(variable) for (kind, name), variable in self.variables.items()
                if kind == NETWORK}

    def learning_rate(self) -> float:
        """Return the rate of the next update: it rises for `warmup_iters` iterations, then falls by half a cosine."""
        settings = self.config.optimization
        if self.iteration < settings.warmup_iters:
            return settings.learning_rate * (self.iteration + 1) / settings.warmup_iters
        length = max(1, settings.num_iterations - settings.warmup_iters)
        progress = min(1.0, (self.iteration - settings.warmup_iters) / length)
        share = settings.min_lr_ratio + (1 - settings.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
        return settings.learning_rate * share

    def compute(self, degraded: np.ndarray, target: np.ndarray, corners: np.ndarray) -> RestorerUpdate:
        """Run a batch forward and backward: uint8 RGB [n, s, s, 3] twice, and [n, 2] as `face_restorer` takes."""
        loss, norm, gradients = self._compute(*map(tf.constant, (degraded, target, corners)))
        return RestorerUpdate({"loss": float(loss), "learning_rate": self.learning_rate()}, float(norm), gradients)

    def apply(self, update: RestorerUpdate) -> None:
        """Take the optimiser's step."""
        # tensors, as TensorFlow would keep one of every Python number it ever saw
        clip_norm = self.config.optimization.clip_norm
        scale = clip_norm / max(update.gradient_norm, clip_norm) if clip_norm else 1.0
        self._apply(update.gradients, *(tf.constant(np.float32(number))
                                        for number in (scale, self.iteration + 1, self.learning_rate())))
        self.iteration += 1

    def _compute_in_graph(self, degraded: tf.Tensor, target: tf.Tensor, corners: tf.Tensor):
        degraded, target = (tf.cast(faces, tf.float32) / 255 for faces in (degraded, target))
        params = self.params()
        kind = tf.bfloat16 if self.config.optimization.bfloat16 else tf.float32
        with tf.GradientTape() as tape:
            tape.watch(params)
            output = face_restorer({name: tf.cast(value, kind) for name, value in params.items()}, degraded, corners)
            loss = l1_loss(target, output)
        gradients = tape.gradient(loss, params)
        norm = tf.linalg.global_norm(list(gradients.values()))
        return loss, norm, gradients

    def _apply_in_graph(self, gradients: dict, scale: tf.Tensor, update: tf.Tensor, learning_rate: tf.Tensor) -> None:
        settings = self.config.optimization
        for name, gradient in gradients.items():
            variables = [self.variables[kind, name] for kind in (NETWORK, M, V)]
            state = adam(AdamState(*variables), scale * gradient, update=update, learning_rate=learning_rate,
                         beta1=settings.beta1, beta2=settings.beta2, epsilon=settings.epsilon)
            for variable, value in zip(variables, state, strict=True):
                variable.assign(value)
