"""A device that only a person can reach: a zip to carry there, and results to carry back."""

from __future__ import annotations

import base64
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.build import BATCH, LEAST_MODELS, REFERENCE_CAP_S, batch_job, header_of, records_of
from netadapt_onnx.profilers.deployment import Deployment
from netadapt_onnx.profilers.measuring import (
    REFERENCE,
    SCHEMA,
    Answer,
    Described,
    End,
    Failed,
    Found,
    Manifest,
    Measured,
    decoded,
    write_inputs,
    write_model,
)
from netadapt_onnx.profilers.session import Execution, Fingerprint, differences, execution_record, fingerprint
from netadapt_onnx.profilers.table import Header, Record, Reference, Whole, encode
from netadapt_onnx.profilers.timing import SESSIONS, timing, timing_job
from netadapt_onnx.profilers.units import Layers
from netadapt_onnx.profilers.versions import Draw, Variant, named

MANIFEST, RESULTS = "manifest.json", "results.jsonl"

RUN_SH = """#!/bin/sh
# Measures the models in this folder{what}. Killed, it goes on when it is run again.
cd "$(dirname "$0")" || exit 2
export ORT_DISABLE_TELEMETRY="${{ORT_DISABLE_TELEMETRY:-1}}"
exec "${{PYTHON:-python3}}" agent.py manifest.json "results${{1:+-$1}}.jsonl" ${{1:+--shard "$1"}}
"""
RUN_BAT = """@echo off
rem Measures the models in this folder{what}. Killed, it goes on when it is run again.
cd /d "%~dp0"
if not defined ORT_DISABLE_TELEMETRY set ORT_DISABLE_TELEMETRY=1
if not defined PYTHON set PYTHON=python
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
Stop it whenever you like: run again, it goes on where it was. Running it in a fresh copy of this folder measures
everything once more, and more measurements make a better table.

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
    reference: Variant,
    draw: Draw,
    execution: Execution,
    *,
    models: int,
    shards: int,
    time_cap_s: float,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Write a zip with `models` versions, the agent and what starts it; whole or not at all.

    Raises NetadaptError for a model that onnxruntime 1.16 cannot read, named.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tempfile.TemporaryDirectory(prefix="netadapt-") as name, zipfile.ZipFile(temporary, "w") as bundle:
            folder = Path(name)
            files, shapes = {}, []
            for number in (REFERENCE, *range(models)):
                if progress:
                    progress(number + 1, models + 1, "writing versions")
                version = reference if number <= 0 else draw(np.random.default_rng([seed, number]))
                files[str(number)], written = write_model(
                    execution.deploy.apply(named(version.proto)), folder, oldest=True
                )
                for file in written:
                    if file.name not in bundle.namelist():
                        bundle.write(file, file.name)  # weights hardly compress
                    file.unlink()
                shapes += [dict(version.shapes)] if number >= 0 else []
            inputs = write_inputs(reference.inputs(), folder)
            bundle.write(inputs, inputs.name, zipfile.ZIP_DEFLATED)
            per_node = execution.provider.per_node
            batches = [range(first, min(first + BATCH, models)) for first in range(0, models, BATCH)]
            jobs = [
                batch_job(b, None, profiled=per_node, shard=1 + i % shards, needed=b.start < LEAST_MODELS)
                for i, b in enumerate(batches)
            ]
            jobs.append(timing_job([0], SESSIONS, min(REFERENCE_CAP_S, time_cap_s)))
            about = {
                "header": msgspec.to_builtins(header_of(reference, {}, models, seed)),
                "graph": _packed(_skeleton(reference.proto).SerializeToString()),
                "shapes": _packed(msgspec.json.encode(shapes)),
            }
            manifest = Manifest(SCHEMA, execution_record(execution), inputs.name, files, tuple(jobs), time_cap_s, about)
            _add(bundle, MANIFEST, msgspec.json.encode(manifest))
            _add(bundle, "agent.py", resources.files("netadapt_onnx.profilers").joinpath("agent.py").read_bytes())
            what = "" if shards == 1 else f", or one of {shards} shards of them: run it with the shard's number"
            _add(bundle, "run.sh", RUN_SH.format(what=what).encode(), executable=True)
            _add(bundle, "run.bat", RUN_BAT.format(what=what).replace("\n", "\r\n").encode())
            sharding = SHARDING.format(shards=shards) if shards > 1 else ""
            minutes = max(1.0, (time_cap_s + 30) / 60)
            _add(bundle, "README.txt", README.format(models=models, minutes=minutes, sharding=sharding).encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _add(bundle: zipfile.ZipFile, name: str, data: bytes, *, executable: bool = False) -> None:
    entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    entry.external_attr = (0o755 if executable else 0o644) << 16
    bundle.writestr(entry, data, zipfile.ZIP_DEFLATED)


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def _skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model without the content of its weights: all that `Layers` looks at."""
    graph = onnx.GraphProto(node=proto.graph.node)
    for tensor in proto.graph.initializer:
        graph.initializer.append(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
    return onnx.ModelProto(graph=graph)


@dataclass(frozen=True)
class Results:
    """One file of results: the manifest it answers, where it was measured, and what."""

    path: Path
    manifest: Manifest
    device: Fingerprint
    measured: tuple[Measured, ...]
    failed: tuple[Failed, ...]
    stopped: str | None


def read_results(path: Path) -> Results:
    """Read what an agent wrote; a torn last line is left out.

    Raises NetadaptError: no such file, not results (naming the line), nothing measured.
    """
    if not path.is_file():
        raise NetadaptError(f"{path}: no such file", code="missing-file")
    data = path.read_bytes()
    records: list[Answer] = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            records.append(decoded(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NetadaptError(
                f"{path}, line {number}: {error}", hint="give the results.jsonl of a bundle", code="results"
            ) from error
    described = records[0] if records else None
    if not isinstance(described, Described) or "header" not in described.manifest.about:
        raise NetadaptError(f"{path} holds no results of a bundle", hint="give its results.jsonl", code="results")
    execution = _execution(described.manifest)
    devices = [fingerprint(execution, r.environment) for r in records if isinstance(r, Found)]
    measured = tuple(r for r in records if isinstance(r, Measured))
    failed = tuple(r for r in records if isinstance(r, Failed))
    if not measured:
        reason = failed[0].error if failed else "it was not run, or killed at once"
        raise NetadaptError(f"{path}: nothing was measured: {reason}", hint="run its run.sh", code="results")
    _same(f"{path}: measured on two devices", devices[0], *devices[1:])
    ends = [r.stopped for r in records if isinstance(r, End)]
    return Results(path, described.manifest, devices[0], measured, failed, ends[-1] if ends else None)


def _execution(manifest: Manifest) -> Execution:
    record: dict[str, Any] = manifest.execution
    deploy = Deployment(record.get("precision", "float"))
    return Execution(record["ep"], record["threads"], record["options"], deploy=deploy)


def _same(what: str, first: Fingerprint, *others: Fingerprint) -> None:
    for other in others:
        unlike = differences(first, other)
        if unlike:
            raise NetadaptError(
                f"{what} ({'; '.join(unlike)})",
                hint="import each device's into a table of its own",
                code="other-device",
            )


def merged(results: Sequence[Results]) -> list[Record]:
    """One table's records from shards and repetitions, all of one bundle and one kind of device.

    A version that was measured again counts as one more version. Raises NetadaptError naming what differs.
    """
    first = results[0]
    for other in results[1:]:
        ours, theirs = first.manifest.about["header"], other.manifest.about["header"]
        unlike = differences(ours, theirs)
        if unlike or first.manifest.execution != other.manifest.execution:
            raise NetadaptError(
                f"{other.path} and {first.path} are of different bundles"
                + (
                    f" ({'; '.join(unlike)})"
                    if unlike
                    else f": {other.manifest.execution} and {first.manifest.execution}"
                ),
                code="results",
            )
        _same(f"{first.path} and {other.path} are of different devices", first.device, other.device)
    about = first.manifest.about
    header = msgspec.convert({**about["header"], "device": first.device}, Header)
    layers = Layers(onnx.ModelProto.FromString(_unpacked(about["graph"])))
    shapes = msgspec.json.decode(_unpacked(about["shapes"]), type=list[dict[str, tuple[int, ...]]])
    records: list[Record] = [header]
    times: dict[int, int] = {}
    whole_ms: list[float] = []
    seconds = 0.0
    for file in results:
        for found in file.measured:
            if file.manifest.jobs[found.job].reference is None:
                whole_ms += found.median_ms
                seconds += found.seconds
                continue
            repeated = times.get(found.model, 0)
            times[found.model] = repeated + 1
            number = found.model + repeated * header.models
            records += records_of(msgspec.structs.replace(found, model=number), shapes[found.model], layers)
    if not whole_ms or not times:
        raise NetadaptError(
            f"{first.path}: the measuring was interrupted", hint="run run.sh again: it goes on", code="results"
        )
    whole = timing(whole_ms)
    stopped = "done" if len(times) == header.models else f"{len(times)} of {header.models} versions measured"
    records.append(Reference(whole.median_ms, whole.ci95, whole.sessions, stopped, seconds))
    return records


def write_table(path: Path, records: Sequence[Record]) -> int:
    """Write a table whole or not at all; returns its number of cells."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(encode(records))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return sum(not isinstance(r, Header | Whole | Reference) for r in records)
