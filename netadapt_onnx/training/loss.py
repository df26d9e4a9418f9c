"""What training minimises: the loss that labels ask for, distillation from the original model, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.data.batch_layout import Layout, samples_first
from netadapt_onnx.data.dataset import Dataset, Labels, Split, UserFunctions
from netadapt_onnx.data.tasks import (
    UNLABELLED,
    OutputForm,
    class_axis,
    kind_of,
    match_labels_to_output,
    output_forms,
)
from netadapt_onnx.errors import NetadaptError, invalid_data, one_line

# Labels as tensors, (N, ...): of one output, or by output name.
Targets = Tensor | Mapping[str, Tensor]

TEMPERATURE = 4.0
DISTILLATION_SHARE = 0.9
# How many labels the variance of a regression's targets is read from.
VARIANCE_SAMPLES = 4096
_TINY = 1e-7


@dataclass(frozen=True)
class TaskLoss:
    """The loss over a model's outputs.

    Attributes:
        outputs: What each output holds, by name.
        temperature: Of distillation.
        distillation_share: The weight of distillation where there are labels too.
        label_variances: The variance of each regression's labels by output: its squared error counts in units of it.
        user: A loss of the user's takes the place of the labels' usual one, and sees outputs as the model gives them.
        layout: Where the outputs hold their samples; None: along the first axis of each.
    """

    outputs: Mapping[str, OutputForm]
    temperature: float = TEMPERATURE
    distillation_share: float = DISTILLATION_SHARE
    label_variances: Mapping[str, float] = field(default_factory=dict)
    user: UserFunctions = field(default_factory=UserFunctions)
    layout: Layout | None = None

    def __call__(
        self, outputs: Mapping[str, Tensor], labels: Targets | None, teacher: Mapping[str, Tensor] | None
    ) -> Tensor:
        """The mean loss of a batch: 0.9 distillation + 0.1 that of the labels where there are both.

        Class numbers give cross-entropy, per sample or per position, values the squared error.

        Args:
            outputs: The model's outputs by name, as it gives them.
            labels: By output name, or of the one output that they fit; None: there are none.
            teacher: The teacher's outputs by name, samples first; None: there is no teacher.

        Returns:
            A scalar.

        Raises:
            NetadaptError: There are neither labels nor a teacher, or nothing to apply them to.
        """
        scored = samples_first(outputs, self.layout)
        terms: list[tuple[float, Tensor]] = []
        if teacher is not None and self.outputs:
            total = torch.stack([self._distillation(name, scored[name], teacher[name]) for name in self.outputs]).sum()
            terms.append((self.distillation_share if labels is not None else 1.0, total))
        if labels is not None:
            terms.append((1 - self.distillation_share if terms else 1.0, self._label_loss(outputs, scored, labels)))
        if not terms:
            what = "labels or a teacher" if self.outputs else "an output that holds samples"
            raise invalid_data(f"training needs {what}")
        return torch.stack([share * term for share, term in terms]).sum()

    def log_scores(self, name: str, value: Tensor) -> Tensor:
        """The scores of an output up to a constant per sample: a softmax inside the model is undone by a logarithm."""
        value = value.float()
        return value.clamp_min(_TINY).log() if self.outputs[name].form == "probabilities" else value

    def _label_loss(self, outputs: Mapping[str, Tensor], scored: Mapping[str, Tensor], labels: Targets) -> Tensor:
        """The sum over labelled outputs; `scored` are those with samples first."""
        if self.user.loss is not None:
            return user_loss(self.user, outputs, labels)
        if not isinstance(labels, Mapping):
            shapes = {name: tuple(value.shape) for name, value in scored.items()}
            labels = {match_labels_to_output(tuple(labels.shape), labels.is_floating_point(), shapes): labels}
        return torch.stack([self._output_loss(name, scored[name], target) for name, target in labels.items()]).sum()

    def _output_loss(self, name: str, value: Tensor, target: Tensor) -> Tensor:
        """The loss of one output's labels."""
        kind = kind_of(target.dim(), target.is_floating_point())
        if kind == "regression":
            return F.mse_loss(value.float().reshape(target.shape), target) / self.label_variances.get(name, 1.0)
        scores = self.log_scores(name, value)
        if kind == "classification":
            return F.cross_entropy(scores.flatten(1), target)
        axis = class_axis(tuple(target.shape), tuple(value.shape))
        if axis is None:
            raise NetadaptError(
                f"labels of shape {tuple(target.shape)} do not fit output '{name}' {tuple(value.shape)}"
            )
        scores = scores.movedim(axis, 1)
        ignored = UNLABELLED if scores.shape[1] <= UNLABELLED else -100
        # A batch that nobody labelled anywhere has a loss of 0, rather than NaN.
        labelled = (target != ignored).sum().clamp_min(1)
        return F.cross_entropy(scores, target, ignore_index=ignored, reduction="sum") / labelled

    def _distillation(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence at a temperature (Hinton et al., 2015), or squared error in units of the teacher's variance."""
        output = self.outputs[name]
        if output.form == "values":
            target = teacher.float()
            return F.mse_loss(student.float(), target) / target.var(correction=0).clamp_min(1e-8)
        t, axis = self.temperature, output.axis
        target = F.softmax(self.log_scores(name, teacher) / t, axis)
        scores = F.log_softmax(self.log_scores(name, student) / t, axis)
        divergence = F.kl_div(scores, target, reduction="none").sum(axis)
        return t * t * divergence.mean()


def task_loss(
    proto: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    dataset: Dataset | None = None,
    layout: Layout | None = None,
) -> TaskLoss:
    """The loss of a model, read off its graph and the labels of the training split.

    Args:
        proto: The model, normalised.
        shapes: Shapes of its outputs by name, at any batch size, samples first.
        dataset: The data; None: nothing but the graph is read.
        layout: Where the outputs hold their samples; None: the data set's.
    """
    if dataset is None:
        return TaskLoss(output_forms(proto, shapes, layout), layout=layout)
    layout = layout or dataset.train.layout
    variances = {} if dataset.user.loss is not None else _label_variances(dataset.train, shapes)
    return TaskLoss(output_forms(proto, shapes, layout), label_variances=variances, user=dataset.user, layout=layout)


def label_tensors(labels: Labels | None, device: str = "cpu") -> Targets | None:
    """Labels as `Split.targets` returns them, as torch tensors on a device."""
    if isinstance(labels, Mapping):
        return {name: torch.from_numpy(values).to(device) for name, values in labels.items()}
    return None if labels is None else torch.from_numpy(labels).to(device)


def user_loss(user: UserFunctions, outputs: Mapping[str, Tensor], labels: Targets) -> Tensor:
    """Call the user's loss.

    Args:
        user: The user's functions, with `loss` among them.
        outputs: The model's outputs by name, as it gives them.
        labels: As the user's loaders return them.

    Returns:
        A scalar.

    Raises:
        NetadaptError: The function fails, or returns no scalar tensor that depends on the outputs.
    """
    assert user.loss is not None
    try:
        loss = user.loss(outputs, labels)
    except (NetadaptError, RuntimeError, MemoryError):  # torch's own: a smaller batch or another number type may do
        raise
    except Exception as error:
        raise NetadaptError(
            f"the loss of {user.name} failed: {type(error).__name__}: {one_line(error, 160)}",
            hint="it is called as loss(outputs, labels): outputs are tensors by name",
            code="factory",
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise NetadaptError(
            f"the loss of {user.name} returned {what}", hint="return one number, a scalar tensor", code="factory"
        )
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise NetadaptError(
            f"the loss of {user.name} does not depend on the model's outputs",
            hint="compute it with torch",
            code="factory",
        )
    return loss.reshape(()).float()


def _label_variances(split: Split, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Variance about each value's own mean, averaged over a sample's values, by output: what R2 is relative to."""
    if split.labels is None or split.varies or not len(split):
        return {}
    labels = split.sample(VARIANCE_SAMPLES).targets()
    assert labels is not None
    if not isinstance(labels, Mapping):
        if labels.dtype.kind != "f":
            return {}
        labels = {match_labels_to_output(labels.shape, True, shapes): labels}
    variances = {
        name: float(np.var(values.astype(np.float64), axis=0).mean())
        for name, values in labels.items()
        if values.dtype.kind == "f"
    }
    return {name: variance for name, variance in variances.items() if variance > 0}
