"""A run of `adapt` as text: the result in one line, how each budget ended, tables, and what to run next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netadapt_onnx.commands._next import with_model
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape
from netadapt_onnx.common.options import word_of
from netadapt_onnx.reporting import REPORT_FILE
from netadapt_onnx.reporting.result_summary import budget_sentence, budget_state, result_headline
from netadapt_onnx.reporting.table_rows import changed_group, result_rows, scores, target_cells

if TYPE_CHECKING:
    from netadapt_onnx.search.netadapt import Step
    from netadapt_onnx.search.result import AdaptResult, Deployed, DryRun, Latency

# A residual branch is a group that has one channel, or none.
BRANCH = {0: "removed", 1: "kept"}
BEFORE_TRAINING = "* on held-out samples, before the final training"
# What the name of a portfolio's step means.
COMPETED = (
    "the best of several methods: the widths reached so far competed with those of other methods;\n"
    "the winner's go on, and may differ in every group"
)


def plan_text(planned: DryRun, follow: str) -> str:
    """The proposals of the first iteration, the options that they follow from, and the command that runs it."""
    rows = [
        [
            p.group,
            *(BRANCH[n] if p.channels == (1, 0) else n for n in p.channels),
            *(render.amount(name, value) for name, value in p.resources.items()),
        ]
        for p in planned.proposals
    ]
    parts = [
        f"The first iteration is to bring {planned.driver} from "
        f"{render.amount(planned.driver, planned.current[planned.driver])} to "
        f"{render.amount(planned.driver, planned.target)}.",
        render.table(rows, ["group", "channels", "then", *planned.current]),
    ]
    if planned.skipped:
        parts.append(f"Groups without a proposal of their own: {', '.join(planned.skipped)}")
    chosen = ", ".join(f"{name.replace('_', '-')} {word_of(value)}" for name, value in planned.options.items())
    parts.append(f"preset {planned.preset}: {chosen}")
    kept = [f"The latency table was kept in {file}" for file in planned.tables.values()]
    return "\n\n".join([*parts, *planned.notes, *kept, f"next: {follow}"])


def result_text(result: AdaptResult, run: Path, model: Path, follow: str) -> str:
    """What came out of a run, as people read it.

    Args:
        result: The result.
        run: The run's directory.
        model: The original.
        follow: The command to run next.
    """
    verdicts = [budget_sentence(limit, result) for limit in result.limits]
    parts = ["\n".join([result_headline(result), *verdicts])]
    parts += [_targets(result), render.table(result_rows(result), ["", "before", "after", "left"])]
    parts += [_deployed(result.deployed)] if result.deployed else []
    parts += [_latency(name, latency) for name, latency in result.latencies.items()]
    for name, comparison in result.measured.items():
        parts.append(f"{name}: {comparison.ratio:.3f}x of the original's, measured beside it: {comparison.after:.4g}")
    parts += [history(run, result), _groups(result)]
    parts += [f"Removed residual branches: {', '.join(result.removed)}"] if result.removed else []
    parts += [with_model(note, model) for note in result.notes]
    page = f" and {escape(run / REPORT_FILE)}" if (run / REPORT_FILE).exists() else ""
    work = f"{render.plural(result.iterations, 'iteration')} in {result.seconds:.0f} s"
    parts += [f"{work}; wrote {result.model}{page}", f"next: {follow}"]
    return "\n\n".join(filter(None, parts))


def _targets(result: AdaptResult) -> str:
    """A row per target, where there were several."""
    if len(result.models) < 2:
        return ""
    rows = [[model.budget, budget_state(model), *target_cells(model), model.model] for model in result.models]
    return render.table(
        rows, ["target", "", "macs", "params", "latency", result.accuracy.metric, "model"], text_columns=2
    )


def _groups(result: AdaptResult) -> str:
    """The groups that lost channels, and how many did not."""
    rows = [[name, *counts] for name, counts in result.groups.items() if counts[0] != counts[1]]
    if not rows:
        return "No group lost channels."
    others = len(result.groups) - len(rows)
    rest = f"\n{others} other group{' keeps its' if others == 1 else 's keep their'} channels" if others else ""
    return render.table(rows, ["group", "channels before", "after"]) + rest


def _latency(name: str, latency: Latency) -> str:
    low, high = latency.ci95
    return (
        f"{name}: {latency.ratio:.3f}x of the original's (95% interval: {low:.3f}x to {high:.3f}x), measured in turn "
        f"with it in {latency.sessions} fresh sessions each; the table predicted "
        f"{render.milliseconds(latency.predicted_ms)}"
    )


def _deployed(deployed: Deployed) -> str:
    change, (before, after) = deployed.accuracy, scores(deployed.accuracy)
    smaller = [render.size(size) for size in deployed.size_bytes]
    return (
        f"deployed as {deployed.precision} ({deployed.file}): {change.metric} ({change.split}) "
        f"{before} before, {after} after; {smaller[0]} before, {smaller[1]} after"
        + "".join(
            f"; on {name} {render.score(change.metric, on_device.accuracy)}, here "
            f"{render.score(change.metric, on_device.here)} of the same {on_device.samples} samples"
            for name, on_device in deployed.devices.items()
        )
    )


def history(run: Path, result: AdaptResult) -> str:
    """A row per iteration: what was cut, accuracy, resources predicted and measured; which one is the result."""
    from netadapt_onnx.common.escape import printable_copy
    from netadapt_onnx.search.netadapt import Step
    from netadapt_onnx.search.portfolio import PORTFOLIO
    from netadapt_onnx.search.run_directory.journal import read_history

    steps = printable_copy(read_history(run, Step))
    if not steps:
        return ""
    measured = list(dict.fromkeys(name for step in steps for name in step.accepted.measured))
    # The resources that drove a step, in the order in which they did, and others that were measured.
    resources = list(dict.fromkeys([*(step.driver for step in steps), *measured]))
    headers = ["iteration", "group", "channels", "then", "accuracy*"]
    for name in resources:
        headers += [name if render.is_counted(name) else f"{name} predicted"]
        headers += ["measured (95%)"] if name in measured else []
    rows, marks = [], _marks(result)
    for step, earlier in zip(steps, [None, *steps], strict=False):
        change = _change(step, earlier, result.groups)
        row = [step.iteration, *change, render.score(result.accuracy.metric, step.accepted.accuracy)]
        for name in resources:
            row.append(render.amount(name, step.resources[name]))
            if name in measured:
                row.append(render.measured(name, step.accepted.measured, step.accepted.measured_ci95))
        rows.append([*row, marks.get(step.iteration, "")])
    return render.table(rows, [*headers, ""], text_columns=2) + "\n".join(
        ["", *([COMPETED] if any(step.group == PORTFOLIO for step in steps) else []), BEFORE_TRAINING]
    )


def _marks(result: AdaptResult) -> dict[int, str]:
    """By iteration, the mark of the row that a result is from."""
    if len(result.models) < 2:
        return {result.iterations: "<- result"}
    return {model.iterations: f"<- result for {model.budget}" for model in result.models}


def _change(step: Step, earlier: Step | None, groups: Mapping[str, object]) -> Sequence[str]:
    """The group that a step changed with its channels before and after; both groups of a swap, a line each."""
    changes = step.changes({} if earlier is None else earlier.widths)
    branches = step.widths.keys() - groups.keys()
    rows = [
        (changed_group(name), *(BRANCH[n] if name in branches else str(n) for n in (before, after)))
        for name, (before, after) in changes.items()
    ]
    return ["\n".join(column) for column in zip(*rows, strict=True)]
