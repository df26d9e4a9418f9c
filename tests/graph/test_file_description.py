"""What a file says of itself."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from models import overridable, plain
from netadapt_onnx.graph.file_description import TensorDescription, describe
from netadapt_onnx.graph.model import load


def test_inputs_are_without_initializers_that_may_be_overridden() -> None:
    proto = overridable(plain())
    assert len(proto.graph.input) > 1
    assert [tensor.name for tensor in describe(proto).inputs] == ["image"]


def test_dynamic_axes_scalars_and_what_is_no_tensor() -> None:
    proto = plain()
    values = [
        helper.make_tensor_value_info("free", TensorProto.INT64, ["batch", None, 3]),
        helper.make_tensor_value_info("scalar", TensorProto.BFLOAT16, []),
        helper.make_tensor_value_info("shapeless", TensorProto.FLOAT, None),
        helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, [1]),
    ]
    proto.graph.output.extend(values)
    descriptions = {tensor.name: tensor for tensor in describe(proto).outputs}
    assert descriptions["free"] == TensorDescription("free", "int64", ("batch", None, 3))
    texts = {name: tensor.text for name, tensor in descriptions.items() if name != "logits"}
    assert texts == {
        "free": "int64 batchx?x3",
        "scalar": "bfloat16 scalar",
        "shapeless": "float",
        "list": "sequence_type",
    }


def test_a_loaded_model_is_described_as_its_file_is(tmp_path: Path) -> None:
    proto = plain()
    proto.opset_import[0].version = 13
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.producer_name, proto.producer_version = "exporter", "1.2"
    onnx.save(proto, tmp_path / "model.onnx")
    description = load(tmp_path / "model.onnx").description
    assert description.opset == {"ai.onnx": 13, "com.microsoft": 1}
    assert description.producer == "exporter 1.2"
    assert description.ir_version == proto.ir_version
