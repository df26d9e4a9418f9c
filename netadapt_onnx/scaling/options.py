"""What `scale` can be asked for: the methods, their defaults, and the options that decide the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from netadapt_onnx.common.budget import Budget, parse_budgets
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.errors import NetadaptError

Method = Literal["neuralscale", "uniform", "morphnet", "magnitude"]
METHODS: tuple[Method, ...] = get_args(Method)
EPOCHS = 30
ITERATIONS = 15
WARM_UP_EPOCHS = 10
LEARNING_RATE = 0.1
BATCHES = 50


@dataclass(frozen=True)
class ScaleOptions:
    """All options that decide the result, besides the files: model, data, law, record and table."""

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
        """The targets, parsed; each makes a model of its own."""
        return tuple(budget for text in self.targets for budget in parse_budgets(text))

    def identity(self) -> dict[str, Any]:
        """The options as JSON, for a run's identity."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def command(self, model: str, files: Mapping[str, str | None]) -> str:
        """The command line that repeats a run, without folders.

        Args:
            model: The model's file name.
            files: The names of the other files, by option.
        """
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
