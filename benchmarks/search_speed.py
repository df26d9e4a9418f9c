"""How long does the search take? Seconds per iteration and per accepted model, by way of ranking and workers.

CIFAR-10 (JPEG), ResNet-20, a budget for macs, proposals ranked on 1,024 images: `--rank reconstruct` and `--rank
finetune` (`--short-term 100`), each with one and two worker processes. An
iteration's seconds are those until all of its proposals are ranked; an accepted model takes the winner's making, proof
and evaluation besides. The first iteration, in which workers start, is left out. Accuracy is that of the result on the
test half, after `--final-epochs` of training: with a budget that all reach (macs=0.75x, say) it compares the ways.

    python ../shared/data/prepare.py cifar10 cifar.npz
    python benchmarks/search_speed.py --data cifar.npz --model ../shared/models/resnet20_cifar10.onnx
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process, as the workers have
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from result_files import add_record_option, record

RANKS: dict[str, dict[str, Any]] = {
    "reconstruct": {"rank": "reconstruct"},
    "finetune": {"rank": "finetune"},
}


@dataclass
class Clock:
    """When each iteration's ranking was over and when its winner was accepted, in seconds from the start."""

    began: float = field(default_factory=time.monotonic)
    ranked: dict[int, float] = field(default_factory=dict)
    accepted: list[float] = field(default_factory=list)
    proposals: dict[int, int] = field(default_factory=dict)

    def progress(self, done: int, total: int, text: str) -> None:
        """What `adapt` calls while it tries proposals."""
        if text.startswith("iteration ") and "proposals" in text and done == total:
            number = int(text.removeprefix("iteration ").partition(",")[0])
            self.ranked.setdefault(number, time.monotonic() - self.began)
            self.proposals[number] = total

    def log(self, text: str) -> None:
        """What `adapt` says of each accepted iteration."""
        if text.startswith("iteration "):
            self.accepted.append(time.monotonic() - self.began)

    def medians(self) -> dict[str, float]:
        """Medians over all iterations but the first."""
        later = [n for n in self.ranked if 1 < n <= len(self.accepted)]
        if not later:
            raise SystemExit("one iteration was enough: give a smaller --first-step or a lower --budget")
        ranking = [self.ranked[n] - self.accepted[n - 2] for n in later]
        total = [self.accepted[n - 1] - self.accepted[n - 2] for n in later]
        return {
            "proposals": statistics.median(self.proposals[n] for n in later),
            "ranking_s": statistics.median(ranking),
            "accepted_s": statistics.median(total),
            "iterations": len(later),
        }


def main() -> None:
    """Time every combination and print a table."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what prepare.py made")
    parser.add_argument("--model", type=Path, required=True, help="the trained network")
    parser.add_argument("--iterations", type=int, default=4, help="the first of which is left out")
    parser.add_argument("--ranks", default="reconstruct,finetune", help=", ".join(RANKS))
    parser.add_argument("--workers", default="1,2", help="numbers of worker processes")
    parser.add_argument("--short-term", type=int, default=100, help="steps of SGD per proposal with finetune")
    parser.add_argument("--budget", default="macs=0.5x", help="what the search goes towards")
    parser.add_argument("--first-step", type=float, default=0.025, help="the share that the first iteration saves")
    parser.add_argument("--final-epochs", type=int, default=0, help="of training at the end")
    parser.add_argument("--seed", type=int, default=0)
    add_record_option(parser)
    arguments = parser.parse_args()
    if arguments.iterations < 2:
        parser.error("--iterations: at least 2, since the first is left out")
    results: list[dict[str, Any]] = []
    for rank in arguments.ranks.split(","):
        for workers in arguments.workers.split(","):
            row = {"rank": rank, "workers": int(workers), **_timed(arguments, rank, int(workers))}
            print(json.dumps(row), flush=True)
            results.append(row)
    print(markdown(results))
    if arguments.record:
        record("search_speed", results)


def _timed(arguments: argparse.Namespace, rank: str, workers: int) -> dict[str, Any]:
    import netadapt_onnx

    short = {"short_term": arguments.short_term} if rank != "reconstruct" else {}
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        result = netadapt_onnx.adapt(
            arguments.model,
            arguments.data,
            arguments.budget,
            Path(folder) / "run",
            executor=f"local:{workers}",
            max_iterations=arguments.iterations,
            init_reduction_ratio=arguments.first_step,
            final_epochs=arguments.final_epochs,
            seed=arguments.seed,
            progress=clock.progress,
            log=clock.log,
            **RANKS[rank],
            **short,
        )
    return {**clock.medians(), "macs": result.after.macs / result.before.macs, "accuracy": result.accuracy.after}


def markdown(results: list[dict[str, Any]]) -> str:
    """A row per combination, each beside reconstruction with as many workers."""
    from tabulate import tabulate

    base = {r["workers"]: r["accepted_s"] for r in results if r["rank"] == "reconstruct"}
    rows = [
        [
            r["rank"],
            r["workers"],
            f"{r['proposals']:g}",
            f"{r['ranking_s']:.1f}",
            f"{r['accepted_s']:.1f}",
            f"{r['accepted_s'] / base[r['workers']]:.1f}x" if r["workers"] in base else "",
            f"{r['macs']:.3f}x",
            f"{100 * r['accuracy']:.2f}",
        ]
        for r in results
    ]
    headers = ["rank", "workers", "proposals", "s per iteration", "s per accepted model", "beside reconstruct", "macs",
               "test accuracy"]  # fmt: skip
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
