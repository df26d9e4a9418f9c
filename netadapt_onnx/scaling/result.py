"""What `scale` is asked, and what it returns: its JSON contract as frozen data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from netadapt_onnx.common.budget import Budget, parse_budgets
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.law import GroupLaw

Method = Literal["neuralscale", "uniform", "morphnet", "magnitude"]
METHODS: tuple[Method, ...] = get_args(Method)
EPOCHS = 30
ITERATIONS = 15
WARM_UP_EPOCHS = 10
LEARNING_RATE = 0.1
BATCHES = 50

# The folder of charts in a run's directory.
PLOTS = "plots"


@dataclass(frozen=True)
class Options:
    """All that decides the result besides model, data, law, record and table."""

    targets: tuple[str, ...]
    methods: tuple[Method, ...] = ("neuralscale",)
    iterations: int = ITERATIONS
    warmup_epochs: tuple[int, ...] = (WARM_UP_EPOCHS,)
    batches: int = BATCHES
    epochs: int = EPOCHS
    lr: float = LEARNING_RATE
    seeds: int = 1
    seed: int = 0
    ep: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        unknown = next((name for name in self.methods if name not in METHODS), None)
        if unknown is not None or not self.methods:
            raise NetadaptError(f"no method '{unknown}'", hint=f"one of {', '.join(METHODS)}", code="usage")
        for name, least in {"iterations": 1, "batches": 1, "epochs": 0, "seeds": 1, "seed": 0, "threads": 1}.items():
            if getattr(self, name) < least:
                raise NetadaptError(f"--{name} {getattr(self, name)}: at least {least}", code="usage")
        if not 0 < self.lr < math.inf:
            raise NetadaptError(f"--lr {self.lr:g}: above zero", code="usage")
        if not self.warmup_epochs or min(self.warmup_epochs) < 0:
            raise NetadaptError("--warmup-epochs: numbers of at least 0, as 1,5,10", code="usage")

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The targets, each on its own: several make several models."""
        return tuple(budget for text in self.targets for budget in parse_budgets(text))

    def identity(self) -> dict[str, Any]:
        """As JSON, for a run's identity."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def command(self, model: str, files: Mapping[str, str | None]) -> str:
        """The command that repeats this, without places; `files`: names by option."""
        words = ["netadapt-onnx", "scale", model]
        words += [word for option, name in files.items() if name for word in (f"--{option}", name)]
        words += [word for text in self.targets for word in ("--target", text)]
        if self.methods != METHODS[:1]:
            words += [word for method in self.methods for word in ("--method", method)]
        if self.warmup_epochs != (WARM_UP_EPOCHS,):
            words += ["--warmup-epochs", ",".join(map(str, self.warmup_epochs))]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in ("targets", "methods", "warmup_epochs") and value != f.default:
                words += [f"--{f.name}", str(value)]
        return shell_command(words)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the seeds' `values`; fractions on `split`."""

    mean: float
    std: float
    metric: str
    split: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class ScaledModel:
    """One target's network. `accuracy` is None and the weights are not trained where there were no data.

    `resources.latency_ms` is measured beside the original, carefully for a latency target and briefly for other trained
    networks; `latency_ratio` is its share of the original's time.
    """

    target: str
    method: Method
    warmup_epochs: int | None
    resources: Resources
    latency_ratio: float | None
    widths: Mapping[str, int]
    accuracy: Spread | None
    model: Path | None


@dataclass(frozen=True)
class ScaleResult:
    """`groups` is the law of the last warm-up asked for; none where the method has no law."""

    groups: tuple[GroupLaw, ...]
    models: tuple[ScaledModel, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
