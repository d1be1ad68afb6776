"""What an evaluation was made with: an interrupted one continues with the same settings only."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import read_bytes, write_text
from utils.image.listing import Source

FORMAT = 2  # of the output folder; counted up when results change that were made with the same settings


def digest_sources(sources: Sequence[Source]) -> list[list[str]]:
    """Return names and SHA-256 of files, in order; "unreadable" for one that cannot be read."""
    digests = [[source.name, "unreadable"] for source in sources]
    for entry, source in zip(digests, sources, strict=True):
        with contextlib.suppress(UserError):
            entry[1] = hashlib.sha256(read_bytes(source.path)).hexdigest()
    return digests


def digest_params(params: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a network's parameters, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(params):
        value = np.ascontiguousarray(params[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def check_settings(path: Path, settings: Mapping, outputs: Sequence[str], *, overwrite: bool) -> None:
    """Write the settings, unless the results in the folder were made with others.

    `settings`: what results depend on, as plain data; one that only this or only the earlier run has may be anything.
    `outputs`: names of folders and files of results; `overwrite` removes these first.
    """
    settings, earlier = {"format": FORMAT, **json.loads(json.dumps(settings))}, {}
    made = [path.with_name(name) for name in outputs if path.with_name(name).exists()]
    if made or path.exists():
        with contextlib.suppress(ValueError, TypeError):
            earlier = dict(json.loads(read_bytes(path)))
        if not {"seed", "scenes"} <= earlier.keys():
            raise UserError(f"{path} is missing, damaged or not an evaluation's, but {path.parent} is not empty. "
                            "Choose another --output_dir, or remove it.")
    if made and not overwrite:
        differing = [key for key in settings if earlier.get(key) not in (settings[key], None)]
        if differing:
            raise UserError(f"{path.parent} holds an evaluation with other settings ({', '.join(differing)}). Use the "
                            "same ones, --overwrite, or another --output_dir.")
        settings = earlier | settings
    for result in made if overwrite else ():
        shutil.rmtree(result) if result.is_dir() else result.unlink()
    write_text(path, json.dumps(settings, indent=1) + "\n")
