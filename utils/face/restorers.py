"""Face restorers: functions RGB [n, s, s, 3] of 0 to 255 -> uint8 faces of the same size.

To add one, add a function (name, weights folder) -> restorer to `RESTORERS`, or (path, fidelity) -> restorer to
`FILE_RESTORERS`; `_at_size` wraps a network for [n, size, size, 3] in [0, 1]. Faces are uint8, or in training float32
that cubic upsampling leaves a little outside of the range; face preparation passes 512x512, training 256x256.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from config import SCALE
from utils.errors import UserError, require
from utils.face.alignment import ALIGNED_SIZE
from utils.face.positions import position_maps
from utils.files import read_bytes
from utils.weights.manifest import find_weights, get_entry
from utils.weights.npz import read_npz_weights, write_npz_weights
from utils.weights.state_dicts import load_params

Restorer = Callable[[np.ndarray], np.ndarray]
Params = Mapping[str, np.ndarray]
CONTEXT = 12  # pixels around a region that rrdb-face sees
LARGEST_FACE = 224  # pixels: side of the aligned crop in a photo that rrdb-face sees in full resolution
FIDELITY = 0.5  # of CodeFormer: 0 gives the best quality, 1 the closest likeness


def load_gpen(path: Path) -> Restorer:
    """Load GPEN (Yang et al., 2021) from a published .pth, of 512 or 256 pixels by its shapes."""
    from model.gpen import gpen_params_from_torch

    return compile_gpen(load_params(path, gpen_params_from_torch, advice="A .pth must be one of GPEN's; give other "
                                    "restorers as .onnx, or download it again."))


def compile_gpen(params: dict) -> Restorer:
    """Make a restorer of GPEN's parameters, of either size. Its output is rounded (the original truncates)."""
    from model.gpen import gpen, gpen_size

    return partial(_compile(gpen, params, gpen_size(params)), params)


class RrdbFace:
    """`rrdb-face`, which restores a face within its photo, at the photo's own resolution.

    Called as the other restorers it takes aligned faces, four times as large as those that it sees.
    """

    def __init__(self, params: Params):
        """Take parameters of a face restorer; it is traced once."""
        import tensorflow as tf

        self._params = {name: tf.convert_to_tensor(value) for name, value in params.items()}
        self._restore = compile_face_restorer(self._params)

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Restore aligned faces [n, s, s, 3], which a smaller version was upscaled to."""
        size, small = faces.shape[1], faces.shape[1] // SCALE
        step = ALIGNED_SIZE / small
        maps = position_maps(np.array([[step, 0, (step - 1) / 2], [0, step, (step - 1) / 2]]), 0, 0, small, small)
        # the middle of 4x4 pixels is nearly what bicubic or bilinear upscaling was given
        blocks = np.float32(_resize(faces, SCALE * small)).reshape(-1, small, SCALE, small, SCALE, 3)
        middle = blocks[:, :, 1:3, :, 1:3].mean(axis=(2, 4))
        return _resize(np.stack([self._restore(self._params, face, maps) for face in middle]), size)

    def restore_region(self, photo: np.ndarray, matrix: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        """Restore the region `box` (top, left, height, width) of a photo [h, w, 3] uint8 RGB.

        `matrix` aligns the face. Returns [4 * height, 4 * width, 3] uint8.
        """
        top, left, height, width = box
        above, before = min(CONTEXT, top), min(CONTEXT, left)
        part = photo[top - above:top + height + CONTEXT, left - before:left + width + CONTEXT]
        size = part.shape[1::-1]
        # a larger face is restored at a smaller size, as other restorers do it
        shrink = min(1.0, LARGEST_FACE / (ALIGNED_SIZE / np.sqrt(np.linalg.det(np.asarray(matrix)[:, :2]))))
        small = [max(1, round(length * shrink)) for length in size]
        steps = np.array(size) / small
        to_part = np.array([[steps[0], 0, left - before + (steps[0] - 1) / 2],
                            [0, steps[1], top - above + (steps[1] - 1) / 2], [0, 0, 1]])
        maps = position_maps(matrix @ to_part, 0, 0, *small[::-1])
        restored = self._restore(self._params, cv2.resize(part, small, interpolation=cv2.INTER_AREA), maps)
        if shrink < 1:
            restored = cv2.resize(restored, [SCALE * length for length in size], interpolation=cv2.INTER_CUBIC)
        return restored[SCALE * above:SCALE * (above + height), SCALE * before:SCALE * (before + width)]


def compile_face_restorer(params: Params) -> Callable[[Params, np.ndarray, np.ndarray], np.ndarray]:
    """Compile `model.face_restorer` for parameters like these, once for all sizes.

    Returns a function: parameters, part of a photo [h, w, 3] of 0 to 255, position maps [h, w, 8] -> uint8 [4h, 4w, 3].
    """
    import tensorflow as tf

    from model.face_restorer import NUM_POSITION_MAPS, face_restorer
    from model.rrdbnet import traced_block

    specs = {name: tf.TensorSpec(value.shape, tf.float32) for name, value in params.items()}
    run = tf.function(partial(face_restorer, run_block=traced_block), autograph=False, input_signature=[
        specs, tf.TensorSpec([1, None, None, 3], tf.float32),
        tf.TensorSpec([1, None, None, NUM_POSITION_MAPS], tf.float32)])

    def restore(params: Params, part: np.ndarray, maps: np.ndarray) -> np.ndarray:
        images = run(params, tf.constant(np.float32(part)[None] / 255), tf.constant(maps[None]))
        return np.rint(np.clip(images[0].numpy(), 0, 1) * 255).astype(np.uint8)

    return restore


def _compile(network: Callable, params: Params, size: int) -> Callable[[Params, np.ndarray], np.ndarray]:
    """Trace a network that takes parameters and faces [n, size, size, 3] in [0, 1], once for batches of any length."""
    import tensorflow as tf

    specs = {name: tf.TensorSpec(value.shape, tf.float32) for name, value in params.items()}
    run = tf.function(network, input_signature=[specs, tf.TensorSpec([None, size, size, 3], tf.float32)])
    return lambda params, faces: _at_size(size, lambda inputs: run(params, tf.constant(inputs)).numpy(), faces)


def load_onnx(path: Path, fidelity: float) -> Restorer:
    """Load an ONNX file of GPEN, GFPGAN, CodeFormer, RestoreFormer or the like: see `utils/face/onnx_restorer.py`."""
    from utils.face.onnx_restorer import OnnxRestorer

    network = OnnxRestorer(path, fidelity)
    if fidelity != FIDELITY and not network.takes_fidelity:
        raise UserError(f"--codeformer_fidelity is for models with such an input, and {path} has none. Leave it out.")
    return partial(_at_size, network.size, network)


def _at_size(size: int, run: Callable[[np.ndarray], np.ndarray], faces: np.ndarray) -> np.ndarray:
    """Run a network on faces of any size: resized (area means down, cubic convolution up), and the result back."""
    inputs = _resize(faces, size).astype(np.float32) / 255
    restored = np.clip(run(inputs), 0, 1) * 255
    return _resize(np.rint(restored).astype(np.uint8), faces.shape[1])


def _resize(faces: np.ndarray, size: int) -> np.ndarray:
    if faces.shape[1] == size:
        return faces
    interpolation = cv2.INTER_AREA if size < faces.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(face, (size, size), interpolation=interpolation) for face in faces])


def load_rrdb_face(path: Path) -> RrdbFace:
    """Load a restorer that scripts/train_face_restorer.py exported."""
    return RrdbFace(load_face_restorer(path))


def _of_manifest(load: Callable[[Path], Restorer], name: str, weights_dir: Path | None) -> Restorer:
    [path] = find_weights(name, weights_dir).values()
    return load(path)


RESTORERS: dict[str, Callable[[str, Path | None], Restorer]] = {
    **dict.fromkeys(("gpen-512", "gpen-256"), partial(_of_manifest, load_gpen)),
    "rrdb-face": partial(_of_manifest, load_rrdb_face)}
FILE_RESTORERS: dict[str, Callable[[Path, float], Restorer]] = {
    ".npz": lambda path, _: load_rrdb_face(path), ".onnx": load_onnx,
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".safetensors"), lambda path, _: load_gpen(path))}


def open_restorer(name: str, weights_dir: Path | None, *, fidelity: float = FIDELITY) -> Restorer:
    """Load a restorer: a key of `RESTORERS`, or a file whose ending is one of `FILE_RESTORERS`.

    UserError if there is none of this name, or its weights are missing, damaged or of another network.
    """
    check_restorer(name, fidelity=fidelity)
    if name in RESTORERS:
        return RESTORERS[name](name, weights_dir)
    return FILE_RESTORERS[Path(name).suffix.lower()](Path(name), fidelity)


def check_restorer(name: str, *, fidelity: float = FIDELITY, others: Sequence[str] = ()) -> None:
    """Raise UserError for what `open_restorer` cannot open, as far as names and installed packages show.

    `others` are names that the tool takes besides, for the message alone.
    """
    require(0 <= fidelity <= 1, "--codeformer_fidelity must lie between 0 and 1", fidelity)
    ending = Path(name).suffix.lower()
    if name not in RESTORERS and ending not in FILE_RESTORERS:
        raise UserError(f"--restorer is one of {', '.join((*RESTORERS, *others))}, or a file: a .npz that "
                        "scripts/train_face_restorer.py exported, a .pth, .pt, .ckpt or .safetensors of GPEN, or a "
                        f".onnx of any face restorer. Received: {name}.")
    require(fidelity == FIDELITY or ending == ".onnx", "--codeformer_fidelity goes with --restorer FILE.onnx",
            f"--restorer {name}")
    if ending == ".onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"--restorer {name} needs the package onnxruntime: pip install -r requirements-onnx.txt")


def restorer_label(name: str, fidelity: float = FIDELITY) -> str:
    """Return what a restorer is called in reports: files with the beginning of their hash, as they may be replaced."""
    if name == "rrdb-face":
        [file] = get_entry(name).file_sets[0].files
        return f"{name} {file.sha256[:8]}"
    if Path(name).suffix.lower() not in FILE_RESTORERS:
        return name
    digest = hashlib.sha256(read_bytes(Path(name))).hexdigest()[:8]
    return f"{Path(name).name} {digest}" + f" fidelity {fidelity:g}" * (fidelity != FIDELITY)


def load_face_restorer(path: Path) -> dict[str, np.ndarray]:
    """Read parameters that `save_face_restorer` wrote: name -> float32."""
    from model.face_restorer import face_restorer_architecture

    return read_npz_weights(path, holds="face restorer", check=face_restorer_architecture)


def save_face_restorer(path: Path, params: Mapping[str, np.ndarray]) -> None:
    """Write parameters as float16; UserError if a value is not finite or too large for that."""
    write_npz_weights(path, params)
