"""Load the weights from which the discriminator starts."""

from pathlib import Path

import tensorflow as tf

from config import RANDOM
from model.discriminator import (
    discriminator_params_from_torch,
    discriminator_shapes,
    init_discriminator,
    vector_shapes,
)
from model.layers import check_shapes
from utils.errors import UserError
from utils.weights.checkpoints import CHECKPOINT_ENDINGS, DISCRIMINATOR_SCOPE, read_tf1_checkpoint
from utils.weights.manifest import is_file_name
from utils.weights.state_dicts import load_params

DEFAULT = "realesrgan-netd"
ALTERNATIVES = f"Or train without it (`--gan_weight 0`), or from random weights (`--set discriminator.init={RANDOM}`)."
Networks = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]  # parameters, and vectors of spectral normalisation


def load_discriminator(source: str, weights_dir: Path | str | None = None, *, num_features: int = 64,
                       seed: int = 0) -> Networks:
    """Load what `discriminator.init` names: random weights, `realesrgan-netd`, or a PyTorch or safetensors file.

    It must have `num_features`; `seed` is that of random weights.
    """
    if source == RANDOM:
        return init_discriminator(seed, num_features=num_features)
    if source != DEFAULT and not is_file_name(source):
        raise UserError(f"discriminator.init must be {RANDOM}, {DEFAULT} or the path of a file. Received: {source}.")
    params, vectors = load_params(source, discriminator_params_from_torch, weights_dir=weights_dir,
                                  alternative=ALTERNATIVES)
    found = params["conv0/bias"].shape[0]
    if found != num_features:
        raise UserError(f"{source} has a discriminator of {found} features instead of {num_features}. Set "
                        f"discriminator.num_features={found}, or discriminator.init={RANDOM}.")
    return params, vectors


def read_discriminator(checkpoint: Path | str, *, num_features: int = 64) -> Networks | None:
    """Read the discriminator of a checkpoint of meta-training; None if `checkpoint`, of any format, has none."""
    if Path(checkpoint).is_file() and not str(checkpoint).endswith(CHECKPOINT_ENDINGS):
        return None
    found = {name.removeprefix(DISCRIMINATOR_SCOPE): tf.constant(value)
             for name, value in read_tf1_checkpoint(checkpoint, scopes=(DISCRIMINATOR_SCOPE,)).items()}
    if not found:
        return None
    params, vectors = discriminator_shapes(num_features), vector_shapes(num_features)
    try:
        check_shapes({name: value.shape for name, value in found.items()}, {**params, **vectors},
                     network="the discriminator")
    except ValueError as error:
        raise UserError(f"{checkpoint} does not fit: {error}. Set discriminator.num_features to what it was trained "
                        "with.") from error
    return {name: found[name] for name in params}, {name: found[name] for name in vectors}
