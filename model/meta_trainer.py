"""Meta-training's state, on one device or several, and one iteration of it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from config import TrainingConfig
from model.adam import AdamState, adam
from model.discriminator import normalize
from model.meta_learner import Gradients, Networks, Task, batch_gradients, scalar_names

LEARNER, ADVERSARY = ("generator", "mask"), ("discriminator",)
TRAINED = LEARNER + ADVERSARY
M, V, AVERAGE = "m", "v", "average"  # Adam's moments, and the moving average of the values


class Update(NamedTuple):
    """The result of one forward and backward pass over a meta-batch, not yet applied.

    `scalars` maps names to one value per task. `gradient_norm` is that of generator and MaskNet together, before
    clipping. `gradients` and `vectors` are for `MetaTrainer.apply`.
    """

    scalars: dict[str, np.ndarray]
    gradient_norm: float
    discriminator_gradient_norm: float
    gradients: Gradients
    vectors: dict[str, tf.Tensor]

    def summary(self) -> dict[str, float]:
        """Return one float per name: the mean over tasks; of `mask_min` the minimum, of `mask_max` the maximum."""
        reduce = {"mask_min": np.min, "mask_max": np.max}
        values = {name: float(reduce.get(name, np.mean)(values)) for name, values in self.scalars.items()}
        values["gradient_norm"] = self.gradient_norm
        if self.gradients.discriminator:
            values["discriminator_gradient_norm"] = self.discriminator_gradient_norm
        return values

    def not_finite(self) -> list[str]:
        """Return the names of the values that are infinite or NaN."""
        return [name for name, value in self.summary().items() if not np.isfinite(value)]


class MetaTrainer:
    """Generator, MaskNet and discriminator with their optimisers' state, mirrored on every replica.

    `variables` maps (kind, name) to a variable. A kind is a network of `TRAINED`, `vectors` (the discriminator's
    spectral norm), or a network followed by `/m` or `/v` (Adam's moments) or `/average`.
    `iteration` counts the updates of generator and MaskNet, `discriminator_updates` those of the discriminator.
    `scalar_names` are those of an `Update`.
    """

    def __init__(self, config: TrainingConfig, networks: Networks, strategy: tf.distribute.Strategy | None = None):
        """Make the state from start weights.

        Args:
            config: what to train with.
            networks: terms whose network (`discriminator`, `lpips`) is None are left out.
            strategy: how tasks are divided among replicas; None: one device.

        Raises:
            ValueError: the tasks of a meta-batch cannot be divided evenly.
        """
        self.config = config
        self.strategy = strategy or tf.distribute.get_strategy()
        self.iteration = self.discriminator_updates = 0
        num_tasks, num_replicas = config.meta.tasks_per_batch, self.strategy.num_replicas_in_sync
        if num_tasks % num_replicas:
            raise ValueError("meta.tasks_per_batch must be divisible by the number of devices. "
                             f"Received: {num_tasks} tasks, {num_replicas} devices.")
        self.tasks_per_replica = num_tasks // num_replicas
        self.scalar_names = scalar_names(networks, config.inner, config.loss)
        self._lpips = networks.lpips
        self._compute = tf.function(self._compute_in_graph, autograph=False)  # there is no control flow to convert
        self._apply = tf.function(self._apply_in_graph, autograph=False)
        with self.strategy.scope():
            self.variables = {key: tf.Variable(value, trainable=False)
                              for key, value in _start_values(networks, config).items()}

    def params(self, kind: str) -> dict[str, tf.Tensor]:
        """Return the present values of one kind, by name."""
        return {name: tf.convert_to_tensor(variable) for (of, name), variable in self.variables.items() if of == kind}

    def learned(self, network: str) -> dict[str, tf.Tensor]:
        """Return the parameters to use, by name: the moving average where one is kept, otherwise the present values."""
        return self.params(f"{network}/{AVERAGE}") or self.params(network)

    def compute(self, tasks_of_replica: Callable[[int], Task]) -> Update:
        """Run one meta-batch forward and backward.

        Args:
            tasks_of_replica: returns the tasks of a replica by its number: those from number * tasks_per_replica on.
        """
        shares = self.strategy.experimental_distribute_values_from_function(
            lambda context: Task(*map(tf.constant, tasks_of_replica(context.replica_id_in_sync_group))))
        gradients, vectors, table, norms = self._compute(
            shares, _scalar(np.int32(self.iteration)),
            second_order=self.iteration >= self.config.inner.second_order_from)
        table, norms = (self.strategy.experimental_local_results(value)[0].numpy() for value in (table, norms))
        return Update(dict(zip(self.scalar_names, table.T, strict=True)), float(norms[0]), float(norms[1]),
                      gradients, vectors)

    def apply(self, update: Update) -> None:
        """Take the optimisers' steps and advance the spectral-norm vectors once."""
        adversarial = bool(update.gradients.discriminator)
        frozen = self.iteration < self.config.discriminator.freeze_until
        self._apply(update.gradients, update.vectors, _scalar(np.float32(self.iteration + 1)),
                    _scalar(np.float32(self.discriminator_updates + 1)), with_discriminator=adversarial and not frozen)
        self.iteration += 1
        self.discriminator_updates += adversarial and not frozen

    def _compute_in_graph(self, shares: Task, iteration: tf.Tensor, second_order: bool):
        return self.strategy.run(self._compute_on_replica, args=(shares, iteration, second_order))

    def _compute_on_replica(self, tasks: Task, iteration: tf.Tensor, second_order: bool):
        networks = Networks(self.params("generator"), self.params("mask"), self.params("discriminator") or None,
                            self.params("vectors") or None, self._lpips)
        sums, rows = batch_gradients(networks, tasks, inner=self.config.inner, loss=self.config.loss,
                                     second_order=second_order, iteration=iteration,
                                     precision=tf.bfloat16 if self.config.meta.bfloat16 else None)
        replica = tf.distribute.get_replica_context()
        # all replicas see all tasks' scalars: each adds its rows to a table of zeros
        start = replica.replica_id_in_sync_group * self.tasks_per_replica
        num_tasks = self.config.meta.tasks_per_batch
        table = tf.pad(rows, [[start, num_tasks - self.tasks_per_replica - start], [0, 0]])
        if self.strategy.num_replicas_in_sync > 1:
            flat = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.nest.flatten((sums, table)))
            sums, table = tf.nest.pack_sequence_as((sums, table), flat)
        gradients = tf.nest.map_structure(lambda total: total / num_tasks, sums)
        norms = tf.stack([_global_norm(gradients.generator, gradients.mask), _global_norm(gradients.discriminator)])
        if self.config.meta.clip_norm:
            scale = self.config.meta.clip_norm / tf.maximum(norms[0], self.config.meta.clip_norm)
            gradients = gradients._replace(**{
                network: {name: scale * value for name, value in getattr(gradients, network).items()}
                for network in LEARNER})
        vectors = normalize(networks.discriminator, networks.vectors)[1] if networks.discriminator else {}
        return gradients, vectors, table, norms

    def _apply_in_graph(self, gradients: Gradients, vectors: dict, update: tf.Tensor, discriminator_update: tf.Tensor,
                        with_discriminator: bool) -> None:
        # the gradients are the same on all replicas: one merge is quicker than one per assignment
        def on_replica(*args) -> None:
            tf.distribute.get_replica_context().merge_call(self._apply_everywhere, args=(*args, with_discriminator))

        self.strategy.run(on_replica, args=(gradients, vectors, update, discriminator_update))

    def _apply_everywhere(self, strategy: tf.distribute.Strategy, gradients: Gradients, vectors: dict,
                          update: tf.Tensor, discriminator_update: tf.Tensor, with_discriminator: bool) -> None:
        """Update the copies of each variable on each replica with the copy of its gradient there."""
        meta = self.config.meta
        for network in TRAINED if with_discriminator else LEARNER:
            adversary = network in ADVERSARY
            for name, gradient in getattr(gradients, network).items():
                key = (network, name)
                slots = [self.variables[f"{network}/{slot}", name] for slot in (M, V)]
                average = self.variables.get((f"{network}/{AVERAGE}", name))
                strategy.extended.update(self.variables[key], self._update_variable, args=(
                    gradient, *slots, average, discriminator_update if adversary else update,
                    self.config.discriminator.learning_rate if adversary else meta.learning_rate))
        for name, vector in vectors.items():
            strategy.extended.update(self.variables["vectors", name], lambda variable, new: variable.assign(new),
                                     args=(vector,))

    def _update_variable(self, variable, gradient, m, v, average, update, learning_rate):
        meta = self.config.meta
        state = adam(AdamState(variable, m, v), gradient, update=update, learning_rate=learning_rate,
                     beta1=meta.beta1, beta2=meta.beta2, epsilon=meta.epsilon)
        done = [variable.assign(state.value), m.assign(state.m), v.assign(state.v)]
        if average is not None:
            done.append(average.assign(meta.ema_decay * average + (1 - meta.ema_decay) * state.value))
        return tf.group(done)


def _scalar(value: np.generic) -> tf.Tensor:
    """Convert a NumPy scalar: TensorFlow caches a constant for every distinct Python number."""
    return tf.constant(value)


def _global_norm(*gradients: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.linalg.global_norm([value for group in gradients for value in group.values()])


def _start_values(networks: Networks, config: TrainingConfig) -> dict[tuple[str, str], tf.Tensor]:
    values = {}
    for network in TRAINED:
        for name, value in (getattr(networks, network) or {}).items():
            values[network, name] = value
            values.update({(f"{network}/{slot}", name): tf.zeros_like(value) for slot in (M, V)})
            if config.meta.ema_decay and network in LEARNER:
                values[f"{network}/{AVERAGE}", name] = value
    values.update({("vectors", name): value for name, value in (networks.vectors or {}).items()})
    return values
