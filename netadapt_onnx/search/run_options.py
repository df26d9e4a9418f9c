"""The options of an adaptation that say how it is done: how a run goes, on which devices, and who evaluates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from netadapt_onnx.common.options import SharedOptions, option, same_option
from netadapt_onnx.search.presets import by_preset

if TYPE_CHECKING:
    import onnx

    from netadapt_onnx.common.progress import Progress
    from netadapt_onnx.search.executors.opening import Gpus
    from netadapt_onnx.search.executors.protocol import Executor
    from netadapt_onnx.search.target_devices import Devices, Tables

Evaluate = Callable[["onnx.ModelProto"], float]


@dataclass(frozen=True)
class RunOptions:
    """How a run goes: when it stops, what it keeps, its seed, and who does its work."""

    # Exact steps of the default ratio and decay reach 0.39x in as many.
    max_iterations: int = option(100, "Stop after this many in total.", at_least=1, may_differ_on_resume=True)
    max_time: str | float | None = option(
        None,
        "Stop after this long in total, with the best model so far.",
        metavar="30m",
        may_differ_on_resume=True,
    )
    min_accuracy: float | None = option(
        None, "Never take a step that leaves less than this, a fraction.", above=0, at_most=1
    )
    save_interval: int = option(
        1,
        "Keep the model of every Nth iteration only; plans are always kept.",
        at_least=1,
        may_differ_on_resume=True,
    )
    seed: int = same_option(SharedOptions, "seed")
    executor: str | Executor = option(
        "local",
        "Who tries the proposals: this process, N worker processes, or Ray (without an address on this machine).",
        metavar="local[:N]|ray[:ADDRESS]",
        changes_result=False,
    )
    gpus: Gpus = option(None, "GPUs of this machine, one worker each.", metavar="0,2", changes_result=False)
    job_timeout: str | float = option("6h", "Give a proposal up after this long.", metavar="6h", changes_result=False)
    resume: bool = option(False, "Continue the run in RUN; start it if there is none.", changes_result=False)
    live: bool = option(
        False,
        "Write RUN/report.html after every iteration; the page reloads itself while the run is on.",
        changes_result=False,
    )
    progress: Progress | None = same_option(SharedOptions, "progress")
    log: Callable[[str], None] | None = same_option(SharedOptions, "log")


@dataclass(frozen=True)
class DeviceOptions:
    """Where the result will run: the devices that measure, how they run models, and the tables that predict."""

    table: Tables = option(
        None,
        "Latency table from `profile`; built if need be. NAME is a device's.",
        metavar="[NAME=]FILE",
        is_repeated=True,
        changes_result=False,  # its hash is compared, wherever it lies
    )
    table_models: int | None = by_preset(
        "table_models",
        "Versions of the model that a table which has to be built is measured of; the fewer, the less it knows.",
        metavar="N",
        at_least=16,
    )
    force: bool = same_option(SharedOptions, "force")
    device: Devices = option(
        "local",
        "Where to measure: local, ssh://[user@]host[:port], adb://SERIAL, or bundle (by hand: nothing is measured). "
        "Several by name, for --budget latency@NAME=12ms.",
        metavar="[NAME=]DEVICE",
        is_repeated=True,
        default_text="local",
    )
    resource_command: str | Callable[[onnx.ModelProto], float] | None = option(
        None,
        "A program that is given a model and prints a number: the resource of --budget custom=0.7x.",
        metavar="CMD",
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

    evaluate: Evaluate | None = option(
        None, "A function of a model, higher is better, that judges in the place of the data.", on_command_line=False
    )
    shapes: Mapping[str, tuple[int, ...]] = same_option(SharedOptions, "shapes")
    batch_size: int = same_option(SharedOptions, "batch_size")
