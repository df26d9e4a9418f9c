"""Cuts without a search: counts from ratios, shares and budgets, and that what is written is what was promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models import ALL, plain, residual, unprunable
from netadapt_onnx.api.inspect import inspect
from netadapt_onnx.api.prune import prune
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.kept_counts import at_ratio


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return save(residual(), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("channels", "step", "floor", "ratio", "step_option", "kept"),
    [
        (16, 1, 1, 0.5, None, 8),
        (16, 1, 1, 0.3, None, 12),  # ceil(11.2)
        (16, 1, 1, 0.0, None, 16),
        (16, 1, 1, 0.999, None, 1),
        (24, 8, 8, 0.5, None, 16),
        (24, 8, 8, 0.9, None, 8),
        (24, 4, 4, 0.5, 3, 12),
        (24, 4, 4, 0.6, 8, 16),
        (10, 1, 1, 0.1, 8, 10),
        (10, 1, 4, 0.9, None, 4),
        (30, 1, 1, 0.9, None, 3),  # 0.1 * 30 is a little above 3 in floating point
    ],
)
def test_counts_follow_the_formula(
    channels: int, step: int, floor: int, ratio: float, step_option: int | None, kept: int
) -> None:
    group = Group("g", channels, step, floor, ("g",), True, None)
    assert at_ratio([group], ratio, step_option) == {"g": kept}


@pytest.mark.parametrize("name", ALL)
def test_pruned_equals_masked_and_is_smaller(name: str, tmp_path: Path) -> None:
    path = save(ALL[name](), tmp_path / "model.onnx")
    result = prune(path, tmp_path / "small.onnx", ratio=0.5, check=True)
    assert result.verify is not None
    assert result.verify.exact
    assert result.verify.max_rel_diff <= 1e-4
    assert result.after.params < result.before.params
    assert result.after.macs < result.before.macs
    assert result.after.size_bytes == (tmp_path / "small.onnx").stat().st_size


def test_the_written_model_is_what_the_result_says(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = prune(written, out, ratio=0.5)
    assert result.verify is None
    again = inspect(out)
    assert again.model == result.after
    channels = {g.name: g.channels for g in again.groups}
    assert {name: after for name, (_, after) in result.groups.items()} == {
        name: channels[name] for name in result.groups
    }
    before, after = onnx.load(written), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)
    assert after.opset_import == before.opset_import
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    metadata = {p.key: p.value for p in after.metadata_props}
    assert metadata["netadapt_onnx.source_sha256"] == load(written).sha256
    assert metadata["netadapt_onnx.command"] == "prune"


def test_what_is_kept_may_be_named(written: Path) -> None:
    result = prune(written, keep={"conv2": "0.25x", "conv4": 5})
    assert result.groups["conv2"] == (16, 4)
    assert result.groups["conv4"] == (16, 5)
    assert result.groups["conv1"] == (16, 16)


def test_a_budget_is_met_by_the_largest_uniform_cut(written: Path) -> None:
    for budget, resource in (("macs=0.5x", "macs"), ("params=3k", "params"), ("size=0.4x", "size_bytes")):
        result = prune(written, budget=budget)
        limit = {"macs=0.5x": result.before.macs / 2, "params=3k": 3000}.get(budget, result.before.size_bytes * 0.4)
        assert result.met
        reached = getattr(result.after, resource)
        assert reached <= limit
        kept = max(after for _, after in result.groups.values())
        wider = prune(written, keep={name: min(16, kept + 1) for name in result.groups})
        assert getattr(wider.after, resource) > limit


def test_several_budgets_all_hold(written: Path) -> None:
    result = prune(written, budget=["macs=0.5x", "params=0.2x"])
    assert result.after.params <= 0.2 * result.before.params


def test_a_budget_above_the_cost_leaves_the_model_as_it_is(written: Path, tmp_path: Path) -> None:
    result = prune(written, tmp_path / "same.onnx", budget="macs=2x")
    assert result.met
    assert "nothing to do" in result.note
    assert result.after.macs == result.before.macs
    inputs = random_inputs(fold(load(written).proto).specs)
    a, b = (run(session(load(p).proto), inputs)["logits"] for p in (written, tmp_path / "same.onnx"))
    np.testing.assert_array_equal(a, b)


def test_a_budget_below_the_smallest_model_says_how_far_it_got(written: Path) -> None:
    result = prune(written, budget="macs=0.0001x")
    assert not result.met
    assert "macs=0.0" in result.note
    assert all(after == 1 for _, after in result.groups.values())


def test_least_squares_on_unlabelled_data_brings_the_outputs_back(written: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((256, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:192], x_val=x[192:])
    outputs = {"whole": run(session(load(written).proto), {"image": x[192:]})["logits"]}
    for name, data in (("cut", None), ("solved", tmp_path / "data.npz")):
        out = tmp_path / f"{name}.onnx"
        result = prune(written, out, ratio=0.5, data=data, check=True)
        assert result.verify is not None
        assert result.verify.exact
        outputs[name] = run(session(load(out).proto), {"image": x[192:]})["logits"]
    error = {name: float(((outputs[name] - outputs["whole"]) ** 2).mean()) for name in ("cut", "solved")}
    assert error["solved"] < 0.5 * error["cut"]


def test_the_criteria_choose_different_channels(written: Path, tmp_path: Path) -> None:
    outputs = {}
    inputs = random_inputs(fold(load(written).proto).specs)
    for criterion in ("l2", "first", "random"):
        out = tmp_path / f"{criterion}.onnx"
        prune(written, out, ratio=0.5, criterion=criterion)
        outputs[criterion] = run(session(load(out).proto), inputs)["logits"]
    assert not np.allclose(outputs["l2"], outputs["first"])
    assert not np.allclose(outputs["random"], outputs["first"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "how much"),
        ({"ratio": 0.5, "budget": "macs=0.5x"}, "how much"),
        ({"ratio": 1.0}, r"\[0, 1\)"),
        ({"ratio": -0.1}, r"\[0, 1\)"),
        ({"keep": {"conv9": 4}}, "conv9.*did you mean"),
        ({"keep": {"fc1": 4}}, "cannot be pruned: "),
        ({"keep": {"conv2": 17}}, "from 1 to 16 in steps of 1"),
        ({"keep": {"conv2": 0}}, "from 1 to 16"),
        ({"keep": {"conv2": "0x"}}, "from 1 to 16"),
        ({"keep": {"conv2": "many"}}, "from 1 to 16"),
        ({"budget": "latency=0.5x"}, "latency"),
        ({"ratio": 0.5, "criterion": "l3"}, "l3.*l2, l1"),
    ],
)
def test_bad_arguments_say_what_is_expected(arguments: dict[str, object], message: str, written: Path) -> None:
    with pytest.raises(NetadaptError, match=message):
        prune(written, **arguments)  # type: ignore[arg-type]


def test_a_model_without_a_prunable_group_is_refused(tmp_path: Path) -> None:
    path = save(unprunable(), tmp_path / "model.onnx")
    with pytest.raises(NetadaptError, match="no group of channels can be pruned: reaches graph output") as caught:
        prune(path, tmp_path / "out.onnx", ratio=0.5)
    assert caught.value.code == "nothing-to-prune"
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("budget", ["size=108000", "size=0.9x"])
def test_a_size_budget_holds_for_the_file_that_is_written(tmp_path: Path, budget: str) -> None:
    proto = plain((32, 64, 64))
    proto.doc_string = "x" * 20_000  # a share of the file, not of the graph
    onnx.save(proto, tmp_path / "m.onnx")
    result = prune(tmp_path / "m.onnx", tmp_path / "s.onnx", budget=budget)
    size = (tmp_path / "s.onnx").stat().st_size
    limit = 108_000 if budget == "size=108000" else 0.9 * (tmp_path / "m.onnx").stat().st_size
    assert result.met
    assert 0.95 * limit < size <= limit
