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
from netadapt_onnx.search.run_directory.layer_changes import Details, TrainedEpoch
from netadapt_onnx.training.validation import Evaluation
from report_runs import finished


def test_several_targets_and_the_deployed_form_are_shown(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun) and adapt_run.result is not None
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
    assert isinstance(adapt_run, AdaptRun) and adapt_run.result is not None
    tried = (
        EvaluatedProposal("netadapt", 20, {"macs": 1.0}, 0.75, 0.78125),
        EvaluatedProposal("curves", 21, {"macs": 1.0}, 0.875, 0.5),
        EvaluatedProposal("uniform", 22, {"macs": 1.0}, None),
    )
    competed = replace(adapt_run, steps=(replace(adapt_run.steps[-1], group=PORTFOLIO, tried=tried),))
    texts = ["".join(adapt_sections(one, ChartRenderer().figure, with_name=False)) for one in (adapt_run, competed)]
    assert "Methods that competed" not in texts[0]
    section = texts[1].partition("Methods that competed")[2].partition("</section>")[0].partition("<table")[2]
    assert section.index("curves") < section.index("netadapt") < section.index("uniform")
    assert "0.0938" in section and "failed" in section


def test_branches_that_went_are_named(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun) and adapt_run.result is not None
    gone = replace(adapt_run, result=replace(adapt_run.result, removed=("layer1.0.add", "layer<2>.add")))
    texts = ["".join(adapt_sections(one, ChartRenderer().figure, with_name=False)) for one in (adapt_run, gone)]
    assert "Residual branches that were removed whole: layer1.0.add, layer&lt;2&gt;.add." in texts[1]
    assert "Residual branches" not in texts[0]


def test_a_discarded_training_is_said_and_not_drawn(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    details = replace_details(adapt_run, tuple(TrainedEpoch(n, 0.5 / n, 0.02) for n in (1, 2, 3)))
    texts = []
    for accuracies in ((0.75, 0.5, 0.625), (0.75, 0.5, 0.875)):
        evaluations = tuple(Evaluation(10 * number, one) for number, one in enumerate(accuracies))
        run = replace(adapt_run, evaluations=evaluations, details=details)
        text = "".join(adapt_sections(run, ChartRenderer().figure, with_name=False))
        texts.append(text.partition("Final training")[2].partition("</section>")[0])
    assert "so it was discarded" in texts[0] and "<figure" not in texts[0]
    assert "so it was discarded" not in texts[1] and texts[1].count("<figure") == 2


def test_the_row_of_the_result_stands_out(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun) and adapt_run.result is not None
    text = "".join(adapt_sections(adapt_run, ChartRenderer().figure, with_name=False))
    rows = text.partition("<h2>Iterations")[2].partition("</section>")[0].split("<tr")[2:]
    marked = [row for row in rows if row.startswith(' class="marked"')]
    assert len(rows) == len(adapt_run.steps) + 2
    assert marked[0].startswith(f' class="marked"><td>{adapt_run.result.iterations}</td>')
    assert f"the result: iteration {adapt_run.result.iterations}" in marked[-1] and rows[-1] == marked[-1]


def test_an_unfinished_run_says_how_far_it_has_come(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "result.json").unlink()
    adapt_run = read_run(folder)
    assert isinstance(adapt_run, AdaptRun)
    text = "".join(adapt_sections(adapt_run, ChartRenderer().figure, with_name=False))
    assert "Repeat the command with --resume" in text
    assert f"Interrupted after {len(adapt_run.steps)} iterations" in text and "macs=0.6x" in text
    assert "fewer MACs" in text and "<figure" in text and "How to repeat this run" in text
    empty = replace(adapt_run, steps=(), points=())
    text = "".join(adapt_sections(empty, ChartRenderer().figure, with_name=False))
    assert "Interrupted after 0 iterations" in text and "<figure" not in text


def test_without_labels_proposals_are_not_compared_with_what_was_accepted(tmp_path: Path) -> None:
    """They are judged by the outputs that they explain, which is no agreement."""
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    for metric, is_drawn in (("top1", True), ("agreement", False)):
        run = replace(adapt_run, metric=metric)
        assert ("proposal" in {point.kind for point in run.drawn_points}) == is_drawn
        text = "".join(adapt_sections(run, ChartRenderer().figure, with_name=False))
        assert ("so they are not drawn" in text) != is_drawn


def replace_details(run: AdaptRun, training: tuple[TrainedEpoch, ...]) -> Details:
    return Details(run.details.layers, run.details.blocked, training)
