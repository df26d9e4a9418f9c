"""Where outputs hold their samples: found by running, used wherever answers are compared, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import netadapt_onnx as na
from layout_models import (
    attention,
    batch_mean,
    boxes_of_two,
    classifier_with_maps,
    detections,
    ensemble,
    hidden,
    rows_of_three,
    similarity,
    time_major,
    tracker,
    windows,
)
from models import Builder, plain
from netadapt_onnx.data.batch_layout import BatchAxis, Layout
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.data.find_batch_layout import find_layout
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.training.distillation import Teacher, shared_targets
from netadapt_onnx.training.loss import task_loss
from netadapt_onnx.training.memory import footprint
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.remembered_answers import RememberedAnswers
from netadapt_onnx.training.replicas import Replicas, tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.trainer import train

pytestmark = pytest.mark.usefixtures("fixed_training_settings")
FLOAT = Settings("float32", True, 1)
FIRST = BatchAxis()
BOTH = "its axes 0 and 1 both grow with the batch"
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, BatchAxis], dict[str, str], int | None]] = {
    "samples first": (plain, {"logits": FIRST}, {}, None),
    "time first": (time_major, {"y": BatchAxis(1)}, {}, None),
    "members first": (ensemble, {"y": BatchAxis(1)}, {}, None),
    "members behind one another": (lambda: ensemble(joined=True), {"y": BatchAxis(0, 2, interleaved=True)}, {}, None),
    "windows side by side": (windows, {"y": BatchAxis(0, 4)}, {}, None),
    "each against each": (similarity, {"embedded": FIRST}, {"y": BOTH}, None),
    "mean over the batch": (batch_mean, {"y": FIRST}, {"mean": "its shape does not depend on the batch"}, None),
    "as many as there are": (detections, {"y": FIRST}, {"nonzero1_out": "its shape depends on the data"}, None),
    "maps": (
        classifier_with_maps,
        {"y": FIRST, "class": FIRST},
        {"maps": "no tensor (sequence) (by ZipMap"},
        None,
    ),
    "fixed at one": (attention, {"y": FIRST}, {}, 1),
    "fixed at three": (rows_of_three, {"y": FIRST}, {}, 3),
    "lists fixed at two": (boxes_of_two, {"y": FIRST}, {}, 2),
    "fixed at one inside": (lambda: attention("N"), {"y": FIRST}, {}, 1),
    "kernels of one": (lambda: tracker("N"), {"head_out": FIRST}, {}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_batch_is_sought_where_it_lies(case: str) -> None:
    build, axes, omitted, batch = CASES[case]
    layout = find_layout(fold(build()))
    assert layout is not None
    assert (layout.outputs, layout.batch) == (axes, batch)
    assert layout.omitted.keys() == omitted.keys()
    for name, why in omitted.items():
        assert any(why in note for note in layout.notes if f"'{name}'" in note), layout.notes


@pytest.mark.parametrize("module", ["numpy", "torch"])
@pytest.mark.parametrize("axis", [FIRST, BatchAxis(2), BatchAxis(1, 3), BatchAxis(1, 3, interleaved=True)])
def test_samples_first_is_each_sample_alone(axis: BatchAxis, module: str) -> None:
    rng, samples = np.random.default_rng(0), 4
    shape = (2, 5, 7)
    size = axis.per_sample if axis.per_sample > 1 else 1
    single = [rng.standard_normal((*shape[: axis.axis], size, *shape[axis.axis + 1 :])) for _ in range(samples)]
    if axis.interleaved:
        joined = np.stack(single, axis.axis + 1).reshape(*shape[: axis.axis], -1, *shape[axis.axis + 1 :])
    else:
        joined = np.concatenate(single, axis.axis)
    arranged = axis.samples_first(torch.from_numpy(joined) if module == "torch" else joined)
    assert len(arranged) == samples
    for one, expected in zip(np.asarray(arranged), single, strict=True):
        np.testing.assert_array_equal(
            one, np.moveaxis(expected, axis.axis, 0) if size > 1 else expected.squeeze(axis.axis)
        )
    if axis.per_sample == 1:
        np.testing.assert_array_equal(np.asarray(axis.as_put_out(arranged)), joined)


def written(
    folder: Path, proto: onnx.ModelProto, counts: tuple[int, int] = (40, 24), **more: np.ndarray
) -> tuple[Path, Path]:
    """A model and random data for it."""
    onnx.save(proto, folder / "model.onnx")
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for value in proto.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        name = "" if len(proto.graph.input) == 1 else f".{value.name}"
        for split, count in zip(("train", "val"), counts, strict=True):
            arrays[f"x_{split}{name}"] = rng.standard_normal((count, *shape)).astype(np.float32)
    np.savez(folder / "data.npz", **arrays, **more)
    return folder / "model.onnx", folder / "data.npz"


def data_of(folder: Path, proto: onnx.ModelProto) -> Dataset:
    return load_dataset(fold(proto), written(folder, proto)[1])


@pytest.mark.parametrize(
    "case", ["time first", "members first", "members behind one another", "fixed at one inside", "fixed at three"]
)
def test_answers_are_those_of_each_sample_alone(case: str, tmp_path: Path) -> None:
    """In batches of 24 in onnxruntime, of two in torch and in its teacher: always what one sample alone gives."""
    proto = CASES[case][0]()
    data = data_of(tmp_path, proto)
    layout = data.val.layout
    assert layout is not None
    values = outputs(proto, data.val)
    (name,) = values
    active, batch = session(proto), layout.batch or 1
    for row in (0, 7, 23):
        inputs = data.val.batch(np.full(batch, row))
        expected = layout.samples_first(run(active, inputs))[name][0]
        np.testing.assert_allclose(values[name][row], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    teacher = Teacher(proto, split=data.val)
    inputs = {n: torch.from_numpy(value) for n, value in data.val.batch(slice(0, 5)).items()}
    answers = teacher.outputs(inputs, FLOAT)[name].numpy()
    np.testing.assert_allclose(answers, values[name][:5], rtol=0, atol=1e-4 * np.abs(values[name]).max())


def test_scores_along_any_axis_agree_by_their_top_class(tmp_path: Path) -> None:
    for proto in (time_major(), ensemble()):
        data = data_of(tmp_path, proto)
        reference = outputs(proto, data.val)
        (name,) = reference
        assert reference[name].shape[::2] == (24, 5)
        other = {name: np.roll(reference[name], 1, axis=2)}
        assert accuracy(proto, data.val, reference=reference).value == 1
        assert accuracy(proto, data.val, reference=other).value == 0
        losses = task_loss(proto, {name: reference[name].shape}, data)
        assert losses.outputs[name].axis == 2


def test_labels_of_positions_meet_outputs_whose_positions_come_first(tmp_path: Path) -> None:
    proto, rng = time_major(), np.random.default_rng(1)
    labels = {"y_train": rng.integers(0, 5, (40, 16)), "y_val": rng.integers(0, 5, (24, 16))}
    data = load_dataset(fold(proto), written(tmp_path, proto, **labels)[1])
    assert data.train.metric == "miou"
    trained = train(proto, data, TrainingOptions(epochs=40, lr=0.05, settings=FLOAT))
    assert trained.history[-1].loss < trained.history[0].loss
    before, after = (accuracy(one, data.train).value for one in (proto, trained.proto))
    assert after > before + 0.05  # of what was learnt by heart


def test_a_metric_of_the_users_sees_outputs_as_the_model_gives_them(tmp_path: Path) -> None:
    model, _ = written(tmp_path, time_major())
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "def make():\n"
        "    data = DataLoader(TensorDataset(torch.randn(24, 3, 4, 4)), batch_size=8)\n"
        "    return {'train': data, 'val': data, 'metric': lambda outputs, labels: outputs['y'].shape[1] / 100}\n"
    )
    (result,) = na.evaluate(model, f"{tmp_path / 'own.py'}:make", timed=False).models
    assert result.accuracy == pytest.approx(0.24)


@pytest.mark.seconds
@pytest.mark.parametrize(
    "proto", [time_major(), ensemble(), tracker("N")], ids=["time first", "members first", "kernels"]
)
def test_a_cut_learns_the_originals_answers_back(proto: onnx.ModelProto, tmp_path: Path) -> None:
    model, data = written(tmp_path, proto, (96, 64))
    cut = tmp_path / "cut.onnx"
    na.prune(model, cut, ratio=0.4)
    _, small = na.evaluate([model, cut], data, timed=False).models
    tuned = na.finetune(cut, data, tmp_path / "tuned.onnx", teacher=model, epochs=12, lr=0.03, batch_size=16)
    assert tuned.accuracy.before == pytest.approx(small.accuracy, abs=1e-6)
    assert tuned.accuracy.after > tuned.accuracy.before + 0.02, tuned.accuracy


@pytest.mark.parametrize(
    ("case", "only"),
    [("fixed at one inside", 1), ("kernels of one", 1), ("fixed at three", None), ("time first", None)],
)
def test_a_gradient_is_the_mean_over_the_batches_that_a_graph_can_run(
    case: str, only: int | None, tmp_path: Path
) -> None:
    """Torch follows a constant that merely fixes the batch; samples that would mix are run one at a time."""
    proto = CASES[case][0]()
    data = data_of(tmp_path, proto)
    needs = footprint(TorchGraph(proto), data.train)
    assert needs.only_batch == only
    (name,), rows = needs.shapes, np.array([4, 1, 7, 2, 9, 30])
    answers = torch.randn(len(data.train), *needs.shapes[name][1:], generator=torch.Generator().manual_seed(0))
    losses = task_loss(proto, needs.shapes, data)

    def fetch(index: np.ndarray) -> tuple[Arrays, None]:
        return data.train.batch(index), None

    def teacher(_: object, index: np.ndarray, __: object) -> dict[str, torch.Tensor]:
        return {name: answers[index]}

    with Replicas(proto, Settings(replicas=2), losses, teacher, only_batch=only) as replicas:
        loss = replicas.gradients(fetch, rows)
        gradients = [parameter.grad for parameter in replicas.main.parameters()]
    graph = TorchGraph(proto).train()
    pieces = rows.reshape(-1, 1) if only else rows.reshape(2, 3)
    alone = [losses(graph(tensors(data.train.batch(piece))), None, {name: answers[piece]}) for piece in pieces]
    expected = torch.stack(alone).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    for own, parameter in zip(gradients, graph.parameters(), strict=True):
        assert own is not None
        assert parameter.grad is not None
        np.testing.assert_allclose(own, parameter.grad, rtol=0, atol=1e-4 * float(parameter.grad.abs().max()))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    model, data = written(tmp_path, similarity())
    assert BOTH in na.evaluate(model, data, timed=False).notes[0]
    tuned = na.finetune(model, data, tmp_path / "tuned.onnx", teacher=model, epochs=1, lr=1e-3)
    assert any(BOTH in note for note in tuned.notes)
    result = na.adapt(model, data, "macs=0.8x", tmp_path / "run", step=2, final_epochs=0, init_reduction_ratio=0.3)
    assert any(BOTH in note for note in result.notes)


def test_what_cannot_be_scored_is_refused_before_a_search(tmp_path: Path) -> None:
    model, data = written(tmp_path, similarity(alone=True))
    for command in (
        lambda: na.evaluate(model, data, timed=False),
        lambda: na.finetune(model, data, tmp_path / "out.onnx", teacher=model),
        lambda: na.adapt(model, data, "macs=0.8x", tmp_path / "run"),
        lambda: na.scale(model, data, target="params=0.5x", out=tmp_path / "run"),
    ):
        with pytest.raises(NetadaptError, match=f"no output of the model can be scored .*'y': {BOTH}"):
            command()
    assert not (tmp_path / "run").exists()
    cut = na.prune(model, tmp_path / "small.onnx", ratio=0.5, data=data)  # which looks at inputs alone
    assert cut.model is not None


def test_maps_are_left_out_and_classes_alone_teach_nothing(tmp_path: Path) -> None:
    model, data = written(tmp_path, classifier_with_maps())
    tuned = na.finetune(model, data, tmp_path / "tuned.onnx", teacher=model, epochs=1, lr=1e-3)
    assert any("ZipMap" in note for note in tuned.notes)
    assert [node.op_type for node in na.load(tuned.model).proto.graph.node][-2:] == ["ArgMax", "ZipMap"]
    onnx.save(classifier_with_maps(scores=False), model)
    with pytest.raises(NetadaptError, match=r"learns nothing from 'class': .*'maps' is left out: .*by ZipMap"):
        na.adapt(model, data, "macs=0.8x", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = na.adapt(model, data, "macs=0.8x", tmp_path / "run", step=2, final_epochs=0, init_reduction_ratio=0.3)
    assert result.met


def test_a_batchnorm_in_batches_of_one_is_refused_before_a_search(tmp_path: Path) -> None:
    b = Builder()
    x = b.node("Flatten", [b.node("GlobalAveragePool", [b.conv_bn_relu("x", 3, 16)])])
    x = b.node("Reshape", [x, b.constant("flat", np.array([-1, 8]))])
    mixed = b.node("MatMul", [b.node("Softmax", [b.node("MatMul", [x, b.node("Transpose", [x])])], axis=1), x])
    b.fc(b.node("Reshape", [mixed, b.constant("whole", np.array([-1, 16]))]), 16, 5, output="y")
    model, data = written(tmp_path, b.model({"x": (1, 3, 6, 6)}, {"y": (1, 5)}))
    b2 = na.load(model).proto
    assert find_layout(fold(b2)) == Layout({"y": FIRST}, {}, 1, {"y": (1, 5)})
    with pytest.raises(NetadaptError, match=r"one sample at a time, .* BatchNorm nothing .* dynamic batch"):
        na.finetune(model, data, tmp_path / "out.onnx", teacher=model, epochs=1)


def test_inputs_that_hold_no_sample_per_entry_are_refused_by_name(tmp_path: Path) -> None:
    b = Builder()
    x = b.node("Transpose", ["x"], perm=[1, 0, 2])
    b.fc(b.node("Flatten", [x]), 24, 5, output="y")
    proto = b.model({"x": (3, "batch", 8)}, {"y": ("batch", 5)})
    with pytest.raises(NetadaptError, match=r"input 'x' holds its samples along axis 1 \('batch'\)"):
        find_layout(fold(proto, {"x": (3, 1, 8)}))
    b = Builder()
    b.node("Add", [b.fc("x", 8, 5), b.node("ReduceMean", ["state"], axes=[0])], output="y")
    with pytest.raises(NetadaptError, match=r"input 'state' \(2x5\) does not hold a sample per entry"):
        find_layout(fold(b.model({"x": ("N", 8), "state": (2, 5)}, {"y": ("N", 5)})))


def test_steps_of_time_are_not_taken_for_samples(tmp_path: Path) -> None:
    """An LSTM takes (T, N, C): with its batch fixed, nothing but their order tells steps from samples."""
    b = Builder()
    weights = [b.random("w", (1, 32, 6), 6), b.random("r", (1, 32, 8), 8)]
    b.nodes.append(helper.make_node("LSTM", ["x", *weights], ["all"], "lstm", hidden_size=8))
    b.node("Squeeze", ["all", b.constant("direction", np.array([1]))], output="y")
    model, data = written(tmp_path, b.model({"x": (7, 1, 6)}, {"y": (7, 1, 8)}))
    with pytest.raises(NetadaptError, match="first axis of input 'x' does not hold samples: their order changes"):
        na.evaluate(model, data, timed=False)


@pytest.mark.parametrize("case", ["time first", "kernels of one"])
def test_what_is_remembered_of_a_sample_is_what_the_model_says_of_it(case: str, tmp_path: Path) -> None:
    """The model is asked in batches of the size that it takes, or of many, where the student may see one sample."""
    proto = CASES[case][0]()
    data = data_of(tmp_path, proto)
    teacher = shared_targets(proto, data.train, FLOAT, 0)
    assert isinstance(teacher, RememberedAnswers)
    expected = outputs(proto, data.train)
    rows = np.array([3, 30])
    for name, value in teacher({}, rows, FLOAT).items():
        np.testing.assert_allclose(value, expected[name][rows], rtol=0, atol=1e-4 * np.abs(expected[name]).max())


def test_optional_outputs_and_sequences_are_left_out(tmp_path: Path) -> None:
    b = Builder()
    y = b.fc(hidden(b), 24, 5, output="y")
    proto = b.model({"x": ("N", 8)}, {"y": ("N", 5)})
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    proto.graph.node.append(helper.make_node("Optional", [y], ["maybe"], "optional"))
    proto.graph.node.append(helper.make_node("SequenceConstruct", [y, y], ["several"], "sequence"))
    proto.graph.output.append(helper.make_value_info("maybe", helper.make_optional_type_proto(tensor)))
    proto.graph.output.append(helper.make_value_info("several", helper.make_sequence_type_proto(tensor)))
    model, data = written(tmp_path, proto)
    result = na.adapt(model, data, "macs=0.8x", tmp_path / "run", step=2, final_epochs=0, init_reduction_ratio=0.3)
    assert result.met
    assert sum("is left out" in note for note in result.notes) == 2
    before, after = (na.load(path).proto.graph.output for path in (model, result.model))
    assert list(after) == list(before)
