"""One small rule per operator, split by kind. Importing this package registers them all."""
# ruff: noqa: F401 - the modules are imported for the rules that they register

from netadapt_onnx.surgery.rules import (
    attention,
    contraction,
    control,
    convolution,
    elementwise,
    movement,
    normalisation,
    pooling,
    quantised,
    recurrent,
    reduction,
    sampling,
    selection,
)
from netadapt_onnx.surgery.rules.registry import RULES, rule

__all__ = ["RULES", "rule"]
