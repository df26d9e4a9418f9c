"""The result of `gate`: the JSON contract as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from netadapt_onnx.common.render import plural
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.records import Interval, Score

Unit = Literal["bytes", "count", "ms", "fraction"]


@dataclass(frozen=True)
class Resources:
    """What a model costs; None where that is unknown without running it, or was not wanted."""

    params: int
    macs: int | None
    size_bytes: int
    memory_bytes: int | None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Check:
    """A limit and whether it is kept.

    Attributes:
        limit: the limit's name.
        value: what was measured, in `unit`; None where nothing could be.
        max: the largest value that keeps the limit, in `unit`.
        ok: whether it is kept.
        message: the result in words.
        min: the smallest value that keeps the limit, in `unit`.
        unit: the unit of `value`, `max` and `min`.
        baseline: the baseline's amount, in the resource's own unit.
        advice: the configuration's message.
        code: why nothing could be measured, in one word.
        hint: what to do where nothing could be measured.
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
    hint: str = ""

    @property
    def conclusive(self) -> bool:
        """Whether the limit could be measured; if not, `code` is one word why."""
        return not self.code

    @property
    def reason(self) -> str:
        """The message, with what to do where nothing could be measured."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def excess(self) -> float:
        """How far the value is beyond the limit, relative to it: above 0 is too much, and inconclusive is worst."""
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
    """A layer that a failed limit is due to; a side is None where the model, or the baseline, does not have it."""

    resource: str
    layer: str
    op: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Problem:
    """The reason why something could not be checked."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class ModelResult:
    """The result of one model.

    Attributes:
        path: its file.
        resources: what it costs; None for a model that could not be read.
        checks: its limits, the worst first.
        blame: the layers that failed limits are due to.
        latency_ms: its measured latency.
        accuracy: its score.
        error: what could not be checked.
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
        """Whether everything was checked and every limit kept."""
        return self.error is None and all(check.ok for check in self.checks)

    @property
    def unread(self) -> Problem | None:
        """Why the model could not be read at all, so that no limit was checked."""
        return None if self.checks else self.error

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks whose limits are not kept."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def excesses(self) -> list[str]:
        """The message of each limit that is exceeded."""
        return [check.message for check in self.failures if check.conclusive]

    @property
    def obstacles(self) -> list[str]:
        """Why it or its limits could not be checked, each reason once."""
        unread = [] if self.unread is None else [self.unread.message]
        return list(dict.fromkeys([*unread, *(check.reason for check in self.failures if not check.conclusive)]))

    @property
    def reasons(self) -> list[str]:
        """Why it is not `ok`: the limits that are exceeded, and what could not be checked."""
        return [*self.excesses, *self.obstacles]

    @property
    def advice(self) -> list[str]:
        """What the configuration says to those who exceed its limits, each once."""
        exceeded = [check for check in self.failures if check.conclusive]
        return list(dict.fromkeys(check.advice for check in exceeded if check.advice))

    @property
    def excess(self) -> float:
        """The excess of the worst check."""
        if self.error is not None:
            return float("inf")
        return max((check.excess for check in self.checks), default=float("-inf"))


@dataclass(frozen=True)
class Gate:
    """The results of all models, the worst first. `baseline` is the file that was written, if one was."""

    models: tuple[ModelResult, ...]
    seconds: float
    baseline: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether everything was checked and every limit kept."""
        return all(model.ok for model in self.models)

    @property
    def failed(self) -> int:
        """How many models exceed a limit."""
        return sum(any(check.conclusive and not check.ok for check in model.checks) for model in self.models)

    @property
    def error(self) -> NetadaptError | None:
        """The error that says what could not be checked, if anything."""
        broken = [model for model in self.models if model.error is not None]
        if not broken:
            return None
        first = broken[0]
        assert first.error is not None
        about = "" if str(first.path) in first.error.message else f"{first.path}: "
        others = plural(len(broken) - 1, "other model")
        more = f" ({others} could not be checked either)" if len(broken) > 1 else ""
        return NetadaptError(f"{about}{first.error.message}{more}", hint=first.error.hint, code=first.error.code)
