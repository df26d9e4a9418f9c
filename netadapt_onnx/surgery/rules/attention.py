"""Fused attention, ONNX's own and onnxruntime's: whole heads go, or (`Choices.attention`) dimensions of every head.

Labels of an operand are tables (heads, dimensions), in which length 1 says that they do not change along that axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.cut import Cut
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.contraction import bind_channels
from netadapt_onnx.surgery.rules.registry import rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Operand:
    """Queries, keys or values: (batch, sequence, heads * size), or (batch, heads, sequence, size) where `split`.

    `table` holds their labels, (heads, size), with length 1 along an axis on which they do not change; None if nothing
    can go.
    """

    heads: int
    size: int
    split: bool
    table: Array | None


def operand(node: Node, labels: Labels, name: str, heads: int) -> Operand:
    """What a runtime tensor carries as one of attention's operands."""
    shape = labels.shape(name)
    split = len(shape) == 4
    if len(shape) not in (3, 4) or labels.is_constant(name):
        raise Unsupported(f"operand '{name}' of shape {shape}")
    reason = f"'{node.name}' attends along it"
    if not split:
        channels = labels.channels(name, 2, reason)
        size = shape[2] // heads
        return Operand(heads, size, False, None if channels is None else channels.reshape(heads, size))
    table: list[Array] = []
    for factor in labels.of(name):
        kept = labels.keep_axes(factor, (1, 3), reason).reshape(factor.shape[1], factor.shape[3])
        if kept.size > 1:  # labels on batch or sequence alone are pinned by now
            table = labels.join(table, kept, reason)
    if len(table) > 1:  # heads and dimensions on their own: only one of them can stay free
        heads_go = labels.choices.attention == "heads"
        for other in [t for t in table if (t.shape[0] > 1) != heads_go]:
            labels.keep_axes(other, (), reason)
        table = [t for t in table if (t.shape[0] > 1) == heads_go]
    return Operand(shape[1], shape[3], True, table[0] if table else None)


def attend(
    node: Node,
    labels: Labels,
    q: Operand,
    k: Operand,
    v: Operand,
    caches: Sequence[Array | None],
    masks: Sequence[Array | None],
) -> Array | None:
    """Tie what scores couple: y[h] = softmax(q[h] k[h]^T) v[h], several heads of q sharing one of k and v.

    Args:
        node: The node.
        labels: What is labelled so far.
        q: Queries.
        k: Keys.
        v: Values.
        caches: Labels (k's heads,) of earlier keys and values; None for one that cannot be cut.
        masks: Labels (k's heads,) of what is added to the scores by head; None likewise.

    Returns:
        The table of the result (q's heads, v's size), or None if nothing can go.
    """
    if q.heads % k.heads:
        raise Unsupported(f"{q.heads} heads of queries for {k.heads} of keys")
    if labels.choices.attention == "dims":
        if caches:
            raise Unsupported("its caches hold every dimension of a head")
        for heads in (heads for heads in masks if heads is not None):
            labels.pin(heads, f"'{node.name}' keeps every head")
        return _attend_with_fewer_dimensions(node, labels, q, k, v)
    reason = f"heads of '{node.name}'"
    shared = q.heads // k.heads
    of_q, of_k, of_v = (_reduced(labels, t.table, 1, reason) for t in (q, k, v))
    if of_q is not None:
        of_q = _reduced(labels, of_q.reshape(k.heads, shared), 1, reason)
    heads_of_each = [of_q, of_k, of_v, *caches, *masks]
    labelled = [heads for heads in heads_of_each if heads is not None]
    for heads in labelled[1:]:
        labels.tie(labelled[0], heads, reason)
    if len(labelled) < len(heads_of_each):
        for heads in labelled:
            labels.pin(heads, f"'{node.name}' combines it with heads that cannot be cut")
        return None
    return np.repeat(labelled[0], shared).reshape(-1, 1)


def _attend_with_fewer_dimensions(node: Node, labels: Labels, q: Operand, k: Operand, v: Operand) -> Array | None:
    """The same where dimensions go from every head: those of q with those of k, and those of v with the result's."""
    reason = f"heads of '{node.name}'"
    of_q, of_k, of_v = (_reduced(labels, t.table, 0, reason) for t in (q, k, v))
    if of_q is not None and of_k is not None:
        labels.tie(of_q, of_k, reason)
    else:
        for dimensions in (of_q, of_k):
            if dimensions is not None:
                labels.pin(dimensions, f"'{node.name}' contracts it with what cannot be cut")
    return None if of_v is None else of_v.reshape(1, -1)


def _reduced(labels: Labels, table: Array | None, axis: int, reason: str) -> Array | None:
    """A table tied along one axis, as labels along the other."""
    return None if table is None else labels.collapse(table, axis, reason).reshape(-1)


def put(labels: Labels, name: str, table: Array | None, heads: int, size: int) -> None:
    """Give a result its labels, in the layout that its rank says."""
    if not name or table is None:
        return
    if len(labels.shape(name)) == 4:
        labels.set(name, [table.reshape(1, table.shape[0], 1, table.shape[1])])
    else:
        labels.set(name, [on_axis(np.broadcast_to(table, (heads, size)).reshape(-1), 2, 3)])


def fuse(
    node: Node,
    labels: Labels,
    operands: Sequence[Operand],
    cache_slots: Sequence[int],
    mask_slot: int | None,
    counts: Mapping[str, tuple[str, int, int]],
) -> None:
    """Tie what a node couples (`attend`) and label its results: the values' mixture, keys and values as caches.

    What scores contract is masked; a cut writes head counts and, where dimensions go, the original scale.

    Args:
        node: The node.
        labels: What is labelled so far.
        operands: Queries, keys and values.
        cache_slots: The inputs that may hold earlier keys and values, (B, heads, T, D).
        mask_slot: The input that may be added to the scores.
        counts: Attributes by (tensor, axis, size): after a cut there are that axis' length / size heads.
    """
    q, k, v = operands
    dims = labels.choices.attention == "dims"
    cache = f"a cache of '{node.name}'"
    caches = [labels.channels(node.inputs[slot], 1, cache) for slot in cache_slots if node.has(slot)]
    masks = [] if mask_slot is None else _masks_by_head(node, labels, mask_slot, q.heads)
    y = attend(node, labels, q, k, v, caches, masks)
    put(labels, node.outputs[0], y, q.heads, v.size)
    for name, t in zip(node.outputs[1:3], (k, v), strict=False):
        heads = None if y is None else y[:: q.heads // t.heads]
        put(labels, name, t.table if dims else heads, t.heads, t.size)
    if dims:
        labels.mask(node, 0)

    def change(cut: Cut, edited: gs.Node) -> None:
        if dims:
            if not edited.attrs.get("scale"):
                edited.attrs["scale"] = float(q.size**-0.5)
            return
        for attribute, (tensor, axis, size) in counts.items():
            edited.attrs[attribute] = cut.shape(tensor)[axis] // size

    labels.edit(node, change)


@rule("Attention")
def attention(node: Node, labels: Labels) -> None:
    """Heads go from queries, keys and values together, or dimensions (`fuse`).

    Shapes: Q (B, S, Hq * D) or (B, Hq, S, D), K and V likewise; caches (B, Hkv, T, D).
    """
    operands = _operands(node, labels, node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0))
    counts = {} if operands[0].split else _head_counts(node, operands, "q_num_heads", "kv_num_heads")
    fuse(node, labels, operands, (4, 5), 3, counts)
    if any(node.outputs[3:]):
        raise Unsupported("its scores are an output")


def _operands(node: Node, labels: Labels, q_heads: int, kv_heads: int) -> list[Operand]:
    """Queries, keys and values: the first three inputs."""
    counts = (q_heads, kv_heads, kv_heads)
    return [operand(node, labels, name, heads) for name, heads in zip(node.inputs, counts, strict=False)]


def _head_counts(node: Node, operands: Sequence[Operand], q: str, kv: str) -> dict[str, tuple[str, int, int]]:
    """The attributes `q` and `kv` that count the heads of queries and of keys, (B, S, H * D) both."""
    return {q: (node.inputs[0], 2, operands[0].size), kv: (node.inputs[1], 2, operands[1].size)}


def _masks_by_head(node: Node, labels: Labels, slot: int, heads: int) -> list[Array | None]:
    """Labels (heads,) of an additive mask if it differs by head: fresh ones where it is a constant."""
    shape = labels.shape(node.inputs[slot]) if node.has(slot) else ()
    if len(shape) != 4 or shape[1] == 1:
        return []
    if not labels.is_constant(node.inputs[slot]):
        return [labels.channels(node.inputs[slot], 1, f"the mask of '{node.name}'")]
    by_head = labels.fresh(heads)
    labels.bind(node, slot, [on_axis(by_head, 1, 4)])
    return [by_head]


@rule("MultiHeadAttention", domain="com.microsoft")
def multi_head_attention(node: Node, labels: Labels) -> None:
    """Heads go from queries, keys and values together, or dimensions (`fuse`).

    Shapes: query (B, S, H * D); key and value (B, T, H * D) or (B, H, T, D); bias (3 * H * D,).
    """
    heads = node.integer("num_heads", 0)
    if not all(node.has(slot) for slot in range(3)) or len(labels.shape(node.inputs[0])) != 3:
        raise Unsupported("packed operands")
    operands = _operands(node, labels, heads, heads)
    fuse(node, labels, operands, (6, 7), 5, {"num_heads": (node.inputs[0], 2, operands[0].size)})
    if node.has(3):
        tables = [(t.heads, t.size, np.zeros((1, 1), np.int64) if t.table is None else t.table) for t in operands]
        parts = [np.broadcast_to(table, (heads, size)).reshape(-1) for heads, size, table in tables]
        bind_channels(node, labels, 3, np.concatenate(parts))
        if labels.choices.attention == "dims":
            labels.mask(node, 3)  # what it adds to a removed dimension would be contracted


@rule("GroupQueryAttention", domain="com.microsoft")
def group_query_attention(node: Node, labels: Labels) -> None:
    """Heads go from queries, keys and values together (`fuse`).

    Shapes: query (B, S, H * D); key and value (B, S, Hkv * D); past and present (B, Hkv, T, D); rotary
    caches (T, D / 2).
    """
    if not all(node.has(slot) for slot in range(3)):
        raise Unsupported("packed operands")
    if labels.choices.attention == "dims":
        raise Unsupported("heads of 8, 16, ... dimensions, the same for queries, keys and values")
    operands = _operands(node, labels, node.integer("num_heads", 0), node.integer("kv_num_heads", 0))
    fuse(node, labels, operands, (3, 4), None, _head_counts(node, operands, "num_heads", "kv_num_heads"))


@rule("Attention", domain="com.microsoft")
def projected_attention(node: Node, labels: Labels) -> None:
    """The node projects x to queries, keys and values, which makes it a layer, and attends (`project`).

    Shapes: x (B, S, I); weights (I, Dq + Dk + Dv); bias (Dq + Dk + Dv,); y (B, S, Dv).
    """
    project(node, labels)


def project(node: Node, labels: Labels) -> Array:
    """Project x to queries, keys and values and attend; returns the labels (Dq + Dk + Dv,) of the projections."""
    weight = node.inputs[1]
    if not labels.is_constant(weight):
        raise Unsupported("its weights are computed at run time")
    if node.has(4) or node.integer("do_rotary", 0):
        raise Unsupported("a cache or rotary embeddings")
    heads = node.integer("num_heads", 1)
    total = labels.shape(weight)[1]
    sizes = [int(n) // heads for n in node.attributes.get("qkv_hidden_sizes", [total // 3] * 3)]
    channels = labels.channels(node.inputs[0], 2, f"'{node.name}' projects it")
    parts = _projected(node, labels, heads, sizes)
    columns = np.concatenate(parts)
    labels.bind(node, 1, [on_axis(columns, 1, 2), *([] if channels is None else [on_axis(channels, 0, 2)])])
    if node.has(2):
        bind_channels(node, labels, 2, columns)
    labels.owns(node, parts[2], 1, 1, np.where(np.isin(columns, parts[2]), columns, 0))
    # Where dimensions go, weights too: queries and keys are contracted inside.
    for slot in (0, 1, 2) if labels.choices.attention == "dims" else (0,):
        if node.has(slot):
            labels.mask(node, slot)
    labels.set(node.outputs[0], [on_axis(parts[2], 2, 3)])
    _set_projection(node, labels, heads, sizes)
    return columns


def _set_projection(node: Node, labels: Labels, heads: int, sizes: Sequence[int]) -> None:
    """Have a cut write the sizes of queries, keys and values, and the head count or the original scale."""
    dims = labels.choices.attention == "dims"

    def change(cut: Cut, edited: gs.Node) -> None:
        kept = cut.kept(node.inputs[1], 1)
        if kept.all():
            return
        if node.op == "Attention":  # that of bytes has queries, keys and values of the same size
            ends = np.cumsum([heads * size for size in sizes])
            edited.attrs["qkv_hidden_sizes"] = [int(part.sum()) for part in np.split(kept, ends[:-1])]
        if dims and not edited.attrs.get("scale"):
            edited.attrs["scale"] = float(sizes[0] ** -0.5)
        if not dims:
            edited.attrs["num_heads"] = int(kept.sum()) // sum(sizes)

    labels.edit(node, change)


def _projected(node: Node, labels: Labels, heads: int, sizes: Sequence[int]) -> list[Array]:
    """Fresh labels of the columns of queries, keys and values, (heads * size,) each."""
    if labels.choices.attention == "dims":
        scored, values = (np.tile(labels.fresh(sizes[i]), heads) for i in (0, 2))
        labels.owns(node, scored, 1, 1, np.concatenate([scored, scored, np.zeros_like(values)]))
        return [scored, scored, values]
    own = labels.fresh(heads)
    for bias in _masks_by_head(node, labels, 5, heads):
        if bias is None:
            labels.pin(own, f"'{node.name}' adds '{node.inputs[5]}', which cannot be cut")
        else:
            labels.tie(own, bias, f"heads of '{node.name}'")
    return [np.repeat(own, size) for size in sizes]


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding(node: Node, labels: Labels) -> None:
    """Heads go whole: pairs of dimensions are turned by angles of their own.

    Shapes: x (B, S, H * D) or (B, H, S, D).
    """
    x, y = node.inputs[0], node.outputs[0]
    attribute = "num_heads"
    shape = labels.shape(x)
    heads = shape[1] if len(shape) == 4 else node.integer(attribute, 0)
    if not heads:
        raise Unsupported("a head count that only its caches tell")
    turned = operand(node, labels, x, heads)
    if turned.table is None:
        return
    by_head = labels.collapse(turned.table, 1, f"'{node.name}' turns pairs of dimensions")
    if by_head.any():
        put(labels, y, by_head, turned.heads, turned.size)
    if node.integer(attribute, 0):

        def change(cut: Cut, edited: gs.Node) -> None:
            edited.attrs[attribute] = cut.shape(x)[1] if turned.split else cut.shape(x)[2] // turned.size

        labels.edit(node, change)
