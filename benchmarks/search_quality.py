"""Is the search worth it? Accuracy at equal measured latency: presets, uniform widths, and Torch-Pruning.

Every method ends in a model within the budget as measured beside the original. What is compared is its accuracy on the
test pictures (without labels: its agreement with the original) after one of two final trainings: the same for all, by
the original, as many steps, or the one that the preset itself does.

    balanced, fast, thorough, paper   this project's presets
    uniform            every group keeps the same share of its filters (in multiples of 8 or 16), those of largest L2
                       norm, made up for by least squares in order; the largest within the budget
    torch-pruning/8, torch-pruning/16 Torch-Pruning's L2 pruner at one ratio for all layers, widths in such multiples,
                       the largest within the budget

A cell is a network, a method, a budget, a seed and a training; it is a line of WORK/results.jsonl and is not run again
unless it failed: stop it at any time, run it again, it goes on. Days on one core; `--networks`, `--methods`,
`--budgets` and `--seeds` choose.

    python ../shared/data/prepare.py cifar10 cifar.npz
    python benchmarks/search_quality.py --install-peers
    python benchmarks/search_quality.py --train-networks --cifar cifar.npz
    python benchmarks/search_quality.py --cifar cifar.npz --pictures pictures.npz --models ../shared/models
    python benchmarks/search_quality.py --table --record
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from cells import FAILURE, Row, Stopwatch, apart, complete, read  # noqa: E402
from result_files import add_record_option, record  # noqa: E402
from result_tables import search_quality  # noqa: E402
from search_networks import NETWORKS, Places  # noqa: E402

PEER = "torch-pruning==1.6.1"
PRESETS = ("balanced", "fast", "thorough", "paper")
ROUND_TO = {"torch-pruning/8": 8, "torch-pruning/16": 16}
# Presets whose candidates are trained for a short time, also where the benchmark does the training at the end.
COMPETES_TRAINED = {"balanced": {"portfolio": "trained"}, "thorough": {"portfolio": "trained"}}
METHODS = (*PRESETS, "uniform", *ROUND_TO)
TRAININGS = ("same", "own")
DEFAULT_NETWORKS = ("convnet", "resnet20", "mobilenet", "efficientnet-lite0")
BUDGETS, SMALLEST_BUDGET = ("latency=0.75x", "latency=0.5x"), "latency=0.35x"


@dataclass(frozen=True)
class Case:
    """One cell.

    Attributes:
        network: Of `NETWORKS`.
        method: Of `METHODS`.
        budget: A share of a resource, such as latency=0.5x.
        seed: Of the search, the solving and the training.
        training: same: as many `steps` for every method; own: what the preset does at its end.
        steps: Of the same training; 0 with their own.
    """

    network: str
    method: str
    budget: str
    seed: int
    training: str
    steps: int


def main() -> None:
    """Run what is asked for and has no result yet."""
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    places = Places(arguments.models, arguments.work, arguments.cifar, arguments.pictures)
    if arguments.case:
        print("\n" + json.dumps(_cell(Case(**json.loads(arguments.case)), places)))
        return
    if arguments.install_peers:
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(arguments.work / "peers"), PEER]
        subprocess.run(install, check=True)
    if arguments.train_networks:
        _train_networks(places, arguments.train_epochs)
    elif arguments.cifar or arguments.pictures:
        complete(arguments.work / "results.jsonl", map(asdict, cases(arguments)), lambda case: _apart(case, arguments))
    rows = summary(read(arguments.work / "results.jsonl"))
    if arguments.table:
        print(search_quality(rows))
    if arguments.record:
        record("search_quality", rows)


def _arguments() -> argparse.Namespace:
    summary_line, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary_line, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, help="what prepare.py made: data of the small networks")
    parser.add_argument("--pictures", type=Path, help="unlabelled pictures for EfficientNet-Lite0, in --data's layout")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"), help="the networks that are not ours")
    parser.add_argument("--networks", default=",".join(DEFAULT_NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--methods", default=",".join(METHODS), help="those above")
    parser.add_argument("--budgets", help="shares; by default latency of 0.75x, 0.5x and, on small networks, 0.35x")
    parser.add_argument("--trainings", default=",".join(TRAININGS), help="of same, own (presets only)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0, on small networks; the others have one")
    parser.add_argument("--steps", type=int, help="of the same training (by default 800, EfficientNet-Lite0 100)")
    parser.add_argument("--work", type=Path, default=Path("search-quality-work"), help="runs and results.jsonl")
    parser.add_argument("--install-peers", action="store_true", help="put Torch-Pruning into WORK/peers")
    parser.add_argument("--train-networks", action="store_true", help="train the ConvNet and the MobileNet, once")
    parser.add_argument("--train-epochs", type=int, help="for how long (by default 12 and 9 epochs)")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    add_record_option(parser)
    arguments = parser.parse_args()
    for name, allowed in (("networks", NETWORKS), ("methods", METHODS), ("trainings", TRAININGS)):
        unknown = set(getattr(arguments, name).split(",")) - set(allowed)
        if unknown:
            parser.error(f"--{name} {', '.join(sorted(unknown))}: known are {', '.join(allowed)}")
    if arguments.train_networks and not arguments.cifar:
        parser.error("--train-networks needs --cifar")
    return arguments


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """All cells that are asked for, one seed after the other."""
    names = arguments.networks.split(",")
    for seed in range(arguments.seeds):
        for name in names:
            network = NETWORKS[name]
            if seed and not network.is_small:
                continue
            usual = (*BUDGETS, SMALLEST_BUDGET) if network.is_small else BUDGETS
            for budget in arguments.budgets.split(",") if arguments.budgets else usual:
                for method in arguments.methods.split(","):
                    for training in arguments.trainings.split(","):
                        if training == "same":
                            steps = network.training_steps if arguments.steps is None else arguments.steps
                            yield Case(name, method, budget, seed, training, steps)
                        elif method in PRESETS:
                            yield Case(name, method, budget, seed, training, 0)


def _train_networks(places: Places, epochs: int | None) -> None:
    import torch

    from small_networks import EPOCHS, train_network

    torch.set_num_threads(1)
    for name, usual in EPOCHS.items():
        assert places.cifar is not None
        train_network(name, places.cifar, places.networks, epochs or usual)
        print(name, (places.networks / f"{name}.json").read_text(), flush=True)


def _apart(case: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    words = ["--case", json.dumps(case)]
    for name in ("cifar", "pictures", "models", "work"):
        if getattr(arguments, name) is not None:
            words += [f"--{name}", str(getattr(arguments, name))]
    return apart(words)


def _cell(case: Case, places: Places) -> dict[str, Any]:
    """Make a small model, train it, measure it."""
    from netadapt_onnx.data.load_dataset import load_dataset
    from netadapt_onnx.graph.cost import cost
    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load, save
    from search_rivals import timed

    network = NETWORKS[case.network]
    folder = places.work / case.network
    folder.mkdir(exist_ok=True)
    original = fold(load(network.file(places)).proto)
    data = load_dataset(original, network.data(places))
    if case.method in PRESETS and case.budget.startswith("latency"):
        _measured_table(case, places)
    watch = Stopwatch()
    searched, chosen = small_model(case, places)
    seconds = watch.seconds("search")
    searched = fold(searched).proto
    watch = Stopwatch()
    small = _same_training(case, searched, original, data, folder) if case.steps else searched
    training = watch.seconds("training")
    save(small, folder / f"{_name(case)}.onnx", overwrite=True)
    measurement = timed(small, original, sessions=21, seconds=20.0)
    return {
        "test": _test_accuracy(small, original.proto, data),
        "original": _test_accuracy(original.proto, original.proto, data),
        "before_training": _test_accuracy(searched, original.proto, data),
        "metric": data.final_split[1].metric,
        "latency": measurement.median,
        "latency_ci95": measurement.ci95,
        "macs": cost(fold(small).proto, fold(small).shapes).macs / cost(original.proto, original.shapes).macs,
        **{name: round(chosen.get(name, 0.0) + value, 2) for name, value in seconds.items()},
        **training,
    }


def _name(case: Case) -> str:
    return f"{case.method}-{case.budget}-{case.seed}-{case.training}".replace("/", "-")


def _test_accuracy(proto: Any, original: Any, data: Any) -> float:
    from netadapt_onnx.data.evaluate import accuracy, reference_outputs

    split = data.final_split[1]
    return accuracy(proto, split, reference=reference_outputs(split, original)).value


def small_model(case: Case, places: Places) -> tuple[Any, dict[str, float]]:
    """The model of a method within a budget, and the seconds that an earlier cell took to choose its widths."""
    import netadapt_onnx
    from netadapt_onnx.graph.model import load
    from search_rivals import solved

    network = NETWORKS[case.network]
    model, data, folder = network.file(places), network.data(places), places.work / case.network
    if case.method in PRESETS:
        own = {} if case.training == "own" else {"final_epochs": 0, **COMPETES_TRAINED.get(case.method, {})}
        result = netadapt_onnx.adapt(
            model,
            data,
            case.budget,
            folder / _name(case),
            preset=case.method,
            table=_measured_table(case, places) if case.budget.startswith("latency") else None,
            seed=case.seed,
            resume=True,
            **own,
        )
        return load(result.model).proto, {}
    cut, seconds = _rival(case, places)
    if case.method == "uniform":
        return solved(model, data, cut, case.seed), seconds
    return load(cut).proto, seconds


def _measured_table(case: Case, places: Places) -> Path:
    """The latency table of a network, measured once for all cells; it counts for nobody."""
    import netadapt_onnx

    table = places.work / case.network / "table.jsonl"
    if not table.exists():
        netadapt_onnx.profile(NETWORKS[case.network].file(places), table)
    return table


def _rival(case: Case, places: Places) -> tuple[Path, dict[str, float]]:
    """The file of a rival's largest model within a budget, the same for all seeds, and what it took if not now."""
    from netadapt_onnx.graph.model import save
    from search_rivals import largest_within_budget, torch_pruned, uniform

    network = NETWORKS[case.network]
    model = network.file(places)
    file = places.work / case.network / f"{case.method}-{case.budget}.onnx".replace("/", "-")
    sidecar = file.with_suffix(".json")
    if sidecar.exists():
        return file, json.loads(sidecar.read_text())
    watch = Stopwatch()
    if case.method == "uniform":
        candidates = uniform(model)
    elif network.module is None:
        raise SystemExit(f"no torch module of {network.title} is at hand, which Torch-Pruning works on")
    else:
        candidates = torch_pruned(model, network.module, places, ROUND_TO[case.method], places.work / "peers")
    save(largest_within_budget(candidates, case.budget, model), file, overwrite=True)
    sidecar.write_text(json.dumps(watch.seconds("search")))
    return file, {}


def _same_training(case: Case, proto: Any, original: Any, data: Any, folder: Path) -> Any:
    """The final training that is the same for all methods on a network: `adapt`'s, with as many steps for all."""
    from netadapt_onnx.search.final_recipe import FEW_SAMPLES, GENTLE
    from netadapt_onnx.training.choose_settings import choose_settings
    from netadapt_onnx.training.length import BATCH_SIZE, automatic_batch_size
    from netadapt_onnx.training.options import TrainingOptions
    from netadapt_onnx.training.settings import Settings
    from netadapt_onnx.training.trainer import train

    file = folder / "settings.json"  # how this machine trains fastest: chosen once a network
    if not file.exists():
        file.write_text(json.dumps(asdict(choose_settings(proto, data))))
    options = TrainingOptions(
        steps=case.steps,
        batch_size=automatic_batch_size(len(data.train), BATCH_SIZE),
        seed=case.seed,
        matches_features=True,
        fixes_statistics=len(data.train) < FEW_SAMPLES,
        averages=True,
        lr_share=GENTLE,
        settings=Settings(**json.loads(file.read_text())),
    )
    return train(proto, data, options, teacher=original.proto).proto


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each network, budget, training and method: means over seeds, or why there is none."""
    import statistics

    def key(result: Row) -> tuple[str, ...]:
        case = result["case"]
        return case["network"], case["budget"], case["training"], case["method"]

    rows = []
    for network, budget, training, method in dict.fromkeys(map(key, results)):
        cells = [result for result in results if key(result) == (network, budget, training, method)]
        row: dict[str, Any] = {"network": network, "budget": budget, "training": training, "method": method}
        seeds = [cell for cell in cells if FAILURE not in cell]
        if not seeds:
            rows.append({**row, FAILURE: cells[0][FAILURE]})
            continue
        names = ("original", "before_training", "macs", "search_s", "search_cpu_s", "training_s", "training_cpu_s")
        test = [cell["test"] for cell in seeds]
        rows.append(
            {
                **row,
                "steps": seeds[0]["case"]["steps"],
                "metric": seeds[0]["metric"],
                "seeds": len(seeds),
                "test": statistics.mean(test),
                "tests": test,
                "latency": [cell["latency"] for cell in seeds],
                **{name: statistics.mean(cell[name] for cell in seeds) for name in names},
            }
        )
    return rows


if __name__ == "__main__":
    main()
