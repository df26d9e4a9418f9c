"""Plans and explanations: what a cut keeps, why, and the same again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import models
import netadapt_onnx
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.explain import explain
from netadapt_onnx.surgery.kept_counts import at_counts
from netadapt_onnx.surgery.plan import plan_of, read_plan, template
from tracing import trace_model


def test_the_plan_of_a_cut_replays_it_on_the_original(tmp_path: Path) -> None:
    onnx.save(models.residual(), tmp_path / "m.onnx")
    netadapt_onnx.prune(tmp_path / "m.onnx", tmp_path / "half.onnx", ratio=0.5)
    netadapt_onnx.prune(tmp_path / "m.onnx", tmp_path / "again.onnx", plan=tmp_path / "half.plan.toml")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "half.onnx").read_bytes()


def test_an_edited_template_is_a_plan(tmp_path: Path) -> None:
    traced = trace_model(models.residual(16))
    file = tmp_path / "plan.toml"
    file.write_text(template(traced))
    assert read_plan(file, traced) == {}  # it keeps everything
    file.write_text(template(traced).replace('"conv2" = 16', '"conv2" = 4').replace('"conv4" = 16', '"conv4" = [3, 1]'))
    kept = read_plan(file, traced)
    np.testing.assert_array_equal(kept["conv2"], select(traced, {"conv2": 4})["conv2"])
    assert kept["conv4"].tolist() == [1, 3]


def test_a_template_names_what_cannot_be_pruned_only_in_comments() -> None:
    text = template(trace_model(models.residual()))
    assert "# cannot be pruned: reaches graph output 'logits'" in text
    assert '\n# "fc1" = 10\n' in text


def test_a_path_stands_for_its_group_and_nothing_names_one_twice(tmp_path: Path) -> None:
    proto = models.plain((8, 8))
    name, path, file = "/stem/conv/Conv", "stem.conv", tmp_path / "plan.toml"
    next(node for node in proto.graph.node if node.op_type == "Conv").name = name
    traced = trace_model(proto)
    file.write_text(f'[groups]\n"{path}" = [0, 5]\n')
    assert {group: kept.tolist() for group, kept in read_plan(file, traced).items()} == {name: [0, 5]}
    assert at_counts(traced, {path: 4}) == {name: 4}
    assert [one.group.name for one in explain(traced, path)] == [name]
    file.write_text(f'[groups]\n"{path}" = [0, 5]\n"{name}" = 4\n')
    with pytest.raises(NetadaptError, match="named twice"):
        read_plan(file, traced)
    with pytest.raises(NetadaptError, match="named twice"):
        at_counts(traced, {path: 4, name: "0.5x"})


def test_names_in_a_plan_survive_quotes_and_line_breaks(tmp_path: Path) -> None:
    proto = models.plain((8, 8))
    proto.graph.node[0].name = 'odd "name"\nwith a break'
    traced = trace_model(proto)
    (tmp_path / "p.toml").write_text(plan_of({proto.graph.node[0].name: np.array([0, 5])}))
    assert read_plan(tmp_path / "p.toml", traced)[proto.graph.node[0].name].tolist() == [0, 5]
    (tmp_path / "t.toml").write_text(template(traced))
    assert read_plan(tmp_path / "t.toml", traced) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[groups", "is not TOML"),
        ("[other]\nconv1 = 3", r"holds one table, \[groups\]"),
        ("[groups]\nconv7 = 3", "no group 'conv7'.*did you mean conv"),
        ("[groups]\nconv1 = 0", "keeps 0; a count from 1 to 16"),
        ("[groups]\nconv1 = 0.5", r"keeps 0\.5"),
        ("[groups]\nconv1 = [1, 1]", "lists a channel twice"),
        ("[groups]\nconv1 = [1, 16]", r"channels 0\.\.15"),
        ("[groups]\nfc1 = [1, 2]", "cannot be pruned"),
        (f"[groups]\nconv1 = [1, {10**30}]", "keeps"),
        (f"[groups]\nconv1 = {'9' * 5000}", "is not TOML"),
        (f"[groups]\nconv1 = {'[' * 5000}", "is not TOML"),
    ],
)
def test_a_plan_that_does_not_fit_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(NetadaptError, match=message):
        read_plan(tmp_path / "plan.toml", trace_model(models.plain()))


def test_explain_lists_the_axes_that_a_group_cuts_and_all_that_pins_it() -> None:
    traced = trace_model(models.residual(16))
    (inner,) = explain(traced, "conv2")
    assert {(p.tensor, p.axis) for p in inner.constants} == {
        ("conv2.weight", 0),
        ("bn2.scale", 0),
        ("bn2.bias", 0),
        ("bn2.mean", 0),
        ("bn2.var", 0),
        ("conv3.weight", 1),
    }
    assert {p.tensor for p in inner.tensors} == {"conv2_out", "bn2_out", "relu2_out"}
    assert inner.pins == ()
    assert [e.group.name for e in explain(traced, "conv3")] == ["conv1"]  # a layer of the residual stream
    assert [e.group.name for e in explain(traced, "relu2_out")] == ["conv2"]  # a tensor
    assert explain(traced, "fc1")[0].pins == ("reaches graph output 'logits'",)
    with pytest.raises(NetadaptError, match="carries no channels"):
        explain(traced, "image")
