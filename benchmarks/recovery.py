"""What does each way of recovery bring back? CIFAR-10 (JPEG) ResNet-20, inner filters cut by half.

From the file that kept its BatchNorm, filters chosen by their L2 norm, and from the folded one, by the norm of what is
folded and by `taylor`, which looks at the same unlabelled images. The cut alone; BatchNorm re-estimated; least squares
in one pass and in order; least squares, then distillation on the same 1,024 images; distillation on all training
images, 100 steps. Test accuracy, CPU seconds.

    python ../shared/data/prepare.py cifar10 cifar.npz
    python benchmarks/recovery.py --data cifar.npz --models ../shared/models    # minutes; --only N for one column
    python benchmarks/recovery.py --table                                       # what --work holds, as Markdown
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

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.evaluate import accuracy
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.reconstruct.gram import gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.training import batchnorm
from netadapt_onnx.training.data_criteria import criterion_on
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import train
from result_files import add_record_option, record
from result_tables import recovery

# File, what it is called, criterion.
COLUMNS = (
    ("resnet20_cifar10", "BatchNorm kept, l2", "l2"),
    ("resnet20_cifar10_folded", "folded, l2", "l2"),
    ("resnet20_cifar10_folded", "folded, taylor", "taylor"),
)
IMAGES, STEPS = 1024, 100

# Test accuracy and CPU seconds, by way of recovery.
Scores = dict[str, tuple[float, float]]


def main() -> None:
    """Recover in every column that is asked for and print a table of all that are known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", type=Path, help="what prepare.py made")
    parser.add_argument("--models", type=Path, help="the folder of the two ResNet-20")
    parser.add_argument("--only", type=int, choices=range(1, len(COLUMNS) + 1), help="this column alone")
    parser.add_argument("--work", type=Path, default=Path("recovery-work"), help="results lie here")
    parser.add_argument("--replicas", type=int, default=1, help="threads of a training")
    parser.add_argument("--lr", type=float, default=0.02, help="of the distillations")
    parser.add_argument("--table", action="store_true", help="run nothing")
    add_record_option(parser)
    arguments = parser.parse_args()
    if not arguments.table and not (arguments.data and arguments.models):
        parser.error("--data and --models are needed")
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, (file, name, criterion) in enumerate(COLUMNS, 1):
        result = arguments.work / f"{number}.json"
        if not arguments.table and arguments.only in (None, number):
            result.write_text(json.dumps(recovered(arguments.models / f"{file}.onnx", criterion, arguments)))
        if result.exists():
            scores: Scores = json.loads(result.read_text())
            rows += [{"file": name, "way": way, "accuracy": a, "cpu_s": s} for way, (a, s) in scores.items()]
    print(recovery(rows))
    if arguments.record:
        record("recovery", rows)


def recovered(file: Path, criterion: str, arguments: argparse.Namespace) -> Scores:
    """(test accuracy, CPU seconds) by way of recovery."""
    folded = fold(load(file).proto)
    traced = trace(folded)
    data = load_dataset(folded, arguments.data)
    few = replace(data.train.sample(IMAGES), labels=None)
    inner = [group for group in traced.prunable if len(group.layers) == 1]
    counts = {group.name: group.channels // 2 for group in inner}
    keep = select(traced, counts, criterion_on(criterion, few))
    inputs = few.batch(slice(None))
    result: Scores = {}

    def note(way: str, make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        began = time.process_time()
        proto = make()
        seconds = time.process_time() - began
        result[way] = accuracy(proto, data.final_split[1]).value, seconds
        print(file.stem, criterion, way, result[way], file=sys.stderr, flush=True)
        return proto

    def in_order() -> onnx.ModelProto:
        return reconstruct_in_order(traced, keep, inputs, original_targets(traced, inputs))

    def distilled(proto: onnx.ModelProto, dataset: Dataset) -> onnx.ModelProto:
        settings = Settings("float32", True, arguments.replicas)
        options = TrainingOptions(steps=STEPS, lr=arguments.lr, settings=settings)
        return train(proto, dataset, options, teacher=folded.proto).proto

    note("before", lambda: folded.proto)
    cut = note("cut", lambda: resize(traced, keep))

    def reestimated() -> onnx.ModelProto:
        unfolded = batchnorm.unfold(cut, few, folded.proto)  # a file that kept BatchNorm as it is
        return batchnorm.reestimate(cut, few) if unfolded is cut else batchnorm.fold(unfolded)

    note("cut, BatchNorm re-estimated", reestimated)
    targets = original_targets(traced, inputs)
    note("least squares in one pass", lambda: reconstruct(traced, keep, gram_matrices(traced, inputs, targets)))
    ridge = note("least squares in order", in_order)
    note("the same, then 100 steps on the same images", lambda: distilled(ridge, replace(data, train=few)))
    note("100 steps on all images, distillation", lambda: distilled(cut, data))
    note("least squares in order, then 100 steps on all images", lambda: distilled(ridge, data))
    return result


if __name__ == "__main__":
    main()
