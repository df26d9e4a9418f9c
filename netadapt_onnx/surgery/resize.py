"""Cut a traced model, or widen it: take every constant at its kept labels, rewrite every number that counted channels.

A channel that is added stands beside the one it is modelled on, in every tensor: after it, or, where the channel is a
run of equal labels (a head's dimensions, a flattened map's pixels), after the whole run. Its weights are drawn with the
standard deviation of their tensor; per-channel vectors (biases, BatchNorm) are copied.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Container, Sequence
from hashlib import sha256
from itertools import count
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.editing import Editing
from netadapt_onnx.surgery.factors import on_axis
from netadapt_onnx.surgery.inheritance import Inheritance, write
from netadapt_onnx.surgery.labels import Use
from netadapt_onnx.surgery.trace import KeptIndices, Trace
from netadapt_onnx.surgery.unflatten_subgraphs import restore
from netadapt_onnx.surgery.union_find import Array


class Cut:
    """What is left of every tensor after a cut, and the edits that rules make by it."""

    def __init__(self, trace: Trace, keep: KeptIndices) -> None:
        self._trace = trace
        self._copies = trace.copies(keep)
        self._shapes = trace.resized_shapes(keep)
        versions = {o.domain: o.version for o in trace.flat.proto.opset_import}
        self.opset = versions.get("", versions.get("ai.onnx", 1))
        self.grows = bool((self._copies > 1).any())
        self.added: list[gs.Node] = []  # by edits, to be put in front of what reads them

    def original_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor before the cut."""
        return self._trace.flat.shapes[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor after the cut."""
        return self._shapes[name]

    def shape_if_known(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor after the cut; None where no run gave it one."""
        return self._shapes.get(name)

    def counts(self, name: str, axis: int) -> Array:
        """How often each position along one axis of a tensor is there after the cut."""
        counts = np.ones(self.original_shape(name)[axis], np.int64)
        for k, line in self._trace.axes.get(name, ()):
            if k == axis:
                counts *= self._copies[line]
        return counts

    def kept(self, name: str, axis: int) -> NDArray[np.bool_]:
        """Mask of the positions kept along one axis of a tensor."""
        return self.counts(name, axis) > 0

    def remains(self, factors: Sequence[Array]) -> list[tuple[int, NDArray[np.bool_]]]:
        """For each factor of a tensor's labels its axis, and which positions along that are there after the cut."""
        lines = [self._trace.line_of(factor) for factor in factors]
        return [(axis, self._copies[line] > 0) for axis, line in lines]

    def counts_of(self, labels: Array) -> Array:
        """How often each of some labels is there after the cut."""
        counts: Array = self._copies[self._trace.roots[labels]]
        return counts

    def layout(self, name: str, axis: int) -> tuple[Array, Array]:
        """For each position along an axis after the cut: where it comes from, and which copy it is (0: itself)."""
        lines = [line for k, line in self._trace.run_axes.get(name, ()) if k == axis]
        return arrange(self.counts(name, axis), lines)

    def taken(self, use: Use, values: np.ndarray) -> np.ndarray | None:
        """A constant's values after the cut, as one node uses it; None if they are all there."""
        if use.blocks is not None:
            return self._taken_by_blocks(use, use.blocks, values)
        changed = False
        new = np.zeros((1,) * values.ndim, bool)
        for factor in use.factors:
            axis, line = self._trace.line_of(factor)
            counts = self._copies[line]
            if (counts == 1).all():
                continue
            changed = True
            positions, copy = arrange(counts, [self._trace.runs_of(factor)])
            values = values.take(positions, axis)
            new = (new if new.shape[axis] == 1 else new.take(positions, axis)) | (on_axis(copy, axis, values.ndim) > 0)
        if not changed:
            return None
        matrix = sum(n > 1 for n in values.shape) > 1 and values.dtype.kind == "f"
        return _drawn(values, np.broadcast_to(new, values.shape), use.constant) if matrix and new.any() else values

    def _taken_by_blocks(self, use: Use, blocks: Array, values: np.ndarray) -> np.ndarray | None:
        """The same where each run of axis 0 keeps other positions of axis 1, but as many."""
        rows, row_copy = np.arange(len(values)), np.zeros(len(values), np.int64)
        for factor in use.factors:
            axis, line = self._trace.line_of(factor)
            if axis == 0:
                rows, row_copy = arrange(self._copies[line], [self._trace.runs_of(factor)])
        each = [arrange(self._copies[self._trace.roots[block]], [self._trace.runs[block]]) for block in blocks]
        columns, column_copy = (np.stack(parts) for parts in zip(*each, strict=True))
        if len(rows) == len(values) and columns.shape == blocks.shape and not row_copy.any():
            return None
        block = rows * len(blocks) // len(values)
        values = values[rows[:, None], columns[block]]
        new = (row_copy[:, None] > 0) | (column_copy[block] > 0)
        new = new.reshape(*new.shape, *[1] * (values.ndim - 2))
        return _drawn(values, np.broadcast_to(new, values.shape), use.constant) if new.any() else values

    def integers(self, node: gs.Node, slot: int) -> Array:
        """Value of a constant integer input."""
        return np.asarray(node.inputs[slot].values)

    def set_integers(self, node: gs.Node, slot: int, values: Any) -> None:
        """Replace an integer input by a constant; others that read the old one keep it."""
        old = node.inputs[slot] if slot < len(node.inputs) else None
        dtype = old.values.dtype if isinstance(old, gs.Constant) else np.int64
        alone = old is not None and len(old.outputs) == 1
        name = old.name if old is not None and old.name and alone else f"{node.outputs[0].name}/{slot}"
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
        elif _is_formula(source):
            self._resize_formula(source, before, after)
        else:
            node.inputs[slot] = self._overruled(source, before, after, f"{node.name or output}/{slot}")

    @staticmethod
    def _rewritten(values: Array, before: Sequence[int], after: Sequence[int]) -> Array:
        values = values.copy()
        offset = len(before) - len(values)  # Expand's target may have fewer axes than its result
        for axis in range(max(offset, 0), len(before)):
            if values[axis - offset] == before[axis] != after[axis]:
                values[axis - offset] = after[axis]
        return values

    def _resize_formula(self, source: gs.Variable, before: Sequence[int], after: Sequence[int]) -> None:
        """Dimensions computed as `slope * batch + offset` (`symbolic_batch.py`): scale the entries that were cut."""
        add = source.inputs[0]
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

    def _overruled(self, source: gs.Variable, before: Sequence[int], after: Sequence[int], name: str) -> gs.Variable:
        """Dimensions computed at run time, but for those of axes that were cut."""
        offset = len(before) - self._shapes[source.name][0]  # Expand's target may have fewer axes than its result
        cut = np.array([old != new for old, new in zip(before, after, strict=True)][offset:])
        dims = np.array(after[offset:], np.int64)
        made = gs.Variable(f"{name}/dims")
        inputs = [gs.Constant(f"{name}/cut", cut), gs.Constant(f"{name}/sizes", dims), source]
        self.added.append(gs.Node("Where", name=f"{name}/dims", inputs=inputs, outputs=[made]))
        return made

    def set_gather(self, node: gs.Node, slot: int, data: str, axis: int, indices: Array, output: str) -> None:
        """Indices (of any rank) into a cut axis: those that are kept, at their new positions."""
        positions, copies = self.layout(data, axis)
        length = self.original_shape(data)[axis]
        if len(positions) == length and not copies.any():
            return
        at = np.zeros((length, int(copies.max(initial=0)) + 1), np.int64)
        at[positions, copies] = np.arange(len(positions))
        copy = np.zeros((1,) * indices.ndim, np.int64)
        for k in range(indices.ndim):
            taken, which = self.layout(output, axis + k)
            indices = indices.take(taken, k)
            copy = np.maximum(copy, on_axis(which, k, indices.ndim))
        self.set_integers(node, slot, at[np.where(indices < 0, indices + length, indices), copy])


def _is_formula(source: gs.Variable) -> bool:
    """Whether dimensions are `slope * batch + offset` as `symbolic_batch.py` writes them."""
    add = source.inputs[0] if source.inputs else None
    if add is None or add.op != "Add" or not isinstance(add.inputs[1], gs.Constant) or not add.inputs[0].inputs:
        return False
    mul = add.inputs[0].inputs[0]
    return mul.op == "Mul" and isinstance(mul.inputs[1], gs.Constant)


def arrange(counts: Array, lines: Sequence[Array]) -> tuple[Array, Array]:
    """Positions (n,) repeated as `counts` says, and the number of each copy; runs of equal labels repeat as a whole."""
    if counts.max(initial=0) <= 1:
        positions = np.flatnonzero(counts)
        return positions, np.zeros_like(positions)
    positions = np.repeat(np.arange(len(counts)), counts)
    copy = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.zeros(len(counts), bool)
    for line in lines:
        starts[1:] |= line[1:] != line[:-1]
    order = np.lexsort((positions, copy, np.cumsum(starts)[positions]))
    return positions[order], copy[order]


def _drawn(values: np.ndarray, new: np.ndarray, name: str) -> np.ndarray:
    """The same values with those marked `new` drawn at random, from a seed that is the tensor's name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    spread = float(values.astype(np.float64).std())
    drawn: np.ndarray = np.where(new, rng.normal(0.0, spread, values.shape), values).astype(values.dtype)
    return drawn


def resize(trace: Trace, keep: KeptIndices) -> onnx.ModelProto:
    """The traced model with the channels of each group that `keep` names; groups left out stay as they are.

    `keep[group]` holds ascending channel indices; one that is repeated gets new channels beside it. Raises
    NetadaptError for unknown or pinned groups, indices out of range, broken steps and too few channels.
    """
    cut = Cut(trace, keep)
    result = resize_flat(trace, cut)
    restore(result, trace.bodies, cut.shape_if_known)
    return result


def resize_flat(trace: Trace, cut: Cut) -> onnx.ModelProto:
    """The same with its subgraphs still laid out flat."""
    editing = Editing(trace.flat.proto, trace.flat.file)
    take_constants(editing, trace, cut)
    for index, edit in trace.labels.edits:
        edit(cut, editing.graph.nodes[index])
    if cut.added:
        editing.graph.nodes.extend(cut.added)
        editing.graph.toposort()
    result = editing.exported()
    _write_inheritance(result, trace, cut)
    for value in (*result.graph.input, *result.graph.output):
        if value.name in trace.labels.choices.resize_io:
            for dim, n in zip(value.type.tensor_type.shape.dim, cut.shape(value.name), strict=False):
                if dim.HasField("dim_value"):
                    dim.dim_value = n
    return result


def _write_inheritance(result: onnx.ModelProto, trace: Trace, cut: Cut) -> None:
    """Have a cut model say which channels belong together for the sake of equal conv groups, if not by their index."""
    labels = trace.labels
    if cut.grows or (trace.runs is trace.roots and not labels.inherited.ties):
        return
    tables = [trace.roots[table].reshape(-1) for table, _ in labels.balances]
    concerned = np.unique(np.concatenate([*tables, np.zeros(1, np.int64)]))[1:]
    ties: dict[str, list[int]] = {}
    for layer in labels.layers:
        line = trace.roots[layer.channels]
        if np.isin(line, concerned).any():
            ties[layer.name] = line[cut.counts_of(layer.channels) > 0].tolist()
    write(result, Inheritance(ties, frozenset(labels.even_groups), frozenset(labels.whole_groups)))


def take_constants(editing: Editing, trace: Trace, cut: Cut) -> None:
    """Cut every labelled constant. Users that need different slices of one constant get copies of their own."""
    graph = editing.graph
    uses: dict[str, list[Use]] = {}
    for use in trace.labels.uses:
        uses.setdefault(use.constant, []).append(use)
    tensors = graph.tensors()
    outputs = {tensor.name for tensor in graph.outputs}
    places = Counter(id(tensor) for node in graph.nodes for tensor in node.inputs)
    for name, users in uses.items():
        constant = tensors[name]
        original = editing.values(constant)
        made = {(use.node, use.slot): cut.taken(use, original) for use in users}
        shared = max(len(constant.outputs), places[id(constant)]) > len(users) or name in outputs
        whole = any(values is None for values in made.values())
        variants: dict[tuple[object, ...], gs.Constant] = {}
        for use in users:
            values = made[use.node, use.slot]
            if values is None:
                continue
            key = (values.shape, sha256(values.tobytes()).digest()) if len(users) > 1 else ()
            variant = variants.get(key)
            if variant is None:
                first = not variants and not shared and not whole
                made_name = name if first else free_name(name, tensors, len(variants))
                variant = tensors[made_name] = editing.constant(made_name, values)
                variants[key] = variant
            graph.nodes[use.node].inputs[use.slot] = variant


def free_name(name: str, taken: Container[str], start: int = 0) -> str:
    """The first `NAME_i` with i from `start` (at least 1) on that is not taken."""
    return next(f"{name}_{i}" for i in count(max(start, 1)) if f"{name}_{i}" not in taken)
