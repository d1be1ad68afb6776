"""The settings of an evaluation, stored with its results: an interrupted one continues with the same settings only."""

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

SETTINGS = "evaluation.json"
FORMAT = 3  # of the output folder; counted up when the same settings give other results


def digest_sources(sources: Sequence[Source]) -> list[list[str]]:
    """Return names and SHA-256 of files, in order; a file that cannot be read fails later, when it is used."""
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
    """Write the settings, unless results in the folder were made with others.

    Args:
        path: of the settings.
        settings: plain data that results depend on. None: not used by the variants of this call; equals any value.
        made: existing folders and files of results.
        overwrite: remove these first.

    Raises:
        UserError: the stored settings differ or are damaged, or there are results without settings.
    """
    earlier = _read(path)
    if made and earlier is None:
        raise UserError(f"{made[0]} exists without {path}: no evaluation wrote it. Choose another --output_dir, "
                        "or remove it.")
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
        return dict(json.loads(read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged. Remove it and its folder, or choose another --output_dir.") from error
