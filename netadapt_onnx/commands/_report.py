"""The report that long commands leave in their run's directory."""

from __future__ import annotations

from pathlib import Path

from netadapt_onnx.common.escape import escape_joined
from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting import REPORT_FILE


def write_report(run: Path) -> tuple[str, ...]:
    """Write RUN/report.html, where charts can be drawn. Returns notes on what could not be.

    Raises NetadaptError for a run that cannot be read back; nothing else that goes wrong here costs the run.
    """
    from netadapt_onnx.common import charts

    if not charts.available():
        return ()
    from netadapt_onnx.api.report import report

    try:
        with stage("drawing the report"):
            return report(run).notes
    except NetadaptError:
        raise
    except Exception as error:
        return (f"{run / REPORT_FILE} was not written: {type(error).__name__}: {escape_joined(str(error))[:200]}",)
