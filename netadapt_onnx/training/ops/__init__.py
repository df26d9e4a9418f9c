"""ONNX ops as torch functions, split by kind; importing this package registers them all."""

from netadapt_onnx.training.ops import (
    activation,
    clipping,
    convolution,
    elementwise,
    indexing,
    linear,
    movement,
    normalisation,
    pooling,
    recurrent,
    reduction,
    resize,
)

__all__ = [
    "activation",
    "clipping",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "movement",
    "normalisation",
    "pooling",
    "recurrent",
    "reduction",
    "resize",
]
