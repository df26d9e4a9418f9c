"""A model whose shapes are known and whose shape arithmetic has become constants: what `fold` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.loadable import Interface
from netadapt_onnx.graph.shapes import Shape, Shapes, Specs


@dataclass(frozen=True)
class FoldedModel:
    """A model without shape arithmetic, and the shape of every tensor of it at one batch size.

    Attributes:
        proto: the model, read-only by agreement.
        shapes: those of inputs, initializers and all node outputs, but for the `unknown` ones.
        dtypes: likewise.
        specs: shape and element type of every input.
        batch_size: the length that dynamic first axes have in `shapes`.
        unrunnable: what onnxruntime lacks to run the model, None if nothing.
        assumed: outputs of operators that onnxruntime lacks, taken to have the shape of their first input.
        sampled: tensors whose shape may depend on the data; `shapes` has that of one run.
        fixed: inputs whose dynamic axes got the sizes of `specs`, since constants depend on them.
        unknown: the tensors without a shape, and why.
        untraced: the nodes whose subgraphs surgery leaves as they are, and why (`surgery/flatten_subgraphs.py`).
        requested_shapes: the shapes that the caller asked for.
        unrun: the outputs of nodes that cannot be run.
        unfinished: what was not run to its end for a shape or a value: it takes too long, or too much memory.
        file: the model file, if weights were left outside it (`lazy_weights.py`).
    """

    proto: onnx.ModelProto
    shapes: Shapes
    dtypes: Mapping[str, np.dtype[Any]]
    specs: Specs
    batch_size: int
    unrunnable: str | None = None
    assumed: tuple[str, ...] = ()
    sampled: frozenset[str] = frozenset()
    fixed: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)
    untraced: Mapping[str, str] = field(default_factory=dict)
    requested_shapes: Mapping[str, Shape] = field(default_factory=dict)
    unrun: frozenset[str] = frozenset()
    unfinished: tuple[str, ...] = ()
    file: Path | None = None

    def interface(self, shapes: Shapes | None = None) -> Interface:
        """What the model takes and returns, or a model made of it, whose tensors have other `shapes`."""
        sizes = self.shapes if shapes is None else shapes
        certain = [v.name for v in self.proto.graph.output if v.name in self.shapes and v.name not in self.sampled]
        outputs = {name: (sizes[name], self.dtypes[name]) for name in certain}
        inputs = {name: (sizes.get(name, shape), dtype) for name, (shape, dtype) in self.specs.items()}
        return Interface(inputs, outputs, self.proto)


def require_runnable(folded: FoldedModel) -> None:
    """Raise NetadaptError for a model that onnxruntime cannot run."""
    if folded.unrunnable:
        raise NetadaptError(
            f"the model cannot be run: {folded.unrunnable}",
            hint="" if folded.unknown else "`netadapt-onnx prune -o` cuts it all the same, unproven",
            code="unloadable",
        )
