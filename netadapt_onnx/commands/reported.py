"""The report that long commands leave in their run's directory."""

from __future__ import annotations

from pathlib import Path

from netadapt_onnx.progress import stage


def write_report(run: Path) -> tuple[str, ...]:
    """Write RUN/report.html, where charts can be drawn. Returns notes on those that cannot."""
    from netadapt_onnx import charts

    if not charts.available():
        return ()
    from netadapt_onnx.reporting.report import report

    with stage("drawing the report"):
        return report(run).notes
