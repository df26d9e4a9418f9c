"""Smaller ONNX models that meet a measured budget. See the README; everything public is in `__all__`."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# onnxruntime's Linux wheels from 1.29 on send telemetry; this must be set before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from netadapt_onnx.errors import NetadaptError
    from netadapt_onnx.evaluation import evaluate
    from netadapt_onnx.exporting import export, export_module
    from netadapt_onnx.finetuning import finetune
    from netadapt_onnx.gating.diff import diff
    from netadapt_onnx.gating.gate import gate
    from netadapt_onnx.inspection import inspect
    from netadapt_onnx.model import load
    from netadapt_onnx.profiling import profile
    from netadapt_onnx.pruning import prune
    from netadapt_onnx.reporting.report import report
    from netadapt_onnx.scaling.scale import scale
    from netadapt_onnx.search.adapt import adapt
    from netadapt_onnx.search.restore import restore
    from netadapt_onnx.training.given import DataSource

# Imported when first used, so that no command pays for another's libraries.
_HOMES = {
    "DataSource": "training.given",
    "NetadaptError": "errors",
    "adapt": "search.adapt",
    "diff": "gating.diff",
    "evaluate": "evaluation",
    "export": "exporting",
    "export_module": "exporting",
    "finetune": "finetuning",
    "gate": "gating.gate",
    "inspect": "inspection",
    "load": "model",
    "profile": "profiling",
    "prune": "pruning",
    "report": "reporting.report",
    "restore": "search.restore",
    "scale": "scaling.scale",
}

__all__ = [
    "DataSource",
    "NetadaptError",
    "__version__",
    "adapt",
    "diff",
    "evaluate",
    "export",
    "export_module",
    "finetune",
    "gate",
    "inspect",
    "load",
    "profile",
    "prune",
    "report",
    "restore",
    "scale",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
