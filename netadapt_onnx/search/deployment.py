"""What `--deploy` measures and writes: the float model, or its int8 form, calibrated on `--data`."""

from __future__ import annotations

import os

import numpy as np

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.profilers.quantize import FLOAT, SAMPLES, Deployment, Precision

SEED = 0


def deployment(
    precision: Precision, folded: FoldedModel, data: str | os.PathLike[str] | None, dataset: Dataset | None = None
) -> Deployment:
    """The form of the model that is deployed.

    Args:
        precision: `float`, or `int8`.
        folded: The model.
        data: The data whose training inputs calibrate int8.
        dataset: The same, if it is loaded already.

    Raises:
        NetadaptError: There is no data for int8, or it does not fit the model.
    """
    if precision == "float":
        return FLOAT
    if dataset is None:
        if data is None:
            raise NetadaptError("--deploy int8 calibrates with inputs", hint="give --data", code="usage")
        dataset = load_dataset(folded, data, scored=False)
    return Deployment("int8", calibration(dataset, folded.specs))


def calibration(dataset: Dataset, specs: Specs) -> tuple[Arrays, ...]:
    """Batches, at the model's batch size, of a fixed choice of training inputs."""
    each = max(1, next(iter(specs.values()))[0][0] if next(iter(specs.values()))[0] else 1)
    split = dataset.train.sample(SAMPLES * each, SEED)
    chosen = [split.batch(np.arange(i, i + each)) for i in range(0, len(split) - each + 1, each)]
    if not chosen:
        raise NetadaptError(f"--data has fewer inputs than a batch of the model ({each})", code="invalid-data")
    return tuple(chosen)
