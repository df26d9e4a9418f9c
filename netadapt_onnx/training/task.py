"""What training minimises: the loss that labels ask for, distillation from the original model, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.data.batch_layout import Layout
from netadapt_onnx.data.dataset import Dataset, Own, Split
from netadapt_onnx.data.labels import UNLABELLED, class_axis, kind_of, match_labels_to_output
from netadapt_onnx.data.output_forms import Form, Output, forms
from netadapt_onnx.errors import NetadaptError, one_line

__all__ = ["Form", "Output", "Targets", "Task", "task"]

Targets = Tensor | Mapping[str, Tensor]

TEMPERATURE = 4.0
DISTILLATION_SHARE = 0.9
# Labels that say how large a regression's targets are.
SPREAD_SAMPLES = 4096
_TINY = 1e-7


@dataclass(frozen=True)
class Task:
    """The loss over a model's outputs.

    `spreads`: the variance of each regression's labels, in units of which its error counts. `own`: the user's loss
    takes the place of the labels' usual one, and sees outputs as the model gives them. `layout`: where they hold their
    samples; None: along the first axis of each.
    """

    outputs: Mapping[str, Output]
    temperature: float = TEMPERATURE
    distillation_share: float = DISTILLATION_SHARE
    spreads: Mapping[str, float] = field(default_factory=dict)
    own: Own | None = None
    layout: Layout | None = None

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Targets | None, teacher: Mapping[str, Tensor] | None
    ) -> Tensor:
        """The mean loss of a batch, a scalar: 0.9 distillation + 0.1 that of the labels where both are known.

        Labels by output name, or of the one output that they fit: class numbers give cross-entropy, per sample or per
        position, values the squared error. The `teacher`'s outputs have samples first. Raises NetadaptError where
        neither is known.
        """
        given, outputs = outputs, self.samples_first(outputs)
        terms: list[tuple[float, Tensor]] = []
        if teacher is not None and self.outputs:
            total = torch.stack([self._distill(name, outputs[name], teacher[name]) for name in self.outputs]).sum()
            terms.append((self.distillation_share if labels is not None else 1.0, total))
        if labels is not None:
            terms.append((1 - self.distillation_share if terms else 1.0, self._labelled(given, outputs, labels)))
        if not terms:
            what = "labels or a teacher" if self.outputs else "an output that holds samples"
            raise NetadaptError(f"training needs {what}", code="invalid-data")
        return torch.stack([share * term for share, term in terms]).sum()

    def samples_first(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The outputs that can be scored, with samples along the first axis."""
        return outputs if self.layout is None else self.layout.samples_first(outputs)

    def log_scores(self, name: str, value: Tensor) -> Tensor:
        """Scores up to a constant per sample: a softmax inside the model is undone by a logarithm."""
        value = value.float()
        return value.clamp_min(_TINY).log() if self.outputs[name].form == "probabilities" else value

    def _labelled(self, given: Mapping[str, Tensor], outputs: Mapping[str, Tensor], labels: Targets) -> Tensor:
        """The sum over labelled outputs. `given`: as the model gives them."""
        if self.own is not None and self.own.loss is not None:
            return own_loss(self.own, given, labels)
        if not isinstance(labels, Mapping):
            shapes = {name: tuple(value.shape) for name, value in outputs.items()}
            labels = {match_labels_to_output(tuple(labels.shape), labels.is_floating_point(), shapes): labels}
        return torch.stack([self._one(name, outputs[name], wanted) for name, wanted in labels.items()]).sum()

    def _one(self, name: str, value: Tensor, wanted: Tensor) -> Tensor:
        kind = kind_of(wanted.dim(), wanted.is_floating_point())
        if kind == "regression":
            return F.mse_loss(value.float().reshape(wanted.shape), wanted) / self.spreads.get(name, 1.0)
        scores = self.log_scores(name, value)
        if kind == "classification":
            return F.cross_entropy(scores.flatten(1), wanted)
        axis = class_axis(tuple(wanted.shape), tuple(value.shape))
        if axis is None:
            raise NetadaptError(
                f"labels of shape {tuple(wanted.shape)} do not fit output '{name}' {tuple(value.shape)}"
            )
        scores = scores.movedim(axis, 1)
        ignored = UNLABELLED if scores.shape[1] <= UNLABELLED else -100
        # A batch that nobody labelled anywhere teaches nothing, rather than NaN.
        known = (wanted != ignored).sum().clamp_min(1)
        return F.cross_entropy(scores, wanted, ignore_index=ignored, reduction="sum") / known

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


def task(
    proto: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    dataset: Dataset | None = None,
    layout: Layout | None = None,
) -> Task:
    """The task of a model, read off its graph, and of the labels of `dataset`.

    `shapes` are those of its outputs at any batch size, samples first; `layout`, by default the dataset's, says where
    samples lie in them.
    """
    if dataset is None:
        return Task(forms(proto, shapes, layout), layout=layout)
    layout = layout or dataset.train.layout
    own_loss_only = dataset.own is not None and dataset.own.loss is not None
    spreads = {} if own_loss_only else _spreads(dataset.train, shapes)
    return Task(forms(proto, shapes, layout), spreads=spreads, own=dataset.own, layout=layout)


def label_tensors(labels: np.ndarray | Mapping[str, np.ndarray] | None, device: str = "cpu") -> Targets | None:
    """Labels as `Split.targets` gives them, as torch tensors on a device."""
    if isinstance(labels, Mapping):
        return {name: torch.from_numpy(values).to(device) for name, values in labels.items()}
    return None if labels is None else torch.from_numpy(labels).to(device)


def own_loss(own: Own, outputs: Mapping[str, Tensor], labels: Targets) -> Tensor:
    """What the user's loss returns.

    Raises NetadaptError if it fails, or returns no scalar tensor that depends on the outputs.
    """
    assert own.loss is not None
    try:
        found = own.loss(outputs, labels)
    except (NetadaptError, RuntimeError, MemoryError):  # torch's own: a smaller batch or another number type may do
        raise
    except Exception as error:
        raise NetadaptError(
            f"the loss of {own.name} failed: {type(error).__name__}: {one_line(error, 160)}",
            hint="it is called as loss(outputs, labels): outputs are tensors by name",
            code="factory",
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise NetadaptError(
            f"the loss of {own.name} returned {what}", hint="return one number, a scalar tensor", code="factory"
        )
    if torch.is_grad_enabled() and not found.requires_grad:
        raise NetadaptError(
            f"the loss of {own.name} does not depend on the model's outputs",
            hint="compute it with torch",
            code="factory",
        )
    return found.reshape(()).float()


def _spreads(split: Split, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Variance about each value's own mean, averaged over a sample's values, by output: what R2 is relative to."""
    labels = None if split.labels is None or split.varies or not len(split) else split.sample(SPREAD_SAMPLES).targets()
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        if labels.dtype.kind != "f":
            return {}
        labels = {match_labels_to_output(labels.shape, True, shapes): labels}
    found = {n: float(np.var(v.astype(np.float64), axis=0).mean()) for n, v in labels.items() if v.dtype.kind == "f"}
    return {name: spread for name, spread in found.items() if spread > 0}
