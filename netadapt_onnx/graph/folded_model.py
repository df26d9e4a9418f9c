"""A model of known shapes, whose shape arithmetic has become constants, as `fold` returns it, and whether it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.loadable import Interface
from netadapt_onnx.graph.shapes import Shape, Shapes, Specs, spec_bytes


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
        hint = "" if folded.unknown else "prune with -o and without --verify cuts it all the same, unproven"
        raise NetadaptError(f"the model cannot be run: {folded.unrunnable}", hint=hint, code="unloadable")


# A single tensor beyond it means a wrong size somewhere, or inputs far larger than what is asked of a model here needs.
LARGEST_BYTES = 1 << 32


def refuse_huge(folded: FoldedModel, cannot: str, hint: str, code: str = "too-large", *, at_once: int = 0) -> None:
    """Raise NetadaptError for a model with a tensor of more than `LARGEST_BYTES`.

    So it is where all tensors have to be there `at_once` so many times, and the machine has no memory for them.
    `cannot` is the message: what cannot be done with it.
    """
    sizes = {name: spec_bytes((shape, folded.dtypes[name])) for name, shape in folded.shapes.items()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    why = ""
    if sizes.get(largest, 0) > LARGEST_BYTES:
        why = f"tensor '{largest}' {folded.shapes[largest]} is too large to run"
    elif at_once * sum(sizes.values()) > memory_bytes():
        needed, available = at_once * sum(sizes.values()) / 1e9, memory_bytes() / 1e9
        why = f"its tensors take {needed:.3g} GB, more than the {available:.3g} GB of this machine"
    if why:
        raise NetadaptError(f"{cannot}: {why}", hint=hint, code=code)


def memory_bytes() -> int:
    """The memory of this machine; 8 GiB where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError, OSError):
        return 8 * 2**30
