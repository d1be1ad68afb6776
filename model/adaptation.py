"""The inner loop: adapt a generator to one photo through pairs of low- and high-quality face patches.

Pure functions of (parameters, support), used unchanged by training and at test time. Images are float32 RGB in [0, 1],
NHWC. The published rule is `theta' = theta - 1e-2 * grad mean(W * |face_hq - G(face_lq)|)`, one step of plain SGD over
all generator parameters (Yin et al., section 3.2).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from model.layers import Params


class Support(NamedTuple):
    """Face patches of one size: `face_lq` [n, h, w, 3], `face_hq` [n, 4h, 4w, 3], `weights` [n, 4h, 4w, 1] >= 0."""

    face_lq: tf.Tensor
    face_hq: tf.Tensor
    weights: tf.Tensor


class InnerStep(NamedTuple):
    """One step: the parameters after it, the loss before it, and the rate it took (0: not taken)."""

    params: dict[str, tf.Tensor]
    loss: tf.Tensor
    learning_rate: float


Generator = Callable[[Params, tf.Tensor], tf.Tensor]
LossAndGradients = Callable[[Params, Support], tuple[tf.Tensor, dict[str, tf.Tensor]]]
Loss = Callable[[Params, Support], tf.Tensor]
StepRule = Callable[[Params, dict[str, tf.Tensor], float], tuple[dict[str, tf.Tensor], float]]


def support_loss(generator: Generator, params: Params, support: Support) -> tf.Tensor:
    """Mean over pixels and channels of W * |face_hq - G(face_lq)|: a scalar."""
    restored = generator(params, support.face_lq)
    return tf.reduce_mean(support.weights * tf.abs(support.face_hq - restored))


def support_loss_and_gradients(generator: Generator, params: Params,
                               support: Support) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Return `support_loss` and its gradient with respect to every parameter.

    Under an outer tape the gradient is itself differentiable, with respect to `params` and `support.weights`.
    """
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = support_loss(generator, params, support)
    return loss, tape.gradient(loss, params)


def pooled_loss(loss: Loss, params: Params, supports: Sequence[Support]) -> tf.Tensor:
    """Mean of the losses of several supports, each weighted by its number of pixels.

    Patches of different sizes, or a batch that was divided to save memory, thus give the loss of one joint mean.
    """
    return tf.add_n([share * loss(params, support) for share, support in zip(_shares(supports), supports, strict=True)])


def pooled_loss_and_gradients(loss_and_gradients: LossAndGradients, params: Params,
                              supports: Sequence[Support]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """As `pooled_loss`, with the gradient; one support at a time is in memory, unless an outer tape records."""
    total, pooled = None, {}
    for share, support in zip(_shares(supports), supports, strict=True):
        loss, gradients = loss_and_gradients(params, support)
        if total is None:
            total, pooled = share * loss, {name: share * gradients[name] for name in gradients}
        else:
            total, pooled = total + share * loss, {name: pooled[name] + share * gradients[name] for name in gradients}
    return total, pooled


def _shares(supports: Sequence[Support]) -> list[tf.Tensor]:
    if not supports:
        raise ValueError("adaptation needs at least one support batch. Received: none.")
    pixels = [tf.cast(tf.size(support.weights), support.weights.dtype) for support in supports]
    total = tf.add_n(pixels)
    return [count / total for count in pixels]


def sgd_step(params: Params, gradients: dict[str, tf.Tensor],
             learning_rate: float) -> tuple[dict[str, tf.Tensor], float]:
    """Take one plain gradient step, the published rule: returns the new parameters and the rate used."""
    return {name: params[name] - learning_rate * gradients[name] for name in params}, learning_rate


def backtracking_step(loss: Loss, holdout: Sequence[Support], *, max_halvings: int) -> StepRule:
    """Make a step rule that halves the rate while the loss on held-out patches gets worse.

    After `max_halvings` halvings without success the step is not taken. A loss that is not finite counts as worse.
    Works on values, so only outside a traced graph.
    """
    def step(params: Params, gradients: dict[str, tf.Tensor], learning_rate: float):
        before = float(pooled_loss(loss, params, holdout))
        for halving in range(max_halvings + 1):
            candidate, rate = sgd_step(params, gradients, learning_rate * 0.5 ** halving)
            after = float(pooled_loss(loss, candidate, holdout))
            if math.isfinite(after) and not after > before:
                return candidate, rate
        return dict(params), 0.0

    return step


def inner_steps(params: Params, supports: Sequence[Support], *, loss_and_gradients: LossAndGradients,
                learning_rate: float, num_steps: int = 1, second_order: bool = False,
                step_rule: StepRule = sgd_step) -> Iterator[InnerStep]:
    """Run the inner loop and yield each step as it is taken.

    Args:
        params: the generator's parameters; they are not changed.
        supports: face patches, one batch per patch size (or several of one size, to bound memory).
        loss_and_gradients: of one batch; `functools.partial(support_loss_and_gradients, generator)`, or that compiled.
        learning_rate: of the SGD steps; 1e-2 as published.
        num_steps: 1 as published.
        second_order: let an outer tape differentiate through the gradients; otherwise they are constants to it.
        step_rule: how a gradient becomes new parameters.
    """
    fast = dict(params)
    for _ in range(num_steps):
        loss, gradients = pooled_loss_and_gradients(loss_and_gradients, fast, supports)
        if not second_order:
            gradients = {name: tf.stop_gradient(gradient) for name, gradient in gradients.items()}
        fast, rate = step_rule(fast, gradients, learning_rate)
        yield InnerStep(fast, loss, rate)
