"""What does each way of recovery bring back? CIFAR-10 (JPEG) ResNet-20, inner filters cut by half by L2.

From the file that kept its BatchNorm and from the folded one: the cut alone; BatchNorm re-estimated; least squares in
one pass and in order; least squares, then distillation on the same 1,024 unlabelled images; distillation on all
training images, 100 steps. Test accuracy, CPU seconds.

    python ../shared/data/prepare.py cifar10 cifar.npz
    python benchmarks/recovery.py --data cifar.npz --models ../shared/models
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
from tabulate import tabulate

from netadapt_onnx.folding import fold
from netadapt_onnx.model import load
from netadapt_onnx.surgery import (
    moments,
    original_targets,
    reconstruct,
    reconstruct_in_order,
    resize,
    select,
    trace,
)
from netadapt_onnx.training import batchnorm
from netadapt_onnx.training.data import Dataset
from netadapt_onnx.training.evaluate import accuracy
from netadapt_onnx.training.loading import dataset_for
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.teacher import Teacher
from netadapt_onnx.training.trainer import train

FILES = ("resnet20_cifar10", "resnet20_cifar10_folded")
IMAGES, STEPS = 1024, 100


def main() -> None:
    """Recover from both files and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="what prepare.py made")
    parser.add_argument("--models", type=Path, required=True, help="the folder of the two ResNet-20")
    parser.add_argument("--replicas", type=int, default=1, help="threads of a training")
    parser.add_argument("--lr", type=float, default=0.02, help="of the distillations")
    parser.add_argument("--filters-of", action="store_true", help="cut the folded file to the filters of the kept one")
    asked = parser.parse_args()
    found: dict[str, dict[str, tuple[float, float]]] = {}
    kept = None
    for file in FILES:
        found[file], chosen = recovered(asked.models / f"{file}.onnx", asked, kept)
        kept = chosen if asked.filters_of else None
    rows = [
        [way, *(f"{100 * found[f][way][0]:.2f} ({found[f][way][1]:.0f} s)" for f in FILES)] for way in found[FILES[0]]
    ]
    print(tabulate(rows, ["test accuracy", "BatchNorm kept", "BatchNorm folded"], tablefmt="github"))
    print(json.dumps(found))


def recovered(file: Path, asked: argparse.Namespace, kept: list | None) -> tuple[dict[str, tuple[float, float]], list]:
    """(test accuracy, CPU seconds) by way of recovery, and the filters that stayed."""
    folded = fold(load(file).proto)
    traced = trace(folded)
    data = dataset_for(folded, asked.data)
    few = replace(data.train.sample(IMAGES), labels=None)
    inner = [group for group in traced.prunable if len(group.layers) == 1]
    keep = select(traced, {group.name: group.channels // 2 for group in inner}, "l2")
    if kept is not None:
        keep = dict(zip(keep, kept, strict=True))
    inputs = few.batch(slice(None))
    result: dict[str, tuple[float, float]] = {}

    def note(way: str, made: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        began = time.process_time()
        proto = made()
        seconds = time.process_time() - began
        result[way] = accuracy(proto, data.reported[1]).value, seconds
        print(file.stem, way, result[way], flush=True)
        return proto

    def in_order() -> onnx.ModelProto:
        return reconstruct_in_order(traced, keep, inputs, original_targets(traced, inputs))

    def distilled(proto: onnx.ModelProto, dataset: Dataset) -> onnx.ModelProto:
        settings = Settings("float32", True, asked.replicas)
        teacher = Teacher(folded.proto, len(dataset.train))
        return train(proto, dataset, teacher=teacher, steps=STEPS, lr=asked.lr, settings=settings).proto

    note("before", lambda: folded.proto)
    cut = note("cut", lambda: resize(traced, keep))
    if batchnorm.reestimate(cut, few.sample(1)) is not cut:
        note("cut, BatchNorm re-estimated", lambda: batchnorm.reestimate(cut, few))
    else:
        result["cut, BatchNorm re-estimated"] = float("nan"), 0.0
    targets = original_targets(traced, inputs)
    note("least squares in one pass", lambda: reconstruct(traced, keep, moments(traced, inputs, targets)))
    ridge = note("least squares in order", in_order)
    note("the same, then 100 steps on the same images", lambda: distilled(ridge, replace(data, train=few)))
    note("100 steps on all images, distillation", lambda: distilled(cut, data))
    note("least squares in order, then 100 steps on all images", lambda: distilled(ridge, data))
    return result, list(keep.values())


if __name__ == "__main__":
    main()
