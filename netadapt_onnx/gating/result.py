"""What `gate` returns: the JSON contract as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.records import Interval, Score

Unit = Literal["bytes", "count", "ms", "fraction"]


@dataclass(frozen=True)
class Resources:
    """What a model costs; None for what is not known without running it, or was not asked for."""

    params: int
    macs: int | None
    size_bytes: int
    memory_bytes: int | None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Check:
    """One limit and how it was kept. `value` is None where nobody could measure it; `message` is for people.

    `value`, `max` and `min` are in `unit`; `baseline` in the resource's own. `advice` is the configuration's message.
    """

    limit: str
    value: float | None
    max: float | None
    ok: bool
    message: str
    min: float | None = None
    unit: Unit = "count"
    baseline: float | None = None
    advice: str = ""
    code: str = ""

    @property
    def conclusive(self) -> bool:
        """Whether it could be measured; if not, `code` is one word why."""
        return not self.code

    @property
    def excess(self) -> float:
        """How far beyond the limit, relative to it: above 0 is too much; what could not be judged is worst."""
        if not self.conclusive:
            return float("inf")
        if self.value is None:
            return float("-inf")
        bound = self.max if self.max is not None else self.min or 0.0
        beyond = self.value - bound if self.max is not None else bound - self.value
        scale = 1.0 if self.unit == "fraction" else max(abs(bound), 1e-12)
        return beyond / scale


@dataclass(frozen=True)
class Blame:
    """A layer that a failed limit is due to; None on the side where it is not, or where there is no baseline."""

    resource: str
    layer: str
    op: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Problem:
    """Why something could not be judged."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class ModelResult:
    """One model: what it costs, how it kept its limits (the worst first), and the layers to blame.

    `resources` is None for a model that could not be read; `error` says what could not be judged.
    """

    path: Path
    resources: Resources | None
    checks: tuple[Check, ...]
    blame: tuple[Blame, ...] = ()
    latency_ms: Interval | None = None
    accuracy: Score | None = None
    error: Problem | None = None

    @property
    def ok(self) -> bool:
        """Whether everything was judged and every limit kept."""
        return self.error is None and all(check.ok for check in self.checks)

    @property
    def excess(self) -> float:
        """That of the worst check."""
        if self.error is not None:
            return float("inf")
        return max((check.excess for check in self.checks), default=float("-inf"))


@dataclass(frozen=True)
class Gate:
    """All models, the worst first. `baseline` is the file that was written, if one was."""

    models: tuple[ModelResult, ...]
    seconds: float
    baseline: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether everything was judged and every limit kept."""
        return all(model.ok for model in self.models)

    @property
    def failed(self) -> int:
        """How many models exceed a limit."""
        return sum(any(check.conclusive and not check.ok for check in model.checks) for model in self.models)

    @property
    def error(self) -> NetadaptError | None:
        """What could not be judged, if something could not."""
        broken = [model for model in self.models if model.error is not None]
        if not broken:
            return None
        first = broken[0]
        assert first.error is not None
        about = "" if str(first.path) in first.error.message else f"{first.path}: "
        more = f" (and {len(broken) - 1} other models could not be judged)" if len(broken) > 1 else ""
        return NetadaptError(f"{about}{first.error.message}{more}", hint=first.error.hint, code=first.error.code)
