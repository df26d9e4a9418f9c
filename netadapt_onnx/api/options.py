"""The options of every verb but `adapt` and `scale`, whose searches own theirs: each declared once.

Imports nothing heavy, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from netadapt_onnx.common.options import (
    DEVICES,
    NEEDED,
    RUNNING,
    TRAINING,
    CheckedOptions,
    File,
    SharedOptions,
    option,
    same_option,
)

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
    "How channels are ranked: by their weights (l2, l1, group-l2, fpgm, bn-scale), by the data (obs, taylor, fisher, "
    "activation), or random, first."
)
_DATA = "A path, `FILE.py:FUNCTION`, or a `DataSource`."


@dataclass(frozen=True)
class PruneOptions(CheckedOptions):
    """How much `prune` removes, by which criterion, and what is done to the rest."""

    ratio: float | None = option(None, "Share of the channels to remove from every prunable group.", is_share=True)
    keep: Mapping[str, int | float | str] | None = option(
        None,
        "Channels to keep in one group, as a count or a share (0.5x, 50%); may be repeated.",
        metavar="GROUP=N|0.5x",
        is_repeated=True,
    )
    budget: Iterable[str] | str | None = option(
        None,
        "Cut every group by the same share until this budget holds; may be repeated.",
        metavar="macs=0.5x",
        is_repeated=True,
    )
    plan: File | None = option(
        None, "Keep the channels that this plan file lists (see `inspect --write-plan`).", is_path=True
    )
    global_: bool = option(
        False, "Rank the channels of all groups together instead of group by group.", flag="--global"
    )
    criterion: str | Criterion = option("l2", _CRITERIA)
    step: int | None = option(None, "Keep channel counts that are multiples of this.", at_least=1)
    data: File | None = option(None, _DATA, on_command_line=False)
    reconstruct: bool | None = option(
        None,
        "Solve the remaining weights by least squares, so that each layer puts out what it did before; needs --data.",
    )
    check: bool = option(
        False,
        "Prove that the pruned model computes what the masked original does. Always done without -o.",
        flag="--verify",
    )
    table: File | None = option(
        None,
        "Predict the latency from this table, made by `profile`, and propose faster channel counts nearby.",
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

    split: SplitName = option("val", "Which samples of the data to evaluate on.", choices=get_args(SplitName))
    timed: bool = option(True, "Also measure the latency of the models.", flag="--latency/--no-latency")
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

    SECTION: ClassVar[str] = TRAINING

    teacher: Source | None = option(
        None, "Learn from the outputs of this model, e.g. the original; needs no labels.", is_path=True, section=NEEDED
    )
    epochs: int = option(6, "Number of passes over the data.", at_least=1)
    lr: float | Literal["auto"] | None = option(
        None,
        "Highest learning rate; auto finds one by a range test first.",
        metavar="auto|X",
        default_text="the usual one of such a network",
    )
    from_scratch: bool = option(
        False, "Initialise all weights anew, as usual for each kind of layer, and train from there."
    )
    optimizer: Optimizer = option(
        "sgd", "The optimiser; sgd uses Nesterov momentum.", choices=get_args(Optimizer), is_advanced=True
    )
    schedule: LearningRateSchedule = option(
        "one-cycle", "The learning rate schedule.", choices=get_args(LearningRateSchedule), is_advanced=True
    )
    weight_decay: float | None = option(
        None,
        "Weight decay; normalisations and biases have none.",
        metavar="X",
        at_least=0,
        default_text="5e-4; adamw: 0.05",
        is_advanced=True,
    )
    batch_size: int | None = option(
        None, "Samples in a training step.", metavar="N", at_least=1, default_text="128, or what fits"
    )
    augment: bool | None = option(
        None,
        "Show several views of each picture; without a teacher, shift and mirror pictures at random.",
        flag="--augment/--no-augment",
        default_text="with a teacher, where the data are few",
    )
    tensorboard: File | None = option(
        None,
        "Also write a TensorBoard log to this directory.",
        metavar="DIR",
        is_path=True,
        section=RUNNING,
        is_advanced=True,
    )
    resume: bool = option(False, "Continue a training that was interrupted.", section=RUNNING)
    seed: int = same_option(SharedOptions, "seed")
    overwrite: bool = same_option(SharedOptions, "overwrite")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    progress: Progress | None = same_option(SharedOptions, "progress")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")


@dataclass(frozen=True)
class ProfileOptions(CheckedOptions):
    """Where `profile` measures, how models run there, and for how long."""

    SECTION: ClassVar[str] = RUNNING

    device: str | Device = option(
        "local",
        "Where to measure: local, ssh://[user@]host[:port] or adb://SERIAL.",
        metavar="DEVICE",
        section=DEVICES,
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
        "Afterwards time N other widths, and compare the table's predictions with them.",
        flag="--validate",
        metavar="N",
        at_least=0,
    )
    plot: File | None = option(
        None, "Draw the predicted against the measured times of --validate.", metavar="FILE.svg|png", is_path=True
    )
    per_layer: bool = option(False, "Show how the time is spread over layers and groups.")
    models: int | None = option(
        None, "How many versions; None: as many as the execution provider needs.", on_command_line=False
    )
    time_cap_s: float = option(
        100.0,
        "Stop measuring after this long and make the table of what there is. If that is too little for a table, stop "
        "after three times as long, or a minute.",
        flag="--max-time",
        metavar="TIME",
    )
    seed: int = same_option(SharedOptions, "seed")
    overwrite: bool = option(False, "Replace an existing table and measure everything anew.")
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")
    progress: Progress | None = same_option(SharedOptions, "progress")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")


@dataclass(frozen=True)
class BundleOptions(CheckedOptions):
    """What `profile bundle` packs, and how models run on the device."""

    SECTION: ClassVar[str] = RUNNING

    shards: int = option(
        1, "Split the measurements between N devices of one kind; device K runs `run.sh K`.", metavar="N", at_least=1
    )
    ep: str = same_option(SharedOptions, "ep")
    ep_options: Mapping[str, str] = same_option(SharedOptions, "ep_options")
    threads: int = same_option(SharedOptions, "threads")
    deploy: Literal["float", "int8"] = same_option(SharedOptions, "deploy")
    compare: Source | None = option(
        None,
        "Instead of a table's measurements, time MODEL beside this model, such as the original of a result.",
        metavar="ORIGINAL",
        is_path=True,
    )
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

    max: LimitArguments = option(
        (),
        "The largest size, params, macs, memory or latency that is allowed; may be repeated.",
        metavar="size=4MB",
        is_repeated=True,
    )
    max_increase: LimitArguments = option(
        (), "How much it may grow against the baseline; may be repeated.", metavar="size=2%", is_repeated=True
    )
    min: LimitArguments = option(
        (), "The lowest accuracy on --data that is allowed.", metavar="accuracy=90%", is_repeated=True
    )
    data: File | None = option(None, _DATA, on_command_line=False)
    split: SplitName | None = option(
        None, "Which samples of --data are scored.", choices=get_args(SplitName), default_text="val"
    )
    baseline: File | None = option(
        None,
        "What growth is measured against: a baseline file, another model, or the models at a revision of git.",
        metavar="FILE|git:REV",
        default_text="netadapt-baseline.json where there is one",
    )
    update_baseline: bool = option(
        False, "Write the baseline file (netadapt-baseline.json) with the amounts of today, to be committed."
    )
    allow_new: bool = option(False, "Let a model pass that the baseline does not have yet.")
    device: str | None = option(
        None, "The device whose latency is limited: its name in the configuration, or its address.", metavar="NAME"
    )
    ep: str | None = option(None, "Execution provider of onnxruntime to time models with.", default_text="cpu")
    threads: int | None = option(None, "Threads to time models with.", at_least=1, default_text="1")
    config: File | None = option(
        None,
        "The configuration, netadapt.toml or pyproject.toml; by default the nearest, upwards from here.",
        is_path=True,
    )
    timeout_s: float = option(60.0, "The time that reading or timing one model may take.", flag="--timeout")
    memory_bytes: int = option(4 * 10**9, "The memory that reading one model may take.", flag="--memory-limit")
    shapes: Mapping[str, Sequence[int]] = same_option(SharedOptions, "shapes")
    batch_size: int | None = option(None, "Length of a dynamic first axis.", at_least=1, default_text="1")
    progress: Progress | None = same_option(SharedOptions, "progress")
