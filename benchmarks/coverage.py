"""How much of each network can be pruned, and is it right? This project, Torch-Pruning and onnxsim in one run.

Thirty classifiers of torchvision from both of torch's exporters at ratio 0.5, about fifty families of timm at 0.5, and
any folder of ONNX files at 0.3. The classifier's outputs stay. Each case runs in a process of its own with a limit
on CPU time; its result is a line of WORK/results.jsonl, and cases that have one are not run again: stop it at any time.

What it needs besides the project (with its `adapt` extra):

    pip install torchvision timm
    python benchmarks/coverage.py --install-peers      # into WORK/peers; nothing else sees them

Then, in parts or in one go (hours, on few cores):

    python benchmarks/coverage.py --suite torchvision
    python benchmarks/coverage.py --suite torchvision --only 'resnet*' --peers onnxsim
    python benchmarks/coverage.py --suite timm --peers none
    python benchmarks/coverage.py --suite files --folder MODELS
    python benchmarks/coverage.py --record      # all results so far, for docs/coverage.md

Packages in other places: --path DIR (or COVERAGE_PATH, as PATH is written); modules to import before torchvision, such
as a shim that lets it import on another build of torch: --first MODULE.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from coverage_rows import OURS, case_rows, summary_rows  # noqa: E402  these lie beside it
from networks import EXPORTERS, TIMM, TORCHVISION  # noqa: E402
from result_files import add_record_option, record  # noqa: E402

PEERS = ("torch-pruning", "onnxsim")
VERSIONS = ("torch-pruning==1.6.1", "onnxsim==0.8.1")
RATIOS = {"torchvision": 0.5, "timm": 0.5, "files": 0.3}


@dataclass(frozen=True)
class Case:
    """One pruner on one model. `model` is a network's name, or a file's; Torch-Pruning works before any export."""

    suite: str
    model: str
    exporter: str
    pruner: str
    ratio: float


def main() -> None:
    """Run what is asked for and has no result yet."""
    arguments = _arguments()
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    if arguments.case:
        _one(Case(**json.loads(arguments.case)), arguments, work)
        return
    if arguments.install_peers:
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(work / "peers"), *VERSIONS]
        subprocess.run(install, check=True)
    results = work / "results.jsonl"
    if arguments.suite:
        _run(_cases(arguments), arguments, results)
    if arguments.record:
        _record(_read(results))


def _arguments() -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--suite", choices=[*RATIOS], help="which models")
    parser.add_argument("--folder", help="where the files of --suite files are")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1x3x224x224", help="of inputs of files")
    parser.add_argument("--only", default="*", help="names of models, with wildcards")
    parser.add_argument("--exporters", default=",".join(EXPORTERS), help="legacy, dynamo or both (timm: legacy)")
    parser.add_argument("--peers", default=",".join(PEERS), help="torch-pruning, onnxsim, both, or none for ours alone")
    parser.add_argument("--not-ours", action="store_true", help="the peers alone")
    parser.add_argument("--ratio", type=float, help="share of channels to remove (default: the suite's)")
    parser.add_argument("--image-size", type=int, help="instead of the size that a network wants")
    parser.add_argument("--timeout", type=int, default=200, help="CPU seconds for one case, the export not included")
    parser.add_argument("--work", default="coverage-work", help="exports, peers and results.jsonl lie here")
    parser.add_argument("--path", action="append", default=[], help="import packages from here too; may be repeated")
    parser.add_argument("--first", action="append", default=[], metavar="MODULE", help="import this before torchvision")
    parser.add_argument("--again", action="store_true", help="also cases that have a result")
    parser.add_argument("--install-peers", action="store_true", help="put Torch-Pruning and onnxsim into WORK/peers")
    add_record_option(parser)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.suite == "files" and not arguments.folder:
        parser.error("--suite files needs --folder")
    if not (arguments.suite or arguments.record or arguments.install_peers or arguments.case):
        parser.error("nothing to do: give --suite, --record or --install-peers")
    return arguments


def _record(results: list[dict[str, Any]]) -> None:
    """Write the results of each suite, and the summary of all of them."""
    for suite in dict.fromkeys(result["case"]["suite"] for result in results):
        record(f"coverage_{suite}", case_rows([result for result in results if result["case"]["suite"] == suite]))
    record("coverage_summary", summary_rows(results))


def _cases(arguments: argparse.Namespace) -> list[Case]:
    names = {"torchvision": TORCHVISION, "timm": TIMM}.get(arguments.suite)
    if names is None:
        names = sorted(file.name for file in Path(arguments.folder).glob("*.onnx"))
    exporters = {"timm": ["legacy"], "files": ["file"]}.get(arguments.suite, arguments.exporters.split(","))
    pruners = [] if arguments.not_ours else [OURS]
    pruners += [peer for peer in arguments.peers.split(",") if peer in PEERS]
    ratio = RATIOS[arguments.suite] if arguments.ratio is None else arguments.ratio
    cases = []
    for name in names:
        if not fnmatch.fnmatch(name, arguments.only):
            continue
        for pruner in pruners:
            if pruner != "torch-pruning":
                cases += [Case(arguments.suite, name, exporter, pruner, ratio) for exporter in exporters]
            elif arguments.suite != "files":
                cases.append(Case(arguments.suite, name, "module", pruner, ratio))
    return cases


def _run(cases: list[Case], arguments: argparse.Namespace, results: Path) -> None:
    recorded = [] if arguments.again else _read(results)
    done = {json.dumps(result["case"], sort_keys=True) for result in recorded}
    cases = [case for case in cases if json.dumps(asdict(case), sort_keys=True) not in done]
    for number, case in enumerate(cases, 1):
        outcome = _apart(case, arguments)
        with results.open("a") as lines:
            lines.write(
                json.dumps({"case": asdict(case), "outcome": outcome, "time": time.strftime("%Y-%m-%d")}) + "\n"
            )
        share = "-" if outcome.get("macs") is None else f"{outcome['macs']:.3f}x"
        summary = outcome.get("failure") or f"macs {share} equal {outcome.get('equal')} {outcome.get('note', '')}"
        print(f"{number}/{len(cases)} {case.model} {case.exporter} {case.pruner}: {summary}", flush=True)


def _apart(case: Case, arguments: argparse.Namespace) -> dict[str, object]:
    """The outcome of a case in its own process: what it prints last, or how it ended."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--work", arguments.work]
    command += ["--timeout", str(arguments.timeout)]
    command += [word for folder in arguments.path for word in ("--path", folder)]
    command += [word for module in arguments.first for word in ("--first", module)]
    command += [word for shape in arguments.shape for word in ("--shape", shape)]
    command += [] if arguments.folder is None else ["--folder", arguments.folder]
    command += [] if arguments.image_size is None else ["--image-size", str(arguments.image_size)]
    environment = {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        ready = child.stdout.readline() if child.stdout else ""  # the model is there: the clock starts
        out, err = child.communicate()
    if child.returncode == -signal.SIGXCPU:
        return {"failure": f"no result within {arguments.timeout} s of CPU time"}
    if ready and child.returncode == 0:
        outcome: dict[str, object] = json.loads(out.splitlines()[-1])
        return outcome
    if child.returncode < 0:
        return {"failure": f"ended by signal {-child.returncode}"}
    last = (err.strip().splitlines() or ["?"])[-1]
    return {"failure": last[:300] if ready else f"no model: {last[:280]}"}


def _one(case: Case, arguments: argparse.Namespace, work: Path) -> None:
    """What the child process does: make the model, say so, prune it, print the outcome."""
    from networks import make_importable

    make_importable([*arguments.path, *os.environ.get("COVERAGE_PATH", "").split(os.pathsep)])
    if case.pruner in PEERS:
        make_importable([str(work / "peers")])
    import pruners

    file = _model(case, arguments, work)
    print("ready", flush=True)
    # CPU time, not the clock's: other processes on the machine change nothing.
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + arguments.timeout, used + arguments.timeout + 5))
    extra = (case.suite, case.model) if case.pruner == "torch-pruning" else ()
    size = (arguments.image_size,) if case.pruner == "torch-pruning" else ()
    outcome = pruners.PRUNERS[case.pruner](*extra, file, case.ratio, work, *size)
    print("\n" + json.dumps(asdict(outcome)))


def _model(case: Case, arguments: argparse.Namespace, work: Path) -> Path:
    """The file to prune: exported once and kept, or as given, constant weights drawn at random."""
    import onnx

    from netadapt_onnx.graph.inputs import parse_shape
    from networks import example, export, make_importable, network, with_random_weights, with_shapes

    exports = work / "exports"
    exports.mkdir(exist_ok=True)
    if case.suite == "files":
        path = Path(arguments.folder) / case.model
        shapes = {name: dims for text in arguments.shape for name, dims in [parse_shape(text)]}
        drawn = with_random_weights(with_shapes(onnx.load(path), shapes))
        onnx.save(drawn, exports / case.model)
        return exports / case.model
    exporter = "legacy" if case.exporter == "module" else case.exporter
    file = exports / f"{case.suite}-{case.model}-{exporter}.onnx"
    if case.exporter == "module" or not file.exists():  # torch takes seconds to import
        make_importable([], arguments.first)
        import torch

        torch.set_num_threads(1)
    if not file.exists():
        module = network(case.suite, case.model)
        export(module, example(case.suite, module, arguments.image_size), exporter, file)
    return file


def _read(results: Path) -> list[dict[str, Any]]:
    """All results; of a case that was run again the last."""
    if not results.exists():
        return []
    lines = [json.loads(line) for line in results.read_text().splitlines() if line.strip()]
    return list({json.dumps(result["case"], sort_keys=True): result for result in lines}.values())


if __name__ == "__main__":
    main()
