"""Is the search worth it? Accuracy at equal measured latency: searches, uniform widths, and Torch-Pruning.

CIFAR-10 (JPEG), ResNet-20. Every way ends in a model within the budget as measured beside the original, and every such
model gets the same final training by the original model; what is compared is its accuracy on the test half.

    netadapt/reconstruct, knapsack    this project's searches (also netadapt/finetune, netadapt/taylor)
    netadapt/blocks, knapsack/blocks  the same with --allow-block-removal
    uniform           every group keeps the same share of its filters (in steps of 4, 8 or 16), those of largest L2
                      norm, made up for by least squares as the searches' results are; the largest within the budget
    torch-pruning     Torch-Pruning's L2 pruner at one ratio for all blocks' inner filters, widths in multiples of 16,
                      the largest that meets the budget (torch-pruning/8: of 8)

A cell is a method, a budget and a seed; it is a line of WORK/results.jsonl and is not run again unless it failed: stop
it at any time, run it again, it goes on. Hours on two cores; `--seeds 1 --epochs 1` and the like for less.

    python ../shared/data/prepare.py cifar10 cifar.npz
    python benchmarks/search_quality.py --install-peers
    python benchmarks/search_quality.py --data cifar.npz --model ../shared/models/resnet20_cifar10.onnx
    python benchmarks/search_quality.py --table
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from result_files import add_record_option, record  # noqa: E402
from search_rivals import largest_within_budget, solved, timed, torch_pruned, uniform  # noqa: E402

PEER = "torch-pruning==1.6.1"
SEARCHES: dict[str, dict[str, Any]] = {
    "netadapt/reconstruct": {},
    "knapsack": {"strategy": "knapsack"},
    "netadapt/blocks": {"allow_block_removal": True},
    "knapsack/blocks": {"strategy": "knapsack", "allow_block_removal": True},
    "netadapt/finetune": {"rank": "finetune"},
    "netadapt/taylor": {"criterion": "taylor"},
}
ROUND_TO = {"torch-pruning": 16, "torch-pruning/8": 8}
METHODS = (*SEARCHES, "uniform", *ROUND_TO)
USUAL = ("netadapt/reconstruct", "knapsack", "uniform", "torch-pruning")
TABLE, SETTINGS = "table.jsonl", "settings.json"


@dataclass(frozen=True)
class Case:
    """One cell. `budget`: a share of a resource, such as latency=0.5x."""

    method: str
    budget: str
    seed: int
    epochs: int
    augment: bool = False


def main() -> None:
    """Run what is asked for and has no result yet."""
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.install_peers:
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(arguments.work / "peers"), PEER]
        subprocess.run(install, check=True)
    if arguments.case:
        print("\n" + json.dumps(_cell(Case(**json.loads(arguments.case)), arguments)))
        return
    results = arguments.work / "results.jsonl"
    if arguments.data is not None:
        cases = [
            Case(method, budget, seed, arguments.epochs, arguments.augment)
            for seed in range(arguments.seeds)
            for budget in arguments.budgets.split(",")
            for method in arguments.methods.split(",")
        ]
        for case in cases:
            if any(outcome["case"] == asdict(case) and "failure" not in outcome for outcome in _read(results)):
                continue
            outcome = _apart(case, arguments)
            with results.open("a") as lines:
                lines.write(json.dumps({"case": asdict(case), **outcome}) + "\n")
            print(case, outcome, flush=True)
    if arguments.table:
        print(markdown(_read(results)))
    if arguments.record:
        for kind in dict.fromkeys(map(_kind, _read(results))):
            share = float(kind[0].rpartition("=")[2].removesuffix("x"))
            record(f"search_quality_{100 * share:.0f}", summary(_read(results), kind))


def _arguments() -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="what prepare.py made")
    parser.add_argument("--model", type=Path, help="the trained network")
    parser.add_argument("--methods", default=",".join(USUAL), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--budgets", default="latency=0.5x,latency=0.35x", help="shares; macs=0.5x and the like, too")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--epochs", type=int, default=6, help="of the final training")
    parser.add_argument("--augment", action="store_true", help="shift and mirror pictures in the final training")
    parser.add_argument("--first-step", type=float, default=0.05, help="the share that netadapt's first iteration cuts")
    parser.add_argument(
        "--work", type=Path, default=Path("search-quality-work"), help="runs and results.jsonl lie here"
    )
    parser.add_argument("--install-peers", action="store_true", help="put Torch-Pruning into WORK/peers")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    add_record_option(parser)
    arguments = parser.parse_args()
    if not (arguments.data or arguments.table or arguments.record or arguments.install_peers):
        parser.error("nothing to do: give --data and --model, --table, --record or --install-peers")
    if arguments.data and not arguments.model:
        parser.error("--data needs --model")
    unknown = set(arguments.methods.split(",")) - set(METHODS)
    if unknown:
        parser.error(f"--methods {', '.join(unknown)}: known are {', '.join(METHODS)}")
    return arguments


def _apart(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """A cell in a process of its own: the last line that it prints, or how it failed."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    for name in ("data", "model", "work", "first_step"):
        command += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def _cell(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make a small model, train it, measure it."""
    import onnx

    from netadapt_onnx.data.evaluate import accuracy
    from netadapt_onnx.data.load_dataset import load_dataset
    from netadapt_onnx.graph.cost import cost
    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load, save
    from netadapt_onnx.training.options import TrainingOptions
    from netadapt_onnx.training.trainer import train

    original = fold(load(arguments.model).proto)
    data = load_dataset(original, arguments.data)
    place = arguments.work / f"{case.method}-{case.budget}-{case.seed}".replace("/", "-")
    began = time.monotonic()
    searched, seconds = _small(case, arguments, place)
    seconds = time.monotonic() - began if seconds is None else seconds
    small = fold(searched).proto
    began = time.monotonic()
    if case.epochs:
        small = train(
            small,
            data,
            TrainingOptions(
                epochs=case.epochs,
                augment=case.augment,
                seed=case.seed,
                settings=_settings(small, data, arguments.work / SETTINGS),
            ),
            teacher=original.proto,
        ).proto
    trained_s = time.monotonic() - began
    save(small, place.with_name(f"{place.name}.onnx"), overwrite=True)
    of = cost(fold(small).proto, fold(small).shapes).macs / cost(original.proto, original.shapes).macs
    measurement = timed(small, original, sessions=21, seconds=20.0)
    assert isinstance(small, onnx.ModelProto)
    return {
        "test": accuracy(small, data.final_split[1]).value,
        "original": accuracy(original.proto, data.final_split[1]).value,
        "before_training": accuracy(searched, data.final_split[1]).value,
        "latency": measurement.median,
        "latency_ci95": measurement.ci95,
        "macs": of,
        "search_s": seconds,
        "training_s": trained_s,
    }


def _small(case: Case, arguments: argparse.Namespace, place: Path) -> tuple[Any, float | None]:
    """The model of a method at a budget before its final training, and its seconds if they are known."""
    import netadapt_onnx
    from netadapt_onnx.graph.model import load

    if case.method in SEARCHES:
        table = arguments.work / TABLE
        if not table.exists():
            netadapt_onnx.profile(arguments.model, table)
        # A netadapt of small steps takes hours with --rank finetune; all searches step alike.
        result = netadapt_onnx.adapt(
            arguments.model,
            arguments.data,
            case.budget,
            place,
            table=table,
            seed=case.seed,
            final_epochs=0,
            init_reduction_ratio=arguments.first_step,
            resume=True,
            **SEARCHES[case.method],
        )
        return load(result.model).proto, result.seconds
    file = arguments.work / f"{case.method}-{case.budget}.onnx".replace("/", "-")
    if not file.exists():  # which widths: the same for all seeds
        from netadapt_onnx.graph.model import save

        peers = arguments.work / "peers"
        candidates = (
            uniform(arguments.model)
            if case.method == "uniform"
            else torch_pruned(arguments.model, ROUND_TO[case.method], peers)
        )
        save(largest_within_budget(candidates, case.budget, arguments.model), file)
    if case.method == "uniform":
        return solved(arguments.model, arguments.data, file, case.seed), None
    return load(file).proto, None


def _settings(proto: Any, data: Any, file: Path) -> Any:
    """How this machine trains fastest: chosen once, so that all models are trained alike."""
    from netadapt_onnx.training.choose_settings import choose_settings
    from netadapt_onnx.training.settings import Settings

    if not file.exists():
        file.write_text(json.dumps(asdict(choose_settings(proto, data))))
    return Settings(**json.loads(file.read_text()))


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """A table per budget and number of epochs: mean and spread over seeds."""
    from tabulate import tabulate

    parts = []
    for budget, epochs, augment in dict.fromkeys(map(_kind, results)):
        rows, cells = [], [r for r in results if _kind(r) == (budget, epochs, augment)]
        for method in dict.fromkeys(r["case"]["method"] for r in cells):
            seeds = [r for r in cells if r["case"]["method"] == method and "test" in r]
            failed = [r for r in cells if r["case"]["method"] == method and "failure" in r]
            if not seeds:
                rows.append([method, failed[0]["failure"]])
                continue
            test = [100 * r["test"] for r in seeds]
            means = {k: statistics.mean(r[k] for r in seeds) for k in ("latency", "macs", "search_s", "training_s")}
            rows.append(
                [
                    method,
                    f"{statistics.mean(test):.2f}",
                    f"{max(test) - min(test):.2f}" if len(test) > 1 else "",
                    f"{100 * statistics.mean(r['original'] - r['test'] for r in seeds):.2f}",
                    f"{100 * statistics.mean(r['before_training'] for r in seeds):.2f}",
                    f"{means['latency']:.3f}x",
                    f"{means['macs']:.3f}x",
                    f"{means['search_s']:.0f}",
                    f"{means['training_s']:.0f}",
                    len(seeds),
                ]
            )
        headers = ["method", "test", "max - min", "points lost", "before training", "latency", "macs"]
        headers += ["search (s)", "training (s)", "seeds"]
        title = f"**{budget}**, {epochs} epochs of final training" + (" with augmented pictures" if augment else "")
        parts.append(f"{title}\n\n" + tabulate(rows, headers, tablefmt="github", disable_numparse=True))
    return "\n\n".join(parts)


def summary(results: Sequence[dict[str, Any]], kind: tuple[str, int, bool]) -> list[dict[str, Any]]:
    """A row for each method at one budget: means over seeds, and the latency of every seed's result."""
    rows = []
    cells = [r for r in results if _kind(r) == kind and "test" in r]
    for method in dict.fromkeys(r["case"]["method"] for r in cells):
        seeds = [r for r in cells if r["case"]["method"] == method]
        test = [r["test"] for r in seeds]
        means = {k: statistics.mean(r[k] for r in seeds) for k in ("before_training", "macs", "search_s", "training_s")}
        rows.append(
            {
                "method": method,
                "budget": kind[0],
                "epochs": kind[1],
                "seeds": len(seeds),
                "test": statistics.mean(test),
                "spread": max(test) - min(test),
                "lost": statistics.mean(r["original"] - r["test"] for r in seeds),
                "latency": [r["latency"] for r in seeds],
                **means,
            }
        )
    return rows


def _kind(result: dict[str, Any]) -> tuple[str, int, bool]:
    """What a table holds results of."""
    return result["case"]["budget"], result["case"]["epochs"], result["case"]["augment"]


def _read(results: Path) -> list[dict[str, Any]]:
    """All results; of a cell that failed and was run again the last."""
    if not results.exists():
        return []
    lines = [json.loads(line) for line in results.read_text().splitlines() if line.strip()]
    return list({json.dumps(r["case"], sort_keys=True): r for r in lines if "case" in r}.values())


if __name__ == "__main__":
    main()
