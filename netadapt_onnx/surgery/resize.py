"""Cut a traced model: slice every constant by its kept labels and rewrite every number that counted channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from netadapt_onnx.control_flow import captured
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.labels import Use
from netadapt_onnx.surgery.ties import Array
from netadapt_onnx.surgery.trace import KeptIndices, Trace


class Cut:
    """What is left of every tensor after a cut, and the edits that rules make by it."""

    def __init__(self, trace: Trace, keep: KeptIndices) -> None:
        self._trace = trace
        self.alive = trace.alive(keep)
        self._shapes = trace.resized_shapes(keep)
        versions = {o.domain: o.version for o in trace.folded.proto.opset_import}
        self.opset = versions.get("", versions.get("ai.onnx", 1))

    def original_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor before the cut."""
        return self._trace.folded.shapes[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor after the cut."""
        return self._shapes[name]

    def kept(self, name: str, axis: int) -> Array:
        """Mask of the positions kept along one axis of a tensor."""
        mask = np.ones(self.original_shape(name)[axis], bool)
        for k, line in self._trace.axes.get(name, ()):
            if k == axis:
                mask &= self.alive[line]
        return mask

    def remap(self, name: str, axis: int, indices: Array) -> Array:
        """New positions of those of `indices` (n,) that are kept."""
        kept = self.kept(name, axis)
        indices = np.where(indices < 0, indices + len(kept), indices)
        return (np.cumsum(kept) - 1)[indices[kept[indices]]]

    def integers(self, node: gs.Node, slot: int) -> Array:
        """Value of a constant integer input."""
        return np.asarray(node.inputs[slot].values)

    def set_integers(self, node: gs.Node, slot: int, values: Any) -> None:
        """Replace an integer input by a constant; others that read the old one keep it."""
        old = node.inputs[slot] if slot < len(node.inputs) else None
        dtype = old.values.dtype if isinstance(old, gs.Constant) else np.int64
        alone = old is not None and len(old.outputs) == 1
        name = old.name if old is not None and old.name and alone else f"{node.name or node.outputs[0].name}/{slot}"
        made = gs.Constant(name, np.ascontiguousarray(np.asarray(values, dtype)))
        if slot < len(node.inputs):
            node.inputs[slot] = made
        else:
            node.inputs.append(made)

    def resize_dims(self, node: gs.Node, slot: int, output: str) -> None:
        """An input that lists the output's dimensions: rewrite the entries whose axis was cut, and only those."""
        before, after = self.original_shape(output), self.shape(output)
        if before == after:
            return
        source = node.inputs[slot] if slot < len(node.inputs) else None
        if source is None:  # Reshape-1 keeps its target in an attribute
            node.attrs["shape"] = self._rewritten(np.array(node.attrs["shape"]), before, after).tolist()
        elif isinstance(source, gs.Constant):
            self.set_integers(node, slot, self._rewritten(self.integers(node, slot), before, after))
        else:
            self._resize_formula(source, before, after)

    @staticmethod
    def _rewritten(values: Array, before: Sequence[int], after: Sequence[int]) -> Array:
        values = values.copy()
        offset = len(before) - len(values)  # Expand's target may have fewer axes than its result
        for axis in range(max(offset, 0), len(before)):
            if values[axis - offset] == before[axis] != after[axis]:
                values[axis - offset] = after[axis]
        return values

    def _resize_formula(self, source: gs.Variable, before: Sequence[int], after: Sequence[int]) -> None:
        """Dimensions computed as `slope * batch + offset` (`folding.py`): scale the entries that were cut."""
        add = source.inputs[0]
        if add.op != "Add" or add.inputs[0].inputs[0].op != "Mul":
            raise NetadaptError("dimensions computed at run time cannot be cut", node=add.name)
        slope, offset = add.inputs[0].inputs[0].inputs[1], add.inputs[1]
        current = slope.values * self._trace.folded.batch_size + offset.values
        for constant in (slope, offset):
            values = constant.values.copy()
            for axis, (old, new) in enumerate(zip(before, after, strict=True)):
                if old == new or current[axis] != old:  # a 1 that Expand leaves as it is, say
                    continue
                if values[axis] * new % old:
                    raise NetadaptError(f"dimension {values[axis]} does not follow its axis", node=add.name)
                values[axis] = values[axis] * new // old
            constant.values = values

    def set_gather(self, node: gs.Node, slot: int, data: str, axis: int, indices: Array, output: str) -> None:
        """Indices (of any rank) into a cut axis: those that are kept, at their new positions."""
        kept = self.kept(data, axis)
        if kept.all():
            return
        for k in range(indices.ndim):
            indices = indices.compress(self.kept(output, axis + k), axis=k)
        position = np.cumsum(kept) - 1
        self.set_integers(node, slot, position[np.where(indices < 0, indices + len(kept), indices)])


def resize(trace: Trace, keep: KeptIndices) -> onnx.ModelProto:
    """The traced model with only the kept channels of each group in `keep`; groups left out stay whole.

    `keep[group]` holds ascending channel indices. Raises NetadaptError for unknown or pinned groups, indices out of
    range, broken steps and fewer channels than the floor.
    """
    cut = Cut(trace, keep)
    graph = gs.import_onnx(trace.folded.proto)
    slice_constants(graph, trace, cut)
    for index, edit in trace.labels.edits:
        edit(cut, graph.nodes[index])
    return export(graph, trace.folded.proto)


def slice_constants(graph: gs.Graph, trace: Trace, cut: Cut) -> None:
    """Slice every labelled constant. Users that need different slices of one constant get copies of their own."""
    uses: dict[str, list[Use]] = {}
    for use in trace.labels.uses:
        uses.setdefault(use.constant, []).append(use)
    tensors = graph.tensors()
    outputs = {tensor.name for tensor in graph.outputs}
    for name, users in uses.items():
        constant = tensors[name]
        variants: dict[tuple[bytes, ...], gs.Constant] = {}
        masks = {(use.node, use.slot): _masks(trace, cut, use, constant.shape) for use in users}
        places = sum(i is constant for node in graph.nodes for i in node.inputs) if len(users) > 1 else len(users)
        shared = len(constant.outputs) > len(users) or places > len(users) or name in outputs
        for use in users:
            mask = masks[use.node, use.slot]
            if all(m.all() for m in mask):
                continue
            key = tuple(m.tobytes() for m in mask)
            if key not in variants:
                values = constant.values
                for axis, m in enumerate(mask):
                    if not m.all():
                        values = values.compress(m, axis=axis)
                whole = any(all(m.all() for m in other) for other in masks.values())
                first = not variants and not shared and not whole
                made_name = name if first else _free_name(name, tensors)
                variants[key] = gs.Constant(made_name, np.ascontiguousarray(values))
                tensors[made_name] = variants[key]
            graph.nodes[use.node].inputs[use.slot] = variants[key]


def _masks(trace: Trace, cut: Cut, use: Use, shape: Sequence[int]) -> list[Array]:
    masks = [np.ones(n, bool) for n in shape]
    for factor in use.factors:
        axis, line = trace.line_of(factor)
        masks[axis] &= cut.alive[line]
    return masks


def _free_name(name: str, taken: dict[str, Any]) -> str:
    return next(f"{name}_{i}" for i in range(1, len(taken) + 2) if f"{name}_{i}" not in taken)


def export(graph: gs.Graph, like: onnx.ModelProto) -> onnx.ModelProto:
    """The edited graph in the frame of the original: its names, inputs, outputs, opsets, IR version and metadata."""
    made = gs.export_onnx(graph, do_type_check=False)
    result = onnx.ModelProto()
    for field, value in like.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(result, field.name).extend(value)
        else:
            setattr(result, field.name, value)
    result.graph.name = like.graph.name
    result.graph.doc_string = like.graph.doc_string
    result.graph.input.extend(like.graph.input)
    result.graph.output.extend(like.graph.output)
    result.graph.node.extend(made.graph.node)
    needed = {name for node in made.graph.node for name in node.input} | {v.name for v in like.graph.output}
    needed |= {name for node in made.graph.node for name in captured(node)}
    result.graph.initializer.extend(t for t in made.graph.initializer if t.name in needed)
    return result
