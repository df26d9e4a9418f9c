"""What `gate` costs without latency: seconds and peak memory, of one large model and of fifty small ones.

    python benchmarks/gate_cost.py [--runs 3] [--record]

Each is a whole command in a process of its own, one thread; the peak is that of its larger process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from result_files import add_record_option, record
from result_tables import gate_cost

SMALL_MODELS = 50


def large_model() -> bytes:
    """A hundred megabytes of convolutions."""
    from models import Builder

    b = Builder()
    x, channels = "image", 3
    for _ in range(12):
        x, channels = b.conv_bn_relu(x, channels, 512), 512
    b.head(x, channels)
    return b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 10)}).SerializeToString()


def write_models(folder: Path) -> None:
    """Write the large model and the small ones."""
    from models import residual

    (folder / "large.onnx").write_bytes(large_model())
    for i in range(SMALL_MODELS):
        (folder / f"small{i}.onnx").write_bytes(residual(64, seed=i).SerializeToString())


def gate_run(models: Sequence[Path]) -> dict[str, Any]:
    """What a whole command takes."""
    command = [sys.executable, "-P", "-m", "netadapt_onnx", "gate", *map(str, models), "--max", "macs=1T"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)  # of it and the process that it reads models in
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"gate ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "models": len(models),
        "size_bytes": sum(model.stat().st_size for model in models),
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }


def main() -> None:
    """Measure both in turns and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write-models", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    add_record_option(parser)
    arguments = parser.parse_args()
    if arguments.write_models:
        write_models(arguments.write_models)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # In a process of its own: what ours ever held would count as the peak of its children.
        subprocess.run([sys.executable, __file__, "--write-models", temporary], check=True)
        selections = [[folder / "large.onnx"], sorted(folder.glob("small*.onnx"))]
        rows = [gate_run(models) for _ in range(arguments.runs) for models in selections]
    print(gate_cost(rows))
    if arguments.record:
        record("gate_cost", rows)


if __name__ == "__main__":
    main()
