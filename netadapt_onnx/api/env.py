"""What this machine has: versions, execution providers, the device's fingerprint, and which extras are installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from netadapt_onnx._version import __version__
from netadapt_onnx.profilers.execution import fingerprint

CORE = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "click", "rich", "tabulate", "msgspec")
# What each extra is for, and the modules that show that it is there.
EXTRAS = {
    "adapt": ("adapt, finetune, export and the demo", ("torch", "onnxscript", "sklearn", "loky")),
    "report": ("HTML reports and charts", ("vl_convert",)),
    "ray": ("adapt's proposals on a Ray cluster", ("ray",)),
    "tensorboard": ("finetune --tensorboard", ("tensorboard",)),
    "adb": ("profiling on Android devices, where adb is not installed", ("adbutils",)),
}


@dataclass(frozen=True)
class Extra:
    """An optional set of packages: whether it is there, what it enables, and the command that installs it."""

    installed: bool
    enables: str
    install: str


@dataclass(frozen=True)
class Environment:
    """`fingerprint` is what latency tables of this machine carry; `cores` counts those this process may use."""

    versions: Mapping[str, str]
    providers: tuple[str, ...]
    cores: int
    fingerprint: Mapping[str, object]
    extras: Mapping[str, Extra]


def environment() -> Environment:
    """Look around without importing what is heavy."""
    import onnxruntime

    versions = {"netadapt-onnx": __version__, "python": platform.python_version()}
    for name in (*CORE, "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # onnxruntime also ships as onnxruntime-gpu, -openvino, ...
            if name == "onnxruntime":
                versions[name] = onnxruntime.__version__
    extras = {
        name: Extra(
            all(importlib.util.find_spec(module) is not None for module in modules),
            enables,
            f"pip install 'netadapt-onnx[{name}]'",
        )
        for name, (enables, modules) in EXTRAS.items()
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Environment(versions, tuple(onnxruntime.get_available_providers()), cores, fingerprint(), extras)
