"""A PyTorch module to ONNX, its BatchNorm layers kept: both of torch's exporters fold them away by default.

Training without BatchNorm costs points of accuracy and needs a far smaller learning rate, so models that are to be
adapted should be exported this way."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.api.source import prepare_output
from netadapt_onnx.common.options import File
from netadapt_onnx.common.user_code import called, code_file
from netadapt_onnx.errors import NetadaptError, one_line, require_package
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.nodes import opset_version
from netadapt_onnx.graph.runtime import Arrays, run, session

if TYPE_CHECKING:
    import torch


def module_and_inputs(
    factory: str, shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The module and its example inputs by name; a module alone takes random float32 inputs of `shapes`.

    Raises NetadaptError if the file or its function fails, or returns something else.
    """
    require_package("torch", "export needs torch")
    import torch

    returned = called(factory, by_name=True)
    module, example = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(module, torch.nn.Module):
        raise NetadaptError(
            f"{factory} returned {type(module).__name__}",
            hint="return a torch.nn.Module and its example inputs",
            code="factory",
        )
    if example is None:
        if not shapes:
            raise NetadaptError(
                f"{factory} returned no example inputs", hint="return (module, inputs) or give --shape NAME=1x3x224x224"
            )
        generator = torch.Generator().manual_seed(0)
        return module, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return module, _named(module, example, factory)


def _named(module: torch.nn.Module, example: Any, factory: str) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(example, Mapping):
        named = dict(example)
    else:
        tensors = list(example) if isinstance(example, Sequence) else [example]
        names = list(inspect.signature(module.forward).parameters)
        if len(tensors) > len(names):
            raise NetadaptError(f"{factory}: {len(tensors)} example inputs, forward takes {len(names)}", code="factory")
        named = dict(zip(names, tensors, strict=False))
    wrong = next((name for name, value in named.items() if not isinstance(value, torch.Tensor)), None)
    if wrong is not None or not named:
        raise NetadaptError(f"{factory}: example input '{wrong}' is not a tensor", code="factory")
    return named


BATCH = "N"
# Above this the file computes something else than the module; float32 reordering stays two orders below.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportResult:
    """`max_rel_diff`: largest difference between onnxruntime and torch, over the outputs' standard deviation."""

    model: Path
    max_rel_diff: float
    params: int
    dynamic_batch: bool


def export(
    factory: str,
    output: File,
    *,
    exporter: Literal["dynamo", "legacy"] = "dynamo",
    opset: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Export what `factory` ("FILE.py:FUNCTION") returns: a module and its example inputs (a tensor, tuple or dict).

    A module alone is enough where `shapes` gives its float32 inputs. The first axis is dynamic where the module allows
    it. Raises NetadaptError if the factory or the exporter fails, or if onnxruntime disagrees with torch.

    >>> export("net.py:make", "net.onnx").params
    112
    """
    prepare_output(Path(output), overwrite, code_file(factory))
    module, inputs = module_and_inputs(factory, shapes)
    return export_module(module, inputs, output, exporter=exporter, opset=opset, overwrite=overwrite)


def export_module(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    output: File,
    *,
    exporter: Literal["dynamo", "legacy"] = "dynamo",
    opset: int | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """As `export`, for a module that is there already; it is left in evaluation mode.

    >>> import torch
    >>> export_module(torch.nn.Linear(4, 2), {"x": torch.zeros(1, 4)}, "linear.onnx").params
    10
    """
    module.eval()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        raw = Path(folder) / "model.onnx"
        outputs = list(_call(module, inputs))
        dynamic = _convert(module, inputs, outputs, raw, exporter, opset)
        read = load(raw).proto
        _check_opset(read, opset)
        parameters = dict(module.named_parameters(remove_duplicate=False))
        if len({id(p) for p in parameters.values()}) == len(parameters):
            _separate(read)
        folded = fold(read)
        proto = onnx.ModelProto()
        proto.CopyFrom(folded.proto)
        _clean(proto, set(parameters))
        difference = max(_difference(module, proto, inputs, repeat) for repeat in ((1, 2) if dynamic else (1,)))
    if not difference <= TOLERANCE:
        raise NetadaptError(
            f"onnxruntime's outputs of the exported model differ from torch's by {difference:.2g}",
            hint="try the other --exporter, or another --opset",
            code="export",
        )
    saved = save(proto, output, overwrite=overwrite, planned=folded.interface())
    return ExportResult(saved, difference, cost(proto, folded.shapes).params, dynamic)


def _call(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The module's outputs by name; nested containers are flattened in order."""
    import torch

    try:
        with torch.no_grad():
            result = module(*inputs.values())
    except (Exception, SystemExit) as error:
        raise NetadaptError(
            f"the module cannot run on its example inputs: {one_line(error)}", code="factory"
        ) from error
    return dict(_flatten(result, "output"))


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flatten(part, str(key))
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from _flatten(part, f"{name}_{i}" if len(value) > 1 else name)
    else:
        yield name, value


def _convert(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: list[str],
    path: Path,
    exporter: str,
    opset: int | None,
) -> bool:
    """Write the raw export; returns whether its first axis is dynamic. A fixed batch is the second attempt."""
    import torch

    names = list(inputs)
    common: dict[str, Any] = {"input_names": names, "output_names": outputs, "opset_version": opset}
    failure: Exception | None = None
    for dynamic in (True, False):
        if exporter == "legacy":
            axes = {name: {0: BATCH} for name in [*names, *outputs]} if dynamic else None
            options: dict[str, Any] = {"dynamo": False, "do_constant_folding": False, "dynamic_axes": axes}
        else:
            # Every example axis of length 1 would be taken for a constant, so the batch of the example is doubled.
            axis = torch.export.Dim(BATCH)
            options = {"dynamo": True, "optimize": False, "external_data": False, "verbose": False}
            options |= {"dynamic_shapes": tuple({0: axis} for _ in names) if dynamic else None}
        example = tuple(_repeated(x, 2) if dynamic else x for x in inputs.values())
        try:
            torch.onnx.export(module, example, str(path), **options, **common)
            return dynamic
        except Exception as error:  # the exporters raise whatever the traced code and each pass raise
            failure = error
    raise NetadaptError(
        f"torch cannot export the module: {one_line(failure) if failure else ''}",
        hint="try the other --exporter, or another --opset",
        code="export",
    ) from failure


def _check_opset(proto: onnx.ModelProto, requested: int | None) -> None:
    """The exporters write the opset that they can, whatever was asked for, and say nothing."""
    written = opset_version(proto)
    if requested not in (None, written):
        raise NetadaptError(
            f"torch wrote opset {written} where {requested} was asked for",
            hint=f"ask for --opset {written}, or try the other --exporter",
            code="export",
        )


def _repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    return x.repeat([times] + [1] * (x.dim() - 1)) if x.dim() else x


def _difference(
    module: torch.nn.Module, proto: onnx.ModelProto, inputs: Mapping[str, torch.Tensor], repeat: int
) -> float:
    batch = {name: _repeated(x, repeat) for name, x in inputs.items()}
    feeds: Arrays = {name: x.detach().numpy() for name, x in batch.items()}
    expected = _call(module, batch)
    actual = run(session(proto), feeds)
    worst = 0.0
    for (name, want), got in zip(expected.items(), actual.values(), strict=True):
        reference = want.detach().numpy()
        if reference.shape != got.shape:
            raise NetadaptError(f"output '{name}' is {got.shape} in onnxruntime and {reference.shape} in torch")
        if reference.dtype.kind == "f":
            scale = float(reference.std()) or float(np.abs(reference).max()) or 1.0
            worst = max(worst, float(np.abs(reference - got).max()) / scale)
        elif not np.array_equal(reference, got):
            worst = float("inf")
    return worst


def _separate(proto: onnx.ModelProto) -> None:
    """A vector per reader again: the legacy exporter merges vectors of equal values, such as fresh BatchNorm scales."""
    vectors = {t.name: t for t in proto.graph.initializer if len(t.dims) == 1}
    seen: set[str] = set()
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name in seen:
                copy = proto.graph.initializer.add()
                copy.CopyFrom(vectors[name])
                copy.name = node.input[i] = f"{name}.{node.name}.{i}"
            elif name in vectors:
                seen.add(name)


def _clean(proto: onnx.ModelProto, parameters: set[str]) -> None:
    """Name layers after their modules; drop what only the exporter needed: zero biases, stack traces with paths."""
    graph = proto.graph
    used = {node.name for node in graph.node}
    for node in graph.node:
        owner = next((name.rpartition(".")[0] for name in node.input if name in parameters), "")
        if owner and owner not in used:
            node.name = owner
            used.add(owner)
    zeros = {
        t.name
        for t in graph.initializer
        if t.name not in parameters and not numpy_helper.to_array(t).astype(bool).any()
    }
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]
    read = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    for i in reversed(range(len(graph.initializer))):
        del graph.initializer[i].metadata_props[:]
        if graph.initializer[i].name not in read:
            del graph.initializer[i]
    for value in [*graph.input, *graph.output]:
        del value.metadata_props[:]
    del graph.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporters, which warn about packages that are not used here; failures are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
