"""What an evaluation was made with, so that an interrupted one goes on and another one does not mix with it."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path, read_bytes
from utils.image.listing import Source
from utils.weights.manifest import sha256_of

SETTINGS = "settings.json"
ALWAYS = {"seed", "scenes"}  # settings that every evaluation has, of whatever format
FORMAT = 2  # of the output folder; counted up when results change that were made with the same settings


def digest_sources(sources: Sequence[Source]) -> list[list[str]]:
    """Return names and SHA-256 of files, in order; what cannot be read has none, and whoever needs it will say why."""
    digests = []
    for source in sources:
        try:
            digests.append([source.name, sha256_of(source.path)])
        except OSError:
            digests.append([source.name, "unreadable"])
    return digests


def digest_params(params: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a network's parameters, whatever file they came from."""
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
        settings: what results depend on; plain data. None is what no result depends on that is asked for, and agrees
            with what is there.
        made: folders and files of results that are there.
        overwrite: remove these first.

    Raises:
        UserError: the settings that are there are others, or no evaluation's, or there are results without settings.
    """
    earlier = _read(path)
    if made and earlier is None:
        raise UserError(f"{made[0]} is there, but no {path}: it was not made by an evaluation, and is left alone. "
                        "Choose another --output_dir, or remove it.")
    settings = {"format": FORMAT, **json.loads(json.dumps(settings))}
    if made and earlier is not None and not overwrite:
        settings = {key: earlier.get(key) if value is None else value for key, value in settings.items()}
    differing = [] if earlier is None else [
        key for key in {**settings, **earlier}
        if key not in settings or key not in earlier or earlier[key] not in (settings[key], None)]
    if made and differing and not overwrite:
        raise UserError(f"{path.parent} holds an evaluation with other settings ({', '.join(differing)}). Give the "
                        "same ones, --overwrite, or another --output_dir.")
    if overwrite:
        for result in made:
            if result.is_dir():
                shutil.rmtree(result)
            else:
                result.unlink()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        settings = dict(json.loads(read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged. Remove it and its folder, or choose another --output_dir.") from error
    if not settings.keys() >= ALWAYS:
        raise UserError(f"{path} is not an evaluation's, and is left alone. Choose another --output_dir.")
    return settings
