"""How a model runs: provider, options and threads, what is deployed, and the fingerprint of the device it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netadapt_onnx.common.files import digest
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.providers import Provider, provider
from netadapt_onnx.profilers.quantize import FLOAT, Deployment

Fingerprint = dict[str, Any]
REPLACE_OR_CPU = "replace those operators, or measure with --ep cpu"


@dataclass(frozen=True)
class Execution:
    """How a model runs.

    Attributes:
        ep: the execution provider's short name.
        threads: how many threads run a model.
        options: the provider's own options.
        library: the file that a plugin provider comes from.
        deploy: what is made of a float model before it runs.

    Raises:
        NetadaptError: no provider has this name, it does not have an option, or the library is missing.
    """

    ep: str = "cpu"
    threads: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    library: str | None = None
    deploy: Deployment = FLOAT

    def __post_init__(self) -> None:
        if self.library is not None and not Path(self.library).is_file():
            raise missing_file(self.library, what="no such library")
        self.all_options  # noqa: B018 - raises

    @property
    def provider(self) -> Provider:
        """The execution provider's record."""
        return provider(self.ep, self.library)

    @property
    def all_options(self) -> dict[str, str]:
        """The provider's options, those that it has by itself and those that set its threads included."""
        return self.provider.options(self.options, self.threads)

    def require(self, environment: Mapping[str, Any]) -> None:
        """Raise NetadaptError if a device's onnxruntime was built without the provider.

        Of a plugin only its library knows what it offers: it is asked when a session is opened.
        """
        if self.library is None and self.provider.name not in environment["providers"]:
            raise NetadaptError(
                f"onnxruntime {environment['onnxruntime']} has no {self.provider.name} on this device",
                hint=f"install {self.provider.installation} there",
                code="missing-provider",
            )

    def require_placed(self, placement: Mapping[str, int]) -> None:
        """Raise NetadaptError if another provider ran any node; `placement` is empty where onnxruntime cannot say."""
        others = {name: count for name, count in placement.items() if name != self.provider.name}
        if others:
            counts = ", ".join(f"{count} nodes on {name or 'an unnamed one'}" for name, count in others.items())
            raise NetadaptError(
                f"'{self.ep}' does not run all of the model: {counts}", hint=REPLACE_OR_CPU, code="fell-back"
            )


CPU = Execution()


def execution_record(execution: Execution) -> dict[str, Any]:
    """An execution as the agent reads it: without spinning, and with one provider that runs all nodes.

    Where it left nodes to the CPU, their times would be the CPU's.
    """
    config = {"session.intra_op.allow_spinning": "0"}
    if execution.ep != "cpu":
        config |= {agent.NO_FALLBACK: "1", agent.RECORDED: "1"}
    record = {
        "ep": execution.ep,
        "provider": execution.provider.name,
        "options": execution.all_options,
        "threads": execution.threads,
        "precision": execution.deploy.precision,
        "config": config,
    }
    if execution.deploy.precision != "float":
        record["quantisation"] = execution.deploy.quantisation
    if not execution.provider.memory_pattern:
        record["memory_pattern"] = False
    if execution.library is not None:
        record["library"] = execution.library
    return record


def fingerprint(execution: Execution = CPU, environment: Mapping[str, Any] | None = None) -> Fingerprint:
    """The fingerprint of a device: all that a latency depends on besides the model.

    Two measurements compare only where all of it is equal. A plugin's library counts by its content.

    Args:
        execution: how models run.
        environment: the device as the agent describes it (None: this machine).
    """
    device = agent.environment() if environment is None else environment
    result = {
        **{field: device[field] for field in agent.COMPARED},
        "ep": execution.ep,
        "options": execution.all_options,
        "optimisation": "all",
        "threads": execution.threads,
        "precision": execution.deploy.precision,
    }
    if execution.deploy.precision != "float":
        result["quantisation"] = execution.deploy.quantisation
    if execution.library is not None:
        library = Path(execution.library)
        result["library"] = f"{library.name} {digest(library)[:16]}"
    return result


def differences(recorded: Fingerprint, current: Fingerprint) -> list[str]:
    """List where two fingerprints differ, one readable line each; the list is empty when they agree."""
    lines = []
    for key in dict.fromkeys([*recorded, *current]):
        a, b = recorded.get(key), current.get(key)
        if a == b or (key == "quantisation" and recorded.get("precision") != current.get("precision")):
            continue  # float is quantised in no way, and that the precision differs is said
        if isinstance(a, list) and isinstance(b, list):
            a, b = (" ".join(sorted({*map(str, x)} - {*map(str, y)})) or "none more" for x, y in ((a, b), (b, a)))
        lines.append(f"{key}: {a} there, {b} here")
    return lines


def require_alike(recorded: Fingerprint, current: Fingerprint, what: str, hint: str) -> None:
    """Raise NetadaptError, saying `what` is wrong and naming the differences, unless two fingerprints agree."""
    unlike = differences(recorded, current)
    if unlike:
        raise NetadaptError(f"{what} ({'; '.join(unlike)})", hint=hint, code="other-device")
