"""Training off the CPU: every tensor of a graph goes along, and nothing is chosen that is not there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from models import ALL, Builder, plain, residual
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import input_specs
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.training.choose_settings import choose
from netadapt_onnx.training.distillation import Teacher
from netadapt_onnx.training.loss import task_loss
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.placement import gpu_dtypes, require, together
from netadapt_onnx.training.replicas import Replicas, tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.trainer import train

# A device of shapes without values, which refuses to mix with the CPU as a GPU does: it needs no hardware.
ELSEWHERE = "meta"
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.mark.parametrize("build", ALL.values(), ids=ALL.keys())
def test_a_graph_moved_elsewhere_computes_and_has_its_gradients_there(build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    inputs = random_inputs(input_specs(proto), 0)
    graph = TorchGraph(proto).train()
    on_cpu = graph(tensors(inputs))
    moved = graph.to(ELSEWHERE)(tensors(inputs, Settings(device=ELSEWHERE)))
    assert {name: (value.shape, value.device.type) for name, value in moved.items()} == {
        name: (value.shape, ELSEWHERE) for name, value in on_cpu.items()
    }
    total = torch.stack([value.float().mean() for value in moved.values()]).sum()
    gradients = torch.autograd.grad(total, list(graph.parameters()), allow_unused=True)
    assert {gradient.device.type for gradient in gradients if gradient is not None} == {ELSEWHERE}


def test_a_step_elsewhere_has_its_labels_its_teacher_and_its_gates_there() -> None:
    proto, settings = residual(), Settings(device=ELSEWHERE)
    graph = TorchGraph(proto)
    inputs = {name: np.repeat(value, 4, 0) for name, value in random_inputs(input_specs(proto), 0).items()}
    shapes = {name: tuple(value.shape) for name, value in graph(tensors(inputs)).items()}
    split = Split(inputs, np.arange(4))
    teacher = Teacher(proto)
    teacher.prepare(settings, split, {name: (2, *shape[1:]) for name, shape in shapes.items()})
    with Replicas(proto, settings, task_loss(proto, shapes), teacher) as replicas:
        node = next(node for node in proto.graph.node if node.op_type == "Relu")
        gate = torch.ones(1, device=ELSEWHERE, requires_grad=True)
        rows = np.arange(4)
        # Its loss is the one number that Python asks for, and this device has none to tell.
        with pytest.raises(RuntimeError, match="meta"):
            replicas.gradients(lambda _: (inputs, split.labels), rows, [((node.output[0], 0), gate)])
        answers = teacher(tensors(inputs, settings), rows, settings)
        assert {value.device.type for value in answers.values()} == {ELSEWHERE}


def test_shapes_computed_on_the_way_stay_readable_and_numbers_made_of_them_go_along() -> None:
    """As exporters write attention: a scale and a target shape that are computed from the input's own shape."""
    b = Builder()
    y = b.node("MatMul", ["x", b.random("weight", (8, 8), 8)])
    shape = b.node("Shape", [y])
    last = b.node("Gather", [shape, b.constant("last", np.array([-1]))])
    root = b.node("Sqrt", [b.node("Cast", [last], to=onnx.TensorProto.FLOAT)])
    zeros = b.node("ConstantOfShape", [shape])
    kept = b.node("Where", [b.node("Greater", [y, zeros]), b.node("Div", [y, root]), zeros])
    target = b.node("Concat", [b.constant("all", np.array([-1])), last], axis=0)
    proto = b.model({"x": ("N", 3, 8)}, {b.node("Reshape", [kept, target]): ("M", 8)})
    graph, inputs = TorchGraph(proto), random_inputs(input_specs(proto), 0)
    (on_cpu,) = graph(tensors(inputs)).values()
    (moved,) = graph.to(ELSEWHERE)(tensors(inputs, Settings(device=ELSEWHERE))).values()
    assert (moved.shape, moved.device.type) == (on_cpu.shape, ELSEWHERE)


def test_integers_beside_floats_stay_where_python_reads_them() -> None:
    data, shape, truth = torch.ones(2, device=ELSEWHERE), torch.tensor([2, 1]), torch.tensor([True, False])

    def devices(*arguments: torch.Tensor | None) -> list[str | None]:
        return [None if value is None else value.device.type for value in together(arguments)]

    assert devices(data, shape, None) == [ELSEWHERE, "cpu", None]
    assert devices(truth, data, torch.ones(2)) == [ELSEWHERE] * 3
    assert devices(torch.ones(2, dtype=torch.int64, device=ELSEWHERE), shape) == [ELSEWHERE] * 2
    assert devices(shape, torch.ones(2)) == ["cpu", "cpu"]


def test_a_gpu_is_taken_in_its_fastest_number_type_and_shares_no_batch_out() -> None:
    def prepare(settings: Settings) -> Callable[[], float]:
        assert settings.device == "cuda"
        return lambda: 0.5 if settings.dtype == "bfloat16" else 1.0

    assert choose(prepare, 2, gpu_dtypes=("float32", "bfloat16")) == Settings("bfloat16", True, 1, "cuda")
    assert choose(prepare, 2, gpu_dtypes=("float32",)) == Settings("float32", True, 1, "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_was_begun_on_a_gpu_is_refused_without_one() -> None:
    assert gpu_dtypes() == ()
    require(Settings())
    inputs = {name: np.repeat(value, 4, 0) for name, value in random_inputs(input_specs(plain()), 0).items()}
    data = Dataset(train=Split(inputs, np.arange(4)), val=Split(inputs, np.arange(4)))
    with pytest.raises(NetadaptError, match="begun on a GPU") as refused:
        train(plain(), data, TrainingOptions(steps=1, settings=Settings(device="cuda")))
    assert refused.value.code == "no-gpu"


@GPU
@pytest.mark.parametrize("build", ALL.values(), ids=ALL.keys())
def test_outputs_on_the_gpu_equal_those_of_the_processor(build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    inputs = random_inputs(input_specs(proto), 0)
    graph = TorchGraph(proto).eval()
    on_cpu = graph(tensors(inputs))
    moved = graph.to("cuda")(tensors(inputs, Settings(device="cuda")))
    for name, expected in on_cpu.items():
        # TF32 in convolutions: ten bits of mantissa.
        torch.testing.assert_close(moved[name].cpu(), expected, rtol=0, atol=5e-3 * float(expected.std() or 1))


@GPU
def test_training_on_the_gpu_ends_where_it_does_on_the_processor() -> None:
    inputs = {name: np.repeat(value, 64, 0) for name, value in random_inputs(input_specs(residual()), 0).items()}
    rng = np.random.default_rng(0)
    inputs = {name: value + rng.normal(0, 1, value.shape).astype(np.float32) for name, value in inputs.items()}
    split = Split(inputs, rng.integers(0, 3, 64))
    data = Dataset(train=split, val=split)
    losses = [
        train(residual(), data, TrainingOptions(steps=20, lr=0.01, settings=settings)).history[-1].loss
        for settings in (Settings(), Settings(device="cuda"), Settings("bfloat16", device="cuda"))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[2] == pytest.approx(losses[0], rel=0.1)
