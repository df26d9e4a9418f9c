"""What searches are compared with: uniform widths and Torch-Pruning, the largest model of each that meets a budget."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search_networks import Module, Places

# Uniform widths are multiples of 8; in multiples of 16 alone they fall otherwise, and may be larger within a budget.
MULTIPLES = (8, 16)


@dataclass(frozen=True)
class Candidate:
    """A smaller model: its macs, and what makes it."""

    macs: float
    make: Callable[[], Any]


def uniform(model: Path) -> list[list[Candidate]]:
    """The same share of every group, in widths of multiples of 8, and of 16.

    Between two such models the groups, last ones first, take the step one after the other: else a network of narrow
    layers would land far below a budget, and be compared with larger ones.
    """
    from netadapt_onnx.graph.cost import CostModel
    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load
    from netadapt_onnx.surgery.criteria.selection import select
    from netadapt_onnx.surgery.kept_counts import at_ratio
    from netadapt_onnx.surgery.resize import resize
    from netadapt_onnx.surgery.trace import trace

    model_trace = trace(fold(load(model).proto))
    count = CostModel(model_trace.flat.proto)

    def steps(multiple: int) -> list[dict[str, int]]:
        widths = [at_ratio(model_trace.prunable, percent / 100, multiple) for percent in range(96)]
        distinct = [widths[0]]
        for after in widths:
            for name in [*after][::-1]:
                if after[name] != distinct[-1][name]:
                    distinct.append({**distinct[-1], name: after[name]})
        return distinct

    def candidate(counts: dict[str, int]) -> Candidate:
        macs = count(model_trace.resized_shapes(select(model_trace, counts, "first"))).macs
        return Candidate(macs, lambda: resize(model_trace, select(model_trace, counts, "l2")))

    return [[candidate(counts) for counts in steps(multiple)] for multiple in MULTIPLES]


def solved(model: Path, data: Path, cut: Path, seed: int) -> Any:
    """The uniform cut, its layers solved in order as those of a search's result are."""
    from netadapt_onnx.data.load_dataset import load_dataset
    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load
    from netadapt_onnx.surgery.criteria.selection import select
    from netadapt_onnx.surgery.reconstruct.gram import original_targets
    from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct_in_order
    from netadapt_onnx.surgery.trace import trace

    model_trace = trace(fold(load(model).proto))
    kept_counts = {group.name: group.channels for group in trace(fold(load(cut).proto)).prunable}
    widths = {group.name: kept_counts.get(group.name, group.floor) for group in model_trace.prunable}
    inputs = load_dataset(model_trace.folded, data).train.sample(1024, seed).batch(slice(None))
    targets = original_targets(model_trace, inputs, seed)
    return reconstruct_in_order(model_trace, select(model_trace, widths, "l2"), inputs, targets)


def torch_pruned(model: Path, module: Module, places: Places, round_to: int, peers: Path) -> list[list[Candidate]]:
    """What Torch-Pruning, installed in `peers`, makes of a network at one ratio for all layers, from 5% to 95%."""
    sys.path.insert(0, str(peers))
    import torch
    import torch_pruning as peer

    from netadapt_onnx.api.export import export_module
    from netadapt_onnx.graph.cost import cost
    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load

    torch.set_num_threads(1)
    original = load(model).proto
    (entry,), (output,) = original.graph.input, original.graph.output
    image = torch.zeros(2, *module.image)
    candidates: dict[tuple[int, ...], Candidate] = {}
    for percent in range(0, 100, 5):
        network = module.make(places)
        if percent:
            peer.pruner.MagnitudePruner(
                network,
                image,
                importance=peer.importance.MagnitudeImportance(p=2),
                pruning_ratio=percent / 100,
                ignored_layers=module.kept(network),
                round_to=round_to,
            ).step()
        widths = tuple(size for parameter in network.parameters() for size in parameter.shape)
        if widths not in candidates:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "pruned.onnx"
                export_module(network, {entry.name: image}, file)
                folded = fold(_with_output(load(file).proto, output.name))
            candidates[widths] = Candidate(cost(folded.proto, folded.shapes).macs, partial(_same, folded.proto))
    return [list(candidates.values())]


def _with_output(proto: Any, name: str) -> Any:
    """The exported model with the output's name in the file: what the teacher's is compared with."""
    (output,) = proto.graph.output
    for node in proto.graph.node:
        node.output[:] = [name if output_name == output.name else output_name for output_name in node.output]
    output.name = name
    return proto


def _same(proto: Any) -> Any:
    return proto


def largest_within_budget(families: Sequence[Sequence[Candidate]], budget: str, original: Path) -> Any:
    """The largest model (by macs) that meets the budget; the smallest if none does.

    Latency falls with macs within a family, more or less, but not from one to another: it is sought in each.
    """
    from netadapt_onnx.graph.cost import cost
    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load

    resource, _, share = budget.partition("=")
    limit, uncut = float(share.removesuffix("x")), fold(load(original).proto)
    dense = cost(uncut.proto, uncut.shapes).macs

    def within(candidate: Candidate) -> bool:
        if resource == "macs":
            return candidate.macs <= limit * dense
        return bool(timed(candidate.make(), uncut, sessions=9, seconds=5.0).median <= limit)

    smallest_of_each: list[tuple[bool, float, Candidate]] = []
    for family in families:
        ordered = sorted(family, key=lambda candidate: -candidate.macs)
        last = ordered[first_within(len(ordered), lambda n, ordered=ordered: within(ordered[n]))]  # type: ignore[misc]
        meets = within(last)
        smallest_of_each.append((meets, last.macs if meets else -last.macs, last))
    return max(smallest_of_each, key=lambda one: one[:2])[2].make()


def first_within(count: int, within: Callable[[int], bool]) -> int:
    """The first of `count` models, from large to small, that is `within` the budget, the last if none is.

    By bisection; since latency does not fall with every cut, some larger ones are tried as well.
    """
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle + 1, high)
    return next((n for n in range(max(0, low - 3), low) if within(n)), low)


def timed(model: Any, original: Any, *, sessions: int, seconds: float) -> Any:
    """The model's time relative to the original's, in fresh sessions that take turns."""
    from netadapt_onnx.graph.runtime import random_inputs
    from netadapt_onnx.profilers.timing import TimingPlan, ratio

    return ratio(
        model, original.proto, random_inputs(original.specs), plan=TimingPlan(sessions=sessions, time_cap_s=seconds)
    )
