"""The keywords of Python functions, with their types. Written by `docs/reference.py`: edit nothing here.

Each is an option of the command of the same name and is declared once: see `common/options.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypedDict

import onnx

from netadapt_onnx.api.options import LearningRateSchedule, Optimizer, SplitName
from netadapt_onnx.api.source import Source
from netadapt_onnx.common.options import File
from netadapt_onnx.common.progress import Progress
from netadapt_onnx.gating.limits import LimitArguments
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.scaling.options import Method
from netadapt_onnx.search.allowed_counts import Floors, Steps
from netadapt_onnx.search.executors.opening import Gpus
from netadapt_onnx.search.executors.protocol import Executor
from netadapt_onnx.search.netadapt import Select
from netadapt_onnx.search.presets import Preset
from netadapt_onnx.search.run_options import Evaluate
from netadapt_onnx.search.search_options import Portfolio, Proposals, Rank, ReductionOf, Start, Strategy
from netadapt_onnx.search.target_devices import Devices, Tables
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.labels import Choices


class AdaptKeywords(TypedDict, total=False):
    """The options of `adapt`."""

    preset: Preset
    criterion: str | Criterion
    strategy: Strategy
    start: Start
    start_share: float | None
    rank: Rank
    select: Select
    proposals: Proposals
    draws: int
    portfolio: Portfolio
    init_reduction_ratio: float
    decay: float
    init_reduction: str | float | None
    reduction_of: ReductionOf
    step: Steps
    min_channels: int
    freeze: Sequence[str]
    floor: Floors
    finalists: int
    prune_small: bool
    keep_blocks: bool
    allow_block_removal: bool
    short_term: int | None
    short_term_lr: float
    final_epochs: int | Literal["auto"]
    final_effort: float
    augment: bool | None
    max_iterations: int
    max_time: str | float | None
    min_accuracy: float | None
    save_interval: int
    seed: int
    executor: str | Executor
    gpus: Gpus
    job_timeout: str | float
    resume: bool
    live: bool
    progress: Progress | None
    log: Callable[[str], None] | None
    table: Tables
    table_models: int | None
    force: bool
    device: Devices
    resource_command: str | Callable[[onnx.ModelProto], float] | None
    ep: str
    ep_options: Mapping[str, str]
    ep_library: str | None
    threads: int
    deploy: Literal["float", "int8"]
    python: str
    perf_test: str | os.PathLike[str] | None
    keep: bool
    evaluate: Evaluate | None
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int


class BundleKeywords(TypedDict, total=False):
    """The options of `bundle`."""

    shards: int
    ep: str
    ep_options: Mapping[str, str]
    threads: int
    deploy: Literal["float", "int8"]
    compare: Source | None
    data: File | None
    models: int | None
    time_cap_s: float
    seed: int
    overwrite: bool
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int
    progress: Progress | None


class EvaluateKeywords(TypedDict, total=False):
    """The options of `evaluate`."""

    split: SplitName
    timed: bool
    energy: bool
    ep: str
    threads: int
    time_cap_s: float
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int


class FinetuneKeywords(TypedDict, total=False):
    """The options of `finetune`."""

    teacher: Source | None
    epochs: int
    lr: float | Literal["auto"] | None
    from_scratch: bool
    optimizer: Optimizer
    schedule: LearningRateSchedule
    weight_decay: float | None
    batch_size: int | None
    augment: bool | None
    tensorboard: File | None
    resume: bool
    seed: int
    overwrite: bool
    shapes: Mapping[str, tuple[int, ...]]
    progress: Progress | None
    log: Callable[[str], None] | None


class GateKeywords(TypedDict, total=False):
    """The options of `gate`."""

    max: LimitArguments
    max_increase: LimitArguments
    min: LimitArguments
    data: File | None
    split: SplitName | None
    baseline: File | None
    update_baseline: bool
    allow_new: bool
    device: str | None
    ep: str | None
    threads: int | None
    config: File | None
    timeout_s: float
    memory_bytes: int
    shapes: Mapping[str, Sequence[int]]
    batch_size: int | None
    progress: Progress | None


class InspectKeywords(TypedDict, total=False):
    """The options of `inspect`."""

    table: File | None
    explained: str | None
    write_plan: File | None
    graph: File | None
    sensitivity: bool
    data: File | None
    criterion: str | Criterion
    seed: int
    progress: Progress | None
    choices: Choices | None
    overwrite: bool
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int


class MeasureLatencyKeywords(TypedDict, total=False):
    """The options of `measure_latency`."""

    device: str | Device
    ep: str
    ep_options: Mapping[str, str]
    ep_library: str | None
    threads: int
    time_cap_s: float
    python: str
    perf_test: File | None
    keep: bool
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int
    log: Callable[[str], None] | None


class ProfileKeywords(TypedDict, total=False):
    """The options of `profile`."""

    device: str | Device
    ep: str
    ep_options: Mapping[str, str]
    ep_library: str | None
    threads: int
    deploy: Literal["float", "int8"]
    data: File | None
    python: str
    perf_test: File | None
    keep: bool
    held_out: int
    plot: File | None
    per_layer: bool
    models: int | None
    time_cap_s: float
    seed: int
    overwrite: bool
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int
    progress: Progress | None
    log: Callable[[str], None] | None


class PruneKeywords(TypedDict, total=False):
    """The options of `prune`."""

    ratio: float | None
    keep: Mapping[str, int | float | str] | None
    budget: Iterable[str] | str | None
    plan: File | None
    global_: bool
    criterion: str | Criterion
    step: int | None
    data: File | None
    reconstruct: bool | None
    check: bool
    table: File | None
    choices: Choices | None
    overwrite: bool
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int


class ScaleKeywords(TypedDict, total=False):
    """The options of `scale`."""

    target: str | Sequence[str]
    method: Method | Sequence[Method]
    iterations: int
    warmup_epochs: Sequence[int]
    batches: int | None
    epochs: int
    lr: float
    seeds: int
    seed: int
    ep: str
    threads: int
    out: File | None
    law: File | None
    fit: File | None
    table: File | None
    force: bool
    resume: bool
    shapes: Mapping[str, tuple[int, ...]]
    batch_size: int
    progress: Progress | None
    log: Callable[[str], None] | None
