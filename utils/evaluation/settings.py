"""What an evaluation was made with: an interrupted one continues with the same settings only."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import read_bytes, write_text
from utils.image.listing import Source
from utils.weights.manifest import sha256_of

SETTINGS = "settings.json"
FORMAT = 2  # of the output folder; counted up when results change that were made with the same settings


def digest_sources(sources: Sequence[Source]) -> list[list[str]]:
    """Return names and SHA-256 of files, in order; "unreadable" for one that cannot be read."""
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
    """Write the settings, unless the results in the folder were made with others; None agrees with any value.

    `settings`: what results depend on, as plain data. `made`: existing folders and files of results; `overwrite`
    removes these first.
    """
    earlier = {}
    if made or path.exists():
        try:
            earlier = dict(json.loads(read_bytes(path)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is missing or damaged, but {path.parent} is not empty. Choose another "
                            "--output_dir, or remove it.") from error
        if not {"seed", "scenes"} <= earlier.keys():
            raise UserError(f"{path} is not an evaluation's, and is left alone. Choose another --output_dir.")
    settings = {"format": FORMAT, **json.loads(json.dumps(settings))}
    if made and not overwrite:
        settings = {key: earlier.get(key) if value is None else value for key, value in settings.items()}
        differing = [key for key in {**settings, **earlier} if key not in settings or key not in earlier
                     or earlier[key] not in (settings[key], None)]
        if differing:
            raise UserError(f"{path.parent} holds an evaluation with other settings ({', '.join(differing)}). Use the "
                            "same ones, --overwrite, or another --output_dir.")
    for result in made if overwrite else ():
        shutil.rmtree(result) if result.is_dir() else result.unlink()
    write_text(path, json.dumps(settings, indent=1) + "\n")
