"""Where a model runs: execution providers by short name, sessions on them, and the device's fingerprint."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from netadapt_onnx import runtime
from netadapt_onnx.errors import NetadaptError

if TYPE_CHECKING:
    import onnxruntime

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
        """Raises NetadaptError for a provider that this onnxruntime was built without."""
        import onnxruntime as ort

        provider = PROVIDERS[self.ep]
        if provider.name not in ort.get_available_providers():
            raise NetadaptError(
                f"onnxruntime {ort.__version__} here has no {provider.name}",
                hint=f"install {provider.package}",
                code="missing-provider",
            )
        return provider


CPU = Execution()


def open_session(
    model: onnx.ModelProto,
    execution: Execution = CPU,
    *,
    profile_prefix: str | None = None,
    optimised_path: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open `model` for timing: the given threads, no spinning, fully optimised on this device.

    `optimised_path` also writes the graph that really runs. Raises NetadaptError if a provider other than the CPU's
    would leave nodes to the CPU: their times would be the CPU's.
    """
    provider = execution.provider
    alone = {} if execution.ep == "cpu" else {"session.disable_cpu_ep_fallback": "1"}
    return runtime.session(
        model,
        threads=execution.threads,
        providers=[(provider.name, dict(execution.options))],
        config=alone,
        profile_prefix=profile_prefix,
        optimised_path=optimised_path,
    )


def fingerprint(execution: Execution = CPU) -> Fingerprint:
    """What a latency depends on besides the model; two measurements compare only where all of it is equal."""
    import onnxruntime as ort

    cpu, flags = _cpu()
    return {
        "cpu": cpu,
        "flags": flags,
        "os": platform.system(),
        "arch": platform.machine(),
        "onnxruntime": ort.__version__,
        "ep": execution.ep,
        "options": dict(execution.options),
        "optimisation": "all",
        "threads": execution.threads,
        "precision": "float",
        "governor": _governor(),
    }


# Instruction sets that change which kernels run; the hundred other flags come and go with kernel versions.
_INSTRUCTION_SETS = re.compile(r"(sse4|avx|amx|fma$|f16c|asimd|sve|sme|neon|fphp|i8mm|bf16|dotprod|rvv)")


def _cpu() -> tuple[str, list[str]]:
    """Model name and instruction sets; without /proc/cpuinfo (macOS, Windows) what Python knows of the processor."""
    file = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    if file.is_file():
        for line in file.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip().lower(), value.strip())
    board = Path("/proc/device-tree/model")
    name = found.get("model name") or (board.read_text().strip("\0\n ") if board.is_file() else "")
    part = " ".join(found[k] for k in ("cpu implementer", "cpu part") if k in found)
    flags = (found.get("flags") or found.get("features") or "").split()
    return (
        " ".join(filter(None, [name, part])) or platform.processor() or platform.machine(),
        sorted(flag for flag in flags if _INSTRUCTION_SETS.match(flag)),
    )


def _governor() -> str | None:
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return file.read_text().strip() if file.is_file() else None


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
