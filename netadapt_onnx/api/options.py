"""The options of every verb but `adapt` and `scale`, whose searches own theirs: each declared once.

Imports nothing heavy, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from netadapt_onnx.common.options import CheckedOptions, File, SharedOptions, option, same_option

if TYPE_CHECKING:
    from netadapt_onnx.api.source import Source
    from netadapt_onnx.common.progress import Progress
    from netadapt_onnx.gating.limits import LimitArguments
    from netadapt_onnx.profilers.device import Device
    from netadapt_onnx.surgery.criteria.scores import Criterion
    from netadapt_onnx.surgery.labels import Choices

SplitName = Literal["val", "test"]
Optimizer = Literal["sgd", "adamw"]
LearningRateSchedule = Literal["one-cycle", "cosine"]


_CRITERIA = (
    "Which channels stay: l2, l1, group-l2, fpgm, bn-scale, random or first; by data: obs, taylor, fisher, activation."
)
_DATA = "A path, `FILE.py:FUNCTION`, or a `DataSource`."


@dataclass(frozen=True)
class PruneOptions(CheckedOptions):
    """How much `prune` removes, by which criterion, and what is done to the rest."""

    ratio: float | None = option(None, "Share of channels to remove from every prunable group.")
    keep: Mapping[str, int | float | str] | None = option(
        None,
        "Channels to keep in a group, as a count or a share; may be repeated.",
        metavar="GROUP=N|0.5x",
        is_repeated=True,
    )
    budget: Iterable[str] | str | None = option(
        None, "Cut uniformly until this holds; may be repeated.", metavar="macs=0.5x", is_repeated=True
    )
    plan: File | None = option(None, "Keep what this file says (see `inspect --write-plan`).", is_path=True)
    global_: bool = option(
        False, "Rank the channels of all groups together instead of group by group.", flag="--global"
    )
    criterion: str | Criterion = option("l2", _CRITERIA)
    step: int | None = option(None, "Keep multiples of this many channels.", at_least=1)
    data: File | None = option(None, _DATA, on_command_line=False)
    reconstruct: bool | None = option(None, "Solve what is left by least squares to put out what it did.")
    check: bool = option(False, "Prove that pruned equals masked. Without -o always done.", flag="--verify")
    table: File | None = option(
        None,
        "Predict the latency by this table from `profile`, and propose counts near by that are faster.",
        is_path=True,
    )
    choices: Choices | None = option(None, "Of attention, and of states that may change.", on_command_line=False)
    overwrite: bool = same_option(SharedOptions, "overwrite")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")


@dataclass(frozen=True)
class InspectOptions(CheckedOptions):
    """What `inspect` looks at besides costs and groups."""

    table: File | None = option(None, "Latency table: predict the latency too.", is_path=True)
    explained: str | None = option(
        None, "Show what a group, layer or tensor is tied to.", flag="--explain", metavar="NAME"
    )
    write_plan: File | None = option(None, "Write a plan of every group, to edit for prune.", is_path=True)
    graph: File | None = option(
        None,
        "Draw the network with its groups in colours: .svg needs Graphviz, .html nothing but a browser, .dot is "
        "Graphviz's text.",
        metavar="FILE.svg|html|dot",
        is_path=True,
    )
    sensitivity: bool = option(False, "Show what cutting each group alone to 0.75, 0.5, 0.25 loses.")
    data: File | None = option(None, _DATA, on_command_line=False)
    criterion: str | Criterion = option("l2", _CRITERIA)
    seed: int = same_option(SharedOptions, "seed", on_command_line=False)
    progress: Progress | None = same_option(SharedOptions, "progress")
    choices: Choices | None = option(None, "Of attention, and of states that may change.", on_command_line=False)
    overwrite: bool = same_option(SharedOptions, "overwrite")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")


@dataclass(frozen=True)
class EvaluateOptions(CheckedOptions):
    """What `evaluate` measures of models, and how."""

    split: SplitName = option("val", "Held-out samples.", choices=get_args(SplitName))
    timed: bool = option(True, "Time the models too.", flag="--latency/--no-latency")
    energy: bool = option(False, "Measure this too, in mJ of a run on this machine.", on_command_line=False)
    ep: str = same_option(SharedOptions, "ep")
    threads: int = same_option(SharedOptions, "threads")
    time_cap_s: float = option(20.0, "Seconds that a set of models may be timed for.", on_command_line=False)
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")


@dataclass(frozen=True)
class MeasureLatencyOptions(CheckedOptions):
    """Where `time` runs models, how, and for how long."""

    device: str | Device = option(
        "local", "Where to measure: local, ssh://[user@]host[:port] or adb://SERIAL.", metavar="DEVICE"
    )
    ep: str = same_option(SharedOptions, "ep")
    ep_options: Mapping[str, str] = same_option(SharedOptions, "ep_options")
    ep_library: str | None = same_option(SharedOptions, "ep_library")
    threads: int = same_option(SharedOptions, "threads")
    time_cap_s: float = option(
        20.0, "Stop running the models after this long; opening them comes on top.", flag="--max-time", metavar="TIME"
    )
    python: str = same_option(SharedOptions, "python")
    perf_test: File | None = same_option(SharedOptions, "perf_test")
    keep: bool = same_option(SharedOptions, "keep")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")


@dataclass(frozen=True)
class FinetuneOptions(CheckedOptions):
    """How `finetune` trains."""

    teacher: Source | None = option(None, "Learn from this model's outputs; needs no labels.", is_path=True)
    epochs: int = option(6, "Passes over the data.", at_least=1)
    lr: float | Literal["auto"] | None = option(
        None,
        "Highest learning rate; auto tests a range first.",
        metavar="auto|X",
        default_text="the usual one of such a network",
    )
    from_scratch: bool = option(False, "Draw all weights anew, by kind of layer, and train from there.")
    optimizer: Optimizer = option("sgd", "SGD is Nesterov's.", choices=get_args(Optimizer))
    schedule: LearningRateSchedule = option(
        "one-cycle", "How the learning rate moves.", choices=get_args(LearningRateSchedule)
    )
    weight_decay: float | None = option(
        None, "Of weights, not of norms and biases.", metavar="X", at_least=0, default_text="5e-4; adamw: 0.05"
    )
    batch_size: int | None = option(
        None, "Samples per step.", metavar="N", at_least=1, default_text="128, or what fits"
    )
    augment: bool | None = option(
        None,
        "Show several views of each picture; without a teacher, shift and mirror it at random.",
        flag="--augment/--no-augment",
        default_text="with a teacher, where the data are few",
    )
    tensorboard: File | None = option(None, "Log there for TensorBoard too.", metavar="DIR", is_path=True)
    resume: bool = option(False, "Go on with a training that was killed.")
    seed: int = same_option(SharedOptions, "seed")
    overwrite: bool = same_option(SharedOptions, "overwrite")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    progress: Progress | None = same_option(SharedOptions, "progress")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")


@dataclass(frozen=True)
class ProfileOptions(CheckedOptions):
    """Where `profile` measures, how models run there, and for how long."""

    device: str | Device = option(
        "local", "Where to measure: local, ssh://[user@]host[:port] or adb://SERIAL.", metavar="DEVICE"
    )
    ep: str = same_option(SharedOptions, "ep")
    ep_options: Mapping[str, str] = same_option(SharedOptions, "ep_options")
    ep_library: str | None = same_option(SharedOptions, "ep_library")
    threads: int = same_option(SharedOptions, "threads")
    deploy: Literal["float", "int8"] = same_option(SharedOptions, "deploy")
    data: File | None = option(None, _DATA, on_command_line=False)
    python: str = same_option(SharedOptions, "python")
    perf_test: File | None = same_option(SharedOptions, "perf_test")
    keep: bool = same_option(SharedOptions, "keep")
    held_out: int = option(
        0,
        "Then time N other widths and compare with the prediction.",
        flag="--validate",
        metavar="N",
        at_least=0,
    )
    plot: File | None = option(None, "Draw predicted against measured times.", metavar="FILE.svg|png", is_path=True)
    per_layer: bool = option(False, "Show where the time goes, by layer and by group.")
    models: int | None = option(
        None, "How many versions; None: as many as the execution provider needs.", on_command_line=False
    )
    time_cap_s: float = option(
        100.0,
        "Stop building after this long, with what was measured; if that is too little for a table, after three times "
        "as long, or a minute.",
        flag="--max-time",
        metavar="TIME",
    )
    seed: int = same_option(SharedOptions, "seed")
    overwrite: bool = option(False, "Measure anew even if the table exists.")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")
    progress: Progress | None = same_option(SharedOptions, "progress")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")


@dataclass(frozen=True)
class BundleOptions(CheckedOptions):
    """What `profile bundle` packs, and how models run on the device."""

    shards: int = option(1, "Shares for N devices of one kind: each runs `run.sh K`.", metavar="N", at_least=1)
    ep: str = same_option(SharedOptions, "ep")
    ep_options: Mapping[str, str] = same_option(SharedOptions, "ep_options")
    threads: int = same_option(SharedOptions, "threads")
    deploy: Literal["float", "int8"] = same_option(SharedOptions, "deploy")
    data: File | None = option(None, _DATA, on_command_line=False)
    models: int | None = same_option(ProfileOptions, "models")
    time_cap_s: float = same_option(ProfileOptions, "time_cap_s", on_command_line=False)
    seed: int = same_option(SharedOptions, "seed")
    overwrite: bool = same_option(SharedOptions, "overwrite")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")
    progress: Progress | None = same_option(SharedOptions, "progress")


@dataclass(frozen=True)
class GateOptions(CheckedOptions):
    """Which limits `gate` judges by, and what it may take to judge; what is left out, the configuration says."""

    max: LimitArguments = option((), "What a resource may be; may be repeated.", metavar="size=4MB", is_repeated=True)
    max_increase: LimitArguments = option(
        (), "What it may grow against the baseline.", metavar="size=2%", is_repeated=True
    )
    min: LimitArguments = option((), "What is to be reached on --data.", metavar="accuracy=0.9", is_repeated=True)
    data: File | None = option(None, _DATA, on_command_line=False)
    split: SplitName | None = option(
        None, "Which samples of the data.", choices=get_args(SplitName), default_text="val"
    )
    baseline: File | None = option(
        None, "A baseline, another model, or the models at a revision.", metavar="FILE|git:REV"
    )
    update_baseline: bool = option(False, "Write the baseline (netadapt-baseline.json) anew; commit it.")
    allow_new: bool = option(False, "A model that the baseline does not have keeps its limits on growth.")
    device: str | None = option(
        None, "Where the latency counts: a device's table, or only this machine.", metavar="NAME"
    )
    ep: str | None = option(None, "Execution provider to time with.", default_text="cpu")
    threads: int | None = option(None, "Threads to time with.", at_least=1, default_text="1")
    config: File | None = option(None, "netadapt.toml or pyproject.toml; else found upwards.", is_path=True)
    timeout_s: float = option(60.0, "What reading or timing one model may take.", flag="--timeout")
    memory_bytes: int = option(4 * 10**9, "What reading one model may take.", flag="--memory-limit")
    shapes: Mapping[str, Sequence[int]] = same_option(SharedOptions, "shapes")
    batch_size: int | None = option(None, "Length of a dynamic first axis.", at_least=1, default_text="1")
    progress: Progress | None = same_option(SharedOptions, "progress")
