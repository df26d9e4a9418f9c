"""Does `gate` see a layer widened by 3%, and nothing where nothing changed? Ratios within one run; minutes.

    python benchmarks/gate_latency.py [--runs 20] [--limit 1%] [--record]

The model is timed against itself, and against a copy of which one layer was widened by steps of 16 channels until it
takes some 3% longer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import numpy as np

from models import Builder
from netadapt_onnx import gate
from netadapt_onnx.profilers.timing import TimingPlan, ratio
from result_files import add_record_option, record
from result_tables import gate_latency

SIZE, WIDTH, BLOCKS = 16, 32, 32
INPUTS = {"image": np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)}
PLAN = TimingPlan(time_cap_s=15, precision=0.003, undisturbed=True)


def model(middle_width: int = WIDTH) -> bytes:
    """Blocks of one width; the one in the middle may be wider."""
    b = Builder()
    x, channels = "image", 3
    for i in range(BLOCKS):
        width = middle_width if i == BLOCKS // 2 else WIDTH
        x, channels = b.conv_bn_relu(x, channels, width), width
    b.head(x, channels)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)}).SerializeToString()


def slower_width(share: float) -> tuple[int, float]:
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


def gate_run(path: Path, baseline: Path, limit: str) -> dict[str, Any]:
    """Whether a model is refused beside a baseline, and what that takes."""
    started = time.monotonic()
    result = gate(path, max_increase={"latency": limit}, baseline=baseline, timeout_s=180)
    check = result.models[0].checks[0]
    return {"limit": limit, "ok": check.ok, "seconds": time.monotonic() - started, "message": check.message}


def main() -> None:
    """Print how many of the runs failed for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of the same model; of the wider one a quarter of them")
    parser.add_argument("--limit", default="1%")
    parser.add_argument("--share", type=float, default=0.025, help="what the wider model costs more, at least")
    add_record_option(parser)
    arguments = parser.parse_args()
    print(f"looking for a layer that costs {100 * arguments.share:g} % more")
    width, share = slower_width(arguments.share)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        base, candidate = Path(temporary, "base.onnx"), Path(temporary, "candidate.onnx")
        base.write_bytes(model())
        for middle_width, extra, runs in ((width, share, max(1, arguments.runs // 4)), (WIDTH, 0.0, arguments.runs)):
            candidate.write_bytes(model(middle_width))
            for _ in range(runs):
                rows.append({"width": middle_width, "slower": extra, **gate_run(candidate, base, arguments.limit)})
                print(f"  width {middle_width}: {rows[-1]['message']}", flush=True)
    print(gate_latency(rows))
    if arguments.record:
        record("gate_latency", rows)


if __name__ == "__main__":
    main()
