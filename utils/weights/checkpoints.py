"""Weights of the super-resolver, from every format they come in; files are recognised by their content.

TF1 name-based checkpoints (`PREFIX.index`, `PREFIX.data-00000-of-00001`) are what the original code writes and reads:
generator parameters are called `MODEL/...` there, MaskNet's `Mask/...`. Our own .npz (float16) holds the same names
of the networks alone; or, instead of the generator, its difference from Real-ESRGAN's (`utils.weights.ternary`).
"""

import contextlib
import difflib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model.layers import check_shapes
from model.masknet import masknet_shapes
from model.rrdbnet import rrdbnet_architecture
from utils.errors import UserError
from utils.files import is_utf8, literal_prefix, read_errors
from utils.weights.manifest import find_weights, load_manifest
from utils.weights.ncnn import is_ncnn_param, rrdbnet_state_from_ncnn
from utils.weights.npz import is_npz, not_finite, read_npz_weights
from utils.weights.state_dicts import load_state_dict
from utils.weights.ternary import add_to_base

GENERATOR_SCOPE = "MODEL/"
MASK_SCOPE = "Mask/"
DISCRIMINATOR_SCOPE = "Discriminator/"
OPTIMIZER_SLOTS = ("/Adam", "/Adam_1")
CHECKPOINT_ENDINGS = (".index", ".data-00000-of-00001", ".meta")
RUN_CHECKPOINTS, NUMBERED = "checkpoints", re.compile(r"\d+$")  # in the folder of a run, and their names
REALESRGAN = "realesrgan"
SUPER_RESOLVERS = (REALESRGAN, "metaf2n")  # beginnings of the names of super-resolvers in the weights manifest
WHERE_TO_GET_ONE = ("Put a MetaF2N checkpoint there (pretrained_models/README.md says where they are), or give "
                    "`metaf2n-small` or `metaf2n-x4plus` (needs `realesrgan`) of this repository, or `realesrgan` "
                    "for Real-ESRGAN's weights, which are not meta-trained.")
# names of RRDBNet's layers in files of ESRGAN, and of BSRGAN and the first BasicSR -> today's
OLDER_NAMES = [(re.compile(pattern), name) for pattern, name in (
    (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"^model\.1\.sub\.\d+\.", "conv_body."), (r"^model\.0\.", "conv_first."), (r"^model\.3\.", "conv_up1."),
    (r"^model\.6\.", "conv_up2."), (r"^model\.8\.", "conv_hr."), (r"^model\.10\.", "conv_last."),
    (r"^RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."), (r"^trunk_conv\.", "conv_body."),
    (r"^upconv(\d)\.", r"conv_up\1."), (r"^HRconv\.", "conv_hr."))]


class SuperResolverWeights(NamedTuple):
    """Float32 arrays under our names of the generator and of MaskNet (None when the file has none).

    `meta_trained` is False for PyTorch's formats, such as Real-ESRGAN's own weights.
    """

    generator: dict[str, np.ndarray]
    mask: dict[str, np.ndarray] | None
    source: str
    meta_trained: bool


def load_super_resolver(path: str, *, weights_dir: Path | str | None = None,
                        key: str | None = None) -> SuperResolverWeights:
    """Load what `--model_dir` names.

    That is a name of the weights manifest such as `metaf2n-small` or `realesrgan`, which goes first; what
    `find_checkpoint` finds; a .npz of the same names; or an RRDBNet of PyTorch (`key`: the entry that holds the
    weights, when there are several), safetensors, or either file of an ncnn pair.
    """
    file = Path(path)
    if path in super_resolver_names():
        file = next(iter(find_weights(path, weights_dir).values()))
    if not file.is_file() or file.name.endswith(CHECKPOINT_ENDINGS):
        return _from_tensors(read_tf1_checkpoint(file), file)
    with read_errors(file):
        is_own, is_param = is_npz(file), is_ncnn_param(file)
    if is_own:
        return _from_tensors(_read_npz(file, weights_dir), file)
    if is_param or (file.suffix == ".bin" and file.with_suffix(".param").exists()):
        return _from_torch_names(rrdbnet_state_from_ncnn(file.with_suffix(".param"), file.with_suffix(".bin")), file)
    return _from_torch_names(load_state_dict(file, key), file)


def super_resolver_names() -> list[str]:
    """Return the names of super-resolvers in the weights manifest."""
    return [name for name in load_manifest() if name.startswith(SUPER_RESOLVERS) and not name.endswith("-netd")]


def _read_npz(file: Path, weights_dir: Path | str | None) -> dict[str, np.ndarray]:
    tensors = read_npz_weights(file, holds="super-resolver")
    generator = add_to_base({name: value for name, value in tensors.items() if not name.startswith(MASK_SCOPE)}, file,
                            lambda base: load_super_resolver(base, weights_dir=weights_dir).generator)
    return checkpoint_tensors(generator, _scope(tensors, MASK_SCOPE)) if generator else tensors


def read_tf1_checkpoint(path: Path | str, *, scopes: tuple[str, ...] = (GENERATOR_SCOPE, MASK_SCOPE)
                        ) -> dict[str, np.ndarray]:
    """Read the variables below scopes, without optimiser slots, of what `find_checkpoint` finds."""
    return read_tensors(find_checkpoint(path), lambda name:
                        name.startswith(scopes) and not name.endswith(OPTIMIZER_SLOTS))


def read_tensors(prefix: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Read those variables of a TF1 name-based checkpoint whose full names are wanted; sorted by name."""
    try:
        with literal_prefix(prefix) as literal:
            reader = tf.train.load_checkpoint(literal)
            names = sorted(reader.get_variable_to_shape_map())
            return {name: reader.get_tensor(name) for name in names if wanted(name)}
    except (tf.errors.OpError, OSError, ValueError, RuntimeError, IndexError) as error:  # it translates some of its own
        raise UserError(f"cannot read the checkpoint {prefix}: {first_line(error)}. "
                        "Copy both of its files (.index and .data-00000-of-00001) again.") from error


def checkpoint_tensors(generator: Mapping[str, np.ndarray],
                       mask: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Return the networks' parameters under the names they have in a TF1 checkpoint."""
    tensors = {GENERATOR_SCOPE + name: value for name, value in generator.items()}
    tensors.update({MASK_SCOPE + name: value for name, value in (mask or {}).items()})
    return tensors


def write_tf1_checkpoint(prefix: Path | str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint that `load_super_resolver` and, with the names it expects, the original code read.

    Both files are written to a temporary folder and then renamed, the index last; an earlier checkpoint of this prefix
    loses its index before that. So what is there is always a whole checkpoint, or none. `tensors` are by full name.
    """
    prefix = Path(prefix)
    names = sorted(tensors)
    with tensorflow_write_errors(f"the checkpoint {prefix}"):
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent,
                                         ignore_cleanup_errors=True) as folder:
            tf.raw_ops.SaveV2(prefix=os.path.join(folder, prefix.name), tensor_names=names,
                              shape_and_slices=[""] * len(names),
                              tensors=[tf.convert_to_tensor(tensors[name]) for name in names])
            prefix.with_name(f"{prefix.name}.index").unlink(missing_ok=True)
            for file in sorted(os.listdir(folder), key=lambda name: name.endswith(".index")):
                os.replace(os.path.join(folder, file), prefix.parent / file)


@contextlib.contextmanager
def tensorflow_write_errors(what: str) -> Iterator[None]:
    """Turn the errors of a block in which TensorFlow writes `what` into UserErrors."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"cannot write {what}: {first_line(error)}. Check the folder and the free space.") from error


def first_line(error: Exception) -> str:
    """Return the first line of a message, without TensorFlow's names of nodes, operations and temporary files."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*|/.*\.tempstate\d+; ", "", line).rstrip(". ")


def find_checkpoint(path: Path | str) -> Path:
    """Return the prefix of a checkpoint.

    `path` is that, one of its files, a folder with a `checkpoint` file or exactly one checkpoint, or the folder of a
    run of main.py, whose latest one counts.
    """
    path = Path(path)
    if (path / RUN_CHECKPOINTS).is_dir():
        path = path / RUN_CHECKPOINTS
    if path.is_dir():
        state = tf.train.get_checkpoint_state(str(path)) if is_utf8(path) else None
        latest = state and Path(state.model_checkpoint_path)
        marked = latest and latest.with_name(f"{latest.name}.index").exists()
        prefixes = [latest] if marked else [index.with_suffix("") for index in sorted(path.glob("*.index"))]
        numbered = [(int(match[0]), prefix.name) for prefix in prefixes if (match := NUMBERED.search(prefix.name))]
        if path.name == RUN_CHECKPOINTS and numbered:
            return path / max(numbered)[1]
        if len(prefixes) > 1:
            listed = ", ".join(prefix.name for prefix in prefixes[:5])
            raise UserError(f"the folder {path} holds several checkpoints ({listed}): name one, as {prefixes[0]}.")
        if not prefixes:
            raise UserError(f"no checkpoint in the folder {path}. {WHERE_TO_GET_ONE}")
        return prefixes[0]
    for ending in CHECKPOINT_ENDINGS:
        path = path.with_name(path.name.removesuffix(ending))
    if not path.with_name(f"{path.name}.index").exists():
        siblings = {file.name.removesuffix(".index") for file in path.parent.glob("*") if file.is_file()}
        close = difflib.get_close_matches(path.name, {*super_resolver_names(), *siblings}, n=3)
        guess = f" Did you mean {' or '.join(close)}?" if close else ""
        fault = "is not a checkpoint (its .index file is missing)" if path.exists() else "does not exist"
        raise UserError(f"the checkpoint {path} {fault}.{guess} {WHERE_TO_GET_ONE}")
    return path


def _from_tensors(tensors: Mapping[str, np.ndarray], file: Path) -> SuperResolverWeights:
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    return _checked(_scope(tensors, GENERATOR_SCOPE), _scope(tensors, MASK_SCOPE) or None, file, meta_trained=True)


def _scope(tensors: Mapping[str, np.ndarray], scope: str) -> dict[str, np.ndarray]:
    return {name[len(scope):]: value for name, value in tensors.items() if name.startswith(scope)}


def _from_torch_names(state: Mapping[str, np.ndarray], file: Path) -> SuperResolverWeights:
    """Convert PyTorch's names and OIHW kernels to ours: `body.0.rdb1.conv1.weight` -> `body/0/rdb1/conv1/weight`."""
    generator = {}
    for name, value in state.items():
        for pattern, replacement in OLDER_NAMES:
            name = pattern.sub(replacement, name)
        value = np.asarray(value, np.float32)
        if value.ndim == 4:
            value = np.ascontiguousarray(value.transpose(2, 3, 1, 0))
        generator[name.replace(".", "/")] = value
    return _checked(generator, None, file, meta_trained=False)


def _checked(generator: dict[str, np.ndarray], mask: dict[str, np.ndarray] | None, file: Path, *, meta_trained: bool
             ) -> SuperResolverWeights:
    try:
        rrdbnet_architecture({name: value.shape for name, value in generator.items()})
        if mask:
            features = mask["conv1/bias"].size if "conv1/bias" in mask else 64
            check_shapes({name: value.shape for name, value in mask.items()}, masknet_shapes(features),
                         network="MaskNet")
    except ValueError as error:
        raise UserError(f"{file} does not fit: {error}. Give a checkpoint of this architecture.") from error
    if bad := not_finite(checkpoint_tensors(generator, mask)):
        raise UserError(f"{file} holds values that are not finite, in {bad[0]} first. Copy or download it again.")
    return SuperResolverWeights(generator, mask, str(file), meta_trained)
