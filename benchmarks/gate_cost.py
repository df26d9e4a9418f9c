"""What `gate` costs without latency: seconds and peak memory, of one large model and of fifty.

python benchmarks/gate_cost.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))


def large() -> bytes:
    """A hundred megabytes of convolutions."""
    from models import Builder

    b = Builder()
    x, channels = "image", 3
    for _ in range(12):
        x, channels = b.conv_bn_relu(x, channels, 512), 512
    b.head(x, channels)
    return b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 10)}).SerializeToString()


def judged(*models: Path) -> None:
    """Print the seconds of a whole command, and the peak memory of its larger process."""
    command = [sys.executable, "-P", "-m", "netadapt_onnx", "gate", *map(str, models), "--max", "macs=1T"]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)  # of it and the process that it reads models in
    seconds = time.monotonic() - started
    processor = used.ru_utime + used.ru_stime
    peak = used.ru_maxrss / 1e3
    print(
        f"{len(models)} model(s): {seconds:.2f} s ({processor:.2f} s of processor), peak {peak:.0f} MB, status {status}"
    )


def make(folder: Path) -> None:
    """Write the models."""
    from models import residual

    (folder / "large.onnx").write_bytes(large())
    for i in range(50):
        (folder / f"m{i}.onnx").write_bytes(residual(64, seed=i).SerializeToString())


def main() -> None:
    """Print both."""
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # In a process of its own: what ours ever held would count as the peak of its children.
        subprocess.run([sys.executable, __file__, place], check=True)
        fifty = sorted(folder.glob("m*.onnx"))
        print(f"large.onnx holds {(folder / 'large.onnx').stat().st_size / 1e6:.0f} MB")
        for _ in range(3):
            judged(folder / "large.onnx")
        judged(*fifty)


if __name__ == "__main__":
    main()
