"""How a model runs: provider, options and threads, what is deployed, and the fingerprint of the device it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netadapt_onnx.common.files import digest
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.providers import Provider, provider
from netadapt_onnx.profilers.quantize import FLOAT, Deployment

Fingerprint = dict[str, Any]
REPLACE_OR_CPU = "replace those operators, or measure with --ep cpu"


@dataclass(frozen=True)
class Execution:
    """How a model is run: execution provider by short name, threads, the provider's options, what is deployed.

    `library`: the file that a plugin provider comes from, on the device. `deploy` makes what runs of a float model.
    Raises NetadaptError for a name that no provider has, an option that this one does not have, a missing library.
    """

    ep: str = "cpu"
    threads: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    library: str | None = None
    deploy: Deployment = FLOAT

    def __post_init__(self) -> None:
        if self.library is not None and not Path(self.library).is_file():
            raise NetadaptError(f"{self.library}: no such library", code="missing-file")
        self.all_options  # noqa: B018 - raises

    @property
    def provider(self) -> Provider:
        """Its execution provider."""
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
    """An execution as the agent reads it: no spinning, and a provider that is asked for runs everything.

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
    """What a latency depends on besides the model; two measurements compare only where all of it is equal.

    `environment`: what the agent says of a device; None: of this one. A plugin's library is known by its content.
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
        result["library"] = _identity(Path(execution.library))
    return result


def _identity(library: Path) -> str:
    return f"{library.name} {digest(library)[:16]}"


def differences(recorded: Fingerprint, current: Fingerprint) -> list[str]:
    """Where two fingerprints differ, one readable line each; empty when they agree."""
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
    """Raise NetadaptError, saying `what` is wrong and naming what differs, unless two fingerprints agree."""
    unlike = differences(recorded, current)
    if unlike:
        raise NetadaptError(f"{what} ({'; '.join(unlike)})", hint=hint, code="other-device")
