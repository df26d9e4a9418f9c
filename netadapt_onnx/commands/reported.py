"""The report that long commands leave in their run's directory."""

from __future__ import annotations

from pathlib import Path

from netadapt_onnx.progress import stage


def write_report(run: Path) -> None:
    """RUN/report.html, where charts can be drawn."""
    from netadapt_onnx import charts

    if charts.available():
        from netadapt_onnx.reporting.report import report

        with stage("drawing the report"):
            report(run)
