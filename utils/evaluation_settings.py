"""What an evaluation was made with, so that an interrupted one goes on and another one does not mix with it."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path, read_bytes
from utils.photo_sources import Source
from utils.weights import sha256_of

SETTINGS = "settings.json"


def digest_sources(sources: Sequence[Source]) -> dict[str, str]:
    """Give the SHA-256 of files by their names; what cannot be read has none, and whoever needs it will say why."""
    digests = {}
    for source in sources:
        try:
            digests[source.name] = sha256_of(source.path)
        except OSError:
            digests[source.name] = "unreadable"
    return digests


def digest_params(params: Mapping[str, np.ndarray]) -> str:
    """Give the SHA-256 of a network's parameters, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(params):
        value = np.ascontiguousarray(params[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def check_settings(path: Path, settings: Mapping, made: Sequence[Path], *, overwrite: bool) -> None:
    """Write the settings, unless what is in the folder was made with others.

    Args:
        path: of the settings.
        settings: what results depend on; plain data.
        made: folders of results that are there.
        overwrite: remove those folders first.

    Raises:
        UserError: the settings that are there are others, or there are results without settings.
    """
    earlier = _read(path)
    if made and earlier is None:
        raise UserError(f"{made[0]} is there, but no {path}: it was not made by an evaluation, and is left alone. "
                        "Choose another --output_dir, or remove it.")
    differing = [key for key in settings if earlier is not None and earlier.get(key) != settings[key]]
    if made and differing and not overwrite:
        raise UserError(f"{path.parent} holds an evaluation with other settings ({', '.join(differing)}). Give the "
                        "same ones, --overwrite, or another --output_dir.")
    if overwrite:
        for folder in made:
            shutil.rmtree(folder)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        return dict(json.loads(read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged. Remove it and its folder, or choose another --output_dir.") from error
