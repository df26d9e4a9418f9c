"""Models that are too large to run here, by what their tensors take."""

from __future__ import annotations

from math import prod

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.folding import Folded

# A single tensor beyond it means a wrong size somewhere, or inputs far larger than what is asked of a model here needs.
LARGEST_BYTES = 1 << 32


def refuse_huge(folded: Folded, cannot: str, hint: str, code: str = "too-large") -> None:
    """Raise NetadaptError for a model with a tensor of more than `LARGEST_BYTES`.

    `cannot` says what cannot be done with it.
    """
    sizes = {name: prod(shape) * folded.dtypes[name].itemsize for name, shape in folded.shapes.items()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    if sizes.get(largest, 0) > LARGEST_BYTES:
        raise NetadaptError(
            f"{cannot}: tensor '{largest}' {folded.shapes[largest]} is too large to run",
            hint=hint,
            code=code,
        )
