"""What a user may ask of an adaptation, and which of it decides the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from netadapt_onnx.common.amounts import EXAMPLES, parse_amount, parse_seconds
from netadapt_onnx.common.budget import Target, parse_targets
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.common.resources import SEARCHED
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.profilers.quantize import PRECISIONS, Precision
from netadapt_onnx.search.channel_choices import DEFAULT_STEP, Floors, Rungs, Steps, rungs
from netadapt_onnx.search.netadapt import Select
from netadapt_onnx.search.schedule import DEFAULT_ITERATIONS
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import MEASURED
from netadapt_onnx.surgery.criteria.weights import CRITERIA

Strategy = Literal["netadapt", "knapsack"]
Rank = Literal["reconstruct", "finetune"]
Evaluate = Callable[[onnx.ModelProto], float]

# Criteria whose values are losses, so that those of different groups compare. Magnitudes do not, nor do shares of a
# group's mean: with those a knapsack cut the stem of a ResNet-20 to 5 channels and left 11% accuracy instead of 72%.
COMPARABLE = ("taylor", "fisher")
# Which channels stay unless the user says otherwise.
CRITERION: Mapping[Strategy, str] = {"netadapt": "l2", "knapsack": "taylor"}
# Steps of SGD on each proposal (the paper's 'short-term fine-tuning'); reconstruction needs none.
SHORT_TERM = {"reconstruct": 0, "finetune": 100}
# Measured for 100 steps of distillation at batch 128; the long training's rate is too high for so few.
SHORT_TERM_LR = 0.02
FINAL_EPOCHS = 5
# How far a run goes at a time and what it keeps, not what it comes to.
CHANGEABLE = {"max_iterations", "max_time_s", "save_interval"}


@dataclass(frozen=True)
class Arguments:
    """All that decides the result of a run besides model, data and table. `short_term` None: the default for `rank`."""

    budget: tuple[str, ...]
    criterion: str | Criterion = "l2"
    strategy: Strategy = "netadapt"
    rank: Rank = "reconstruct"
    select: Select = "ratio"
    init_reduction_ratio: float = 0.025
    decay: float = 0.96
    init_reduction: str | float | None = None
    reduction_of: Literal["initial", "current"] = "initial"
    step: Steps = DEFAULT_STEP
    min_channels: int = 1
    freeze: tuple[str, ...] = ()
    floor: Floors = ()
    finalists: int = 0
    prune_small: bool = False
    allow_block_removal: bool = False
    short_term: int | None = None
    short_term_lr: float = SHORT_TERM_LR
    freeze_front: bool = False
    final_epochs: int = FINAL_EPOCHS
    augment: bool = False
    max_iterations: int = DEFAULT_ITERATIONS
    max_time_s: float | None = None
    min_accuracy: float | None = None
    save_interval: int = 1
    seed: int = 0
    device: tuple[str, ...] = ("local",)
    ep: str = "cpu"
    ep_options: tuple[tuple[str, str], ...] = ()
    ep_library: str | None = None
    threads: int = 1
    deploy: Precision = "float"
    evaluate: Evaluate | None = None
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    batch_size: int = 1

    def __post_init__(self) -> None:
        _among("criterion", self.criterion, (*CRITERIA, *MEASURED))
        _among("strategy", self.strategy, tuple(CRITERION))
        _among("rank", self.rank, tuple(SHORT_TERM))
        _among("select", self.select, ("ratio", "accuracy"))
        _among("deploy", self.deploy, PRECISIONS)
        _among("reduction_of", self.reduction_of, ("initial", "current"))
        _within("init_reduction_ratio", self.init_reduction_ratio, 0, 1, "the share that the first iteration removes")
        _within("decay", self.decay, 0, 1, "the factor from one iteration's reduction to the next's")
        least_of = {
            "save_interval": 1,
            "max_iterations": 1,
            "final_epochs": 0,
            "finalists": 0,
            "threads": 1,
            "batch_size": 1,
            "seed": 0,
        }
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise NetadaptError(f"{_flag(name)} {getattr(self, name)}: at least {least}", code="usage")
        if self.strategy == "knapsack" and isinstance(self.criterion, str) and self.criterion not in COMPARABLE:
            raise NetadaptError(
                f"--strategy knapsack compares groups, which {self.criterion} does not",
                hint=f"--criterion {' or '.join(COMPARABLE)}",
                code="usage",
            )
        if self.finalists and (self.rank == "finetune" or self.strategy == "knapsack" or not self.short_term_steps):
            why = "--rank finetune trains all" if self.rank == "finetune" else "there is nothing to train them by"
            why = "the knapsack has no proposals" if self.strategy == "knapsack" else why
            raise NetadaptError(f"--finalists {self.finalists}: {why}", code="usage")
        _ = self.rungs
        if self.init_reduction is not None:
            if self.reduction_of == "current":
                raise NetadaptError("--init-reduction is an amount of the original's resource", code="usage")
            self.first_reduction(1.0)
        if self.freeze_front and self.rank != "finetune" and not self.finalists:
            raise NetadaptError(
                "--freeze-front is for proposals that are trained",
                hint="give --rank finetune or --finalists K",
                code="usage",
            )
        if not 0 < self.short_term_lr < math.inf:
            raise NetadaptError(f"--short-term-lr {self.short_term_lr:g}: above 0", code="usage")
        if self.max_time_s is not None and not self.max_time_s > 0:
            raise NetadaptError(f"--max-time {self.max_time_s:g}: above 0 seconds", code="usage")
        if self.min_accuracy is not None:
            _within("min_accuracy", self.min_accuracy, 0, 1, "a fraction of the held-out samples")
        if self.short_term is not None and self.short_term < 0:
            raise NetadaptError(f"--short-term {self.short_term}: at least 0", code="usage")

    @property
    def short_term_steps(self) -> int:
        """SGD steps for each proposal (`finetune`), for each finalist, or for each winner (`reconstruct`)."""
        if self.short_term is not None:
            return self.short_term
        return SHORT_TERM["finetune" if self.finalists else self.rank]

    @property
    def trains(self) -> bool:
        """Whether a search with data trains anything."""
        return bool(self.final_epochs or self.short_term_steps)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the model is brought to, one after the other."""
        return parse_targets(self.budget, SEARCHED)

    @property
    def rungs(self) -> Rungs:
        """Which channel counts groups may have."""
        return rungs(self.step, self.min_channels, self.freeze, self.floor)

    def first_reduction(self, original: float) -> float:
        """The share that the first iteration removes; `original` is what the model has of the first budget's resource.

        An `init_reduction` of one resource is the same share of every other that comes to drive a step.
        """
        if self.init_reduction is None:
            return self.init_reduction_ratio
        kind = self.targets[0][0].kind
        text = str(self.init_reduction)
        found = parse_amount(kind, text)
        if found is None or found[0] <= 0 or (found[1] and found[0] > 1):
            hint = f"e.g. {EXAMPLES.get(kind, '1000')} or 0.05x"
            raise NetadaptError(f"--init-reduction {text} is not an amount of {kind}", hint=hint, code="usage")
        return found[0] if found[1] else found[0] / original

    def identity(self) -> dict[str, Any]:
        """The arguments as JSON, for a run's identity, but for those that a resume may change."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in CHANGEABLE}

    def with_longest_values(self) -> Arguments:
        """The same with the longest words for all that a resume may change: what a file reserves bytes for."""
        return replace(self, max_iterations=10**9, max_time_s=1.23456e12, save_interval=10**9)

    def command(self, model: Path, data: Dataset | None) -> str:
        """The command that repeats this, without places: file names only, and neither -o nor --resume."""
        words = ["netadapt-onnx", "adapt", model.name]
        if data is not None:
            words += ["--data", Path(data.path).name]
            words += [word for name, text in data.options.items() for word in (f"--{name}", text)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "device":  # models tell nobody the names of machines
                continue
            if field.name == "budget":
                words += [word for text in value for word in ("--budget", text)]
            elif field.name == "shapes":
                words += [word for name, dims in value for word in ("--shape", f"{name}={'x'.join(map(str, dims))}")]
            elif field.name == "ep_options":
                words += [word for name, text in value for word in ("--ep-option", f"{name}={text}")]
            elif field.name == "ep_library" and value is not None:
                words += ["--ep-library", Path(value).name]
            elif field.name in ("step", "freeze", "floor") and value != field.default:
                words += [word for one in _each(value) for word in (_flag(field.name), one)]
            elif field.name == "max_time_s" and value is not None:
                words += ["--max-time", f"{value:g}s"]
            elif value is True:
                words.append(_flag(field.name))
            elif value != field.default:
                words += [_flag(field.name), str(_plain(value))]
        return shell_command(words)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _plain(value: Any) -> Any:
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _each(value: Steps | Floors) -> list[str]:
    """The texts of an option that may be repeated."""
    if isinstance(value, Mapping):
        return [f"{name}={amount}" for name, amount in value.items()]
    return [str(value)] if isinstance(value, int | str) else [str(one) for one in value]


def _among(name: str, value: object, known: tuple[str, ...]) -> None:
    if isinstance(value, str) and value not in known:
        hint = did_you_mean(value, known, f"one of {', '.join(known)}")
        raise NetadaptError(f"{_flag(name)} {value}: not known", hint=hint, code="usage")


def _within(name: str, value: float, above: float, up_to: float, meaning: str) -> None:
    if not above < value <= up_to:
        raise NetadaptError(f"{_flag(name)} {value:g} is {meaning}: above {above:g}, at most {up_to:g}", code="usage")


def seconds_of(duration: str | float, flag: str = "--max-time") -> float:
    """A duration such as 30m, 90s or 1.5h (or a number of seconds) in seconds. Raises NetadaptError."""
    if isinstance(duration, int | float):
        return float(duration)
    found = parse_seconds(duration)
    if found is None:
        raise NetadaptError(f"{flag} {duration}: not a duration", hint="write 90s, 30m or 1.5h", code="usage")
    return found
