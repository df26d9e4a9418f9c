"""How long does the search take? CPU seconds per iteration and in all: by preset, and of the official NetAdapt code.

Searches only, without any training at their end, for a budget of multiply-accumulates. An iteration's seconds are those
from one accepted model to the next, the median of all but the first, in which workers start and curves are computed.
CPU seconds are of all processes: other work on the machine changes them little.

    --official DIR   a clone of github.com/denru01/netadapt: its loop on the 5-layer ConvNet, `--official-steps`
                     training steps a proposal (its scripts: 500), in a copy that runs with today's torch
                     (official_netadapt.py lists the changes)
    --lazy           evaluates every proposal of a search, and says of its history how often lazy ranking would have
                     chosen the same winner, and after how many evaluations

A cell is a line of WORK/speed.jsonl and is not run again unless it failed.

    python benchmarks/search_quality.py --train-networks --cifar cifar.npz
    python benchmarks/search_speed.py --cifar cifar.npz --official netadapt --lazy --record
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from cells import FAILURE, Row, Stopwatch, apart, complete, cpu_seconds, read  # noqa: E402
from result_files import add_record_option, record  # noqa: E402
from result_tables import search_lazy, search_speed  # noqa: E402
from search_networks import NETWORKS, Places  # noqa: E402

PRESETS = ("fast", "balanced", "thorough", "paper")
OFFICIAL, LAZY = "official", "lazy"
OFFICIAL_NETWORK = "convnet"


@dataclass
class Clock:
    """The CPU seconds at which each iteration's winner was accepted."""

    began: float = field(default_factory=cpu_seconds)
    accepted: list[float] = field(default_factory=list)

    def log(self, text: str) -> None:
        """What `adapt` says of each accepted iteration."""
        if text.startswith("iteration "):
            self.accepted.append(cpu_seconds() - self.began)

    @property
    def iteration_s(self) -> float | None:
        """The median from one accepted model to the next; None if there was but one."""
        between = [after - before for before, after in zip(self.accepted, self.accepted[1:], strict=False)]
        return round(statistics.median(between), 2) if between else None


def main() -> None:
    """Run what is asked for and has no result yet, and print the tables."""
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.case:
        print("\n" + json.dumps(_cell(json.loads(arguments.case), arguments)))
        return
    results = arguments.work / "speed.jsonl"
    if arguments.cifar or arguments.pictures:
        complete(results, cases(arguments), lambda case: _apart(case, arguments))
    rows = [{**row["case"], **{k: v for k, v in row.items() if k != "case"}} for row in read(results)]
    searches = [row for row in rows if row["method"] != LAZY]
    comparisons = [row for row in rows if row["method"] == LAZY and FAILURE not in row]
    if searches:
        print(search_speed(searches))
    if comparisons:
        print(search_lazy(comparisons))
    if arguments.record:
        for name, kept in (("search_speed", searches), ("search_lazy", comparisons)):
            if kept:
                record(name, kept)


def _arguments() -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="what prepare.py made: data of the small networks")
    parser.add_argument("--pictures", type=Path, help="unlabelled pictures for EfficientNet-Lite0")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"), help="the networks that are not ours")
    parser.add_argument("--networks", default="convnet,resnet20", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--presets", default=",".join(PRESETS), help="those that are timed; none: an empty text")
    parser.add_argument("--budget", default="macs=0.5x", help="a share of multiply-accumulates")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--max-iterations", type=int, default=100, help="stop every search after so many")
    parser.add_argument("--official", type=Path, metavar="DIR", help="the official code")
    parser.add_argument("--official-steps", default="500", help="training steps a proposal, one search for each")
    parser.add_argument("--lazy", action="store_true", help="compare lazy ranking with the full one")
    parser.add_argument("--work", type=Path, default=Path("search-quality-work"), help="runs and speed.jsonl")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    add_record_option(parser)
    arguments = parser.parse_args()
    unknown = set(arguments.networks.split(",")) - set(NETWORKS)
    if unknown:
        parser.error(f"--networks {', '.join(sorted(unknown))}: known are {', '.join(NETWORKS)}")
    if not arguments.budget.startswith("macs="):
        parser.error(
            f"--budget {arguments.budget}: macs=, which cost nothing to know, so that searches alone are timed"
        )
    return arguments


def cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All cells that are asked for."""
    most = arguments.max_iterations
    presets = [preset for preset in arguments.presets.split(",") if preset]
    for seed in range(arguments.seeds):
        for network in arguments.networks.split(","):
            base = {"network": network, "budget": arguments.budget, "seed": seed, "most_iterations": most}
            yield from ({**base, "method": preset} for preset in presets)
            if arguments.lazy:
                yield {**base, "method": LAZY}
    if arguments.official:
        for steps in map(int, arguments.official_steps.split(",")):
            base = {"network": OFFICIAL_NETWORK, "budget": arguments.budget, "seed": 0, "most_iterations": most}
            yield {**base, "method": OFFICIAL, "steps": steps}


def _apart(case: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    words = ["--case", json.dumps(case)]
    for name in ("cifar", "pictures", "models", "work", "official"):
        if getattr(arguments, name) is not None:
            words += [f"--{name}", str(getattr(arguments, name))]
    return apart(words)


def _cell(case: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    places = Places(arguments.models, arguments.work, arguments.cifar, arguments.pictures)
    if case["method"] == OFFICIAL:
        return _official(case, places, arguments.official)
    return _compared(case, places) if case["method"] == LAZY else _timed(case, places)


def _run(case: Row, places: Places) -> Path:
    folder, share = places.work / case["network"], case["budget"].replace("=", "-")
    folder.mkdir(exist_ok=True)
    return folder / f"speed-{case['method']}-{share}-{case['most_iterations']}-{case['seed']}"


def _timed(case: Row, places: Places) -> dict[str, Any]:
    """The seconds of one of our searches. One that was stopped begins again: a part of it cannot be timed."""
    import shutil

    import netadapt_onnx

    network, run = NETWORKS[case["network"]], _run(case, places)
    shutil.rmtree(run, ignore_errors=True)
    clock, watch = Clock(), Stopwatch()
    result = netadapt_onnx.adapt(
        network.file(places),
        network.data(places),
        case["budget"],
        run,
        preset=case["method"],
        max_iterations=case["most_iterations"],
        final_epochs=0,
        seed=case["seed"],
        log=clock.log,
    )
    return {
        **watch.seconds("search"),
        "iteration_cpu_s": clock.iteration_s,
        "iterations": result.iterations,
        "macs": result.after.macs / result.before.macs,
        "accuracy": result.accuracy.after,
        "met": result.met,
    }


def _official(case: Row, places: Places, official: Path) -> dict[str, Any]:
    from official_netadapt import run_official
    from small_networks import trained

    network, work = NETWORKS[OFFICIAL_NETWORK], places.work / f"official-{case['steps']}"
    work.mkdir(exist_ok=True)
    outcome = run_official(
        official,
        trained(OFFICIAL_NETWORK, places.networks),
        network.data(places),
        work,
        budget=float(case["budget"].partition("=")[2].removesuffix("x")),
        steps=case["steps"],
        iterations=case["most_iterations"],
    )
    return {**outcome, "iteration_cpu_s": round(outcome["search_cpu_s"] / max(1, outcome["iterations"]), 2)}


def _compared(case: Row, places: Places) -> dict[str, Any]:
    """Search with every proposal evaluated, and replay which ones lazy ranking would have looked at."""
    import netadapt_onnx
    from lazy_replay import lazy_row, recorded_search, replay

    network, run = NETWORKS[case["network"]], _run(case, places)
    model, data = network.file(places), network.data(places)
    netadapt_onnx.adapt(
        model,
        data,
        case["budget"],
        run,
        proposals="all",
        portfolio="off",
        max_iterations=case["most_iterations"],
        final_epochs=0,
        seed=case["seed"],
        resume=True,
    )
    return lazy_row(replay(recorded_search(run, model, data, case["budget"], case["seed"])))


if __name__ == "__main__":
    main()
