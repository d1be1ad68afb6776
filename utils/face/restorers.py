"""Restore aligned faces. A restorer is a function: RGB [n, s, s, 3] of 0 to 255 -> uint8 faces of the same size.

Faces are uint8, or float32 that may lie outside of the range a little, as cubic upsampling leaves them in training.
Face preparation gives 512x512, training 256x256. Another restorer is another entry of `RESTORERS`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError
from utils.face.alignment import ALIGNED_SIZE
from utils.files import read_bytes
from utils.weights.manifest import find_weights, get_entry, load_manifest
from utils.weights.npz import read_npz_weights, write_npz_weights
from utils.weights.torch_files import load_state_dict

Restorer = Callable[[np.ndarray], np.ndarray]
Params = Mapping[str, np.ndarray]
OWN = ("rrdb-face", "rrdb-face-tone")  # those that come with this repository


def make_gpen(name: str, weights_dir: Path | None) -> Restorer:
    """Load GPEN (Yang et al., 2021); it is traced once.

    Args:
        name: `gpen-512` or `gpen-256`; the latter sees faces at half the size.
        weights_dir: where its weights are looked up.

    Raises:
        UserError: the weights are missing or of another network.
    """
    from model.gpen import gpen_params_from_torch

    [path] = find_weights(name, weights_dir).values()
    try:
        params = gpen_params_from_torch(load_state_dict(path))
    except ValueError as error:
        raise UserError(f"{path} does not fit: {error}. Download it again.") from error
    return compile_gpen(params)


def compile_gpen(params: dict) -> Restorer:
    """Make a restorer of GPEN's parameters, of either size. Its output is rounded (the original truncates)."""
    from model.gpen import gpen, gpen_size

    return partial(_compile(gpen, params, gpen_size(params)), params)


def make_rrdb_face(name: str, weights_dir: Path | None) -> Restorer:
    """Load a restorer that comes with this repository; it is traced once. No weights folder is looked into.

    Raises:
        UserError: its weights are missing or damaged.
    """
    [path] = find_weights(name, weights_dir).values()
    return _restorer_of(path)


def _restorer_of(path: Path) -> Restorer:
    params = load_face_restorer(path)
    return partial(compile_face_restorer(params), params)


def compile_face_restorer(params: Params) -> Callable[[Params, np.ndarray], np.ndarray]:
    """Make a restorer that takes parameters first: these, or others of the same architecture."""
    from model.face_restorer import FACE_SIZE, face_restorer

    return _compile(face_restorer, params, FACE_SIZE)


def _compile(network: Callable, params: Params, size: int) -> Callable[[Params, np.ndarray], np.ndarray]:
    """Trace a network that takes parameters and faces [n, size, size, 3] in [0, 1], once for batches of any length."""
    import tensorflow as tf

    specs = {name: tf.TensorSpec(value.shape, tf.float32) for name, value in params.items()}
    run = tf.function(network, input_signature=[specs, tf.TensorSpec([None, size, size, 3], tf.float32)])

    def restore(params: Params, faces: np.ndarray) -> np.ndarray:
        inputs = _resize(faces, size).astype(np.float32) / 255
        restored = np.clip(run(params, tf.constant(inputs)).numpy(), 0, 1) * 255
        return _resize(np.rint(restored).astype(np.uint8), faces.shape[1])

    return restore


def load_face_restorer(path: Path) -> dict[str, np.ndarray]:
    """Read parameters that `save_face_restorer` wrote: name -> float32.

    Raises:
        UserError: the file cannot be read or holds something else.
    """
    from model.face_restorer import face_restorer_architecture

    return read_npz_weights(path, holds="face restorer", check=face_restorer_architecture)


def save_face_restorer(path: Path, params: Mapping[str, np.ndarray]) -> None:
    """Write parameters as float16: equal parameters give equal bytes.

    Raises:
        UserError: it cannot be written, or a value is not finite or too large for float16.
    """
    write_npz_weights(path, params)


def _resize(faces: np.ndarray, size: int) -> np.ndarray:
    """Resize square faces: by area means down, by cubic convolution up."""
    if faces.shape[1] == size:
        return faces
    interpolation = cv2.INTER_AREA if size < faces.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(face, (size, size), interpolation=interpolation) for face in faces])


RESTORERS: dict[str, Callable[[str, Path | None], Restorer]] = {
    "gpen-512": make_gpen, "gpen-256": make_gpen, **dict.fromkeys(OWN, make_rrdb_face)}


def open_restorer(name: str, weights_dir: Path | None, *, others: Sequence[str] = ()) -> Restorer:
    """Load a restorer.

    Args:
        name: a key of `RESTORERS`, or a .npz file of a face restorer trained with this project.
        weights_dir: where downloaded weights are looked up.
        others: what may be given in its place, for the message alone.

    Raises:
        UserError: there is none of this name, or its weights are missing or damaged.
    """
    check_restorer(name, others=others)
    if name in RESTORERS:
        return RESTORERS[name](name, weights_dir)
    return _restorer_of(Path(name))


def restorer_label(name: str) -> str:
    """Give what a restorer is called in reports: of our own also the beginning of the hash, as weights are replaced.

    Raises:
        UserError: the file cannot be read.
    """
    if name in OWN:
        [file] = get_entry(load_manifest(), name).variants[0].files
        return f"{name} {file.digest[:8]}"
    if not name.endswith(".npz"):
        return name
    return f"{Path(name).name} {hashlib.sha256(read_bytes(Path(name))).hexdigest()[:8]}"


def check_restorer(name: str, *, others: Sequence[str] = ()) -> None:
    """Check that a name is one that `open_restorer` takes.

    Raises:
        UserError: it is not.
    """
    if name not in RESTORERS and not name.endswith(".npz"):
        raise UserError(f"--restorer is one of {', '.join((*RESTORERS, *others))}, or a .npz file that "
                        f"scripts/train_face_restorer.py exported. Received: {name}.")


def check_restored(face: np.ndarray, path: Path) -> np.ndarray:
    """Check a face that another tool restored.

    Raises:
        UserError: it is not 512x512.
    """
    if face.shape[:2] != (ALIGNED_SIZE, ALIGNED_SIZE):
        raise UserError(f"the restored face {path} must be {ALIGNED_SIZE}x{ALIGNED_SIZE}. Received: "
                        f"{face.shape[1]}x{face.shape[0]}.")
    return face
