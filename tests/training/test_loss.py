"""What the losses see in a graph, and that they pull where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models import Builder, plain, transposed
from netadapt_onnx.data.tasks import OutputForm
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.loss import TaskLoss, task_loss


def with_ending(*ops: str) -> TaskLoss:
    b = Builder()
    x = b.fc("x", 8, 5)
    for op in ops[:-1]:
        x = b.node(op, [x])
    b.node(ops[-1], [x], output="y") if ops else None
    return task_loss(b.model({"x": ("N", 8)}, {"y": ("N", 5)}), {"y": (2, 5)})


def test_forms_are_read_off_the_graph() -> None:
    assert task_loss(plain(), {"logits": (2, 10)}).outputs == {"logits": OutputForm("logits", 1)}
    assert task_loss(transposed(), {"mask_out": (2, 2, 16, 16)}).outputs["mask_out"].form == "values"
    assert with_ending("Softmax").outputs["y"].form == "probabilities"
    assert with_ending("Softmax", "Flatten").outputs["y"].form == "probabilities"
    assert with_ending("LogSoftmax").outputs["y"].form == "log_probabilities"
    assert with_ending("Sigmoid").outputs["y"].form == "values"


def test_labels_speak_of_the_output_with_classes() -> None:
    b = Builder()
    x = b.conv("image", 3, 4)
    b.node("Relu", [x], output="map")
    b.head(x, 4)
    proto = b.model({"image": ("N", 3, 8, 8)}, {"map": ("N", 4, 8, 8), "logits": ("N", 10)})
    outputs = {"map": torch.zeros(2, 4, 8, 8), "logits": torch.randn(2, 10)}
    loss_of = task_loss(proto, {name: tuple(value.shape) for name, value in outputs.items()})
    labels = torch.tensor([3, 4])
    expected = torch.nn.functional.cross_entropy(outputs["logits"], labels)
    assert float(loss_of(outputs, labels, None)) == pytest.approx(float(expected), rel=1e-5)


def losses(form: str) -> tuple[TaskLoss, Tensor, Tensor]:
    logits, other = torch.randn(6, 5, generator=torch.manual_seed(0)), torch.randn(6, 5, generator=torch.manual_seed(1))
    ending = {
        "logits": lambda x: x,
        "probabilities": lambda x: x.softmax(1),
        "log_probabilities": lambda x: x.log_softmax(1),
    }
    loss_of = TaskLoss({"y": OutputForm(form, 1)})  # type: ignore[arg-type]
    return loss_of, ending[form](logits), ending[form](other)


def test_a_softmax_inside_the_model_changes_no_loss() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    values = []
    for form in ("logits", "probabilities", "log_probabilities"):
        loss_of, student, teacher = losses(form)
        values.append(float(loss_of({"y": student}, labels, {"y": teacher})))
    np.testing.assert_allclose(values, values[0], rtol=1e-4)


def test_labels_and_teacher_are_mixed() -> None:
    loss_of, student, teacher = losses("logits")
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    ce, kd, both = (
        float(loss_of({"y": student}, y, t))
        for y, t in ((labels, None), (None, {"y": teacher}), (labels, {"y": teacher}))
    )
    assert ce == pytest.approx(float(torch.nn.functional.cross_entropy(student, labels)), rel=1e-5)
    assert both == pytest.approx(0.9 * kd + 0.1 * ce, rel=1e-5)


@pytest.mark.parametrize("form", ["logits", "probabilities", "log_probabilities", "values"])
def test_the_teacher_itself_has_nothing_to_learn(form: str) -> None:
    if form == "values":
        loss_of, teacher = TaskLoss({"y": OutputForm("values")}), torch.randn(4, 2, 8)
    else:
        loss_of, teacher, _ = losses(form)
    student = teacher.clone().requires_grad_()
    loss = loss_of({"y": student}, None, {"y": teacher})
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(float(loss.detach())) < 1e-5
    assert float(gradient.abs().max()) < 1e-5


def test_values_are_compared_in_units_of_their_variance() -> None:
    loss_of, teacher = TaskLoss({"y": OutputForm("values")}), torch.randn(4, 100)
    near = [float(loss_of({"y": scale * teacher * 1.1}, None, {"y": scale * teacher})) for scale in (1.0, 1000.0)]
    assert near[0] == pytest.approx(near[1], rel=1e-3)


def test_without_labels_and_teacher_there_is_no_loss() -> None:
    with pytest.raises(NetadaptError, match="labels or a teacher"):
        losses("logits")[0]({"y": torch.zeros(2, 5)}, None, None)
