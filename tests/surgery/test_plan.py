"""Plans and explanations: what a cut keeps, why, and the same again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
import netadapt_onnx
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.criteria.selection import importance, select
from netadapt_onnx.surgery.criteria.weights import CRITERIA
from netadapt_onnx.surgery.explain import explain
from netadapt_onnx.surgery.plan import plan_of, read_plan, template
from netadapt_onnx.surgery.trace import Trace
from tracing import trace_model


def test_the_plan_of_a_cut_replays_it_on_the_original(tmp_path: Path) -> None:
    onnx.save(models.residual(), tmp_path / "m.onnx")
    netadapt_onnx.prune(tmp_path / "m.onnx", tmp_path / "half.onnx", ratio=0.5)
    netadapt_onnx.prune(tmp_path / "m.onnx", tmp_path / "again.onnx", plan=tmp_path / "half.plan.toml")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "half.onnx").read_bytes()


def test_an_edited_template_is_a_plan(tmp_path: Path) -> None:
    found = trace_model(models.residual(16))
    file = tmp_path / "plan.toml"
    file.write_text(template(found))
    assert read_plan(file, found) == {}  # it keeps everything
    file.write_text(template(found).replace('"conv2" = 16', '"conv2" = 4').replace('"conv4" = 16', '"conv4" = [3, 1]'))
    kept = read_plan(file, found)
    np.testing.assert_array_equal(kept["conv2"], select(found, {"conv2": 4})["conv2"])
    assert kept["conv4"].tolist() == [1, 3]


def test_a_template_names_what_cannot_be_pruned_only_in_comments() -> None:
    text = template(trace_model(models.residual()))
    assert "# cannot be pruned: reaches graph output 'logits'" in text
    assert '\n# "fc1" = 10\n' in text


def test_names_in_a_plan_survive_quotes_and_line_breaks(tmp_path: Path) -> None:
    proto = models.plain((8, 8))
    proto.graph.node[0].name = 'odd "name"\nwith a break'
    found = trace_model(proto)
    (tmp_path / "p.toml").write_text(plan_of({proto.graph.node[0].name: np.array([0, 5])}))
    assert read_plan(tmp_path / "p.toml", found)[proto.graph.node[0].name].tolist() == [0, 5]
    (tmp_path / "t.toml").write_text(template(found))
    assert read_plan(tmp_path / "t.toml", found) == {}


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
    found = trace_model(models.residual(16))
    (inner,) = explain(found, "conv2")
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
    assert [e.group.name for e in explain(found, "conv3")] == ["conv1"]  # a layer of the residual stream
    assert [e.group.name for e in explain(found, "relu2_out")] == ["conv2"]  # a tensor
    assert explain(found, "fc1")[0].pins == ("reaches graph output 'logits'",)
    with pytest.raises(NetadaptError, match="carries no channels"):
        explain(found, "image")


def weights(found: Trace) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in found.folded.proto.graph.initializer}


def test_group_l2_counts_producers_and_consumers() -> None:
    found = trace_model(models.plain((8, 12)))
    w = weights(found)
    squares = (w["conv1.weight"] ** 2).sum(axis=(1, 2, 3)) + (w["conv2.weight"] ** 2).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(importance(found, "group-l2")["conv1"], np.sqrt(squares))


def test_fpgm_is_the_distance_to_all_other_filters() -> None:
    found = trace_model(models.plain((8, 12)))
    filters = weights(found)["conv1.weight"].reshape(8, -1)
    expected = [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
    np.testing.assert_allclose(importance(found, "fpgm")["conv1"], expected, rtol=1e-5)


def test_bn_scale_is_the_scale_and_says_where_there_is_none() -> None:
    found = trace_model(models.plain((8, 12)))
    np.testing.assert_allclose(importance(found, "bn-scale")["conv1"], np.abs(weights(found)["bn1.scale"]))
    with pytest.raises(NetadaptError, match="has no BatchNorm"):
        importance(trace_model(models.channels_last()), "bn-scale")


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"bn-scale"}))
@pytest.mark.parametrize("build", sorted(models.ALL))
def test_every_criterion_scores_every_group_of_every_model(name: str, build: str) -> None:
    found = trace_model(models.ALL[build]())
    for group, scores in importance(found, name).items():
        assert scores.shape == (found.group(group).channels,)
        assert np.isfinite(scores).all()
        classes = found.members[group]
        for root in np.unique(classes):  # channels that go together score alike, but for the order of 'first'
            assert name in ("first", "random") or np.ptp(scores[classes == root]) == 0
