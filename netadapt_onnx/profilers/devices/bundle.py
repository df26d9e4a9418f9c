"""A device that only a person can reach: a zip to carry there. What comes back is read by `results.py`."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.files import aside
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.original_file import AsGiven, stands_in
from netadapt_onnx.profilers.device import (
    REFERENCE,
    SCHEMA,
    Manifest,
    ModelFile,
    write_inputs,
    write_model,
)
from netadapt_onnx.profilers.devices.results import GIVEN
from netadapt_onnx.profilers.execution import Execution, execution_record
from netadapt_onnx.profilers.packing import packed
from netadapt_onnx.profilers.random_widths import Draw, RandomWidthModel, named
from netadapt_onnx.profilers.table.build import BATCH, LEAST_MODELS, REFERENCE_CAP_S, batch_job, header_of
from netadapt_onnx.profilers.timing import SESSIONS, timing_job

MANIFEST = "manifest.json"

RUN_SH = """#!/bin/sh
# Measures the models in this folder{what}. Killed, it goes on when it is run again.
cd "$(dirname "$0")" || exit 2
export ORT_DISABLE_TELEMETRY="${{ORT_DISABLE_TELEMETRY:-1}}" TMPDIR="$PWD"
exec "${{PYTHON:-python3}}" agent.py manifest.json "results${{1:+-$1}}.jsonl" ${{1:+--shard "$1"}}
"""
RUN_BAT = """@echo off
rem Measures the models in this folder{what}. Killed, it goes on when it is run again.
cd /d "%~dp0"
if not defined ORT_DISABLE_TELEMETRY set ORT_DISABLE_TELEMETRY=1
if not defined PYTHON set PYTHON=python
set TMP=%CD%
set RESULTS=results.jsonl
set SHARD=
if not "%1"=="" set RESULTS=results-%1.jsonl
if not "%1"=="" set SHARD=--shard %1
"%PYTHON%" agent.py manifest.json %RESULTS% %SHARD%
"""
README = """Latency measurements, made by netadapt-onnx

What this is: {models} widths of one model, and agent.py, which times them on the device it runs on.

Needed there: Python 3.8 or newer with numpy and onnxruntime 1.16 or newer. Nothing is installed, nothing is sent
anywhere, and everything stays in this folder:
    python3 -m pip install numpy onnxruntime

Run it (about {minutes:.0f} minutes; keep the device idle and cool):
    sh run.sh                          on Linux, macOS and Android's Termux
    run.bat                            on Windows
    PYTHON=venv/bin/python sh run.sh   with a Python of your choice
{sharding}
Stop it whenever you like: run again, it goes on where it was, as long as the device and its onnxruntime are the same.
Running it in a fresh copy of this folder measures everything once more, and more measurements make a better table.

Then carry the results back, to where netadapt-onnx is:
    netadapt-onnx profile import results.jsonl --table device.jsonl
"""
SHARDING = """
It comes in {shards} shards, for as many devices of the same kind. Each measures its own share:
    sh run.sh 1                        writes results-1.jsonl, and so on up to {shards}
Import all of them at once. Without a number one device measures everything.
"""


def write_bundle(
    path: Path,
    reference: RandomWidthModel,
    draw: Draw,
    execution: Execution,
    *,
    given: AsGiven,
    models: int,
    shards: int,
    time_cap_s: float,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> str:
    """Write a zip with `models` versions, the file as given, the agent and what starts it; whole or not at all.

    Returns what to say of that file, if anything. Raises NetadaptError for a model that onnxruntime 1.16 cannot read.
    """
    with (
        aside(path) as temporary,
        tempfile.TemporaryDirectory(prefix="netadapt-") as name,
        zipfile.ZipFile(temporary, "w") as bundle,
    ):
        folder, top = Path(name), bundle_folder(path)
        files, shapes = {}, []
        for number in (REFERENCE, *range(models)):
            if progress:
                progress(number + 1, models + 1, "writing versions")
            version = reference if number <= 0 else draw(np.random.default_rng([seed, number]))
            files[str(number)], written = write_model(execution.deploy.apply(named(version.proto)), folder, oldest=True)
            for file in written:
                if f"{top}/{file.name}" not in bundle.namelist():
                    bundle.write(file, f"{top}/{file.name}")  # weights hardly compress
                file.unlink()
            shapes += [dict(version.shapes)] if number >= 0 else []
        note = _add_given(bundle, given, execution, files, folder, top)
        inputs = write_inputs(reference.inputs(), folder)
        bundle.write(inputs, f"{top}/{inputs.name}", zipfile.ZIP_DEFLATED)
        per_node = execution.provider.per_node
        batches = [range(first, min(first + BATCH, models)) for first in range(0, models, BATCH)]
        jobs = [
            batch_job(b, None, profiled=per_node, shard=1 + i % shards, needed=b.start < LEAST_MODELS)
            for i, b in enumerate(batches)
        ]
        whole = [0, GIVEN] if str(GIVEN) in files else [0]
        jobs.append(timing_job(whole, SESSIONS, min(REFERENCE_CAP_S, time_cap_s)))
        about = {
            "header": msgspec.to_builtins(header_of(reference, {}, models, seed)),
            "graph": packed(_skeleton(reference.proto).SerializeToString()),
            "shapes": packed(msgspec.json.encode(shapes)),
            "as_given": given.sha256,
        }
        manifest = Manifest(SCHEMA, execution_record(execution), inputs.name, files, tuple(jobs), time_cap_s, about)
        _add(bundle, f"{top}/{MANIFEST}", msgspec.json.encode(manifest))
        _add(bundle, f"{top}/agent.py", resources.files("netadapt_onnx.profilers").joinpath("agent.py").read_bytes())
        what = "" if shards == 1 else f", or one of {shards} shards of them: run it with the shard's number"
        _add(bundle, f"{top}/run.sh", RUN_SH.format(what=what).encode(), executable=True)
        _add(bundle, f"{top}/run.bat", RUN_BAT.format(what=what).replace("\n", "\r\n").encode())
        sharding = SHARDING.format(shards=shards) if shards > 1 else ""
        minutes = max(1.0, (time_cap_s + 30) / 60)
        _add(bundle, f"{top}/README.txt", README.format(models=models, minutes=minutes, sharding=sharding).encode())
    return note


def bundle_folder(path: Path) -> str:
    """The folder that all of a zip unpacks into: its name, of characters that mean nothing to any system."""
    return re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII).strip("._-") or "bundle"


def _add_given(
    bundle: zipfile.ZipFile, given: AsGiven, execution: Execution, files: dict[str, ModelFile], folder: Path, top: str
) -> str:
    """Add the file as given, if it is to be timed; returns why it cannot be."""
    if given.proto is None:
        return given.note
    try:
        files[str(GIVEN)], written = write_model(execution.deploy.apply(given.proto), folder, oldest=True)
    except NetadaptError as error:
        return stands_in(error)
    for file in written:
        bundle.write(file, f"{top}/{file.name}")
    return ""


def _add(bundle: zipfile.ZipFile, name: str, data: bytes, *, executable: bool = False) -> None:
    entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    entry.external_attr = (0o755 if executable else 0o644) << 16
    bundle.writestr(entry, data, zipfile.ZIP_DEFLATED)


def _skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model without the content of its weights: all that `Layers` looks at."""
    graph = onnx.GraphProto(node=proto.graph.node)
    for tensor in proto.graph.initializer:
        graph.initializer.append(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
    return onnx.ModelProto(graph=graph)
