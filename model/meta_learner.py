"""The outer loop: the gradients by which meta-training moves generator, MaskNet and discriminator.

Pure functions of (networks, tasks). Images are float32 RGB in [0, 1], NHWC. A task is a set of faces and scenes under
one degradation: its faces (the support set) adapt the generator by the inner loop of `model.adaptation`, the outer loss
of the adapted generator is computed on its scenes (the query set; Yin et al., section 3.3):

    outer loss = L1 + 0.5 * LPIPS + 0.1 * BCE(D(output), 1) + 0.001 * mean((W - 1)^2)

Optional, beyond the paper: the same terms of the un-adapted generator, for photos without faces.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from config import InnerConfig, LossConfig
from model.adaptation import InnerStep, Support, inner_steps, support_loss_and_gradients
from model.discriminator import discriminate, normalize
from model.layers import Params
from model.losses import (
    discriminator_loss,
    gan_loss,
    inner_step_weights,
    l1_loss,
    mask_loss,
)
from model.lpips import lpips
from model.masknet import masknet
from model.rrdbnet import rrdbnet

UNADAPTED = "_unadapted"  # after a term's name


class Task(NamedTuple):
    """One task of n samples. Sides of faces and of scenes may differ.

    `face_lq` [n, h, w, 3], `face_hq` [n, 4h, 4w, 3] (restored), `scene_lq` [n, h, w, 3], `scene_target` [n, 4h, 4w, 3]
    (sharpened; for every term but the adversarial one) and `scene_real` (not sharpened, for the discriminator). A
    meta-batch has one more axis in front.
    """

    face_lq: tf.Tensor
    face_hq: tf.Tensor
    scene_lq: tf.Tensor
    scene_target: tf.Tensor
    scene_real: tf.Tensor


class Networks(NamedTuple):
    """Parameters. `discriminator` and its spectral-norm `vectors` are None without, `lpips` without that term."""

    generator: Params
    mask: Params
    discriminator: Params | None = None
    vectors: Params | None = None
    lpips: Params | None = None


class Gradients(NamedTuple):
    """Name -> gradient, for each network that is trained; `discriminator` is empty without one."""

    generator: dict[str, tf.Tensor]
    mask: dict[str, tf.Tensor]
    discriminator: dict[str, tf.Tensor]


def task_gradients(networks: Networks, task: Task, *, inner: InnerConfig, loss: LossConfig, second_order: bool,
                   iteration: tf.Tensor | int = 0,
                   precision: tf.DType | None = None) -> tuple[Gradients, dict[str, tf.Tensor]]:
    """Compute the gradients of one task's losses and the value of every term in one forward pass.

    Args:
        networks: `discriminator` and `lpips` are used if they are there.
        task: without the axis of tasks.
        inner: rate and number of inner steps.
        loss: weights of the terms.
        second_order: differentiate through the inner gradients. Otherwise they are constants, and MaskNet learns from
            its own term alone.
        iteration: of the outer loop; moves the weights of several inner steps.
        precision: type of the generator's convolutions; None: that of its parameters.

    Returns:
        The gradients: of the outer loss for generator and MaskNet, of the discriminator's loss for the discriminator.
        The scalars: `inner_loss`, before the first inner step; `l1`, `lpips`, `gan`, without their weights,
        after the last and, as `l1_step1`, ..., after earlier ones; `l1_unadapted`, ..., if they count;
        `mask_loss`, likewise; `outer_loss`; `discriminator_loss`; `mask_mean`, `mask_min` and `mask_max` of W.
    """
    generator = functools.partial(_cast_rrdbnet, precision)
    with tf.GradientTape() as tape:
        tape.watch([networks.generator, networks.mask])
        weights = masknet(networks.mask, task.face_lq, task.face_hq)
        scalars = {"mask_loss": mask_loss(weights)}
        # surrogate: same gradient as the loss, different value
        total = surrogate = loss.mask * scalars["mask_loss"]
        steps = inner_steps(
            networks.generator, [Support(task.face_lq, task.face_hq, weights)],
            loss_and_gradients=functools.partial(support_loss_and_gradients, generator),
            learning_rate=inner.learning_rate, num_steps=inner.num_steps, second_order=second_order)
        for stage in _stages(networks.generator, steps, inner, loss, iteration):
            output = generator(stage.params, task.scene_lq)
            terms = reconstruction_terms(networks, output, task)
            value = stage_surrogate = sum(getattr(loss, name) * term for name, term in terms.items())
            if networks.discriminator is not None:
                # one forward pass on a tape of its own serves both losses of the discriminator; here the adversarial
                # loss is replaced by a linear function of the output with the same gradient
                with tape.stop_recording():
                    adversarial = discriminator_terms(networks, output, task.scene_real)
                terms["gan"] = adversarial.gan_loss
                value += loss.gan * adversarial.gan_loss
                stage_surrogate += loss.gan * tf.reduce_sum(adversarial.gan_gradient * output)
            share = tf.cast(stage.share, value.dtype)
            total += share * value
            surrogate += share * stage_surrogate
            scalars.update({f"{name}{stage.suffix}": value for name, value in terms.items()})
            if stage.inner_loss is not None:
                scalars.setdefault("inner_loss", stage.inner_loss)
    by_generator, by_mask = tape.gradient(surrogate, [networks.generator, networks.mask],
                                          unconnected_gradients=tf.UnconnectedGradients.ZERO)
    scalars.update(outer_loss=total, mask_mean=tf.reduce_mean(weights), mask_min=tf.reduce_min(weights),
                   mask_max=tf.reduce_max(weights))
    if networks.discriminator is None:
        return Gradients(by_generator, by_mask, {}), scalars
    scalars["discriminator_loss"] = adversarial.discriminator_loss
    return Gradients(by_generator, by_mask, adversarial.discriminator_gradients), scalars


def _cast_rrdbnet(precision: tf.DType | None, params: Params, images: tf.Tensor) -> tf.Tensor:
    return rrdbnet({name: tf.cast(value, precision or value.dtype) for name, value in params.items()}, images)


class _Stage(NamedTuple):
    """Parameters of which the outer loss is computed, their share of it, and the suffix of its terms' names."""

    params: Params
    share: tf.Tensor | float
    suffix: str
    inner_loss: tf.Tensor | None = None


def _stages(generator: Params, steps: Iterator[InnerStep], inner: InnerConfig, loss: LossConfig,
            iteration: tf.Tensor | int) -> Iterator[_Stage]:
    """Yield the un-adapted generator, if `loss.unadapted` is set, then the generator after every inner step."""
    if not inner.num_steps:
        yield _Stage(generator, 1.0, "")
        return
    if loss.unadapted:
        yield _Stage(generator, loss.unadapted, UNADAPTED)
    shares = inner_step_weights(inner.num_steps, iteration)
    for number, step in enumerate(steps, start=1):
        yield _Stage(step.params, shares[number - 1], "" if number == inner.num_steps else f"_step{number}", step.loss)


def reconstruction_terms(networks: Networks, output: tf.Tensor, task: Task) -> dict[str, tf.Tensor]:
    """Compute the terms that compare an output [n, 4h, 4w, 3] with the scenes: name -> unweighted value."""
    terms = {"l1": l1_loss(task.scene_target, output)}
    if networks.lpips is not None:
        terms["lpips"] = tf.reduce_mean(lpips(networks.lpips, task.scene_target, output))
    return terms


class DiscriminatorTerms(NamedTuple):
    """The losses of both sides of the adversarial game, each with the gradient its side needs."""

    gan_loss: tf.Tensor
    gan_gradient: tf.Tensor  # with respect to the output
    discriminator_loss: tf.Tensor
    discriminator_gradients: dict[str, tf.Tensor]


def discriminator_terms(networks: Networks, output: tf.Tensor, real: tf.Tensor) -> DiscriminatorTerms:
    """Compute both losses from one pass of the discriminator over outputs and one over real images."""
    fake = tf.stop_gradient(output)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([fake, networks.discriminator])
        weights, _ = normalize(networks.discriminator, networks.vectors)
        fake_logits = discriminate(weights, fake)
        generator_loss = gan_loss(fake_logits)
        own_loss = discriminator_loss(discriminate(weights, real), fake_logits)
    return DiscriminatorTerms(generator_loss, tape.gradient(generator_loss, fake), own_loss,
                              tape.gradient(own_loss, networks.discriminator))


def scalar_names(networks: Networks, inner: InnerConfig, loss: LossConfig) -> list[str]:
    """Return the names of the scalars of `task_gradients`, sorted."""
    terms = ["l1"] + ["lpips"] * (networks.lpips is not None)
    terms += ["gan"] * (networks.discriminator is not None)
    names = [*terms, *(f"{term}_step{step}" for term in terms for step in range(1, inner.num_steps))]
    names += [f"{term}{UNADAPTED}" for term in terms] * bool(loss.unadapted and inner.num_steps)
    names += ["inner_loss"] * bool(inner.num_steps)
    names += ["mask_loss", "outer_loss", "mask_mean", "mask_min", "mask_max"]
    return sorted(names + ["discriminator_loss"] * (networks.discriminator is not None))


def batch_gradients(networks: Networks, tasks: Task, *, inner: InnerConfig, loss: LossConfig, second_order: bool,
                    iteration: tf.Tensor | int = 0, precision: tf.DType | None = None) -> tuple[Gradients, tf.Tensor]:
    """Sum the gradients of several tasks, one after another, so that one task is in memory at a time.

    Arguments as of `task_gradients`, but `tasks` has the axis of tasks in front.

    Returns:
        The sums of the gradients, and the scalars [tasks, names] in the order of `scalar_names`.
    """
    names = scalar_names(networks, inner, loss)
    num_tasks = tf.shape(tasks.face_lq)[0]
    zeros = Gradients(*({name: tf.zeros_like(value) for name, value in (params or {}).items()} for params in
                        (networks.generator, networks.mask, networks.discriminator)))
    rows = tf.TensorArray(tf.float32, size=num_tasks, element_shape=[len(names)])

    def add_task(index: tf.Tensor, sums: Gradients, rows: tf.TensorArray):
        gradients, scalars = task_gradients(networks, Task(*(images[index] for images in tasks)), inner=inner,
                                            loss=loss, second_order=second_order, iteration=iteration,
                                            precision=precision)
        return (index + 1, tf.nest.map_structure(tf.add, sums, gradients),
                rows.write(index, tf.stack([scalars[name] for name in names])))

    _, sums, rows = tf.while_loop(lambda index, *_: index < num_tasks, add_task, (tf.constant(0), zeros, rows),
                                  parallel_iterations=1)
    return sums, rows.stack()
