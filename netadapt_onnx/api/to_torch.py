"""`to_torch`: a model as a torch module, to be trained by a loop of the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from netadapt_onnx.api.source import Source, open_model
from netadapt_onnx.errors import require_package
from netadapt_onnx.graph.fold_shapes import fold

if TYPE_CHECKING:
    from netadapt_onnx.training.onnx_module import OnnxModule


def to_torch(model: Source, *, shapes: Mapping[str, tuple[int, ...]] | None = None) -> OnnxModule:
    """Read a model as a `torch.nn.Module` that anybody's training loop can train; `from_torch` writes it back.

    Its state dict has the names of the file's initializers ("layer1.conv.weight"), those that are clearly weights as
    parameters and running statistics of BatchNormalization as buffers; two calls, in two processes, name them alike.
    Everything else in the file is constant. It is called with the model's inputs, in order or by name, and returns the
    output, or several by name. `train`, `eval`, `to`, `load_state_dict`, `copy.deepcopy` and optimizers work as with
    any module. float16 is float32 until it is written back. It begins in training mode, as every new module.

    Args:
        model: An ONNX file, or a loaded model.
        shapes: Those of inputs with dynamic axes beyond the first.

    Raises:
        NetadaptError: Operators cannot be trained, the model has no weights, or torch is not installed.

    >>> module = to_torch("model.onnx")
    >>> list(module.state_dict())[:2]
    ['conv1.weight', 'bn1.scale']
    """
    require_package("torch", "to_torch needs torch")
    from netadapt_onnx.training.onnx_module import OnnxModule, OnnxSource

    source = open_model(model)
    return OnnxModule(OnnxSource(fold(source.proto, shapes), source.files, source.sha256))
