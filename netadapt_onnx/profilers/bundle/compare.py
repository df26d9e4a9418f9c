"""A bundle that times two models side by side on a device that only a person can reach, and reads what it measured."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from netadapt_onnx.common.files import aside
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.bundle.results import (
    HINT,
    ExecutionRecord,
    answers,
    decode_results,
    refused,
    require_results,
)
from netadapt_onnx.profilers.bundle.write import Bundle, add_programs, bundle_folder
from netadapt_onnx.profilers.checked_values import Text
from netadapt_onnx.profilers.device import write_inputs
from netadapt_onnx.profilers.execution import Execution, Fingerprint, execution_record, fingerprint, require_alike
from netadapt_onnx.profilers.records import (
    REFERENCE,
    SCHEMA,
    EnvironmentRecord,
    Manifest,
    ManifestRecord,
)
from netadapt_onnx.profilers.statistics import Ratio, ratio_of_pairs
from netadapt_onnx.profilers.timing import TimingPlan, timing_job

# The sessions of each model, and how long they may take: as careful as the last measurement of a search.
PLAN = TimingPlan(sessions=21, time_cap_s=120.0, precision=0.005)
README = """Two models side by side, by netadapt-onnx

What this is: the model {model}, the model {original} that it is compared with, and agent.py, which times
both in turn on the device that it runs on.
"""


class ComparedModels(msgspec.Struct, frozen=True):
    """The two models of a bundle, by the names of their files."""

    model: Text
    original: Text


@dataclass(frozen=True)
class ComparisonResults:
    """The time of one model relative to another's, as one device measured it."""

    names: ComparedModels
    device: Fingerprint
    ratio: Ratio


def write_comparison(path: Path, models: Mapping[str, onnx.ModelProto], inputs: Arrays, execution: Execution) -> None:
    """Write a zip that times two models beside one another wherever it is unpacked and run.

    Args:
        path: the zip.
        models: the model and the one that it is compared with, by the names of their files.
        inputs: the inputs that both take.
        execution: how they run on the device.

    Raises:
        NetadaptError: onnxruntime 1.16 cannot read one of them.
    """
    (model, proto), (original, reference) = models.items()
    with (
        aside(path) as temporary,
        tempfile.TemporaryDirectory(prefix="netadapt-") as folder,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        bundle = Bundle(archive, bundle_folder(path), Path(folder), execution, {})
        bundle.add_model(REFERENCE, reference)
        bundle.add_model(0, proto)
        [inputs_file] = bundle.add([write_inputs(inputs, bundle.folder)], zipfile.ZIP_DEFLATED)
        job = timing_job([0], PLAN, "ratio", REFERENCE)
        about = {"compared": {"model": model, "original": original}}
        manifest = Manifest(SCHEMA, execution_record(execution), inputs_file, bundle.models, (job,), about=about)
        what = README.format(model=model, original=original)
        add_programs(bundle, manifest, what, "netadapt-onnx profile import results.jsonl", PLAN.time_cap_s)


def is_comparison(path: Path) -> bool:
    """Whether a file is what a bundle of two models wrote; False for any other, which is read elsewhere.

    Raises NetadaptError where there is no such file.
    """
    require_results(path)
    try:
        first = decode_results(path)[0]
    except (NetadaptError, IndexError):
        return False
    return isinstance(first, ManifestRecord) and "compared" in first.manifest.about


def read_comparison(paths: Sequence[Path]) -> ComparisonResults:
    """Read what a bundle of two models measured, in one run or several on one device.

    Raises:
        NetadaptError: a model could not be run there, nothing was measured, or the files are of several bundles or
            devices.
    """
    names, devices, times, reference = [], [], [], []
    for path in paths:
        records = decode_results(path)
        head = records[0] if records else None
        if not isinstance(head, ManifestRecord) or "compared" not in head.manifest.about:
            raise NetadaptError(f"{path} holds no comparison of two models", hint=HINT, code="results")
        try:
            names.append(msgspec.convert(head.manifest.about["compared"], ComparedModels))
            execution = msgspec.convert(head.manifest.execution, ExecutionRecord).execution
        except msgspec.ValidationError as error:
            raise refused(path, 1, f"the manifest: {error}") from error
        measured, failed = answers(path, head.manifest, records)
        if not measured:
            why = failed[0].error if failed else "it was not run, or killed at once"
            raise NetadaptError(f"{path}: nothing was measured: {why}", hint="run its run.sh", code="results")
        devices += [fingerprint(execution, one.environment) for one in records if isinstance(one, EnvironmentRecord)]
        times += [ms for one in measured for ms in one.median_ms]
        reference += [ms for one in measured for ms in one.reference_median_ms]
    for path, other in zip(paths, names, strict=True):
        if other != names[0]:
            raise NetadaptError(f"{path} compares other models than {paths[0]}", hint="import them one by one")
    for device in devices[1:]:
        require_alike(devices[0], device, "the results are of two devices", "import them one by one")
    return ComparisonResults(names[0], devices[0], ratio_of_pairs(times, reference))
