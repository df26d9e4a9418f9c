"""One small rule per operator, split by kind. Importing this package registers them all."""

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
from netadapt_onnx.surgery.rules.registry import RULES, Rule, rule

__all__ = [
    "RULES",
    "Rule",
    "attention",
    "contraction",
    "control",
    "convolution",
    "elementwise",
    "movement",
    "normalisation",
    "pooling",
    "quantised",
    "recurrent",
    "reduction",
    "rule",
    "sampling",
    "selection",
]
