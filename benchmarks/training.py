"""Does any export train? Forward and trained-and-written-back agreement with onnxruntime, and the time of a step.

Thirty classifiers of torchvision, each from both of torch's exporters at their defaults, with random weights. Of each
file: the largest difference between torch and onnxruntime over the outputs' standard deviation, before training, and
after three steps of SGD written back into the file. Besides, the CPU time of a training step against the native module
(ResNet-18, MobileNetV2, ViT-tiny), as the ratio of the medians of interleaved steps.

    pip install torchvision
    python benchmarks/training.py --agreement           # results.jsonl in --work; cases with a result are not repeated
    python benchmarks/training.py --steps
    python benchmarks/training.py --table               # prints both as Markdown

Packages in other places, as for coverage.py: --path DIR, --first MODULE.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from networks import EXPORTERS, TORCHVISION, example, export, make_importable, network  # noqa: E402
from result_files import add_record_option, record  # noqa: E402
from result_tables import training_exports, training_steps  # noqa: E402

TOLERANCE = 1e-4
STEPS, BATCH, RATE = 3, 2, 1e-3
TIMED = ("resnet18", "mobilenet_v2", "vit_tiny")
ROUNDS, TIMED_BATCH = 15, 8


def main() -> None:
    """Run what is asked for and has no result yet."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agreement", action="store_true", help="the sixty exports")
    parser.add_argument("--steps", action="store_true", help="the time of a step")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--only", default="*", help="names of models, with wildcards")
    parser.add_argument("--work", type=Path, default=Path("training-work"), help="exports and results.jsonl lie here")
    parser.add_argument("--path", action="append", default=[], help="import packages from here too; may be repeated")
    parser.add_argument("--first", action="append", default=[], metavar="MODULE", help="import this before torchvision")
    add_record_option(parser)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    cases: list[dict[str, str]] = []
    if arguments.agreement:
        cases += [{"model": m, "exporter": e} for m in TORCHVISION for e in EXPORTERS]
    if arguments.steps:
        cases += [{"model": m, "exporter": "step"} for m in TIMED]
    results = arguments.work / "results.jsonl"
    earlier = _read(results)
    if cases:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        os.environ["OMP_NUM_THREADS"] = "1"
        make_importable(arguments.path, arguments.first)
        import torch
        import torchvision  # noqa: F401

        torch.set_num_threads(1)
    for case in cases:
        if fnmatch.fnmatch(case["model"], arguments.only) and not any(r["case"] == case for r in earlier):
            outcome = _apart(case, arguments)
            with results.open("a") as lines:
                lines.write(json.dumps({"case": case, **outcome}) + "\n")
            print(case["model"], case["exporter"], outcome, flush=True)
    if arguments.table:
        print(_markdown(_read(results)))
    if arguments.record:
        record("training_exports", _rows(_read(results), steps=False))
        record("training_steps", _rows(_read(results), steps=True))


def _apart(case: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """A case in a process of its own, forked from this one: torch and torchvision take seconds to import."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_case, args=(case, arguments.work, theirs))
    child.start()
    theirs.close()
    try:
        outcome: dict[str, Any] = ours.recv()
    except EOFError:
        outcome = {"failure": "its process died"}
    child.join()
    return outcome


def _case(case: dict[str, str], work: Path, pipe: Connection) -> None:
    try:
        pipe.send(_step_time(case["model"]) if case["exporter"] == "step" else _agreement(case, work))
    except Exception as error:
        message = str(error).strip().split("\n")[0]
        pipe.send({"failure": f"{type(error).__name__}: {message}"[:300]})


def _agreement(case: dict[str, str], work: Path) -> dict[str, Any]:
    import torch

    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load
    from netadapt_onnx.graph.runtime import run, session
    from netadapt_onnx.training.torch_graph import TorchGraph

    file = work / f"torchvision-{case['model']}-{case['exporter']}.onnx"
    if not file.exists():
        module = network("torchvision", case["model"])
        export(module, example("torchvision", module, None), case["exporter"], file)
    proto = fold(load(file).proto).proto
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    feeds = {proto.graph.input[0].name: image.numpy()}
    graph = TorchGraph(proto).eval()

    def difference(model: Any) -> float:
        with torch.no_grad():
            outputs = graph(image)
        expected = run(session(model), feeds)
        return max(float((abs(outputs[k].numpy() - v)).max() / (v.std() or 1.0)) for k, v in expected.items())

    forward = difference(proto)
    graph.train()
    reached: set[str] = set()
    optimiser = torch.optim.SGD(graph.parameters(), lr=RATE, momentum=0.9)
    draw = torch.Generator().manual_seed(6)
    for _ in range(STEPS):
        outputs = graph(torch.randn(BATCH, 3, 224, 224, generator=draw))
        loss = torch.stack([(v / v.detach().std()).pow(2).mean() for v in outputs.values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        reached.update(n for n, weight in graph.weights.items() if weight.grad is not None and weight.grad.any())
        torch.nn.utils.clip_grad_norm_(graph.parameters(), 1.0)
        optimiser.step()
    graph.eval()
    return {
        "forward": forward,
        "trained": difference(graph.write_back(proto)),
        "weights": len(graph.weights),
        "reached": len(reached),
        "parameters": sum(weight.numel() for weight in graph.weights.values()),
    }


def _step_time(name: str) -> dict[str, Any]:
    """CPU seconds of a step in our executor and in the module that was exported, interleaved."""
    import tempfile

    import torch
    import torchvision

    from netadapt_onnx.api.export import export_module
    from netadapt_onnx.graph.model import load
    from netadapt_onnx.training.torch_graph import TorchGraph

    torch.manual_seed(0)
    if name == "vit_tiny":
        module = torchvision.models.VisionTransformer(224, 16, 12, 3, 192, 768)
        torch.nn.init.normal_(module.heads.head.weight, std=0.02)
    else:
        module = torchvision.models.get_model(name, weights=None)
    images = torch.randn(TIMED_BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(TIMED_BATCH) % 1000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_module(module, {"image": images[:2].contiguous()}, file)
        graph = TorchGraph(load(file).proto).train()
    graph.arrange(channels_last=True)
    module = module.train().to(memory_format=torch.channels_last)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    ways = {"ours": (graph, lambda: next(iter(graph(images).values()))), "native": (module, lambda: module(images))}
    optimisers = {k: torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for k, (m, _) in ways.items()}
    times: dict[str, list[float]] = {key: [] for key in ways}
    for number in range(ROUNDS + 2):
        for key in list(ways) if number % 2 else list(ways)[::-1]:
            began = time.process_time()
            loss = torch.nn.functional.cross_entropy(ways[key][1](), labels)
            optimisers[key].zero_grad()
            loss.backward()
            optimisers[key].step()
            if number > 1:
                times[key].append(time.process_time() - began)
    medians = {key: statistics.median(seconds) for key, seconds in times.items()}
    return {"ours_s": medians["ours"], "native_s": medians["native"], "ratio": medians["ours"] / medians["native"]}


def _rows(results: list[dict[str, Any]], *, steps: bool) -> list[dict[str, Any]]:
    """The rows of one of the two tables."""
    chosen = [r for r in results if (r["case"]["exporter"] == "step") == steps]
    return [{**r["case"], **{key: value for key, value in r.items() if key != "case"}} for r in chosen]


def _markdown(results: list[dict[str, Any]]) -> str:
    exports, steps = _rows(results, steps=False), _rows(results, steps=True)
    good = sum(max(r.get("forward", 1.0), r.get("trained", 1.0)) <= TOLERANCE for r in exports)
    text = f"{good} of {len(exports)} exports agree within {TOLERANCE:g} before and after training.\n\n"
    return "\n\n".join([text + training_exports(exports), *([training_steps(steps)] if steps else [])])


def _read(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    lines = [json.loads(line) for line in results.read_text().splitlines() if line.strip()]
    return list({json.dumps(result["case"], sort_keys=True): result for result in lines}.values())


if __name__ == "__main__":
    main()
