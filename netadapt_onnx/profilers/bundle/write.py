"""Writes a zip for a device that only a person can reach; what comes back from there is read by `results.py`."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.files import aside
from netadapt_onnx.common.progress import Progress
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.original_file import AsGiven, stands_in
from netadapt_onnx.profilers.bundle.results import ORIGINAL
from netadapt_onnx.profilers.device import write_inputs, write_model
from netadapt_onnx.profilers.execution import Execution, execution_record
from netadapt_onnx.profilers.packing import pack
from netadapt_onnx.profilers.random_widths import Draw, RandomWidthModel, with_node_names
from netadapt_onnx.profilers.records import REFERENCE, SCHEMA, Job, Manifest, ModelFile
from netadapt_onnx.profilers.table.build import (
    BATCH,
    LEAST_MODELS,
    REFERENCE_CAP_S,
    TablePlan,
    batch_job,
    header_of,
)
from netadapt_onnx.profilers.timing import TimingPlan, timing_job

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
TABLE_README = """Latency measurements, made by netadapt-onnx

What this is: {models} widths of one model, and agent.py, which times them on the device that it runs on.
"""
README = """{what}
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
    {then}
"""
TABLE_THEN = "netadapt-onnx profile import results.jsonl --table device.jsonl"
SHARDING = """
It comes in {shards} shards, for as many devices of the same kind. Each measures its own share:
    sh run.sh 1                        writes results-1.jsonl, and so on up to {shards}
Import all of them at once. Without a number one device measures everything.
"""


def write_bundle(
    path: Path,
    reference: RandomWidthModel,
    draw: Draw,
    plan: TablePlan,
    *,
    execution: Execution,
    original: AsGiven,
    shards: int,
    progress: Progress,
) -> str:
    """Write a zip with random-width models, the original file, the agent and what starts it; whole or not at all.

    Args:
        path: the zip.
        reference: the uncut model.
        draw: draws the models of other widths.
        plan: how many models, how long they are measured, and the seed.
        execution: how they run on the device.
        original: the file of whose normalised form they are.
        shards: how many devices may share the measuring.
        progress: called with the number of written models.

    Returns:
        What to say of the original file, if anything.

    Raises:
        NetadaptError: onnxruntime 1.16 cannot read the model.
    """
    with (
        aside(path) as temporary,
        tempfile.TemporaryDirectory(prefix="netadapt-") as folder,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        bundle = Bundle(archive, bundle_folder(path), Path(folder), execution, {})
        shapes = _add_models(bundle, reference, draw, plan, progress)
        note = original.note
        if original.proto is not None:
            try:
                bundle.add_model(ORIGINAL, original.proto)
            except NetadaptError as error:
                note = stands_in(error)
        [inputs] = bundle.add([write_inputs(reference.inputs(), bundle.folder)], zipfile.ZIP_DEFLATED)
        models = plan.model_count(execution)
        about = {
            "header": msgspec.to_builtins(header_of(reference, {}, models, plan.seed)),
            "graph": pack(_without_values(reference.proto).SerializeToString()),
            "shapes": pack(msgspec.json.encode(shapes)),
            "as_given": original.sha256,
        }
        record, jobs = execution_record(execution), _jobs(bundle, plan, shards)
        manifest = Manifest(SCHEMA, record, inputs, bundle.models, jobs, plan.time_cap_s, about)
        what = TABLE_README.format(models=models)
        add_programs(bundle, manifest, what, TABLE_THEN, plan.time_cap_s, shards)
    return note


def bundle_folder(path: Path) -> str:
    """The folder that all of a zip unpacks into: its name, of characters that mean nothing to any system."""
    return re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII).strip("._-") or "bundle"


@dataclass(frozen=True)
class Bundle:
    """A zip that is being written. `folder`: for files on their way; `models`: those that it has, by number as text."""

    archive: zipfile.ZipFile
    top: str
    folder: Path
    execution: Execution
    models: dict[str, ModelFile]

    def add(self, files: Sequence[Path], compression: int | None = None) -> list[str]:
        """Move files into the zip that it does not have yet; returns their names."""
        for file in files:
            if f"{self.top}/{file.name}" not in self.archive.namelist():
                self.archive.write(file, f"{self.top}/{file.name}", compression)
            file.unlink()
        return [file.name for file in files]

    def add_model(self, number: int, proto: onnx.ModelProto) -> None:
        """Add a model as it is deployed; its weights hardly compress."""
        deployed = self.execution.deploy.apply(proto)
        self.models[str(number)], files = write_model(deployed, self.folder, oldest=True)
        self.add(files)

    def add_data(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a file of these bytes."""
        entry = zipfile.ZipInfo(f"{self.top}/{name}", (2020, 1, 1, 0, 0, 0))
        entry.external_attr = (0o755 if executable else 0o644) << 16
        self.archive.writestr(entry, data, zipfile.ZIP_DEFLATED)


def _add_models(
    bundle: Bundle, reference: RandomWidthModel, draw: Draw, plan: TablePlan, progress: Progress
) -> list[dict[str, tuple[int, ...]]]:
    """Add the random-width models, and the uncut one as their reference; returns the shapes of each but that."""
    count = plan.model_count(bundle.execution)
    shapes = []
    for number in (REFERENCE, *range(count)):
        progress(number + 1, count + 1, "writing versions")
        model = reference if number <= 0 else draw(np.random.default_rng([plan.seed, number]))
        bundle.add_model(number, with_node_names(model.proto))
        if number >= 0:
            shapes.append(dict(model.shapes))
    return shapes


def _jobs(bundle: Bundle, plan: TablePlan, shards: int) -> tuple[Job, ...]:
    """The batches of models, dealt to the shards in turn, and the uncut model beside the original file."""
    count, per_node = plan.model_count(bundle.execution), bundle.execution.provider.per_node
    batches = [range(first, min(first + BATCH, count)) for first in range(0, count, BATCH)]
    jobs = [
        batch_job(b, None, profiled=per_node, shard=1 + i % shards, needed=b.start < LEAST_MODELS)
        for i, b in enumerate(batches)
    ]
    uncut = [0, ORIGINAL] if str(ORIGINAL) in bundle.models else [0]
    return (*jobs, timing_job(uncut, TimingPlan(time_cap_s=min(REFERENCE_CAP_S, plan.time_cap_s))))


def add_programs(bundle: Bundle, manifest: Manifest, about: str, then: str, time_cap_s: float, shards: int = 1) -> None:
    """Add the manifest, the agent, what starts it, and the page that says how.

    Args:
        bundle: the zip.
        manifest: what is measured.
        about: what the page says of the models.
        then: the command that reads the results.
        time_cap_s: how long measuring takes.
        shards: how many devices may share it.
    """
    bundle.add_data(MANIFEST, msgspec.json.encode(manifest))
    bundle.add_data("agent.py", resources.files("netadapt_onnx.profilers").joinpath("agent.py").read_bytes())
    what = "" if shards == 1 else f", or one of {shards} shards of them: run it with the shard's number"
    bundle.add_data("run.sh", RUN_SH.format(what=what).encode(), executable=True)
    bundle.add_data("run.bat", RUN_BAT.format(what=what).replace("\n", "\r\n").encode())
    sharding = SHARDING.format(shards=shards) if shards > 1 else ""
    minutes = max(1.0, (time_cap_s + 30) / 60)
    page = README.format(what=about, minutes=minutes, sharding=sharding, then=then)
    bundle.add_data("README.txt", page.encode())


def _without_values(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model without the content of its weights: all that `Layers` reads."""
    empty = (onnx.TensorProto(name=t.name, data_type=t.data_type, dims=t.dims) for t in proto.graph.initializer)
    return onnx.ModelProto(graph=onnx.GraphProto(node=proto.graph.node, initializer=empty))
