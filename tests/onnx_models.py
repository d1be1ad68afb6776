"""Small ONNX models: `Graph` writes any, `restorer_model` the project's own face restorer."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.int64: TensorProto.INT64}


class Graph:
    """Nodes and constants of a model; values are called by their names."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def op(self, kind, *inputs, **attributes):
        inputs = [value if isinstance(value, str) else self.constant(np.float32(value)) for value in inputs]
        self.nodes.append(helper.make_node(kind, inputs, [f"v{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def save(self, path: Path, inputs, outputs) -> Path:
        """Write a model; inputs and outputs map names to (type, shape)."""
        values = [[helper.make_tensor_value_info(name, TYPES[kind], shape) for name, (kind, shape) in part.items()]
                  for part in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, "graph", *values, self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        return path


def affine_model(path, *, factor=0.5, size=64, batch="n", fidelity=None, channels=3, outputs=None):
    """Write a model that multiplies an image by `factor`, and where it has a second input adds that."""
    graph = Graph()
    result = graph.op("Mul", "input", factor)
    inputs = {"input": (np.float32, [batch, channels, size, size])}
    if fidelity is not None:
        inputs["weight"] = fidelity
        result = graph.op("Add", result, graph.op("Cast", "weight", to=TensorProto.FLOAT))
    return graph.save(path, inputs, {result: (np.float32, outputs or [batch, channels, size, size])})


def restorer_model(path, params, architecture, size, *, batch="n"):
    """Export the face restorer (model/face_restorer.py) of these parameters, by hand."""
    graph = Graph()

    def conv(name, x):
        kernel = np.ascontiguousarray(params[f"{name}/weight"].transpose(3, 2, 0, 1))
        return graph.op("Conv", x, kernel, params[f"{name}/bias"], pads=[1, 1, 1, 1])

    def run_blocks(scope, count, x):
        first = x
        for block in range(count):
            outer = x
            for dense in (1, 2, 3):
                inner = grown = x
                for layer in (1, 2, 3, 4):
                    name = f"{scope}/body/{block}/rdb{dense}/conv{layer}"
                    new = graph.op("LeakyRelu", conv(name, grown), alpha=0.2)
                    grown = graph.op("Concat", grown, new, axis=1)
                residual = graph.op("Mul", conv(f"{scope}/body/{block}/rdb{dense}/conv5", grown), 0.2)
                x = graph.op("Add", inner, residual)
            x = graph.op("Add", outer, graph.op("Mul", x, 0.2))
        return graph.op("Add", first, conv(f"{scope}/conv_body", x))

    face = graph.op("Add", graph.op("Mul", "input", 0.5), 0.5)
    centred, features = graph.op("Sub", face, 0.5), None
    for stride, count in zip(architecture.strides, architecture.blocks, strict=True):
        seen = graph.op("SpaceToDepth", centred, blocksize=stride)
        if features is None:
            line = np.float32(stride * (np.arange(size // stride) + 0.5) / (size / 2) - 1)
            places = np.stack(np.meshgrid(line, line, indexing="ij"))[None]
            zeros = graph.op("Mul", graph.op("ReduceMean", seen, axes=[1], keepdims=1), 0.0)  # for any batch
            sums = conv(f"{stride}/conv_in", graph.op("Concat", seen, graph.op("Add", zeros, places), axis=1))
        else:
            up = graph.op("DepthToSpace", conv(f"{stride}/conv_up", features), blocksize=2, mode="DCR")
            sums = graph.op("Add", conv(f"{stride}/conv_in", seen), up)
        features = graph.op("LeakyRelu", sums, alpha=0.2)
        features = run_blocks(stride, count, features) if count else features
    detail = graph.op("DepthToSpace", conv("conv_last", features), blocksize=architecture.strides[-1], mode="DCR")
    result = graph.op("Sub", graph.op("Mul", graph.op("Add", face, detail), 2.0), 1.0)
    shape = (np.float32, [batch, 3, size, size])
    return graph.save(path, {"input": shape}, {result: shape})
