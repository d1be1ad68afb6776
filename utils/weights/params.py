"""Load a network's parameters from the weight files of a manifest entry, or from a file of the user's own."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from utils.errors import UserError
from utils.weights.manifest import find_weights, load_manifest
from utils.weights.torch_files import load_state_dict

Params = TypeVar("Params")


def load_params(source: str, convert: Callable[[Mapping[str, np.ndarray]], Params], *,
                weights_dir: Path | str | None = None, alternative: str = "") -> Params:
    """Return the converted state dict of an entry of the manifest, or of a file.

    Args:
        source: the entry's name; or the path of a file, whose hash is not checked.
        convert: takes the arrays of all files of the entry by name; raises ValueError for those of another network.
        weights_dir: where the entry's files are looked up.
        alternative: a sentence on how to do without these weights, for the message when they are missing.

    Raises:
        UserError: a file is missing, damaged or of another network.
    """
    try:
        paths = [Path(source)] if is_path(source) else list(find_weights(source, weights_dir).values())
    except UserError as error:
        raise UserError(f"{error}. {alternative}" if alternative else str(error)) from error
    state = {name: array for path in paths for name, array in load_state_dict(path).items()}
    try:
        return convert(state)
    except ValueError as error:
        advice = "Give a file of this network" if is_path(source) else f"Get {source} again"
        raise UserError(f"{' + '.join(map(str, paths))}: not the expected network: {error}. {advice}.") from error


def is_path(source: str) -> bool:
    """Return whether weights are given as a file and not as a name of the manifest."""
    return source not in load_manifest() and (os.sep in source or Path(source).suffix != "" or Path(source).exists())
