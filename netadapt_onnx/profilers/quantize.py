"""Makes what is deployed of a float model: itself, or its int8 form. Surgery and training know nothing of it."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.runtime import Arrays

Precision = Literal["float", "int8"]
# Weights of seven bits are right everywhere: without VNNI, x86 adds two products of an unsigned and a signed byte in 16
# bits, where 2 * 255 * 127 overflows and 2 * 255 * 64 does not.
Quantisation = Literal["8-bit weights", "7-bit weights"]
FULL: Quantisation = "8-bit weights"
EVERYWHERE: Quantisation = "7-bit weights"
# A scale per channel came to QuantizeLinear with opset 13, QuantizeLinear itself with opset 10.
PER_CHANNEL_OPSET, LEAST_OPSET = 13, 10
# Batches that the ranges of activations are taken from: two dozen are precise enough for time, and for accuracy near
# what hundreds give (`docs/int8.md`).
SAMPLES = 32
QUANTISED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
)
# Models whose deployed form is remembered, those asked for last: the original is measured beside every other.
_REMEMBERED = 3


@dataclass(frozen=True)
class Deployment:
    """How a model is turned into what runs.

    Attributes:
        precision: that of the deployed model.
        samples: inputs to calibrate int8 with, one batch each.
        quantisation: how wide int8 weights are: right everywhere until it is known where they will run
            (`int8_kernels.py`).
    """

    precision: Precision = "float"
    samples: tuple[Arrays, ...] = field(default=(), compare=False, repr=False)
    quantisation: Quantisation = EVERYWHERE
    _deployed: dict[str, onnx.ModelProto] = field(default_factory=dict, init=False, compare=False, repr=False)

    def apply(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Make what is deployed of a float model. Raises NetadaptError if onnxruntime cannot quantise it."""
        if self.precision == "float":
            return proto
        key = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
        deployed = self._deployed.pop(key, None) or quantise(proto, self.samples, self.quantisation)
        self._deployed[key] = deployed  # as the one that was asked for last
        while len(self._deployed) > _REMEMBERED:
            self._deployed.pop(next(iter(self._deployed)))
        return deployed

    def right_on(self, environments: Sequence[Mapping[str, Any] | None]) -> Deployment:
        """The deployment that computes correctly on devices with these environments; None stands for an unknown one."""
        if self.precision == "float":
            return self
        safe = bool(environments) and not any(one is None or saturates(one) for one in environments)
        return replace(self, quantisation=FULL if safe else EVERYWHERE)


def saturates(environment: Mapping[str, Any]) -> bool:
    """Whether products of bytes overflow on a device; True unless a probe or its processor's name excludes it."""
    probed = environment.get("saturates")
    if probed is not None:
        return bool(probed)
    arm = str(environment.get("arch", "")).lower().startswith(("arm", "aarch"))
    return not arm and not any("vnni" in flag for flag in environment.get("flags", ()))


FLOAT = Deployment()


def quantise(
    proto: onnx.ModelProto, samples: tuple[Arrays, ...], quantisation: Quantisation = EVERYWHERE
) -> onnx.ModelProto:
    """Quantise a model to int8, by onnxruntime's static quantisation with QDQ nodes.

    Weights are symmetric, of seven or eight bits, with a scale per output channel from opset 13 on. Inputs and outputs
    stay float. Names of tensors stay; new ones end in `_QuantizeLinear_Output` and the like.

    Args:
        proto: the float model.
        samples: inputs whose activations give the ranges.
        quantisation: how wide weights are.

    Raises:
        NetadaptError: with the code `unquantisable`: the model has no float weights, or the quantiser refuses it.
    """
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise _refused(f"it is of opset {opset}, and QuantizeLinear came with {LEAST_OPSET}", "export it anew")
    if any(node.op_type in QUANTISED for node in proto.graph.node):
        raise _refused("it is quantised already", "leave --deploy away: it is measured as it is")
    if not samples:
        raise NetadaptError("--deploy int8 calibrates with samples", hint="give --data", code="usage")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="netadapt-") as folder, _quiet():
        prepared, out = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            _fold_batchnorm(proto, prepared)
            quantize_static(
                str(prepared),
                str(out),
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                per_channel=opset >= PER_CHANNEL_OPSET,
                reduce_range=quantisation == EVERYWHERE,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            model = onnx.load(out)
        except Exception as error:  # the quantiser raises whatever occurs to it, KeyError and AssertionError included
            raise _refused(one_line(error), "--deploy float measures it as it is") from error
    if not any(node.op_type in QUANTISED for node in model.graph.node):
        raise _refused("nothing in it can be int8", "--deploy float measures it as it is")
    return model


def _fold_batchnorm(proto: onnx.ModelProto, path: Path) -> None:
    """Write the model with every BatchNorm folded into the layer before it, where Q and DQ would come between.

    The quantiser's own preparation loses the values of models that are in memory (onnxruntime 1.31).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


class _Reader:
    """Reads samples as the quantiser wants them: one after the other, then None."""

    def __init__(self, samples: tuple[Arrays, ...]) -> None:
        self._rest: Iterator[Arrays] = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rest, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice, which goes to the root logger, and onnxruntime's, a line for each constant."""
    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(2)  # onnxruntime's own; there is no asking what it was


def _refused(why: str, hint: str) -> NetadaptError:
    return NetadaptError(f"onnxruntime cannot quantise the model: {why}", hint=hint, code="unquantisable")
