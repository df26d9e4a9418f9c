"""Training behind a frozen front: what lies in front of a cut is computed once for all variants, the rest trains."""

from __future__ import annotations

from dataclasses import replace

import onnx

from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.training.activation_cache import Front, Prefixes
from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.replicas import DistillationTargets
from netadapt_onnx.training.trainer import train


class FrozenFronts:
    """Variants of `base` learn `answers` on `split`, each from the longest of the `fronts` that it has unchanged.

    Fronts are kept as `Prefixes` keep them; a variant without one trains whole, on the same samples.
    """

    def __init__(self, base: onnx.ModelProto, fronts: list[Front], split: Split, answers: DistillationTargets) -> None:
        self._base = base
        self._prefixes = Prefixes(base, fronts, split)
        self._split = split
        self._answers = answers

    def trained(
        self, variant: onnx.ModelProto, dataset: Dataset, options: TrainingOptions, callbacks: TrainingCallbacks
    ) -> onnx.ModelProto:
        """The variant with new weights behind its front; statistics of BatchNorms in front of it stay, too."""
        kept = self._prefixes.longest(variant)
        rest, uncut, samples = variant, self._base, self._split
        if kept is not None:
            rest, uncut = (self._prefixes.behind(proto, kept) for proto in (variant, self._base))
            samples = self._prefixes.samples(rest)
        data = replace(dataset, train=samples)
        result = train(rest, data, options, teacher=self._answers, uncut=uncut, callbacks=callbacks)
        return result.proto if kept is None else _joined(variant, result.proto)


def _joined(whole: onnx.ModelProto, rest: onnx.ModelProto) -> onnx.ModelProto:
    """The whole model with the nodes and values of its rest; folding a BatchNorm may have given a layer a bias."""
    nodes = {name: node for node in rest.graph.node for name in node.output if name}
    values = {tensor.name: tensor for tensor in rest.graph.initializer}
    joined = onnx.ModelProto()
    joined.CopyFrom(whole)
    for node in joined.graph.node:
        node.CopyFrom(next((nodes[name] for name in node.output if name in nodes), node))
    for tensor in joined.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(values.pop(tensor.name))
    joined.graph.initializer.extend(values.values())
    return joined
