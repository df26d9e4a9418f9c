"""Activations in front of a change, computed once: variants of one model are then scored from there on.

The activations between a prefix of the graph and the rest become the samples, the rest becomes the model. A prefix is
derived by reachability; the activations of all prefixes come from one pass and lie in memory-mapped files without a
name: however this process ends, nothing of them stays. Imports no torch.
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

# What the files of one base model may take on the disk. Twice as much takes a ResNet-20 0.9 s of CPU more to write, and
# saves 0.2 s in twelve proposals; EfficientNet-Lite0 0.6 s and 0.2 s in 24.
MOST_BYTES = 2**28

# Numbers of the nodes that no change reaches.
Prefix = frozenset[int]


def unchanged_prefix(proto: onnx.ModelProto, changed: set[str]) -> Prefix:
    """The nodes that neither touch one of the tensors `changed` nor follow one that does."""
    affected, prefix = set(changed), set()
    for index, node in enumerate(proto.graph.node):
        if affected.isdisjoint(reads(node)) and affected.isdisjoint(node.output):
            prefix.add(index)
        else:
            affected.update(node.output)
    return frozenset(prefix)


@dataclass(frozen=True)
class _CachedPrefix:
    """A prefix whose activations, those of `names`, are cached."""

    prefix: Prefix
    names: tuple[str, ...]


class ActivationCache:
    """The activations of a model on a split behind some prefixes, deepest first as far as the disk space reaches.

    The result does not depend on the order in which variants come, so that their scores do not either.
    """

    def __init__(
        self, base: onnx.ModelProto, prefixes: Sequence[Prefix], split: Split, most_bytes: int = MOST_BYTES
    ) -> None:
        """Compute the activations.

        Args:
            base: The model that variants are cut from.
            prefixes: Prefixes of its graph.
            split: The samples.
            most_bytes: What the files may take.
        """
        self._base = base
        self._split = split
        self._size = batch_size(base, split)
        self._fixed = fixed_batch(base, split.layout) is not None
        put_out = {value.name for value in base.graph.output}
        inputs = {value.name for value in base.graph.input}
        candidates = [_CachedPrefix(one, tuple(boundary(base, one))) for one in sorted(set(prefixes), key=_depth)]
        candidates = [one for one in candidates if one.prefix and not split.varies and not put_out & set(one.names)]
        usable = self._bytes([n for one in candidates for n in one.names if n not in inputs]) if candidates else {}
        self._cached: list[_CachedPrefix] = []
        total, stored = 0, set[str]()
        for one in candidates:
            more = {name for name in one.names if name not in stored and name not in inputs}
            if more <= usable.keys() and total + sum(usable[name] for name in more) <= most_bytes:
                total += sum(usable[name] for name in more)
                stored |= more
                self._cached.append(one)
        self._arrays = self._computed(sorted(stored))

    def shortened(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Split]:
        """The rest of a variant of the base model, and the samples that it takes; both unchanged if none is cached."""
        cached = self._longest(proto)
        if cached is None:
            return proto, self._split
        rest = self._rest(proto, cached)
        return rest, self._samples(rest)

    def _longest(self, proto: onnx.ModelProto) -> _CachedPrefix | None:
        """The longest cached prefix that a variant of the base model has unchanged."""
        same = self._unchanged(proto) if self._cached else frozenset[int]()
        return next((one for one in self._cached if one.prefix <= same), None)

    def _rest(self, proto: onnx.ModelProto, cached: _CachedPrefix) -> onnx.ModelProto:
        """What follows a prefix in a model that has it."""
        examples = self._split.batch(slice(0, 1)) | {name: np.asarray(v[:1]) for name, v in self._arrays.items()}
        inputs = {name: examples[name] for name in cached.names}
        rest = between(proto, inputs, [value.name for value in proto.graph.output])
        for value in rest.graph.input:
            if self._fixed:
                value.type.tensor_type.shape.dim[0].dim_value = self._size
        return rest

    def _samples(self, rest: onnx.ModelProto) -> Split:
        """The samples as the rest of a model takes them."""
        names = [value.name for value in rest.graph.input]
        all_cached = self._arrays.keys() >= set(names)
        arrays = self._arrays if all_cached else {**self._arrays, **self._split.batch(slice(None))}
        inputs = {name: arrays[name] for name in names}
        return replace(self._split, inputs=inputs, labels=self._split.targets(), scaling={}, rows=None)

    def _unchanged(self, proto: onnx.ModelProto) -> Prefix:
        """The base's nodes that a variant computes to the same values, numbered as in the base."""
        nodes = {node.output[0]: _same_as(node) for node in proto.graph.node if node.output}
        values = {t.name: t for t in proto.graph.initializer}
        equal: set[str] = {v.name for v in self._base.graph.input}
        equal |= {t.name for t in self._base.graph.initializer if t.name in values and t == values[t.name]}
        same = set()
        for index, node in enumerate(self._base.graph.node):
            if node.output and nodes.get(node.output[0]) == _same_as(node) and equal.issuperset(reads(node)):
                same.add(index)
                equal.update(node.output)
        return frozenset(same)

    def _bytes(self, names: list[str]) -> dict[str, int]:
        """What each tensor takes for all samples; those whose first axis is not the batch are left out."""
        index = np.minimum(np.arange(self._size), len(self._split) - 1)
        inputs = self._split.batch(index)
        names = list(dict.fromkeys(names))
        values = _run(self._base, inputs, names)
        # An axis that is as long as the batch by chance stays so in another one.
        alone = values if self._fixed else _run(self._base, {n: v[:1] for n, v in inputs.items()}, names)
        first = self._size if self._fixed else 1
        share = len(self._split) / self._size
        return {
            name: int(value.nbytes * share)
            for name, value in values.items()
            if value.shape[:1] == (self._size,) and alone[name].shape == (first, *value.shape[1:])
        }

    def _computed(self, names: list[str]) -> Arrays:
        """Tensors for all samples, mapped from files without a name."""
        arrays: Arrays = {}
        if not names:
            return arrays
        count, example = len(self._split), self._split.batch(slice(0, 1))
        active = session(between(self._base, example, names))
        input_names = {value.name for value in active.get_inputs()}
        with ExitStack() as opened:
            files: dict[str, tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]] = {}
            for start in range(0, count, self._size):
                index = np.arange(start, start + self._size)
                index = np.minimum(index, count - 1) if self._fixed else index[index < count]
                inputs = {name: value for name, value in self._split.batch(index).items() if name in input_names}
                for name, value in run(active, inputs, names).items():
                    if name not in files:
                        opened_file = opened.enter_context(tempfile.TemporaryFile())
                        files[name] = opened_file, value.dtype, (count, *value.shape[1:])
                    # Written first and mapped later: a full disk is then an error, and not a deadly signal.
                    files[name][0].write(np.ascontiguousarray(value[: count - start]).data)
            for name, (file, dtype, shape) in files.items():
                file.flush()
                arrays[name] = np.memmap(file, dtype, "r", shape=shape)
        return arrays


def _same_as(node: onnx.NodeProto) -> tuple[object, ...]:
    """What makes two nodes compute the same from the same inputs."""
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.domain, tuple(node.input), tuple(node.output), tuple(attributes)


def _depth(prefix: Prefix) -> tuple[int, list[int]]:
    return -len(prefix), sorted(prefix)


def _run(proto: onnx.ModelProto, inputs: Arrays, names: list[str]) -> Arrays:
    part = between(proto, inputs, names)
    input_names = {value.name for value in part.graph.input}
    return run(session(part), {name: value for name, value in inputs.items() if name in input_names}, names)
