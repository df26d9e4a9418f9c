"""What does it save to compute once what lies in front of a cut? Ranking every group of a model, with and without.

Each prunable group is cut by one step and the cut model judged on 1,024 samples, from its inputs and from what the
uncut model computed of them in front of the cut. CPU seconds of all groups together, the pass over the front included.

    python benchmarks/prefix.py --model ../shared/models/resnet20_cifar10.onnx --data cifar.npz
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load
from netadapt_onnx.search.channel_selection import BaseModel
from netadapt_onnx.search.evaluator import DataEvaluator
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace

STEP = 8


def main() -> None:
    """Judge all cuts both ways, in turns, and print what each took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    folded = fold(load(arguments.model).proto)
    model_trace = trace(folded)
    data = load_dataset(folded, arguments.data)
    evaluator = DataEvaluator(data, folded.proto)
    counts = {group.name: max(group.floor, group.channels - STEP) for group in model_trace.prunable}
    cuts = [resize(model_trace, select(model_trace, {name: count})) for name, count in counts.items()]
    for number in range(arguments.rounds):
        began = time.process_time()
        without = [evaluator.ranking_accuracy(cut) for cut in cuts]
        middle = time.process_time()
        prefixes = BaseModel(model_trace, {}).prefixes(evaluator)
        front = time.process_time()
        shortened = [evaluator.ranking_accuracy(cut, prefixes) for cut in cuts]
        end = time.process_time()
        print(
            f"round {number + 1}, {len(cuts)} groups: {middle - began:.2f} s without, {end - middle:.2f} s with "
            f"({front - middle:.2f} s of it the front): {(middle - began) / (end - middle):.2f}x; "
            f"largest difference of an accuracy {max(abs(a - b) for a, b in zip(without, shortened, strict=True)):.4f}"
        )


if __name__ == "__main__":
    main()
