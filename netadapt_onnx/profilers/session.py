"""How a model runs: execution providers by short name, and the fingerprint of the device that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent

Fingerprint = dict[str, Any]


@dataclass(frozen=True)
class Provider:
    """An execution provider. `package` is what to install where it is missing; `per_node` says if it times nodes.

    A compiling provider runs a whole subgraph as one node: it has no times to fill a table's cells with.
    """

    name: str
    package: str
    per_node: bool


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "onnxruntime", True),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", True),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu", False),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino", False),
    "directml": Provider("DmlExecutionProvider", "onnxruntime-directml", True),
    "qnn": Provider("QNNExecutionProvider", "onnxruntime-qnn", False),
    "coreml": Provider("CoreMLExecutionProvider", "onnxruntime (on macOS)", False),
    "xnnpack": Provider("XnnpackExecutionProvider", "onnxruntime built with XNNPACK", True),
    "nnapi": Provider("NnapiExecutionProvider", "onnxruntime-android", False),
}


@dataclass(frozen=True)
class Execution:
    """How a model is run: execution provider by short name, its options, and threads.

    Raises NetadaptError for a name that no provider has.
    """

    ep: str = "cpu"
    threads: int = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ep not in PROVIDERS:
            raise NetadaptError(
                f"no execution provider '{self.ep}'", hint=f"one of {', '.join(PROVIDERS)}", code="unknown-provider"
            )

    @property
    def provider(self) -> Provider:
        """Its execution provider."""
        return PROVIDERS[self.ep]

    def require(self, environment: Mapping[str, Any]) -> None:
        """Raise NetadaptError if a device's onnxruntime was built without the provider."""
        if self.provider.name not in environment["providers"]:
            raise NetadaptError(
                f"onnxruntime {environment['onnxruntime']} has no {self.provider.name} on this device",
                hint=f"install {self.provider.package} there",
                code="missing-provider",
            )


CPU = Execution()


def execution_record(execution: Execution) -> dict[str, Any]:
    """An execution as the agent reads it: no spinning, and a provider that is asked for runs everything.

    Where it left nodes to the CPU, their times would be the CPU's.
    """
    config = {"session.intra_op.allow_spinning": "0"}
    if execution.ep != "cpu":
        config["session.disable_cpu_ep_fallback"] = "1"
    return {
        "ep": execution.ep,
        "provider": execution.provider.name,
        "options": dict(execution.options),
        "threads": execution.threads,
        "config": config,
    }


def fingerprint(execution: Execution = CPU, environment: Mapping[str, Any] | None = None) -> Fingerprint:
    """What a latency depends on besides the model; two measurements compare only where all of it is equal.

    `environment`: what the agent says of a device; None: of this one.
    """
    device = agent.environment() if environment is None else environment
    return {
        "cpu": device["cpu"],
        "flags": device["flags"],
        "os": device["os"],
        "arch": device["arch"],
        "onnxruntime": device["onnxruntime"],
        "ep": execution.ep,
        "options": dict(execution.options),
        "optimisation": "all",
        "threads": execution.threads,
        "precision": "float",
        "governor": device["governor"],
    }


def differences(recorded: Fingerprint, here: Fingerprint) -> list[str]:
    """Where two fingerprints differ, one readable line each; empty when they agree."""
    lines = []
    for key in dict.fromkeys([*recorded, *here]):
        a, b = recorded.get(key), here.get(key)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            a, b = (" ".join(sorted(set(x) - set(y))) or "none more" for x, y in ((a, b), (b, a)))
        lines.append(f"{key}: {a} there, {b} here")
    return lines
