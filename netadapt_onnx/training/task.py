"""What training minimises: cross-entropy with labels, distillation from the original model, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.data import class_output

Form = Literal["logits", "probabilities", "log_probabilities", "values"]

TEMPERATURE = 4.0
DISTILLATION_SHARE = 0.9
_TINY = 1e-7


@dataclass(frozen=True)
class Output:
    """One output as the loss sees it: scores over `axis`, or plain values."""

    form: Form
    axis: int = 1


@dataclass(frozen=True)
class Task:
    """The loss over a model's outputs. `labelled` is the output that labels speak of, if any."""

    outputs: Mapping[str, Output]
    labelled: str | None
    temperature: float = TEMPERATURE
    distillation_share: float = DISTILLATION_SHARE

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor | None, teacher: Mapping[str, Tensor] | None
    ) -> Tensor:
        """The mean loss of a batch, a scalar: 0.9 distillation + 0.1 cross-entropy where both are known.

        Raises NetadaptError where neither is.
        """
        terms: list[tuple[float, Tensor]] = []
        if teacher is not None:
            total = torch.stack([self._distill(name, outputs[name], teacher[name]) for name in self.outputs]).sum()
            terms.append((self.distillation_share if labels is not None else 1.0, total))
        if labels is not None and self.labelled is not None:
            scores = self.log_scores(self.labelled, outputs[self.labelled]).flatten(1)
            terms.append((1 - self.distillation_share if teacher is not None else 1.0, F.cross_entropy(scores, labels)))
        if not terms:
            raise NetadaptError("training needs labels or a teacher", code="invalid-data")
        return torch.stack([share * term for share, term in terms]).sum()

    def log_scores(self, name: str, value: Tensor) -> Tensor:
        """Scores up to a constant per sample: a softmax inside the model is undone by a logarithm."""
        value = value.float()
        return value.clamp_min(_TINY).log() if self.outputs[name].form == "probabilities" else value

    def _distill(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence at a temperature (Hinton et al., 2015), or squared error in units of the teacher's variance."""
        output = self.outputs[name]
        if output.form == "values":
            wanted = teacher.float()
            return F.mse_loss(student.float(), wanted) / wanted.var(correction=0).clamp_min(1e-8)
        t, axis = self.temperature, output.axis
        wanted = F.softmax(self.log_scores(name, teacher) / t, axis)
        found = F.log_softmax(self.log_scores(name, student) / t, axis)
        divergence = F.kl_div(found, wanted, reduction="none").sum(axis)
        return t * t * divergence.mean()


def task(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Task:
    """The task of a model, read off its graph. `shapes` are those of its outputs at any batch size."""
    producers = {name: node for node in proto.graph.node for name in node.output}
    found: dict[str, Output] = {}
    for value in proto.graph.output:
        found[value.name] = _form(value.name, shapes[value.name], producers)
    named = class_output(shapes)
    return Task(found, None if named is None else named[0])


def _form(name: str, shape: tuple[int, ...], producers: Mapping[str, onnx.NodeProto]) -> Output:
    node, moved = producers.get(name), False
    while node is not None and node.op_type in ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast"):
        moved = moved or node.op_type not in ("Identity", "Cast")
        node = producers.get(node.input[0])
    scores = class_output({name: shape}) is not None
    if node is not None and node.op_type in ("Softmax", "LogSoftmax"):
        form: Form = "probabilities" if node.op_type == "Softmax" else "log_probabilities"
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1) % len(shape)
        if scores:
            return Output(form, 1)
        return Output("values") if moved else Output(form, axis)
    if scores and (node is None or node.op_type != "Sigmoid"):
        return Output("logits", 1)
    return Output("values")
