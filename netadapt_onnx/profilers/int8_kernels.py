"""Probes how a device multiplies bytes, and chooses a quantisation that is right for it.

Emulators, virtual machines and Windows name instruction sets that they lack, or none: a product shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx.parser

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.device import Device, outputs_on_device
from netadapt_onnx.profilers.execution import CPU, Execution
from netadapt_onnx.profilers.records import Environment

ROWS, COLUMNS = 64, 16


def choose_quantisation(execution: Execution, devices: Sequence[Device | None]) -> Execution:
    """Choose the quantisation of an execution so that it is right on all devices that it will run on.

    `devices` are those; None stands for one that cannot be reached.
    """
    if execution.deploy.precision == "float":
        return execution
    environments = [None if device is None else probe_int8(device) for device in devices]
    return replace(execution, deploy=execution.deploy.right_on(environments))


def probe_int8(device: Device) -> Environment:
    """A device's environment, and whether its products of bytes of different signs saturate (None: unknown)."""
    largest = {"x": np.full((1, ROWS), 255, np.uint8), "w": np.full((ROWS, COLUMNS), 127, np.int8)}
    try:
        answers = outputs_on_device(device, CPU, _product(), [largest])
    except NetadaptError as error:
        if error.code != "unrunnable":
            raise
        answers = None  # its onnxruntime lacks the operator
    saturates = None if answers is None else bool((answers[0]["y"] != ROWS * 255 * 127).any())
    return {**device.describe(), "saturates": saturates}


def _product() -> onnx.ModelProto:
    """A model of MatMulInteger of x, unsigned bytes, and w, signed ones, as onnxruntime 1.16 reads it."""
    return onnx.parser.parse_model(f"""
        <ir_version: 5, opset_import: ["": 10]>
        product (uint8[1, {ROWS}] x, int8[{ROWS}, {COLUMNS}] w) => (int32[1, {COLUMNS}] y) {{ y = MatMulInteger(x, w) }}
    """)
