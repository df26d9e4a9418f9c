"""The outputs of a model on a device, computed by the device's own kernels."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.device import Device, write_inputs, write_model
from netadapt_onnx.profilers.execution import Execution, execution_record
from netadapt_onnx.profilers.records import SCHEMA, FailedModel, Manifest, OutputsFile

MANIFEST = "answers.json"


def outputs_on_device(
    device: Device, execution: Execution, proto: onnx.ModelProto, batches: Iterable[Arrays]
) -> list[Arrays] | None:
    """Compute the outputs of a model, as it is, on a device.

    Args:
        device: where it runs.
        execution: how it runs.
        proto: the model.
        batches: inputs by name, all of one shape.

    Returns:
        The outputs of each batch by name; None from a device that only measures.

    Raises:
        NetadaptError: the device cannot run the model.
    """
    feeds = list(batches)
    stacked = {name: np.stack([batch[name] for batch in feeds]) for name in feeds[0]}
    with tempfile.TemporaryDirectory(prefix="netadapt-") as name:
        folder = Path(name)
        file, written = write_model(proto, folder, oldest=device.oldest)
        inputs = write_inputs(stacked, folder)
        manifest = folder / f"{inputs.stem}-{MANIFEST}"
        plan = Manifest(SCHEMA, execution_record(execution), inputs.name, {"0": file}, (), answers=(0,))
        manifest.write_bytes(msgspec.json.encode(plan))
        device.push([*written, inputs, manifest])
        results = manifest.with_suffix(".jsonl").name
        answer: OutputsFile | None = None
        for record in device.run(manifest.name, results):
            if isinstance(record, FailedModel):
                raise NetadaptError(
                    f"{device.name}: onnxruntime cannot run the model: {record.error}", code="unrunnable"
                )
            if isinstance(record, OutputsFile):
                if record.file != f"{Path(results).stem}-0.npz":
                    raise NetadaptError(f"{device.name}: answers in a file that nobody asked for", code="results")
                answer = record
        outputs = None if answer is None else device.pull(answer.file)
        device.remove(
            [*(path.name for path in (*written, inputs, manifest)), results, *([answer.file] if answer else [])]
        )
    if answer is None or outputs is None:
        return None
    return _by_batch(outputs, answer.names, len(feeds), device.name)


def _by_batch(file: bytes, names: Sequence[str], count: int, device: str) -> list[Arrays]:
    """Read the outputs of each of `count` batches. Raises NetadaptError for a file that does not hold them."""
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            if sum(member.file_size for member in archive.infolist()) > 2 * len(file):
                raise ValueError("it is compressed, which answers are not")
        with np.load(io.BytesIO(file)) as arrays:
            values = {output: arrays[f"arr_{i}"] for i, output in enumerate(names)}
        return [{output: batches[i] for output, batches in values.items()} for i in range(count)]
    except Exception as error:  # zipfile and numpy raise a dozen unrelated types, a tokenizer's among them
        raise NetadaptError(f"{device}: what a model computed there cannot be read: {error}", code="results") from error
