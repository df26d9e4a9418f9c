"""The sections on a run of `adapt` name its targets, its deployed form and the branches that were removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from netadapt_onnx.api.report import read_run
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.reporting.adapt_sections import adapt_sections
from netadapt_onnx.reporting.page import ChartRenderer
from netadapt_onnx.search.netadapt import EvaluatedProposal
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.result import Deployed
from report_runs import finished


def test_several_targets_and_the_deployed_form_are_shown(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    done = adapt_run.result.models[0]
    change = AccuracyChange(0.75, 0.625, "r2", "test")
    result = replace(
        adapt_run.result,
        models=(done, replace(done, budget="macs=0.3x", met=False)),
        deployed=Deployed("int8", "model.int8.onnx", (4000, 1000), change),
    )
    text = "".join(adapt_sections(replace(adapt_run, result=result), ChartRenderer().figure, with_name=False))
    assert "macs=0.3x" in text and "missed" in text
    assert "r2 (test) as int8" in text and "0.625" in text and "0.25x" in text


def test_methods_that_competed_are_shown_with_how_far_they_were_behind(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    tried = (
        EvaluatedProposal("netadapt", 20, {"macs": 1.0}, 0.75, 0.78125),
        EvaluatedProposal("curves", 21, {"macs": 1.0}, 0.875, 0.5),
        EvaluatedProposal("uniform", 22, {"macs": 1.0}, None),
    )
    competed = replace(adapt_run, steps=(replace(adapt_run.steps[-1], group=PORTFOLIO, tried=tried),))
    texts = ["".join(adapt_sections(one, ChartRenderer().figure, with_name=False)) for one in (adapt_run, competed)]
    assert "who competed" not in texts[0]
    section = texts[1].partition("who competed")[2].partition("</section>")[0]
    assert section.index("curves") < section.index("netadapt") < section.index("uniform")
    assert "0.0938" in section and "failed" in section


def test_branches_that_went_are_named(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    gone = replace(adapt_run, result=replace(adapt_run.result, removed=("layer1.0.add", "layer<2>.add")))
    texts = ["".join(adapt_sections(one, ChartRenderer().figure, with_name=False)) for one in (adapt_run, gone)]
    assert "Without the residual branches layer1.0.add, layer&lt;2&gt;.add." in texts[1]
    assert "residual branches" not in texts[0]
