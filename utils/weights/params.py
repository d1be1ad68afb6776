"""Load a network's parameters from the weight files of a manifest entry, or from a file of the user's own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from utils.errors import UserError
from utils.weights.manifest import find_weights, is_file_name
from utils.weights.state_dicts import load_state_dict

Params = TypeVar("Params")


def load_params(source: Path | str, convert: Callable[[Mapping[str, np.ndarray]], Params], *,
                weights_dir: Path | str | None = None, advice: str = "", alternative: str = "") -> Params:
    """Return the converted state dict of an entry of the manifest, or of a file.

    Args:
        source: the entry's name; or the path of a file, which is not compared with a hash.
        convert: takes the arrays of all files of the entry by name; raises ValueError for those of another network.
        weights_dir: where the entry's files are looked up.
        advice: a sentence on what to do about weights of another network.
        alternative: a sentence on how to do without these weights, for the message when they are missing.

    Raises:
        UserError: a file is missing, damaged or of another network.
    """
    by_path = isinstance(source, Path) or is_file_name(source)
    try:
        paths = [Path(source)] if by_path else list(find_weights(source, weights_dir).values())
    except UserError as error:
        raise UserError(f"{error}. {alternative}" if alternative else str(error)) from error
    state = {name: array for path in paths for name, array in load_state_dict(path).items()}
    try:
        return convert(state)
    except ValueError as error:
        advice = advice or ("Give a file of this network." if by_path else f"Fetch {source} again.")
        raise UserError(f"{' + '.join(map(str, paths))} does not fit: {str(error).rstrip('.')}. {advice}") from error
