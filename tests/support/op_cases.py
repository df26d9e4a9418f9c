"""Models of one node for every op that training knows, by the file of `training/ops/` that has the op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class Case:
    """A model of one node. Inputs at `fixed` positions, and integer vectors, are initializers."""

    op: str
    inputs: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    domain: str = ""
    fixed: tuple[int, ...] = ()

    def model(self) -> onnx.ModelProto:
        names, values, initializers = [], [], []
        for i, value in enumerate(self.inputs):
            names.append("" if value is None else f"in{i}")
            if value is None:
                continue
            if i in self.fixed or (value.dtype.kind == "i" and value.ndim <= 1 and i):
                initializers.append(numpy_helper.from_array(value, f"in{i}"))
            else:
                dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
                values.append(helper.make_tensor_value_info(f"in{i}", dtype, value.shape))
        outputs = [f"out{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, "node", domain=self.domain, **self.attributes)
        graph = helper.make_graph([node], "case", values, [onnx.ValueInfoProto(name=n) for n in outputs], initializers)
        domains = [helper.make_opsetid("", self.opset)]
        if self.domain:
            domains.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=domains, ir_version=10)

    def feeds(self) -> dict[str, np.ndarray]:
        expected = {value.name for value in self.model().graph.input}
        return {f"in{i}": v for i, v in enumerate(self.inputs) if f"in{i}" in expected}


def f(*shape: int, seed: int = 0) -> np.ndarray:
    values: np.ndarray = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return values


def positive(*shape: int) -> np.ndarray:
    return np.asarray(np.abs(f(*shape)) + 0.1)


def unit(*shape: int) -> np.ndarray:
    return np.asarray(np.tanh(f(*shape)) * 0.9)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


IMAGE = f(2, 4, 7, 9)
FLAGS = f(3, 4) > 0
ACTIVATIONS_OF_ONE_INPUT = [
    "Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "LeakyRelu", "HardSigmoid", "Elu", "Selu",
    "Celu", "ThresholdedRelu", "Shrink", "Dropout",
]  # fmt: skip
FUNCTIONS_OF_ONE_INPUT = [
    "Neg", "Abs", "Exp", "Floor", "Ceil", "Round", "Sign", "Erf", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Asinh",
    "Identity",
]  # fmt: skip

ACTIVATION = [
    *(Case(name, (f(3, 4),)) for name in ACTIVATIONS_OF_ONE_INPUT),
    Case("Mish", (f(3, 4),), opset=18),
    Case("Gelu", (f(3, 4),), opset=20),
    Case("Gelu", (f(3, 4),), {"approximate": "tanh"}, opset=20),
    Case("Gelu", (f(3, 4),), domain="com.microsoft"),
    Case("QuickGelu", (f(3, 4),), domain="com.microsoft"),
    Case("BiasGelu", (f(3, 4), f(4)), domain="com.microsoft"),
    Case("Clip", (f(3, 4), np.array(-0.5, np.float32), np.array(0.3, np.float32)), fixed=(1, 2)),
    Case("Clip", (f(3, 4), None, np.array(0.3, np.float32)), fixed=(2,)),
    Case("Clip", (f(3, 4),), {"min": -0.2, "max": 0.4}, opset=9),
    Case("PRelu", (IMAGE, f(4, 1, 1)), fixed=(1,)),
    Case("PRelu", (f(3, 4), f(4)), fixed=(1,)),
    Case("Softmax", (f(2, 3, 4),), {"axis": 1}),
    Case("Softmax", (f(2, 3, 4),), {"axis": 1}, opset=11),
    Case("LogSoftmax", (f(2, 3, 4),)),
    Case("LogSoftmax", (f(2, 3, 4),), {"axis": 1}, opset=11),
    Case("Hardmax", (f(2, 3, 4),)),
    Case("Swish", (f(3, 4),), {"alpha": 1.5}, opset=24),
]

CONVOLUTION = [
    Case("Conv", (IMAGE, f(6, 2, 3, 3), f(6)), {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 0]}),
    Case("Conv", (IMAGE, f(6, 4, 3, 3)), {"pads": [0, 1, 1, 2], "dilations": [2, 1]}),
    Case("Conv", (IMAGE, f(6, 4, 2, 2), f(6)), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", (IMAGE, f(6, 4, 2, 2), f(6)), {"auto_pad": "SAME_LOWER"}),
    Case("Conv", (IMAGE, f(6, 4, 2, 2)), {"auto_pad": "VALID"}),
    Case("Conv", (f(2, 3, 11), f(4, 3, 3), f(4)), {"pads": [1, 1]}),
    Case("Conv", (f(1, 2, 5, 5, 5), f(3, 2, 3, 3, 3)), {"strides": [2, 2, 2]}),
    Case("Conv", (IMAGE, f(6, 2, 1, 1)), {"group": 2, "strides": [3, 2], "pads": [1, 2, 2, 0]}),
    Case("Conv", (IMAGE, f(6, 4, 1, 3)), {"strides": [2, 2], "pads": [0, 1, 0, 1]}),
    Case("Conv", (f(1, 2, 5, 4, 5), f(3, 2, 1, 1, 1)), {"strides": [2, 2, 1]}),
    Case("Conv", (f(2, 3, 1, 1), f(4, 3, 3, 3), f(4)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("Conv", (f(2, 3, 9, 2), f(4, 3, 5, 5)), {"strides": [1, 3], "pads": [2, 2, 2, 2]}),
    Case("Conv", (f(2, 3, 1, 2), f(4, 3, 3, 3)), {"dilations": [3, 2], "pads": [4, 2, 4, 3]}),
    Case("ConvTranspose", (IMAGE, f(4, 5, 1, 1), f(5)), {"strides": [2, 3], "output_padding": [1, 2]}),
    Case("ConvTranspose", (IMAGE, f(4, 3, 1, 1), f(6)), {"group": 2, "strides": [3, 1], "pads": [1, 0, 2, 0]}),
    Case("ConvTranspose", (IMAGE, f(4, 5, 1, 3), f(5)), {"strides": [2, 2], "pads": [0, 1, 0, 1]}),
    Case("ConvTranspose", (f(1, 2, 3, 4, 3), f(2, 3, 1, 1, 1), f(3)), {"strides": [2, 2, 1]}),
    Case("ConvTranspose", (f(2, 3, 4, 1), f(3, 4, 3, 3), f(4)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("ConvTranspose", (f(2, 3, 1, 1), f(3, 4, 3, 3), f(4)), {"dilations": [3, 2], "pads": [3, 1, 3, 2]}),
    Case(
        "ConvTranspose",
        (IMAGE, f(4, 5, 3, 3), f(5)),
        {"strides": [3, 3], "output_padding": [2, 2], "pads": [1, 1, 0, 1]},
    ),
    Case("ConvTranspose", (IMAGE, f(4, 3, 3, 3), f(6)), {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("ConvTranspose", (IMAGE, f(4, 5, 3, 3)), {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1]}),
    Case("ConvTranspose", (IMAGE, f(4, 5, 3, 3)), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("ConvTranspose", (IMAGE, f(4, 5, 3, 3)), {"strides": [2, 2], "output_shape": [14, 18]}),
]

ELEMENTWISE = [
    *(Case(name, (f(3, 4),)) for name in FUNCTIONS_OF_ONE_INPUT),
    *(Case(name, (positive(3, 4),)) for name in ("Log", "Sqrt", "Reciprocal")),
    *(Case(name, (unit(3, 4),)) for name in ("Tan", "Asin", "Acos", "Atanh")),
    Case("Acosh", (positive(3, 4) + 1,)),
    Case("Not", (FLAGS,)),
    Case("IsNaN", (np.array([1.0, np.nan], np.float32),)),
    Case("IsInf", (np.array([1.0, np.inf, -np.inf], np.float32),)),
    Case("IsInf", (np.array([1.0, np.inf, -np.inf], np.float32),), {"detect_negative": 0}),
    *(Case(name, (f(2, 3, 4), f(3, 1, seed=1))) for name in ("Add", "Sub", "Mul", "Div", "Less", "Greater")),
    *(Case(name, (f(3, 4), f(4, seed=1))) for name in ("LessOrEqual", "GreaterOrEqual")),
    *(Case(name, (FLAGS, f(3, 4, seed=1) > 0)) for name in ("And", "Or", "Xor")),
    *(Case(name, (ints(6, 3, 12), ints(5, 1, 10)), opset=18) for name in ("BitwiseAnd", "BitwiseOr")),
    Case("Equal", (ints(1, 2, 3).reshape(3, 1), ints(1, 5, 3).reshape(3, 1))),
    Case("Div", (ints(7, -7, 9).reshape(3, 1), ints(2, 2, -4).reshape(3, 1))),
    *(Case(name, (f(3, 4), f(4, seed=1), f(3, 1, seed=2))) for name in ("Sum", "Min", "Max", "Mean")),
    Case("Pow", (positive(3, 4), f(4, seed=1))),
    Case("Pow", (f(3, 4), np.array(2.0, np.float32)), fixed=(1,)),
    Case("Mod", (ints(7, -7, 9).reshape(3, 1), ints(3, 3, -4).reshape(3, 1))),
    Case("Mod", (f(3, 4), positive(4)), {"fmod": 1}),
    Case("Where", (FLAGS, f(3, 4), f(4, seed=1))),
    Case("Cast", (f(3, 4),), {"to": onnx.TensorProto.INT64}),
    Case("Cast", (FLAGS,), {"to": onnx.TensorProto.FLOAT}),
    Case("CastLike", (FLAGS, f(1))),
]

INDEXING = [
    Case("Gather", (f(3, 5), ints(0, -1, 2, 2).reshape(2, 2)), {"axis": 1}, fixed=(1,)),
    Case("Gather", (f(3, 5), np.array(1, np.int64)), fixed=(1,)),
    Case("Gather", (ints(3, 4, 5), np.array(1, np.int64)), fixed=(1,)),
    Case("GatherElements", (f(3, 2), ints(0, 1, 1, 0, -1, 0).reshape(3, 2)), {"axis": 1}),
    Case("GatherND", (f(3, 4, 5), ints(0, 1, 2, -1).reshape(2, 2))),
    Case("ScatterElements", (f(3, 2), ints(0, 1).reshape(1, 2), f(1, 2)), {"axis": 0}),
    Case("ScatterElements", (f(3, 2), ints(0, 0).reshape(2, 1), f(2, 1)), {"axis": 1, "reduction": "add"}, opset=18),
    Case("Scatter", (f(3, 2), ints(0, 1).reshape(1, 2), f(1, 2)), opset=9),
    Case("ScatterND", (f(4, 3), ints(0, 2).reshape(2, 1), f(2, 3))),
    Case("ScatterND", (f(4, 3), ints(1, 1).reshape(2, 1), f(2, 3)), {"reduction": "add"}, opset=18),
    Case("ConstantOfShape", (ints(2, 3).reshape(2),), {"value": helper.make_tensor("v", 1, [1], [0.5])}),
    Case("ConstantOfShape", (ints(2, 3).reshape(2),)),
    Case("Constant", (), {"value": helper.make_tensor("v", 1, [2], [0.5, 1.5])}),
    Case("Range", (np.array(1, np.int64), np.array(9, np.int64), np.array(2, np.int64))),
    Case("OneHot", (ints(0, 2, -1).reshape(3, 1), np.array(4, np.int64), np.array([0.0, 1.0], np.float32)), fixed=(1,)),
    Case("NonZero", (f(3, 4) * FLAGS,)),
    Case("EyeLike", (f(3, 5),), {"k": 1}),
]

LINEAR = [
    Case("Gemm", (f(3, 4), f(5, 4), f(5)), {"transB": 1}),
    Case("Gemm", (f(4, 3), f(4, 5), f(3, 1)), {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", (f(3, 4), f(4, 5))),
    Case("MatMul", (f(2, 3, 4), f(4, 5))),
    Case("FusedMatMul", (f(2, 4, 3), f(2, 5, 4)), {"transA": 1, "transB": 1, "alpha": 0.3}, domain="com.microsoft"),
    Case("Einsum", (f(2, 3, 4), f(2, 5, 4, seed=1)), {"equation": "bij,bkj->bik"}),
    Case("Attention", (f(2, 4, 5, 8), f(2, 4, 6, 8, seed=1), f(2, 4, 6, 8, seed=2)), opset=23),
    Case(
        "Attention",
        (f(2, 5, 32), f(2, 6, 32, seed=1), f(2, 6, 32, seed=2)),
        {"q_num_heads": 4, "kv_num_heads": 4, "scale": 0.2},
        opset=23,
    ),
]

MOVEMENT = [
    Case("Size", (f(3, 4),)),
    Case("Reshape", (f(2, 3, 4), ints(0, -1))),
    Case("Reshape", (f(2, 3, 4), ints(4, 3, 2))),
    Case("Flatten", (IMAGE,), {"axis": 2}),
    Case("Flatten", (IMAGE,), {"axis": 0}),
    Case("Transpose", (f(2, 3, 4),), {"perm": [0, 2, 1]}),
    Case("Transpose", (f(2, 3, 4),)),
    Case("Squeeze", (f(2, 1, 3, 1), ints(1, -1))),
    Case("Squeeze", (f(2, 1, 3),), opset=11),
    Case("Unsqueeze", (f(2, 3), ints(0, -1))),
    Case("Unsqueeze", (f(2, 3),), {"axes": [1]}, opset=11),
    Case("Concat", (f(2, 3), f(2, 4, seed=1)), {"axis": 1}),
    Case("Concat", (f(2, 3), f(1, 3, seed=1)), {"axis": 0}),
    Case("Split", (f(2, 9), ints(2, 4, 3)), {"axis": 1}, outputs=3),
    Case("Split", (f(2, 8),), {"axis": 1}, outputs=2),
    Case("Split", (f(2, 7),), {"axis": 1, "num_outputs": 3}, opset=18, outputs=3),
    Case("Split", (f(2, 8),), {"axis": 1, "split": [3, 5]}, opset=11, outputs=2),
    Case("Slice", (f(5, 6, 7), ints(1, -5), ints(4, 2**62), ints(0, 2), ints(2, 1))),
    Case("Slice", (f(5, 6), ints(-1), ints(-(2**62)), ints(1), ints(-2))),
    Case("Slice", (f(5, 6),), {"starts": [1], "ends": [-1], "axes": [1]}, opset=9),
    Case("Pad", (IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1), np.array(0.5, np.float32)), fixed=(2,)),
    Case("Pad", (IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1)), {"mode": "reflect"}),
    Case("Pad", (IMAGE, ints(0, 1, 1, 2, 0, 0, 3, 1)), {"mode": "edge"}),
    Case("Pad", (IMAGE, ints(0, 0, -1, 2, 0, 0, -2, 1))),
    Case("Pad", (IMAGE, ints(1, 2), None, ints(3)), {"mode": "wrap"}, opset=19),
    Case("Pad", (IMAGE,), {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 1.0}, opset=10),
    Case("Expand", (f(3, 1), ints(2, 1, 4))),
    Case("Expand", (f(2, 3, 4), ints(4))),
    Case("Tile", (f(2, 3), ints(2, 3))),
    Case("DepthToSpace", (f(2, 8, 3, 3),), {"blocksize": 2}),
    Case("DepthToSpace", (f(2, 8, 3, 3),), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (f(2, 2, 4, 6),), {"blocksize": 2}),
    Case("Shape", (IMAGE,)),
    Case("Shape", (IMAGE,), {"start": 1, "end": -1}),
    Case("Trilu", (f(4, 5), np.array(1, np.int64)), fixed=(1,)),
    Case("Trilu", (f(4, 5),), {"upper": 0}),
]

NORMALISATION = [
    Case("BatchNormalization", (IMAGE, f(4), f(4, seed=1), f(4, seed=2), positive(4)), {"epsilon": 1e-3}),
    Case("InstanceNormalization", (IMAGE, f(4), f(4, seed=1))),
    Case("LayerNormalization", (f(2, 3, 8), f(8), f(8, seed=1))),
    Case("LayerNormalization", (f(2, 3, 8), f(3, 8)), {"axis": 1, "epsilon": 1e-3}),
    Case("RMSNormalization", (f(2, 3, 8), f(8)), opset=23),
    Case("SimplifiedLayerNormalization", (f(2, 3, 8), f(8)), {"epsilon": 1e-5}),
    Case("GroupNormalization", (IMAGE, f(4), f(4, seed=1)), {"num_groups": 2}, opset=21),
    Case("LRN", (IMAGE,), {"size": 3, "alpha": 0.1}),
    Case("LpNormalization", (f(3, 4),), {"axis": 1}),
    Case("MeanVarianceNormalization", (IMAGE,)),
]

POOLING = [
    Case("GlobalAveragePool", (IMAGE,)),
    Case("GlobalMaxPool", (IMAGE,)),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0], "dilations": [2, 1]}),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("MaxPool", (f(2, 3, 11),), {"kernel_shape": [3]}),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1}),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, opset=19),
    Case(
        "AveragePool",
        (IMAGE,),
        {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1},
        opset=19,
    ),
    Case("LpPool", (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    Case("GlobalLpPool", (IMAGE,)),
]

RECURRENT = [
    Case("LSTM", (f(5, 2, 3), f(1, 16, 3), f(1, 16, 4), f(1, 32)), {"hidden_size": 4}, outputs=3),
    Case(
        "LSTM",
        (f(5, 2, 3), f(2, 16, 3), f(2, 16, 4), f(2, 32), None, f(2, 2, 4), f(2, 2, 4, seed=1)),
        {"hidden_size": 4, "direction": "bidirectional"},
        outputs=3,
    ),
    Case("LSTM", (f(5, 2, 3), f(1, 16, 3), f(1, 16, 4)), {"hidden_size": 4, "direction": "reverse"}, outputs=3),
    Case("GRU", (f(5, 2, 3), f(1, 12, 3), f(1, 12, 4), f(1, 24)), {"hidden_size": 4}, outputs=2),
    Case(
        "GRU",
        (f(5, 2, 3), f(2, 12, 3), f(2, 12, 4), f(2, 24)),
        {"hidden_size": 4, "direction": "bidirectional"},
        outputs=2,
    ),
    Case(
        "GRU",
        (f(5, 2, 3), f(1, 12, 3), f(1, 12, 4), f(1, 24)),
        {"hidden_size": 4, "linear_before_reset": 1, "direction": "reverse"},
        outputs=2,
    ),
    Case("RNN", (f(5, 2, 3), f(1, 4, 3), f(1, 4, 4), f(1, 8)), {"hidden_size": 4}, outputs=2),
]

REDUCTIONS = {
    "ReduceMean": 18, "ReduceSum": 13, "ReduceMax": 18, "ReduceMin": 18, "ReduceProd": 18, "ReduceL1": 18,
    "ReduceL2": 18, "ReduceSumSquare": 18, "ReduceLogSum": 18, "ReduceLogSumExp": 18,
}  # fmt: skip
REDUCTION = [
    *(Case(name, (f(2, 3, 4), ints(0, 2)), opset=opset) for name, opset in REDUCTIONS.items() if name[6:] != "LogSum"),
    Case("ReduceLogSum", (positive(2, 3, 4), ints(1)), opset=18),
    Case("ReduceMean", (f(2, 3, 4),), {"axes": [-1], "keepdims": 0}, opset=13),
    Case("ReduceMax", (f(2, 3, 4),), opset=13),
    Case("ReduceSum", (f(2, 3, 4), ints()), {"noop_with_empty_axes": 1}, opset=13),
    Case("ReduceMean", (ints(*range(12)).reshape(3, 4),), {"axes": [1]}, opset=13),
    Case("ArgMax", (f(3, 4),), {"axis": 1, "keepdims": 0}),
    Case("ArgMin", (f(3, 4),)),
    Case("CumSum", (f(3, 4), np.array(1, np.int64))),
    Case("CumSum", (f(3, 4), np.array(1, np.int64)), {"reverse": 1, "exclusive": 1}),
    Case("TopK", (f(3, 8), ints(3)), {"axis": 1}, outputs=2),
]

RESIZE = [
    Case("Resize", (IMAGE, None, np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}, fixed=(2,)),
    Case(
        "Resize",
        (IMAGE, None, np.array([1, 1, 2, 3], np.float32)),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        fixed=(2,),
    ),
    Case("Resize", (IMAGE, None, np.array([1, 1, 2, 3], np.float32)), {"mode": "linear"}, fixed=(2,)),
    Case("Resize", (IMAGE, None, np.array([1, 1, 0.6, 1.7], np.float32)), {"mode": "linear"}, fixed=(2,)),
    Case("Resize", (IMAGE, None, np.array([1, 1, 0.6, 1.7], np.float32)), {"mode": "nearest"}, fixed=(2,)),
    Case(
        "Resize",
        (IMAGE, None, None, ints(2, 4, 12, 5)),
        {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    Case("Resize", (IMAGE, None, None, ints(2, 4, 12, 5)), {"mode": "cubic", "exclude_outside": 1}),
    Case(
        "Resize",
        (IMAGE, None, None, ints(2, 4, 14, 20)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    Case(
        "Resize",
        (IMAGE, None, None, ints(2, 4, 14, 20)),
        {"mode": "nearest", "coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"},
    ),
    Case("Resize", (IMAGE, np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}, opset=10, fixed=(1,)),
    Case("Upsample", (IMAGE, np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}, opset=9, fixed=(1,)),
    Case("Upsample", (IMAGE, np.array([1, 1, 2, 2], np.float32)), {"mode": "linear"}, opset=9, fixed=(1,)),
    Case("GridSample", (IMAGE, unit(2, 3, 5, 2))),
    Case("GridSample", (IMAGE, unit(2, 3, 5, 2)), {"mode": "bicubic", "align_corners": 1}),
    Case("GridSample", (IMAGE, f(2, 3, 5, 2)), {"mode": "nearest", "padding_mode": "border"}, opset=20),
]

CASES: Mapping[str, list[Case]] = {
    "activation": ACTIVATION,
    "convolution": CONVOLUTION,
    "elementwise": ELEMENTWISE,
    "indexing": INDEXING,
    "linear": LINEAR,
    "movement": MOVEMENT,
    "normalisation": NORMALISATION,
    "pooling": POOLING,
    "recurrent": RECURRENT,
    "reduction": REDUCTION,
    "resize": RESIZE,
}
