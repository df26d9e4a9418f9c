"""One small rule per operator, split by kind. Importing this package registers them all."""

from netadapt_onnx.surgery.rules import (
    contraction,
    convolution,
    elementwise,
    movement,
    normalisation,
    pooling,
    recurrent,
    reduction,
    selection,
)
from netadapt_onnx.surgery.rules.registry import RULES, Rule, rule

__all__ = [
    "RULES",
    "Rule",
    "contraction",
    "convolution",
    "elementwise",
    "movement",
    "normalisation",
    "pooling",
    "recurrent",
    "reduction",
    "rule",
    "selection",
]
