"""The options of an adaptation that say how it is done: how a run goes, trains, measures and evaluates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from netadapt_onnx.common.options import BUDGET, DATA, DEVICES, RUNNING, TRAINING, SharedOptions, option, same_option
from netadapt_onnx.search.presets import by_preset

if TYPE_CHECKING:
    import onnx

    from netadapt_onnx.common.progress import Progress
    from netadapt_onnx.search.executors.opening import Gpus
    from netadapt_onnx.search.executors.protocol import Executor
    from netadapt_onnx.search.target_devices import Devices, Tables

Evaluate = Callable[["onnx.ModelProto"], float]

# Measured for 100 steps of distillation at batch 128; the long training's rate is too high for so few.
SHORT_TERM_LR = 0.02


@dataclass(frozen=True)
class RunOptions:
    """How a run goes: when it stops, what it keeps, its seed, and who does its work."""

    SECTION: ClassVar[str] = RUNNING

    # Exact steps of the default ratio and decay reach 0.39x in as many.
    max_iterations: int = option(
        100,
        "Stop after this many iterations in total, over all resumes.",
        at_least=1,
        may_differ_on_resume=True,
        is_advanced=True,
    )
    max_time: str | float | None = option(
        None,
        "Stop after this long in total, over all resumes, with the best model so far.",
        metavar="30m",
        may_differ_on_resume=True,
    )
    min_accuracy: float | None = option(
        None,
        "Never accept an iteration that leaves less than this accuracy, e.g. 0.85.",
        above=0,
        at_most=1,
        is_share=True,
        section=BUDGET,
    )
    save_interval: int = option(
        1,
        "Keep the model of every Nth iteration only; the plan of every iteration is kept.",
        at_least=1,
        may_differ_on_resume=True,
        is_advanced=True,
    )
    seed: int = same_option(SharedOptions, "seed")
    executor: str | Executor = option(
        "local",
        "Where proposals are evaluated: in this process (local), in N worker processes (local:N), or by Ray (without "
        "an address on this machine).",
        metavar="local[:N]|ray[:ADDRESS]",
        changes_result=False,
    )
    gpus: Gpus = option(
        None, "GPUs of this machine to use, one worker each.", metavar="0,2", changes_result=False, is_advanced=True
    )
    job_timeout: str | float = option(
        "6h", "Give up on a proposal after this long.", metavar="6h", changes_result=False, is_advanced=True
    )
    resume: bool = option(False, "Continue the run in RUN; start it if there is none.", changes_result=False)
    live: bool = option(
        False,
        "Write RUN/report.html after every iteration; the page reloads itself while the run is on.",
        changes_result=False,
    )
    progress: Progress | None = same_option(SharedOptions, "progress")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train: proposals or winners for a short term, the result at the end."""

    SECTION: ClassVar[str] = TRAINING

    short_term: int | None = option(
        None,
        "Steps of the short training: of each proposal (--rank finetune), of each finalist, or of each winner.",
        at_least=0,
        is_advanced=True,
        default_text="0; finetune, finalists: 100",
    )
    short_term_lr: float = option(SHORT_TERM_LR, "Learning rate of the short training.", above=0, is_advanced=True)
    final_epochs: int | Literal["auto"] = option(
        "auto",
        "Length of the final training in passes over the data; auto trains for as long as it pays, 0 not at all.",
        metavar="N|auto",
        at_least=0,
        may_differ_on_resume=True,
    )
    final_effort: float = by_preset(
        "final_effort",
        "Multiply the automatic length of the final training by this.",
        above=0,
        is_share=True,
        is_advanced=True,
    )
    augment: bool | None = option(
        None,
        "Show several views of each picture in the final training: crops, and mirror images where the original keeps "
        "their class.",
        flag="--augment/--no-augment",
        is_advanced=True,
        default_text="where the data are few",
    )


@dataclass(frozen=True)
class DeviceOptions:
    """Where the result will run: the devices that measure, how they run models, and the tables that predict."""

    SECTION: ClassVar[str] = DEVICES

    table: Tables = option(
        None,
        "Latency table made by `profile`; without it one is measured first. NAME is that of a --device.",
        metavar="[NAME=]FILE",
        is_repeated=True,
        changes_result=False,  # its hash is compared, wherever it lies
    )
    table_models: int | None = by_preset(
        "table_models",
        "How many random-width versions of the model are measured for a table; fewer are faster and less exact.",
        metavar="N",
        at_least=16,
        is_advanced=True,
    )
    force: bool = same_option(SharedOptions, "force")
    device: Devices = option(
        "local",
        "Where latency is measured: local, ssh://[user@]host[:port], adb://SERIAL, or bundle (not at all: the --table "
        "predicts it). Give several as NAME=DEVICE, for --budget latency@NAME=12ms.",
        metavar="[NAME=]DEVICE",
        is_repeated=True,
        default_text="local",
    )
    resource_command: str | Callable[[onnx.ModelProto], float] | None = option(
        None,
        "Program that is given a model file and prints a number, for --budget custom=0.7x.",
        metavar="CMD",
        section=BUDGET,
        is_advanced=True,
        changes_result=False,  # compared as a text beside the model and the data
    )
    ep: str = same_option(SharedOptions, "ep")
    ep_options: Mapping[str, str] = same_option(SharedOptions, "ep_options")
    ep_library: str | None = same_option(SharedOptions, "ep_library")
    threads: int = same_option(SharedOptions, "threads")
    deploy: Literal["float", "int8"] = same_option(SharedOptions, "deploy")
    python: str = same_option(SharedOptions, "python")
    perf_test: str | os.PathLike[str] | None = same_option(SharedOptions, "perf_test")
    keep: bool = same_option(SharedOptions, "keep")


@dataclass(frozen=True)
class EvaluationOptions:
    """How models are evaluated: by the data or by the caller's own function, and at which shapes."""

    SECTION: ClassVar[str] = DATA

    evaluate: Evaluate | None = option(
        None, "A function of a model, higher is better, that judges in the place of the data.", on_command_line=False
    )
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")
