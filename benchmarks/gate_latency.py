"""Does `gate` see a layer widened by 3%, and nothing where nothing changed? Ratios within one run; minutes.

    python benchmarks/gate_latency.py [--runs 20] [--limit 1%]

The model is timed against itself, and against a copy of which one layer was widened by steps of 16 channels until it
takes some 3% longer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import numpy as np

from models import Builder
from netadapt_onnx import gate
from netadapt_onnx.profilers.timing import TimingPlan, ratio

SIZE, WIDTH, BLOCKS = 16, 32, 32
INPUTS = {"image": np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)}
PLAN = TimingPlan(time_cap_s=15, precision=0.003, undisturbed=True)


def model(widened: int = WIDTH) -> bytes:
    """Blocks of one width; the one in the middle may be wider."""
    b = Builder()
    x, channels = "image", 3
    for i in range(BLOCKS):
        width = widened if i == BLOCKS // 2 else WIDTH
        x, channels = b.conv_bn_relu(x, channels, width), width
    b.head(x, channels)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)}).SerializeToString()


def slower(share: float) -> tuple[int, float]:
    """The smallest aligned width of that layer that costs at least `share` more, and what it costs."""
    import onnx

    base = onnx.ModelProto.FromString(model())
    for width in range(WIDTH + 16, 8 * WIDTH, 16):
        wider = onnx.ModelProto.FromString(model(width))
        measurement = ratio(wider, base, INPUTS, plan=PLAN)
        print(f"  width {width}: {100 * (measurement.median - 1):+.1f} %", flush=True)
        if measurement.median - 1 >= share:
            return width, measurement.median - 1
    raise SystemExit("no width costs that much")


def main() -> None:
    """Print how many of the runs failed for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit", default="1%")
    parser.add_argument("--share", type=float, default=0.025)
    chosen = parser.parse_args()
    print(f"looking for a layer that costs {100 * chosen.share:g} % more")
    width, share = slower(chosen.share)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "base.onnx").write_bytes(model())
        (folder / "same.onnx").write_bytes(model())
        (folder / "wider.onnx").write_bytes(model(width))
        for name, runs in (("wider", max(1, chosen.runs // 4)), ("same", chosen.runs)):
            failed, started = 0, time.monotonic()
            for run in range(runs):
                result = gate(
                    folder / f"{name}.onnx",
                    max_increase={"latency": chosen.limit},
                    baseline=folder / "base.onnx",
                    timeout_s=180,
                )
                check = result.models[0].checks[0]
                failed += not check.ok
                print(f"  {name} {run}: {check.message}", flush=True)
            seconds = (time.monotonic() - started) / runs
            true = f"width {width}, {100 * share:+.1f} %" if name == "wider" else "the same model"
            print(f"{name} ({true}): {failed} of {runs} failed at a limit of {chosen.limit}, {seconds:.0f} s each")


if __name__ == "__main__":
    main()
