"""Residual branches: which may go, the proof of it, plans that remove them, and searches that choose them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
import netadapt_onnx
from branch_cases import quiet_branch
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.search.channel_selection import BaseModel
from netadapt_onnx.search.evaluator import UserEvaluator
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.worker import WorkerContext
from netadapt_onnx.surgery import residual_branches
from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct
from netadapt_onnx.surgery.residual_branches import find_branches, removal_error, traced_without, without
from tracing import trace_model


def sums(proto: onnx.ModelProto) -> int:
    return sum(node.op_type == "Add" for node in proto.graph.node)


@pytest.mark.parametrize(
    ("build", "removable"),
    [
        (models.plain, 0),
        (models.residual, 2),
        (models.resnet, 4),  # of six blocks; two begin a stage with a projection
        (models.inverted_residuals, 4),
    ],
)
def test_branches_whose_sum_has_an_identity_are_found(build: Callable[[], onnx.ModelProto], removable: int) -> None:
    traced = trace_model(build())
    assert len(find_branches(traced)) == removable


@pytest.mark.parametrize("build", [models.residual, models.resnet])
def test_a_removed_branch_equals_one_that_contributes_zero(build: Callable[[], onnx.ModelProto]) -> None:
    traced = trace_model(build())
    branches = find_branches(traced)
    for names in (*([b.name] for b in branches), [b.name for b in branches]):
        assert removal_error(traced.folded, names) <= 1e-6
        smaller = without(traced.folded, names)
        onnx.checker.check_model(smaller.proto)
        assert sums(smaller.proto) == sums(traced.folded.proto) - len(names)
        assert {g.name for g in traced_without(traced, names).prunable} == {g.name for g in traced.prunable} - {
            name for b in branches if b.name in names for name in b.groups
        }


def test_the_proof_sees_a_branch_that_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference masks the branch; the model that keeps it is far from that."""
    traced = trace_model(models.residual())
    name = find_branches(traced)[0].name
    monkeypatch.setattr(residual_branches, "without", lambda folded, names: folded)
    with pytest.raises(NetadaptError, match="differs by"):
        residual_branches.prove_removal(traced.folded, [name])


def prefers_whole_groups(proto: onnx.ModelProto) -> float:
    """Judges by how many channels the convolutions have lost: to lose a convolution costs nothing."""
    widths = [t.dims[0] for t in proto.graph.initializer if len(t.dims) == 4]
    return 1 - 0.01 * sum(16 - width for width in widths)


def adapted(folder: Path, **options: Any) -> AdaptResult:
    model = folder / "model.onnx"
    if not model.exists():
        onnx.save(models.residual(16, size=8), model)
    arguments = {"evaluate": prefers_whole_groups, "allow_block_removal": True, "step": 2} | options
    return netadapt_onnx.adapt(model, None, "macs=0.4x", folder / "run", **arguments)


def widths_of(file: Path) -> list[tuple[int, ...]]:
    return [tuple(t.dims) for t in onnx.load(file).graph.initializer]


def test_a_search_removes_branches_and_its_plan_replays_and_restores_that(tmp_path: Path) -> None:
    result = adapted(tmp_path)
    assert result.met
    assert len(result.removed) >= 1
    assert sums(onnx.load(result.model)) == 2 - len(result.removed)
    assert not set(result.removed) & set(result.groups)
    plan = tmp_path / "run" / "iterations" / f"{result.iterations:03d}" / "plan.toml"
    again = netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "again.onnx", plan=plan, check=True)
    assert again.verify is not None and again.verify.exact
    restored = netadapt_onnx.restore(tmp_path / "run", result.iterations, tmp_path / "restored.onnx").model
    expected = {t.name: numpy_helper.to_array(t) for t in onnx.load(restored).graph.initializer}
    for tensor in onnx.load(tmp_path / "again.onnx").graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected[tensor.name])
    # The plan that prune wrote beside its model removes the branch, too.
    once_more = netadapt_onnx.prune(
        tmp_path / "model.onnx", tmp_path / "more.onnx", plan=tmp_path / "again.plan.toml", check=True
    )
    assert once_more.model is not None and widths_of(once_more.model) == widths_of(tmp_path / "again.onnx")


def test_without_leave_no_branch_goes(tmp_path: Path) -> None:
    result = adapted(tmp_path, allow_block_removal=False, keep_blocks=True)
    assert result.met
    assert (result.removed, sums(onnx.load(result.model))) == ((), 2)


def test_a_search_resumed_after_a_removal_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    full_run = adapted(tmp_path / "whole", init_reduction_ratio=0.2)
    for most in range(1, full_run.iterations + 1):
        parts = adapted(tmp_path / "parts", init_reduction_ratio=0.2, max_iterations=most, resume=True)
    assert full_run.iterations > 1
    assert parts.removed == full_run.removed != ()
    histories = [(tmp_path / name / "run" / "history.jsonl").read_text() for name in ("whole", "parts")]
    assert histories[0] == histories[1]


def test_a_branch_with_a_frozen_group_stays(tmp_path: Path) -> None:
    onnx.save(models.residual(16, size=8), tmp_path / "model.onnx")
    branches = find_branches(trace_model(onnx.load(tmp_path / "model.onnx")))
    frozen = [name for branch in branches for name in branch.groups]
    assert adapted(tmp_path, freeze=frozen, max_iterations=3).removed == ()


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("strategy", "executor"), [("netadapt", "local"), ("netadapt", "local:1"), ("knapsack", "local")]
)
def test_branches_go_with_data_and_whoever_does_the_work(tmp_path: Path, strategy: str, executor: str) -> None:
    """By the caller's measure channels are dear; by Taylor importance the first branch is worth least."""
    onnx.save(quiet_branch(), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((160, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:96], x_val=x[96:])
    result = netadapt_onnx.adapt(
        tmp_path / "model.onnx",
        tmp_path / "data.npz",
        "macs=0.5x",
        tmp_path / "run",
        evaluate=prefers_whole_groups if strategy == "netadapt" else None,
        strategy=strategy,
        executor=executor,
        allow_block_removal=True,
        init_reduction_ratio=0.3,
        final_epochs=0,
    )
    assert result.met
    assert len(result.removed) >= 1
    assert sums(onnx.load(result.model)) == 2 - len(result.removed)


def test_predictions_take_off_what_a_branch_costs() -> None:
    traced = trace_model(models.residual())
    branches = find_branches(traced)
    widths = {group.name: group.channels for group in traced.prunable} | {branch.name: 1 for branch in branches}
    layers = [layer.name for layer in traced.labels.layers]

    def constant_latency(_: object) -> dict[str, float]:
        return dict.fromkeys(layers, 1.0)

    predict = Predictor(
        traced, 0, {"latency": lambda _: 12.0, "custom": lambda _: 12.0}, branches, {"latency": constant_latency}
    )
    uncut, without_one = predict(widths), predict(widths | {branches[0].name: 0})
    assert uncut["latency"] == 12
    assert without_one["latency"] == pytest.approx(12 * (1 - 2 / len(layers)))
    narrower = widths | {branches[0].name: 0} | dict.fromkeys(branches[0].groups, 1)
    assert predict(narrower) == without_one  # there is nothing left of it to be narrow
    assert without_one["custom"] == pytest.approx(12 * without_one["macs"] / uncut["macs"])
    counted = Predictor(trace_model(without(traced.folded, [branches[0].name]).proto))
    gone = {*branches[0].groups, *(branch.name for branch in branches)}
    remaining = {name: width for name, width in widths.items() if name not in gone}
    assert {k: without_one[k] for k in ("macs", "params", "memory")} == {
        k: counted(remaining)[k] for k in ("macs", "params", "memory")
    }


def test_what_is_behind_a_branch_that_goes_makes_up_for_it_layer_by_layer(tmp_path: Path) -> None:
    """As proposals are ranked: nearer to the original's answers than the layers next to the branch alone can come."""
    proto = models.residual(16, size=8)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((320, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:256], x_val=x[256:])
    traced = trace_model(proto)
    data = load_dataset(traced.folded, tmp_path / "data.npz")
    evaluator = UserEvaluator(lambda _: 0.0)
    context = WorkerContext(BaseModel(traced, {}), evaluator, data, seed=0, trains=False, shapes={}, batch_size=1)
    (image,) = traced.folded.specs
    expected = run(session(traced.folded.proto), {image: x[256:]})["logits"]
    for branch in find_branches(traced):
        base = context.original.without([branch.name])
        once = reconstruct(base.trace, {}, context.gram_matrices(base), base.changed)
        off = [
            float(np.abs(run(session(candidate), {image: x[256:]})["logits"] - expected).mean() / expected.std())
            for candidate in (
                context.cut(base, {}, reconstructs=True).proto,
                once,
                without(traced.folded, [branch.name]).proto,
            )
        ]
        assert off[0] <= off[1] * 1.001 and off[0] < 0.9 * off[2]


def test_what_cannot_go_is_said(tmp_path: Path) -> None:
    onnx.save(models.plain(), tmp_path / "plain.onnx")
    with pytest.raises(NetadaptError, match="no branch adds to a tensor"):
        netadapt_onnx.adapt(
            tmp_path / "plain.onnx", None, "macs=0.5x", tmp_path / "r", evaluate=lambda _: 1, allow_block_removal=True
        )
    onnx.save(models.residual(), tmp_path / "model.onnx")
    for text, message in (
        ('[branches]\nremoved = ["nothing"]\n[groups]\n', "no removable branch 'nothing'"),
        ("[branches]\nremoved = 3\n[groups]\n", "one list, removed"),
        ("[branches]\ngone = []\n[groups]\n", "one list, removed"),
    ):
        (tmp_path / "plan.toml").write_text(text)
        with pytest.raises(NetadaptError, match=message):
            netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "o.onnx", plan=tmp_path / "plan.toml")


def scripted(proto: onnx.ModelProto) -> float:
    """Leads a search to narrow the first branch, then to remove it, then the second."""
    adds = {node.name for node in proto.graph.node if node.op_type == "Add"}
    shapes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    widths = {n.name: shapes[n.input[1]][0] for n in proto.graph.node if n.op_type == "Conv"}
    if widths.get("conv1") != 16 or widths.get("conv4", 16) != 16:
        return -1.0
    if adds == {"add1", "add2"}:
        return 1 - 0.01 * widths["conv2"]
    return {("add2",): 0.5, ("add1",): 0.45, (): 0.4}.get(tuple(adds), -1.0)


def test_a_branch_that_is_given_back_has_the_channels_that_it_had(tmp_path: Path) -> None:
    onnx.save(models.residual(16, size=8), tmp_path / "model.onnx")
    result = netadapt_onnx.adapt(
        tmp_path / "model.onnx",
        None,
        "macs=0.3x",
        tmp_path / "run",
        evaluate=scripted,
        select="accuracy",
        allow_block_removal=True,
        step=4,
        init_reduction_ratio=0.1,
        decay=1.0,
    )
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    steps = [(step["group"], step["channels"][1]) for step in map(json.loads, lines)]
    assert steps[:6] == [("conv2", 12), ("conv2", 8), ("conv2", 4), ("add1", 0), ("add2", 0), ("add1", 1)]
    assert result.removed == ("add2",)
    kept = [
        tomllib.loads((tmp_path / "run" / "iterations" / f"{n:03d}" / "plan.toml").read_text())["groups"]
        for n in (3, 5, 6)
    ]
    assert kept[1] == {}
    assert kept[2] == kept[0]
    plan = tmp_path / "run" / "iterations" / "006" / "plan.toml"
    again = netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "again.onnx", plan=plan, check=True)
    restored = netadapt_onnx.restore(tmp_path / "run", 6, tmp_path / "restored.onnx").model
    assert again.model is not None and widths_of(again.model) == widths_of(restored)
