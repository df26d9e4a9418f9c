"""Models that are too large to run here, by what their tensors take."""

from __future__ import annotations

import os

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.shapes import spec_bytes

# A single tensor beyond it means a wrong size somewhere, or inputs far larger than what is asked of a model here needs.
LARGEST_BYTES = 1 << 32


def refuse_huge(folded: FoldedModel, cannot: str, hint: str, code: str = "too-large", *, at_once: int = 0) -> None:
    """Raise NetadaptError for a model with a tensor of more than `LARGEST_BYTES`.

    So it is where all tensors have to be there `at_once` so many times, and the machine has no memory for them.
    `cannot` is the message: what cannot be done with it.
    """
    sizes = {name: spec_bytes((shape, folded.dtypes[name])) for name, shape in folded.shapes.items()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    why = ""
    if sizes.get(largest, 0) > LARGEST_BYTES:
        why = f"tensor '{largest}' {folded.shapes[largest]} is too large to run"
    elif at_once * sum(sizes.values()) > memory_bytes():
        needed, available = at_once * sum(sizes.values()) / 1e9, memory_bytes() / 1e9
        why = f"its tensors take {needed:.3g} GB, more than the {available:.3g} GB of this machine"
    if why:
        raise NetadaptError(f"{cannot}: {why}", hint=hint, code=code)


def memory_bytes() -> int:
    """The memory of this machine; 8 GiB where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError, OSError):
        return 8 * 2**30
