"""What a model computes in front of a change, kept: variants of one model are then judged, or trained, from there on.

The activations between the front and the rest become the samples, the rest becomes the model. A front is derived by
reachability; the activations of all fronts come from one pass and lie in memory-mapped files without a name: however
this process ends, nothing of them stays. Imports no torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import onnx

from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import batch_size, fixed_batch
from netadapt_onnx.graph.extract import between, boundary
from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.graph.runtime import Arrays, run, session

# What the files of one base model may take on the disk.
MOST_BYTES = 2**29

Front = frozenset[int]


def front_of(proto: onnx.ModelProto, changed: set[str]) -> Front:
    """The nodes that neither touch one of the tensors `changed` nor follow one that does."""
    moving, front = set(changed), set()
    for index, node in enumerate(proto.graph.node):
        if moving.isdisjoint(reads(node)) and moving.isdisjoint(node.output):
            front.add(index)
        else:
            moving.update(node.output)
    return frozenset(front)


@dataclass(frozen=True)
class Kept:
    """A front whose activations, those of `names`, are kept."""

    front: Front
    names: tuple[str, ...]


class Prefixes:
    """The activations of `base` on `split` behind each of `fronts`, deepest first as far as `most_bytes` reach.

    Nothing depends on the order in which variants come, so that what is judged does not either.
    """

    def __init__(
        self, base: onnx.ModelProto, fronts: Sequence[Front], split: Split, most_bytes: int = MOST_BYTES
    ) -> None:
        self._base = base
        self._split = split
        self._size = batch_size(base, split.layout)
        self._fixed = fixed_batch(base, split.layout) is not None
        put_out = {value.name for value in base.graph.output}
        inputs = {value.name for value in base.graph.input}
        candidates = [Kept(front, tuple(boundary(base, front))) for front in sorted(set(fronts), key=_depth)]
        candidates = [kept for kept in candidates if kept.front and not split.varies and not put_out & set(kept.names)]
        usable = self._bytes([n for kept in candidates for n in kept.names if n not in inputs]) if candidates else {}
        self._kept: list[Kept] = []
        total, stored = 0, set[str]()
        for kept in candidates:
            more = {name for name in kept.names if name not in stored and name not in inputs}
            if more <= usable.keys() and total + sum(usable[name] for name in more) <= most_bytes:
                total += sum(usable[name] for name in more)
                stored |= more
                self._kept.append(kept)
        self._arrays = self._computed(sorted(stored))

    def shortened(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Split]:
        """The rest of a variant of the base model, and the samples that it takes; both as given if nothing is kept."""
        found = self.longest(proto)
        if found is None:
            return proto, self._split
        rest = self.behind(proto, found)
        return rest, self.samples(rest)

    def longest(self, proto: onnx.ModelProto) -> Kept | None:
        """The longest front that a variant of the base model has unchanged, if any is kept."""
        same = self._unchanged(proto) if self._kept else frozenset[int]()
        return next((kept for kept in self._kept if kept.front <= same), None)

    def behind(self, proto: onnx.ModelProto, kept: Kept) -> onnx.ModelProto:
        """The rest of a model that has this front."""
        examples = self._split.batch(slice(0, 1)) | {name: np.asarray(v[:1]) for name, v in self._arrays.items()}
        given = {name: examples[name] for name in kept.names}
        rest = between(proto, given, [value.name for value in proto.graph.output])
        for value in rest.graph.input:
            if self._fixed:
                value.type.tensor_type.shape.dim[0].dim_value = self._size
        return rest

    def samples(self, rest: onnx.ModelProto) -> Split:
        """The samples as the rest of a model takes them."""
        wanted = [value.name for value in rest.graph.input]
        kept = self._arrays.keys() >= set(wanted)
        arrays = self._arrays if kept else {**self._arrays, **self._split.batch(slice(None))}
        inputs = {name: arrays[name] for name in wanted}
        return replace(self._split, inputs=inputs, labels=self._split.targets(), scaling={}, rows=None)

    def _unchanged(self, proto: onnx.ModelProto) -> Front:
        """The base's nodes that a variant computes to the same values, numbered as in the base."""
        theirs = {node.output[0]: _same_as(node) for node in proto.graph.node if node.output}
        values = {t.name: t for t in proto.graph.initializer}
        known: set[str] = {v.name for v in self._base.graph.input}
        known |= {t.name for t in self._base.graph.initializer if t.name in values and t == values[t.name]}
        same = set()
        for index, node in enumerate(self._base.graph.node):
            if node.output and theirs.get(node.output[0]) == _same_as(node) and known.issuperset(reads(node)):
                same.add(index)
                known.update(node.output)
        return frozenset(same)

    def _bytes(self, names: list[str]) -> dict[str, int]:
        """What each tensor takes for all samples; those whose first axis is not the batch are left out."""
        index = np.minimum(np.arange(self._size), len(self._split) - 1)
        inputs = self._split.batch(index)
        names = list(dict.fromkeys(names))
        found = _run(self._base, inputs, names)
        # An axis that is as long as the batch by chance stays so in another one.
        alone = found if self._fixed else _run(self._base, {n: v[:1] for n, v in inputs.items()}, names)
        first = self._size if self._fixed else 1
        share = len(self._split) / self._size
        return {
            name: int(value.nbytes * share)
            for name, value in found.items()
            if value.shape[:1] == (self._size,) and alone[name].shape == (first, *value.shape[1:])
        }

    def _computed(self, names: list[str]) -> Arrays:
        arrays: Arrays = {}
        if not names:
            return arrays
        count, example = len(self._split), self._split.batch(slice(0, 1))
        active = session(between(self._base, example, names))
        wanted = {value.name for value in active.get_inputs()}
        with ExitStack() as opened:
            files: dict[str, tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]] = {}
            for start in range(0, count, self._size):
                index = np.arange(start, start + self._size)
                index = np.minimum(index, count - 1) if self._fixed else index[index < count]
                inputs = {name: value for name, value in self._split.batch(index).items() if name in wanted}
                for name, value in run(active, inputs, names).items():
                    if name not in files:
                        made = opened.enter_context(tempfile.TemporaryFile())
                        files[name] = made, value.dtype, (count, *value.shape[1:])
                    # Written, not mapped yet: a full disk is an error here, and a killed process there.
                    files[name][0].write(np.ascontiguousarray(value[: count - start]).data)
            for name, (file, dtype, shape) in files.items():
                file.flush()
                arrays[name] = np.memmap(file, dtype, "r", shape=shape)
        return arrays


def _same_as(node: onnx.NodeProto) -> tuple[object, ...]:
    """What makes two nodes compute the same from the same inputs."""
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.domain, tuple(node.input), tuple(node.output), tuple(attributes)


def _depth(front: Front) -> tuple[int, list[int]]:
    return -len(front), sorted(front)


def _run(proto: onnx.ModelProto, inputs: Arrays, names: list[str]) -> Arrays:
    part = between(proto, inputs, names)
    wanted = {value.name for value in part.graph.input}
    return run(session(part), {name: value for name, value in inputs.items() if name in wanted}, names)
