"""Runs face restorers that people have as ONNX files, through onnxruntime: GPEN, GFPGAN, CodeFormer, RestoreFormer.

What they have in common: an input [n, 3, s, s], RGB in [-1, 1], and an output of the same shape and range. CodeFormer
alone has a second input, one number: its fidelity.
"""

from pathlib import Path

import numpy as np

from utils.errors import FatalError, UserError
from utils.weights.npz import one_line

FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
SIZES = range(16, 2049)  # pixels
ANY_SIZE = 512  # for a model whose input leaves it open: that of aligned faces


class OnnxRestorer:
    """A network: faces [n, size, size, 3] float32 RGB in [0, 1] -> restored ones."""

    def __init__(self, path: Path, fidelity: float):
        """Load an .onnx; `fidelity` in [0, 1] is for models with such an input. UserError if it is none of faces."""
        import onnxruntime

        if not path.is_file():
            raise UserError(f"cannot read {path}: there is no such file. Check the path.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # faults are reported once, below
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has a dozen kinds of its own
            raise UserError(f"cannot read the ONNX model {path}: {one_line(error)}. Download it again.") from error
        self._path = path
        inputs = sorted(self._session.get_inputs(), key=lambda value: len(value.shape) != 4)  # faces first
        outputs = [value for value in self._session.get_outputs() if _is_faces(value)]
        if not (outputs and _is_faces(inputs[0]) and len(inputs) <= 2 and all(map(_is_number, inputs[1:]))):
            raise self._misfit()
        [self._faces, *numbers], self._output = inputs, outputs[0].name
        self.takes_fidelity = bool(numbers)
        self.size = next((side for side in self._faces.shape[2:] if isinstance(side, int)), ANY_SIZE)
        self._numbers = {value.name: np.full([1] * len(value.shape), fidelity, FLOATS[value.type])
                         for value in numbers}

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Restore faces, one after the other where the model takes one at a time; FatalError if it fails."""
        images = (faces.transpose(0, 3, 1, 2) * 2 - 1).astype(FLOATS[self._faces.type])
        batches = np.split(images, len(images)) if self._faces.shape[0] == 1 else [images]
        try:
            restored = [self._session.run([self._output], {self._faces.name: batch, **self._numbers})[0]
                        for batch in batches]
        except Exception as error:
            raise FatalError(f"the ONNX model {self._path} fails: {one_line(error)}. Try another --restorer."
                             ) from error
        if any(result.shape != batch.shape for result, batch in zip(restored, batches, strict=True)):
            raise self._misfit(f", and returned {list(restored[0].shape)} for {list(batches[0].shape)}")
        return (np.concatenate(restored).astype(np.float32).transpose(0, 2, 3, 1) + 1) / 2

    def _misfit(self, found: str = "") -> FatalError:
        values = (*self._session.get_inputs(), *self._session.get_outputs())
        listed = ", ".join(f"{value.name} {value.type} {value.shape}" for value in values)
        return FatalError(f"{self._path} is no face restorer: that has an input and an output [n, 3, s, s], n = 1 or "
                          f"any, and at most one number as a second input. It has {listed}{found}.")


def _is_faces(value) -> bool:
    """Whether an input or output may be [n, 3, s, s]; sizes that the model leaves open are texts or None."""
    if value.type not in FLOATS or len(value.shape) != 4:
        return False
    batch, channels, height, width = (size if isinstance(size, int) else None for size in value.shape)
    sides = {height, width} - {None}
    return batch in (1, None) and channels in (3, None) and len(sides) <= 1 and all(side in SIZES for side in sides)


def _is_number(value) -> bool:
    return value.type in FLOATS and len(value.shape) <= 2 and not any(
        isinstance(size, int) and size != 1 for size in value.shape)
