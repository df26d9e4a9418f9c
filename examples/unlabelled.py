"""Adapt an ONNX file of which nothing is known, from inputs without labels: the model itself is the teacher.

python examples/unlabelled.py [MODEL.onnx INPUTS.npy]    # without arguments the model and images of digits.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import netadapt_onnx


def stand_ins(folder: Path) -> tuple[Path, Path]:
    """The model of digits.py, and its images without their labels: no more than a stranger would give you."""
    import digits

    if not (folder / "model.onnx").exists():
        digits.main(folder)
    np.save(folder / "inputs.npy", digits.data()["x_train"])
    return folder / "model.onnx", folder / "inputs.npy"


def main(model: Path, inputs: Path, folder: Path = Path("unlabelled")) -> None:
    """Inspect, adapt, and ask on which share of unseen inputs the smaller model answers as the original does."""
    folder.mkdir(exist_ok=True)
    x = np.load(inputs)
    np.savez(folder / "data.npz", x_train=x[: len(x) * 3 // 4], x_val=x[len(x) * 3 // 4 :])

    inspection = netadapt_onnx.inspect(model)
    for group in inspection.groups:
        print(f"{group.name}: {group.channels} channels, {group.reason or 'can be pruned'}")
    result = netadapt_onnx.adapt(model, folder / "data.npz", "params=0.6x", folder / "run", resume=True, final_epochs=3)
    print(f"{result.before.params:,} -> {result.after.params:,} parameters")
    print(f"{result.accuracy.metric} with the original on {result.accuracy.split}: {result.accuracy.after:.1%}")
    if not result.met:
        raise SystemExit(1)


if __name__ == "__main__":
    main(*(map(Path, sys.argv[1:3]) if len(sys.argv) > 2 else stand_ins(Path("digits"))))
