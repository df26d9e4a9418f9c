"""Smaller ONNX models that meet a measured budget. See the README; everything public is in `__all__`."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from netadapt_onnx._version import __version__

# onnxruntime's Linux wheels from 1.29 on send telemetry; this must be set before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from netadapt_onnx.api.adapt import adapt
    from netadapt_onnx.api.diff import diff
    from netadapt_onnx.api.evaluate import evaluate
    from netadapt_onnx.api.export import export, export_module
    from netadapt_onnx.api.finetune import finetune
    from netadapt_onnx.api.from_torch import from_torch
    from netadapt_onnx.api.gate import gate
    from netadapt_onnx.api.inspect import inspect
    from netadapt_onnx.api.profile import profile
    from netadapt_onnx.api.prune import prune
    from netadapt_onnx.api.report import report
    from netadapt_onnx.api.restore import restore
    from netadapt_onnx.api.scale import scale
    from netadapt_onnx.api.slice_state_dict import slice_state_dict
    from netadapt_onnx.api.to_torch import to_torch
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.errors import NetadaptError
    from netadapt_onnx.graph.model import load

# Imported when first used, so that no command pays for another's libraries.
_HOMES = {
    "DataSource": "data.source",
    "NetadaptError": "errors",
    "adapt": "api.adapt",
    "diff": "api.diff",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "export_module": "api.export",
    "finetune": "api.finetune",
    "from_torch": "api.from_torch",
    "gate": "api.gate",
    "inspect": "api.inspect",
    "load": "graph.model",
    "profile": "api.profile",
    "prune": "api.prune",
    "report": "api.report",
    "restore": "api.restore",
    "scale": "api.scale",
    "slice_state_dict": "api.slice_state_dict",
    "to_torch": "api.to_torch",
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
    "from_torch",
    "gate",
    "inspect",
    "load",
    "profile",
    "prune",
    "report",
    "restore",
    "scale",
    "slice_state_dict",
    "to_torch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
