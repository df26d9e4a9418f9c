"""The options that mean the same in several commands, each declared once; `same_option` declares one of them anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from netadapt_onnx.common.options import option

if TYPE_CHECKING:
    from netadapt_onnx.common.progress import Progress

File = str | os.PathLike[str]


@dataclass(frozen=True)
class SharedOptions:
    """How models are read, where and how they run, and who follows the work."""

    shapes: Mapping[str, tuple[int, ...]] = option(
        factory=dict,
        help="Shape of an input with other dynamic axes, or of what an unknown operator puts out; may be repeated.",
        flag="--shape",
        metavar="NAME=1x3x224x224",
        is_repeated=True,
    )
    batch_size: int = option(1, "Length of a dynamic first axis.", at_least=1)
    seed: int = option(0, "Seed of everything random; recorded.", at_least=0, at_most=2**63 - 1)
    overwrite: bool = option(False, "Replace existing outputs.", changes_result=False)
    force: bool = option(False, "Take a table that was measured on another device.", changes_result=False)
    ep: str = option(
        "cpu",
        "Execution provider of onnxruntime: cpu, cuda, tensorrt, openvino, xnnpack, coreml, nnapi, qnn, directml, "
        "webgpu, or what --ep-library brings.",
    )
    ep_options: Mapping[str, str] = option(
        factory=dict,
        help="An option of the execution provider; may be repeated.",
        flag="--ep-option",
        metavar="KEY=VALUE",
        is_repeated=True,
    )
    ep_library: str | None = option(
        None, "The library of an execution provider that is a plugin.", metavar="FILE", is_path=True
    )
    threads: int = option(1, "Threads timed with.", at_least=1)
    deploy: Literal["float", "int8"] = option(
        "float",
        "What will run there: the model, or its int8 form, calibrated with --data.",
        choices=("float", "int8"),
    )
    python: str = option("python3", "Python on the device.", metavar="PATH", changes_result=False)
    perf_test: File | None = option(
        None,
        "onnxruntime_perf_test built for a device without Python.",
        metavar="FILE",
        is_path=True,
        changes_result=False,
    )
    keep: bool = option(False, "Leave the files on the device.", changes_result=False)
    progress: Progress | None = option(
        None, "A function of steps done, steps in all, and words.", on_command_line=False, changes_result=False
    )
    log: Callable[[str], None] | None = option(
        None, "A function that gets a line per event.", on_command_line=False, changes_result=False
    )
