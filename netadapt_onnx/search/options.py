"""The options of an adaptation, each declared once, and which of them decide the result.

What to search is in `search_options.py`; how a run goes, trains, measures and evaluates in `run_options.py`.
`adapt`'s command line, its keywords in Python, `run.json` and the command that models repeat are derived from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netadapt_onnx.common.amounts import seconds_of
from netadapt_onnx.common.budget import Target, parse_targets
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.common.options import (
    check_choice,
    check_options,
    declared_options,
    normalise_options,
    plain,
)
from netadapt_onnx.common.resources import SEARCHED
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.allowed_counts import DEFAULT_STEP, AllowedCounts, allowed_counts
from netadapt_onnx.search.presets import NAMES, PRESETS
from netadapt_onnx.search.run_options import DeviceOptions, EvaluationOptions, RunOptions, TrainingOptions
from netadapt_onnx.search.schedule import parse_reduction, reduction_in_one_spelling
from netadapt_onnx.search.search_options import SearchOptions

if TYPE_CHECKING:
    from netadapt_onnx.data.dataset import Dataset
    from netadapt_onnx.surgery.criteria.scores import Criterion

# Criteria whose values are losses, so that those of different groups compare. Magnitudes do not, nor do shares of a
# group's mean: with those a knapsack cut the stem of a ResNet-20 to 5 channels and left 11% accuracy instead of 72%.
COMPARABLE = ("taylor", "fisher")
# The criterion that depends on the strategy and on whether there are inputs to look at (`criterion_for`).
AUTO = "auto"
# Steps of SGD on each proposal (the paper's 'short-term fine-tuning'); reconstruction needs none.
SHORT_TERM = {"reconstruct": 0, "finetune": 100}
# The first round of a portfolio's training; each further one, of half as many candidates, is twice as long.
PORTFOLIO_STEPS = 40


@dataclass(frozen=True)
class AdaptOptions(EvaluationOptions, DeviceOptions, RunOptions, TrainingOptions, SearchOptions):
    """All options of an adaptation, in the order in which `run.json` and recorded commands have them.

    Dataclasses collect the fields of their bases from the last to the first.

    Raises:
        NetadaptError: Values are out of their bounds, or options contradict each other.
    """

    def __post_init__(self) -> None:
        check_choice("--preset", self.preset, NAMES)
        normalise_options(self)
        for name, value in self._usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_options(self)
        if isinstance(self.final_epochs, str) and self.final_epochs != "auto":
            raise NetadaptError(f"--final-epochs {self.final_epochs}: auto, or a number from 0", code="usage")
        if isinstance(self.criterion, str):
            from netadapt_onnx.surgery.criteria.selection import MEASURED
            from netadapt_onnx.surgery.criteria.weights import CRITERIA

            check_choice("--criterion", self.criterion, (AUTO, *CRITERIA, *MEASURED))
        self._check_ways()
        _ = self.allowed_counts, self.job_timeout_s
        if self.init_reduction is not None:
            if self.reduction_of == "current":
                raise NetadaptError("--init-reduction is an amount of the original's resource", code="usage")
            text = reduction_in_one_spelling(self.targets[0][0].kind, self.init_reduction)
            object.__setattr__(self, "init_reduction", text)
            self.first_reduction(1.0)
        if self.max_time_s is not None and not self.max_time_s > 0:
            raise NetadaptError(f"--max-time {self.max_time_s:g}: above 0 seconds", code="usage")

    def _check_ways(self) -> None:
        """Check that strategy, criterion, ranking and finalists go together."""
        compares = not isinstance(self.criterion, str) or self.criterion in (AUTO, *COMPARABLE)
        if self.strategy == "knapsack" and not compares:
            raise NetadaptError(
                f"--strategy knapsack compares groups, which {self.criterion} does not",
                hint=f"--criterion {' or '.join(COMPARABLE)}",
                code="usage",
            )
        jointly = self.strategy != "netadapt"
        if self.finalists and (self.rank == "finetune" or jointly or not self.short_term_steps):
            why = "--rank finetune trains all" if self.rank == "finetune" else "there is nothing to train them by"
            why = f"--strategy {self.strategy} has no proposals" if jointly else why
            raise NetadaptError(f"--finalists {self.finalists}: {why}", code="usage")
        if self.keep_blocks and self.allow_block_removal:
            raise NetadaptError("--keep-blocks and --allow-block-removal contradict each other", code="usage")

    def criterion_for(self, *, has_inputs: bool) -> str | Criterion:
        """The criterion, where it is left open the one that suits the strategy and what there is to look at."""
        if self.criterion != AUTO:
            return self.criterion
        if self.strategy == "knapsack":
            return "taylor"
        return "obs" if has_inputs else "l2"

    @property
    def short_term_steps(self) -> int:
        """SGD steps for each proposal (`finetune`), for each finalist, or for each winner (`reconstruct`)."""
        if self.short_term is not None:
            return self.short_term
        return SHORT_TERM["finetune" if self.finalists else self.rank]

    @property
    def _usual(self) -> Mapping[str, Any]:
        """The values of options that depend on others: on the preset, and on whether latency is limited."""
        preset = dict(PRESETS[self.preset])
        if self.min_accuracy is not None:
            preset["strategy"] = "netadapt"  # others go to the budget in one step, which is above the floor or is not
        chosen = preset | {n: getattr(self, n) for n in ("rank", "strategy") if getattr(self, n) is not None}
        if chosen["rank"] == "finetune" or chosen["strategy"] != "netadapt" or self.short_term == 0:
            preset["finalists"] = 0  # all proposals are trained, there are none, or none is trained
        if self.allow_block_removal:
            preset["keep_blocks"] = False
        if chosen["rank"] == "finetune" or self.min_accuracy is not None or self._has_own_schedule:
            preset["start"] = "original"  # who says how far each iteration goes, or may go, wants them one by one
        has_latency = any(budget.kind == "latency" for target in self.targets for budget in target)
        return preset | {"step": AUTO if has_latency and self.preset != "paper" else DEFAULT_STEP}

    @property
    def _has_own_schedule(self) -> bool:
        """Whether any option on how far each iteration goes was given."""
        declared = declared_options(AdaptOptions)
        names = ("init_reduction_ratio", "decay", "init_reduction", "reduction_of")
        return any(getattr(self, name) != declared[name].default for name in names)

    @property
    def begins_with_curves(self) -> bool:
        """Whether NetAdapt's loop begins at widths that error curves choose."""
        return self.strategy == "netadapt" and self.start == "curves"

    def of_preset(self) -> dict[str, Any]:
        """The options that the preset is a set of, as they are used."""
        return {name: plain(getattr(self, name)) for name in self._usual}

    @property
    def portfolio_steps(self) -> int:
        """Steps of the first round of training in which the candidates of the portfolio compete.

        By default there are none for a run without a training at the end: who wants none, wants none on the way.
        """
        return PORTFOLIO_STEPS if self.portfolio == "trained" or (self.portfolio == AUTO and self.final_epochs) else 0

    @property
    def trains(self) -> bool:
        """Whether a search with data trains anything."""
        return bool(self.final_epochs or self.short_term_steps or self.portfolio_steps)

    @property
    def max_time_s(self) -> float | None:
        """What the run may take over all resumes, in seconds; None for any time."""
        return None if self.max_time is None else seconds_of(self.max_time)

    @property
    def job_timeout_s(self) -> float:
        """What a proposal may take, in seconds."""
        return seconds_of(self.job_timeout, "--job-timeout")

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the model is brought to, one after the other."""
        return parse_targets(self.budget, SEARCHED)

    @property
    def allowed_counts(self) -> AllowedCounts:
        """Which channel counts groups may have."""
        return allowed_counts(self.step, self.min_channels, self.freeze, self.floor)

    def first_reduction(self, original: float) -> float:
        """The share that the first iteration removes; `original` is what the model has of the first budget's resource.

        An `init_reduction` of one resource is the same share of every other that comes to drive a step.
        """
        if self.init_reduction is None:
            return self.init_reduction_ratio
        amount, is_share = parse_reduction(self.targets[0][0].kind, self.init_reduction)
        return amount if is_share else amount / original

    def identity(self) -> dict[str, Any]:
        """The options that decide the result, as JSON: what `--resume` compares."""
        from netadapt_onnx.search.target_devices import device_texts

        values = self._recorded() | {"device": device_texts(self.device)}
        declared = declared_options(AdaptOptions)
        return {name: plain(value) for name, value in values.items() if not declared[name].option.may_differ_on_resume}

    def _recorded(self) -> dict[str, Any]:
        """The options that decide the result, by name; mappings as pairs."""
        values = {
            name: getattr(self, name)
            for name, declared in declared_options(AdaptOptions).items()
            if declared.option.changes_result
        }
        return values | {name: tuple(values[name].items()) for name in ("ep_options", "shapes")}

    def with_longest_values(self) -> AdaptOptions:
        """The same with the longest words for all that a resume may change: what a file reserves bytes for."""
        return replace(self, max_iterations=10**9, max_time=1.23456e12, save_interval=10**9, final_epochs=10**9)

    def command(self, model: Path, data: Dataset | None) -> str:
        """The command that repeats this, without places: file names only, and neither -o nor --resume."""
        words = ["netadapt-onnx", "adapt", model.name]
        if data is not None:
            words += ["--data", Path(data.path).name]
            words += [word for name, text in data.options.items() for word in (f"--{name}", text)]
        for name, value in self._recorded().items():
            if name != "device":  # models tell nobody the names of machines
                words += self._words(name, value)
        return shell_command(words)

    def words(self, name: str) -> list[str]:
        """An option as words of a command line; none where it has its default."""
        return self._words(name, getattr(self, name))

    def _words(self, name: str, value: Any) -> list[str]:
        declared = declared_options(AdaptOptions)[name]
        default = self._usual.get(name, declared.default)
        if name in ("shapes", "ep_options"):
            texts = [f"{key}={'x'.join(map(str, one)) if name == 'shapes' else one}" for key, one in value]
        elif value == default:
            return []
        elif isinstance(value, bool):
            return [declared.flag.split("/")[0 if value else -1]]
        elif name == "ep_library":
            texts = [Path(value).name]
        elif name == "max_time":
            texts = [f"{self.max_time_s:g}s"]
        elif declared.option.is_repeated:
            texts = _texts(value)
        else:
            texts = [str(plain(value))]
        return [word for text in texts for word in (declared.flag, text)]


def _texts(value: Any) -> list[str]:
    """The texts of an option that may be repeated."""
    if isinstance(value, Mapping):
        return [f"{name}={amount}" for name, amount in value.items()]
    return [str(value)] if isinstance(value, int | str) else [str(one) for one in value]
