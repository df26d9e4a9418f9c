"""What `scale` can be asked for: the methods, their defaults, and the options that decide the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from netadapt_onnx.common.budget import Budget, parse_budgets
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.common.options import (
    SEARCH,
    File,
    SharedOptions,
    check_choice,
    check_options,
    declared_options,
    normalise_options,
    option,
    plain,
    same_option,
)
from netadapt_onnx.errors import NetadaptError

if TYPE_CHECKING:
    from netadapt_onnx.common.progress import Progress


Method = Literal["neuralscale", "uniform", "morphnet", "magnitude"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class ScaleOptions:
    """The options of `scale`, in the order in which `run.json` has those that decide the result.

    Of the files (law, record, table) the contents are compared, wherever they lie.

    Raises:
        NetadaptError: A value is out of its bounds.
    """

    SECTION: ClassVar[str] = SEARCH

    target: str | Sequence[str] = option(
        (),
        "How large the network may be: params=0.25x, latency=8ms, macs=2x. May be repeated; each target makes a model.",
        metavar="RESOURCE=V",
        is_repeated=True,
    )
    method: Method | Sequence[Method] = option(
        "neuralscale",
        "How the widths are distributed over the layers. May be repeated to compare methods.",
        choices=METHODS,
        is_repeated=True,
        default_text="neuralscale",
    )
    iterations: int = option(15, "Rounds of architecture descent. One is enough for a first look.", at_least=1)
    warmup_epochs: Sequence[int] = option(
        (10,),
        "Epochs of training before filters are removed; several values are compared.",
        metavar="N[,N...]",
        default_text="10",
    )
    batches: int | None = option(
        None,
        "Batches to train between two removals of filters.",
        metavar="N",
        at_least=1,
        default_text="a quarter of an epoch, at most 50",
    )
    epochs: int = option(30, "Epochs for which every model is trained from scratch.", at_least=0)
    lr: float = option(0.1, "The highest learning rate.", above=0)
    seeds: int = option(1, "How often every model is trained, each time from another seed.", at_least=1)
    seed: int = same_option(SharedOptions, "seed")
    ep: str = same_option(SharedOptions, "ep")
    threads: int = same_option(SharedOptions, "threads")
    out: File | None = option(None, "The run's directory.", on_command_line=False, changes_result=False)
    law: File | None = option(
        None,
        "Use the law that an earlier run found (RUN/widths.toml).",
        metavar="TOML",
        is_path=True,
        changes_result=False,
    )
    fit: File | None = option(
        None,
        "Fit the law to widths that were recorded in this file.",
        metavar="CSV",
        is_path=True,
        changes_result=False,
    )
    table: File | None = option(
        None,
        "Latency table from `profile`; without one, it is measured where a target needs it.",
        is_path=True,
        changes_result=False,
    )
    force: bool = same_option(SharedOptions, "force")
    resume: bool = option(False, "Continue the run in RUN, or start it if there is none.", changes_result=False)
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes", changes_result=False)
    batch_size: int = same_option(SharedOptions, "batch_size", changes_result=False)
    progress: Progress | None = same_option(SharedOptions, "progress")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")

    def __post_init__(self) -> None:
        normalise_options(self)
        check_options(self)
        if not self.methods:
            raise NetadaptError("no method", hint=f"one of {', '.join(METHODS)}", code="usage")
        for method in self.methods:
            check_choice("--method", method, METHODS)
        if not self.warmup_epochs or min(self.warmup_epochs) < 0:
            raise NetadaptError("--warmup-epochs: numbers of at least 0, as 1,5,10", code="usage")

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, as texts."""
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods, by name."""
        return (self.method,) if isinstance(self.method, str) else tuple(self.method)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The targets, parsed; each makes a model of its own."""
        return tuple(budget for text in self.targets for budget in parse_budgets(text))

    @property
    def files(self) -> dict[str, File | None]:
        """The files whose contents decide the result, by option."""
        return {"law": self.law, "fit": self.fit, "table": self.table}

    def identity(self) -> dict[str, Any]:
        """The options that decide the result, as JSON: what `--resume` compares."""
        values = {"targets": self.targets, "methods": self.methods}
        for name, declared in declared_options(ScaleOptions).items():
            if declared.option.changes_result and name not in ("target", "method"):
                values[name] = getattr(self, name)
        return {name: plain(value) for name, value in values.items()}

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
        defaults = declared_options(ScaleOptions)
        if tuple(self.warmup_epochs) != defaults["warmup_epochs"].default:
            words += ["--warmup-epochs", ",".join(map(str, self.warmup_epochs))]
        for name, value in self.identity().items():
            if name not in ("targets", "methods", "warmup_epochs") and value != defaults[name].default:
                words += [defaults[name].flag, str(value)]
        return shell_command(words)
