"""Writes the .pth files of this folder with PyTorch, and the values that a reader must find in them.

Run it where PyTorch is installed (written with 2.13.0 and NumPy 2.2.6): `python make_torch_fixtures.py`.

    zip.pth, legacy.pth              every number type, view and container of `make_tensors` and `make_object`
    unsigned.pth                     types that PyTorch stores without a typed storage (zip format only)
    module.pth                       a DataParallel module's state dict with its `_metadata`
    parameters.pth                   nn.Parameter objects
    checkpoint.pth                   {"params": ..., "params_ema": ..., "epoch": 3}
    without_checksums.pth            zip format, checksums turned off
    rrdbnet.pth                      Real-ESRGAN's layout: params_ema of 1 block, 4 features, growth 2, OIHW; element
                                     [o, i, h, w] of tensor number t is t + o/10 + i/100 + h/1000 + w/10000
    expected.npz                     name -> array; bfloat16 as its bits (uint16)
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent
VALUES = [-3, 0, 1, 2, 5, 100]


def make_tensors() -> dict[str, torch.Tensor]:
    """One tensor of every number type, and some with the memory layouts their names tell."""
    tensors = {f"dtype_{name}": torch.tensor(VALUES, dtype=getattr(torch, name)) for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8")}
    tensors["dtype_uint8"] = torch.tensor([0, 1, 2, 100, 200, 255], dtype=torch.uint8)
    tensors["dtype_bool"] = torch.tensor([True, False, True, True, False, False])
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors["transposed"] = base.t()  # these four share one storage
    tensors["sliced"] = base[1:3, 1::2]
    tensors["row_of_base"] = base[2]
    tensors["base"] = base
    tensors["permuted"] = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).permute(2, 0, 1)
    tensors["channels_last"] = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4).to(
        memory_format=torch.channels_last)
    tensors["expanded"] = torch.full((1, 1), 7.0).expand(3, 2)
    tensors["scalar"] = torch.tensor(2.5, dtype=torch.float64)
    tensors["empty"] = torch.empty(0, 3)
    tensors["empty_1d"] = torch.empty(0, dtype=torch.int64)
    return tensors


def make_object(tensors: dict[str, torch.Tensor]) -> dict:
    """The tensors among everything else a checkpoint may hold."""
    return {
        "tensors": tensors,
        "ordered": OrderedDict(b=torch.tensor([1.0]), a=torch.tensor([2.0])),
        "nested": {"list": [torch.tensor([3]), {"deep": (torch.tensor(4), "text")}], "size": torch.Size([2, 3])},
        "epoch": 12, "big": 2**70, "negative": -7, "rate": 1e-4, "name": "grüße", "nothing": None, "flag": True,
        "dtype": torch.float16, 5: "integer key",
    }


def make_rrdbnet() -> OrderedDict:
    """A generator under Real-ESRGAN's names."""
    convolutions = {"conv_first": (4, 3)}
    for dense in (1, 2, 3):
        convolutions.update({f"body.0.rdb{dense}.conv{layer}": (4 if layer == 5 else 2, 4 + 2 * (layer - 1))
                             for layer in (1, 2, 3, 4, 5)})
    convolutions.update(dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (4, 4)))
    convolutions["conv_last"] = (3, 4)
    state = OrderedDict()
    for name, (outputs, inputs) in convolutions.items():
        o, i, h, w = np.ogrid[:outputs, :inputs, :3, :3]
        state[f"{name}.weight"] = torch.from_numpy(len(state) + o / 10 + i / 100 + h / 1000 + w / 10000).float()
        state[f"{name}.bias"] = torch.from_numpy(len(state) + np.arange(outputs) / 10).float()
    return state


def main() -> None:
    """Write the files."""
    tensors = make_tensors()
    expected = {name: tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16
                else tensor.numpy() for name, tensor in tensors.items()}
    assert not any(tensors[name].is_contiguous() for name in ("transposed", "sliced", "permuted", "expanded"))
    np.savez_compressed(FOLDER / "expected.npz", **expected)

    torch.save(make_object(tensors), FOLDER / "zip.pth")
    torch.save(make_object(tensors), FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"uint16": torch.tensor([1, 65535], dtype=torch.uint16),
                "uint32": torch.tensor([7], dtype=torch.uint32)}, FOLDER / "unsigned.pth")

    module = torch.nn.Sequential(torch.nn.Linear(2, 1))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        module[0].bias.copy_(torch.tensor([3.0]))
    state = torch.nn.DataParallel(module).state_dict()
    assert list(state) == ["module.0.weight", "module.0.bias"]
    assert state._metadata
    torch.save(state, FOLDER / "module.pth", _use_new_zipfile_serialization=False)
    torch.save(OrderedDict(weight=module[0].weight, bias=module[0].bias), FOLDER / "parameters.pth")
    torch.save({"params": {"w": torch.tensor([1.0])}, "params_ema": {"w": torch.tensor([2.0]), "steps": 9}, "epoch": 3},
               FOLDER / "checkpoint.pth")
    torch.save({"params_ema": make_rrdbnet()}, FOLDER / "rrdbnet.pth")
    torch.serialization.set_crc32_options(False)
    torch.save({"w": torch.tensor([1.0, 2.0])}, FOLDER / "without_checksums.pth")


if __name__ == "__main__":
    main()
