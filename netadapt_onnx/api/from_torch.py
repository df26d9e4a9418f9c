"""`from_torch`: the weights of a module that `to_torch` made, back in the same graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from netadapt_onnx.api.source import prepare_output
from netadapt_onnx.common.options import File
from netadapt_onnx.common.provenance import provenance
from netadapt_onnx.errors import NetadaptError, require_package
from netadapt_onnx.graph.model import save

if TYPE_CHECKING:
    import torch

    from netadapt_onnx.training.onnx_module import OnnxModule


def from_torch(module: torch.nn.Module, output: File, *, overwrite: bool = False) -> Path:
    """Write the graph that a module was made of by `to_torch`, with the module's weights and running statistics.

    Names, nodes, inputs and outputs stay as they are; whether the module trains or evaluates, and on which device,
    makes no difference. The file is checked and opened by onnxruntime before it is there.

    Args:
        module: What `to_torch` returned, or a module that contains it once (a LightningModule, an average of weights).
        output: The file to write; never the one that the module was made of.
        overwrite: Whether another existing file is replaced.

    Returns:
        The file.

    Raises:
        NetadaptError: The module is another one, `output` exists or is the input, or weights are not finite.

    >>> from_torch(to_torch("model.onnx"), "unchanged.onnx").name
    'unchanged.onnx'
    """
    require_package("torch", "from_torch needs torch")
    trained = _only_onnx_module(module)
    file = Path(output)
    prepare_output(file, overwrite, *trained.source.files)
    proto, metadata = trained.proto(), provenance(trained.source.sha256, command="from_torch")
    return save(proto, file, metadata=metadata, overwrite=overwrite, planned=trained.source.folded.interface())


def _only_onnx_module(module: torch.nn.Module) -> OnnxModule:
    from netadapt_onnx.training.onnx_module import OnnxModule

    inside = [one for one in module.modules() if isinstance(one, OnnxModule)]
    if len(inside) == 1:
        return inside[0]
    what = f"contains {len(inside)} modules that to_torch made" if inside else "was not made by to_torch"
    hint = "pass one of them" if inside else "`netadapt_onnx.export_module` writes any other module"
    raise NetadaptError(f"from_torch: {type(module).__name__} {what}", hint=hint, code="usage")
