"""What is said of a network that is smaller than the original and slower: parameters and time are different things."""

from __future__ import annotations

from netadapt_onnx.scaling.result import OriginalNetwork, ScaledModel


def slower_note(model: ScaledModel, original: OriginalNetwork) -> str:
    """A warning where a smaller network certainly takes longer than the original; empty elsewhere."""
    ratio, interval = model.latency_ratio, model.latency_ratio_ci95
    params = model.resources.params / original.resources.params
    macs = model.resources.macs / original.resources.macs if original.resources.macs else 1.0
    if ratio is None or interval is None or interval[0] <= 1 or min(params, macs) >= 1:
        return ""
    smaller = f"{params:.2f}x of the parameters" if params < 1 else f"{macs:.2f}x of the MACs"
    return (
        f"{model.target} ({model.method}) has {smaller} but is slower: it takes {ratio:.2f}x of the original's time "
        f"({interval[0]:.2f}x to {interval[1]:.2f}x). Layers with large feature maps are few parameters and much time; "
        "where time matters, give a target such as --target latency=0.5x"
    )
