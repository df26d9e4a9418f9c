"""The keywords of Python functions, with their types. Written by `docs/reference.py`: edit nothing here.

Each is an option of the command of the same name and is declared once: see `common/options.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

import onnx

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.search.channel_choices import Floors, Steps
from netadapt_onnx.search.executors.opening import Gpus
from netadapt_onnx.search.executors.protocol import Executor
from netadapt_onnx.search.netadapt import Select
from netadapt_onnx.search.options import Evaluate, Rank, ReductionOf, Strategy
from netadapt_onnx.search.target_devices import Devices, Tables
from netadapt_onnx.surgery import Criterion


class AdaptKeywords(TypedDict, total=False):
    """The options of `adapt`."""

    criterion: str | Criterion
    strategy: Strategy
    rank: Rank
    select: Select
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
    allow_block_removal: bool
    short_term: int | None
    short_term_lr: float
    final_epochs: int
    augment: bool
    max_iterations: int
    max_time: str | float | None
    min_accuracy: float | None
    save_interval: int
    seed: int
    executor: str | Executor
    gpus: Gpus
    job_timeout: str | float
    resume: bool
    progress: Progress | None
    log: Callable[[str], None] | None
    table: Tables
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
