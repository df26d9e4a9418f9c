"""What does it save to compute once what lies in front of a cut? Ranking every group of a model, with and without.

Each prunable group is cut by one step and the cut model judged on 1,024 samples, from its inputs and from what the
uncut model computed of them in front of the cut. CPU seconds of all groups together, the pass over the front included.
With `--short-term N` each is also trained for N steps, whole and behind its frozen front (`adapt --freeze-front`), and
what the trained models come to is told.

    python benchmarks/prefix.py --model ../shared/models/resnet20_cifar10.onnx --data cifar.npz --short-term 20
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from netadapt_onnx.data.load import dataset_for
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.model import load
from netadapt_onnx.search.evaluator import DataJudge
from netadapt_onnx.search.executors.protocol import WorkerInfo
from netadapt_onnx.search.options import SHORT_TERM_LR
from netadapt_onnx.search.worker import Base, Training, WorkerContext
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.training.trainer import choose_settings

STEP = 8


def main() -> None:
    """Judge all cuts both ways, in turns, and print what each took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--short-term", type=int, default=0, help="steps that every cut is trained for, too")
    asked = parser.parse_args()
    folded = fold(load(asked.model).proto)
    found = trace(folded)
    data = dataset_for(folded, asked.data)
    judge = DataJudge(data, folded.proto)
    counts = {group.name: max(group.floor, group.channels - STEP) for group in found.prunable}
    cuts = [resize(found, select(found, {name: count})) for name, count in counts.items()]
    for number in range(asked.rounds):
        began = time.process_time()
        without = [judge.ranked(cut) for cut in cuts]
        middle = time.process_time()
        prefixes = Base(found, {}).prefixes(judge)
        front = time.process_time()
        shortened = [judge.ranked(cut, prefixes) for cut in cuts]
        end = time.process_time()
        print(
            f"round {number + 1}, {len(cuts)} groups: {middle - began:.2f} s without, {end - middle:.2f} s with "
            f"({front - middle:.2f} s of it the front): {(middle - began) / (end - middle):.2f}x; "
            f"largest difference of an accuracy {max(abs(a - b) for a, b in zip(without, shortened, strict=True)):.4f}"
        )
    if not asked.short_term:
        return
    settings = replace(choose_settings(folded.proto, data, gpu=False), replicas=1)
    for freeze in (False, True):
        base = Base(found, {})
        bench = WorkerContext(base, judge, data, seed=0, trains=True, shapes={}, batch_size=1)
        training = Training(asked.short_term, SHORT_TERM_LR, settings, freeze)
        began = time.process_time()
        trained = [bench.trained(cut, training, WorkerInfo(threads=1), base) for cut in cuts]
        taken = time.process_time() - began
        scores = [judge.ranked(cut) for cut in trained]
        how = "behind frozen fronts" if freeze else "whole"
        print(
            f"{asked.short_term} steps for each of {len(cuts)} cuts, {how}: {taken:.1f} s, "
            f"mean accuracy {100 * sum(scores) / len(scores):.2f}%"
        )


if __name__ == "__main__":
    main()
