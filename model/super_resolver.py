"""The generator, MaskNet and inner loop, compiled once for images of any size."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model.adaptation import (
    Support,
    backtracking_step,
    inner_steps,
    pooled_loss,
    sgd_step,
    support_loss,
    support_loss_and_gradients,
)
from model.layers import Params
from model.masknet import masknet
from model.rrdbnet import rrdbnet, to_half_precision, traced_block

IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32)
WEIGHTS = tf.TensorSpec([None, None, None, 1], tf.float32)


class Adaptation(NamedTuple):
    """The adapted parameters, the loss before the first and after every step, and the rate each step took."""

    params: dict[str, tf.Tensor]
    losses: list[float]
    learning_rates: list[float]


class SuperResolver:
    """Adapts a generator to photos and upscales them; adapting leaves the weights it was given as they are.

    Each of its graphs is traced at most once, whatever the sizes of the photos and patches.
    """

    def __init__(self, generator: Params, mask: Params | None = None, *, precision: str = "float32",
                 xla: bool = False):
        """Compile for one architecture.

        Args:
            generator: RRDBNet parameters, float32 tensors or arrays.
            mask: MaskNet parameters, likewise; None trusts every pixel alike.
            precision: `float32`, or `bfloat16` or `float16` as `to_half_precision` says. With bfloat16 the gradients of
                the dense blocks are computed in it, too; with float16 adaptation stays float32. Weights, sums and steps
                always are float32.
            xla: let XLA compile both, anew for every size of images.
        """
        self.set_weights(generator, mask)
        specs, support = _specs(self.generator), Support(IMAGES, IMAGES, WEIGHTS)
        network, dtype = functools.partial(rrdbnet, run_block=traced_block), tf.dtypes.as_dtype(precision)
        traced = functools.partial(tf.function, autograph=False)  # there is no control flow to convert
        compiled = functools.partial(traced, jit_compile=True) if xla else traced
        self._cast = dict if dtype == tf.float32 else functools.partial(to_half_precision, dtype=dtype)
        self._forward = compiled(network, input_signature=[_specs(self._cast(self.generator)), IMAGES])
        forward, cast = self._forward, self._cast
        if dtype == tf.float16:  # has too few exponents for gradients
            forward, cast = compiled(network, input_signature=[specs, IMAGES]), dict
        # the loss calls what upscales: traced once for both
        self._loss = traced(functools.partial(support_loss, lambda params, images: forward(cast(params), images)),
                            input_signature=[specs, support])
        self.loss_and_gradients = compiled(functools.partial(
            support_loss_and_gradients, lambda params, images: network(cast(params), images)),
            input_signature=[specs, support])
        if self.mask is not None:
            self._mask = traced(masknet, input_signature=[_specs(self.mask), IMAGES, IMAGES])

    def set_weights(self, generator: Params, mask: Params | None = None) -> None:
        """Take other weights of the same architecture."""
        self.generator = {name: tf.convert_to_tensor(value) for name, value in generator.items()}
        self.mask = None if mask is None else {name: tf.convert_to_tensor(value) for name, value in mask.items()}

    def weigh_patches(self, face_lq: np.ndarray, face_hq: np.ndarray) -> Support:
        """Weigh face patches with MaskNet.

        Args:
            face_lq: [n, h, w, 3] float32 RGB in [0, 1].
            face_hq: [n, 4h, 4w, 3], likewise.
        """
        face_lq, face_hq = tf.constant(face_lq), tf.constant(face_hq)
        if self.mask is None:
            return Support(face_lq, face_hq, tf.ones_like(face_hq[..., :1]))
        return Support(face_lq, face_hq, self._mask(self.mask, face_lq, face_hq))

    def adapt(self, supports: Sequence[Support], *, learning_rate: float, num_steps: int,
              holdout: Sequence[Support] = (), max_halvings: int = 0, probe_every: int = 1) -> Adaptation:
        """Adapt the generator to a photo.

        With `holdout` patches a step that makes their loss worse is halved up to `max_halvings` times, then not taken.
        With `probe_every` above 1 the loss after the last step is estimated: the first loss, times the ratio by which
        that of every `probe_every`-th patch changed.
        """
        rule = backtracking_step(self._loss, holdout, max_halvings=max_halvings) if holdout else sgd_step
        params, losses, rates = self.generator, [], []
        for step in inner_steps(params, supports, loss_and_gradients=self.loss_and_gradients,
                                learning_rate=learning_rate, num_steps=num_steps, step_rule=rule):
            params = step.params
            losses.append(float(step.loss))
            rates.append(step.learning_rate)
        if probe_every == 1 or not losses:
            losses.append(float(pooled_loss(self._loss, params, supports)))
        else:
            probes = [Support(*(values[::probe_every] for values in support)) for support in supports]
            before, after = (float(pooled_loss(self._loss, weights, probes)) for weights in (self.generator, params))
            losses.append(losses[0] * (after / before) if before else after)
        return Adaptation(params, losses, rates)

    def upscaler(self, params: Params) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function that upscales with these parameters: [n, h, w, 3] float32 array -> [n, 4h, 4w, 3]."""
        params = self._cast(params)
        return lambda images: self._forward(params, tf.constant(images)).numpy()

    def num_traces(self) -> int:
        """How many graphs have been traced so far."""
        functions = {self._forward, self._loss, self.loss_and_gradients}
        if self.mask is not None:
            functions.add(self._mask)
        return sum(function.experimental_get_tracing_count() for function in functions)


def _specs(params: Params) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(value.shape, value.dtype) for name, value in params.items()}
