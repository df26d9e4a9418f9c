"""What runs where it is measured, as users ask for it: `--ep`, its options, `--deploy int8` with inputs of `--data`."""

from __future__ import annotations

import os

import numpy as np

from netadapt_onnx.data.dataset import Dataset, Specs
from netadapt_onnx.data.load import dataset_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.quantize import FLOAT, SAMPLES, Deployment, Precision
from netadapt_onnx.search.options import Arguments
from netadapt_onnx.search.prepared_model import PreparedModel

SEED = 0


def deployment(
    precision: Precision, folded: FoldedModel, data: str | os.PathLike[str] | None, dataset: Dataset | None = None
) -> Deployment:
    """What is deployed; int8 is calibrated with training inputs of `data`, or of `dataset` if it is loaded already.

    Raises NetadaptError for int8 without data, and for data that do not fit the model.
    """
    if precision == "float":
        return FLOAT
    if dataset is None:
        if data is None:
            raise NetadaptError("--deploy int8 calibrates with inputs", hint="give --data", code="usage")
        dataset = dataset_for(folded, data, scored=False)
    return Deployment("int8", calibration(dataset, folded.specs))


def execution_of(asked: Arguments, subject: PreparedModel) -> Execution:
    """How the models of an adaptation run where they are measured."""
    deploy = deployment(asked.deploy, subject.trace.folded, None, subject.data)
    return Execution(asked.ep, asked.threads, dict(asked.ep_options), asked.ep_library, deploy)


def calibration(dataset: Dataset, specs: Specs) -> tuple[Arrays, ...]:
    """Batches, at the model's batch size, of a fixed choice of training inputs."""
    each = max(1, next(iter(specs.values()))[0][0] if next(iter(specs.values()))[0] else 1)
    split = dataset.train.sample(SAMPLES * each, SEED)
    chosen = [split.batch(np.arange(i, i + each)) for i in range(0, len(split) - each + 1, each)]
    if not chosen:
        raise NetadaptError(f"--data has fewer inputs than a batch of the model ({each})", code="invalid-data")
    return tuple(chosen)
