"""Which channels go: criteria on data against brute force and known answers, and ranking over all groups at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
from netadapt_onnx.api.prune import prune
from netadapt_onnx.cli import run as cli
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.surgery.criteria.activations import mean_activation
from netadapt_onnx.surgery.criteria.ranking import at_share, counts_after, removal_order
from netadapt_onnx.surgery.criteria.selection import MEASURED, importance, select
from netadapt_onnx.surgery.criteria.weights import CRITERIA
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.training.criteria import criterion_on
from netadapt_onnx.training.gradient_scores import BATCH, fisher, taylor
from tracing import trace_model


def images(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 3, size, size)).astype(np.float32)


def labelled(proto: onnx.ModelProto, n: int, size: int = 16) -> Split:
    """Inputs with the model's own answers to disturbed ones as labels: mostly right, as in a trained model."""
    x = images(n, size)
    disturbed = x + np.random.default_rng(2).standard_normal(x.shape).astype(np.float32) / 2
    return Split({"image": x}, logits(proto, disturbed).argmax(1))


def logits(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return run(session(proto), {"image": x})["logits"]


def losses(proto: onnx.ModelProto, split: Split) -> np.ndarray:
    """Cross-entropy of every sample, in float64."""
    scores = logits(proto, split.inputs["image"]).astype(np.float64)
    assert split.labels is not None
    top = scores.max(1)
    normaliser = np.log(np.exp(scores - top[:, None]).sum(1)) + top
    return normaliser - scores[np.arange(len(scores)), split.labels]


def scaled(proto: onnx.ModelProto, weights: dict[str, int], channel: int, factor: float) -> onnx.ModelProto:
    """The model with a channel's slices of these weights, each along its axis, multiplied."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            value = np.moveaxis(numpy_helper.to_array(tensor).copy(), weights[tensor.name], 0)
            value[channel] *= factor
            tensor.CopyFrom(numpy_helper.from_array(np.moveaxis(value, 0, weights[tensor.name]), tensor.name))
    return copy


@pytest.mark.parametrize(
    ("build", "group", "consumers"),
    [
        (models.plain, "conv2", {"conv3.weight": 1}),
        (models.residual, "conv1", {"conv2.weight": 1, "conv4.weight": 1, "fc1.weight": 1}),
        (models.grouped, "conv1", {"conv3.weight": 1}),  # through the depthwise convolution
    ],
)
def test_scores_are_squared_gradients_of_the_consumers_slices(build, group: str, consumers: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    found = trace_model(build())
    proto = found.folded.proto
    # Labels that the model does not expect: its loss is large, and so are its gradients.
    split = Split({"image": images(BATCH)}, np.arange(BATCH) % 10)
    step = 0.01
    by_sample = []
    for channel in range(found.group(group).channels):
        up, down = (losses(scaled(proto, consumers, channel, 1 + s), split) for s in (step, -step))
        by_sample.append((up - down) / (2 * step))
    gradients = np.array(by_sample)  # (channels, samples)
    members = found.members[group]
    first, second = taylor(found, split)[members], fisher(found, split)[members]
    np.testing.assert_allclose(first, gradients.mean(1) ** 2, rtol=0.02, atol=2e-3 * first.max())
    np.testing.assert_allclose(second, (gradients**2).mean(1) / 2, rtol=0.02, atol=2e-3 * second.max())


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_gradient_scores_rank_channels_by_what_their_removal_costs(name: str) -> None:
    found = trace_model(models.plain((16, 24, 32)))
    split = labelled(found.folded.proto, 256)
    scores = importance(found, criterion_on(name, split))
    correlations, baseline = [], []
    dense = losses(found.folded.proto, split)
    for group in found.prunable:
        cost = []
        for channel in range(group.channels):
            cut = resize(found, {group.name: np.delete(np.arange(group.channels), channel)})
            change = losses(cut, split) - dense
            cost.append(abs(change.mean()) if name == "taylor" else (change**2).mean())
        correlations.append(rank_correlation(scores[group.name], np.array(cost)))
        baseline.append(rank_correlation(importance(found, "random")[group.name], np.array(cost)))
    assert np.mean(correlations) > 0.6
    assert np.mean(correlations) > np.mean(baseline) + 0.4


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def test_a_batch_fixed_in_the_file_changes_no_score() -> None:
    free = trace_model(models.plain((8, 12), size=8))
    fixed_proto = models.plain((8, 12), size=8)
    for value in (*fixed_proto.graph.input, *fixed_proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    fixed = trace_model(fixed_proto)
    split = labelled(free.folded.proto, 2 * BATCH, 8)
    for name in MEASURED:
        a, b = (importance(found, criterion_on(name, split)) for found in (free, fixed))
        assert all(np.allclose(a[group], b[group], rtol=1e-3) for group in a), name


@pytest.mark.seconds
def test_without_labels_fisher_is_the_curvature_of_the_divergence() -> None:
    """A gate's Fisher information is the variance, under the model's own answer, of what it adds to the scores."""
    found = trace_model(models.plain((6, 8), size=8))
    x = images(2048, 8)
    proto = found.folded.proto
    p = np.exp(logits(proto, x).astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = []
    for channel in range(8):
        added = logits(proto, x) - logits(scaled(proto, {"fc1.weight": 1}, channel, 0.0), x)
        expected.append(((p * added**2).sum(1) - (p * added).sum(1) ** 2).mean() / 2)
    got = fisher(found, Split({"image": x}))[found.members["conv2"]]
    np.testing.assert_allclose(got, expected, rtol=0.15)


def test_gradient_scores_do_not_see_whether_batchnorm_is_folded() -> None:
    kept = models.plain((8, 12))
    folded = onnx.ModelProto.FromString(kept.SerializeToString())
    values = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in kept.graph.initializer}
    for i in (1, 2):
        scale = values[f"bn{i}.scale"] / np.sqrt(values[f"bn{i}.var"] + 1e-5)
        shift = values[f"bn{i}.bias"] - values[f"bn{i}.mean"] * scale
        weight = next(t for t in folded.graph.initializer if t.name == f"conv{i}.weight")
        folded_weight = values[weight.name] * scale[:, None, None, None]
        weight.CopyFrom(numpy_helper.from_array(folded_weight.astype(np.float32), weight.name))
        folded.graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), f"conv{i}.bias"))
        conv, norm, relu = (next(n for n in folded.graph.node if n.name == f"{k}{i}") for k in ("conv", "bn", "relu"))
        conv.input.append(f"conv{i}.bias")
        relu.input[0] = conv.output[0]
        folded.graph.node.remove(norm)
    split = labelled(kept, 64)
    for name in MEASURED:
        a, b = (importance(trace_model(proto), criterion_on(name, split), normalised=True) for proto in (kept, folded))
        assert all(np.allclose(a[group], b[group], rtol=1e-3, atol=1e-5) for group in a), name
    assert not np.allclose(importance(trace_model(kept))["conv1"], importance(trace_model(folded))["conv1"], rtol=0.05)


def test_activation_is_the_mean_size_of_what_consumers_see() -> None:
    found = trace_model(models.residual())
    x = images(100)
    seen = run(session(found.folded.proto, outputs=["relu1_out", "relu2_out"]), {"image": x})
    inner = np.abs(seen["relu2_out"]).mean((0, 2, 3))
    scores = mean_activation(found, {"image": x})
    np.testing.assert_allclose(scores[found.members["conv2"]], inner, rtol=1e-5)
    stem = run(session(found.folded.proto, outputs=["relu1_out", "relu3_out", "flatten1_out"]), {"image": x[:64]})
    means = [np.abs(v).mean(tuple(k for k in range(v.ndim) if k != 1)) for v in stem.values()]
    scores = mean_activation(found, {"image": x[:64]})
    np.testing.assert_allclose(scores[found.members["conv1"]], np.mean(means, axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", models.ALL)
def test_every_criterion_scores_every_model(name: str) -> None:
    found = trace_model(models.ALL[name]())
    specs = found.folded.specs
    rng = np.random.default_rng(0)
    inputs: Arrays = {k: rng.standard_normal((32, *shape[1:])).astype(dtype) for k, (shape, dtype) in specs.items()}
    for criterion in (*MEASURED, *(c for c in CRITERIA if c != "bn-scale")):
        scores = importance(found, criterion_on(criterion, Split(inputs)), normalised=True)
        for group in found.prunable:
            assert np.isfinite(scores[group.name]).all()
            assert np.abs(scores[group.name]).mean() == pytest.approx(1.0)
            if criterion in MEASURED:
                assert len(np.unique(scores[group.name])) > 1


def by_index(trace: Trace, group: Group) -> np.ndarray:
    """A caller's own criterion with a known answer: later channels matter more, twice as much in `conv2`."""
    return np.arange(1, group.channels + 1) * (2.0 if group.name == "conv2" else 1.0)


def test_importances_of_groups_compare() -> None:
    found = trace_model(models.plain((8, 16)))
    scores = importance(found, by_index, normalised=True)
    np.testing.assert_allclose(scores["conv1"], np.arange(1, 9) / 4.5)
    np.testing.assert_allclose(scores["conv2"], np.arange(1, 17) / 8.5)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("step", [None, 4])
def test_a_global_ratio_is_a_share_of_all_channels_together(ratio: float, step: int | None) -> None:
    found = trace_model(models.plain((8, 16, 22)))
    scores = importance(found, normalised=True)
    counts = at_share(found, removal_order(found, step=step), ratio)
    total = sum(g.channels for g in found.prunable)
    gone = total - sum(counts.values())
    assert gone <= ratio * total
    assert all(n >= found.group(name).floor for name, n in counts.items())
    assert all(n % (step or 1) == 0 or n == found.group(name).channels for name, n in counts.items())
    if step is None and ratio <= 0.8:  # beyond that floors hold channels back
        assert gone == int(ratio * total)
        keep = select(found, counts)
        lost = [np.delete(scores[name], kept) for name, kept in keep.items()]
        left = [scores[name][keep[name]] if name in keep else scores[name] for name in scores]
        if lost:
            assert np.concatenate(lost).max() <= np.concatenate(left).min()


def test_tied_channels_leave_together_and_count_as_many() -> None:
    found = trace_model(models.grouped(groups=4))
    stepped = [g for g in found.prunable if g.step > 1]
    assert stepped
    for share in (0.2, 0.5, 0.7):
        counts = at_share(found, removal_order(found), share)
        assert all(counts[g.name] % g.step == 0 for g in stepped)
        trace(fold(resize(found, select(found, counts))))
    everything = counts_after(found, removal_order(found))
    assert everything == {g.name: g.floor for g in found.prunable}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model = save(models.plain((8, 12, 16)), tmp_path / "model.onnx")
    x = images(96)
    y = labelled(load(model).proto, 96).labels
    assert y is not None
    np.savez(tmp_path / "data.npz", x_train=x[:64], y_train=y[:64], x_val=x[64:], y_val=y[64:])
    return model, tmp_path / "data.npz"


def test_a_global_budget_is_met_with_as_few_blocks_as_possible(files: tuple[Path, Path]) -> None:
    model, _ = files
    result = prune(model, budget=["macs=0.5x", "params=0.6x"], global_=True)
    assert result.met
    assert result.after.macs <= result.before.macs / 2
    assert result.after.params <= 0.6 * result.before.params
    found = trace_model(load(model).proto)
    order = removal_order(found)
    cuts = [counts_after(found, order[:n]) for n in range(len(order))]
    chosen = {name: after for name, (_, after) in result.groups.items()}
    larger = prune(model, keep=dict(cuts[cuts.index(chosen) - 1]))
    assert larger.after.macs > result.before.macs / 2 or larger.after.params > 0.6 * result.before.params
    missed = prune(model, budget="macs=0.0001x", global_=True)
    assert not missed.met
    assert all(after == 1 for _, after in missed.groups.values())


@pytest.mark.parametrize("name", MEASURED)
def test_prune_by_data_from_the_command_line(
    name: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = files
    written = {}
    for criterion in ("l2", name):
        out = tmp_path / f"{criterion}.onnx"
        words = [
            "prune",
            model,
            "-o",
            out,
            "--ratio",
            "0.5",
            "--global",
            "--criterion",
            criterion,
            "--verify",
            "--json",
        ]
        if criterion == name:
            words += ["--data", data]
        assert cli(list(map(str, words))) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["verify"]["exact"]
        assert sum(after for _, after in document["groups"].values()) == 18
        written[criterion] = (tmp_path / f"{criterion}.plan.toml").read_text()
    assert written["l2"] != written[name]


def test_reconstruction_is_asked_for_beside_such_a_criterion(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    outputs = []
    for i, reconstruct in enumerate((None, False, True)):
        out = tmp_path / f"{i}.onnx"
        prune(model, out, ratio=0.5, criterion="fisher", data=data, reconstruct=reconstruct)
        outputs.append(logits(load(out).proto, images(8)))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.allclose(outputs[1], outputs[2])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ratio", "0.5", "--criterion", "taylor"], "--criterion taylor needs inputs; give --data"),
        (["--ratio", "0.5", "--reconstruct"], "--reconstruct needs inputs; give --data"),
        (["--ratio", "0.5", "--data", "DATA"], "nothing looks at --data"),
        (["--keep", "conv1=4", "--global"], "--global ranks all groups together"),
        (["--ratio", "0.5", "--criterion", "tailor"], "no criterion 'tailor'; did you mean taylor"),
        (["--ratio", "0.5", "--criterion", "fisher", "--data", "nowhere.npz"], "nowhere.npz: no such file"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], told: str, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    model, data = files
    assert cli(["prune", str(model), *(str(data) if w == "DATA" else w for w in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(told, lines[0])


def test_a_loss_that_depends_on_nothing_is_refused() -> None:
    proto = models.plain((8, 12))
    weight = next(t for t in proto.graph.initializer if t.name == "fc1.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((10, 12), np.float32), weight.name))
    with pytest.raises(NetadaptError, match="depends on no channel"):
        importance(trace_model(proto), criterion_on("taylor", Split({"image": images(16)})))


@pytest.mark.seconds
def test_adapt_follows_a_criterion_on_data_and_resumes_to_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    from netadapt_onnx.api.adapt import adapt

    model, data = files
    results = []
    for name, limits in (("whole", [3]), ("resumed", [1, 3])):
        for limit in limits:
            result = adapt(
                model, data, "macs=0.5x", tmp_path / name, criterion="fisher", step=2, max_iterations=limit,
                final_epochs=0, resume=limit != limits[0],
            )  # fmt: skip
        results.append(result.model.read_bytes())
    assert results[0] == results[1]
    by_l2 = adapt(model, data, "macs=0.5x", tmp_path / "l2", step=2, max_iterations=3, final_epochs=0)
    assert by_l2.model.read_bytes() != results[0]
