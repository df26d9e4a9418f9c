"""Twice the graph is twice the work: counted in calls of functions and lines, which no busy machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import onnx
import pytest

import large_graphs
import netadapt_onnx
from netadapt_onnx.api.inspect import inspect
from netadapt_onnx.api.prune import prune
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.required_shapes import refuse_open
from netadapt_onnx.graph.validity import require_valid
from netadapt_onnx.surgery.criteria.weights import CRITERIA
from netadapt_onnx.surgery.groups import Group, PinnedByStates
from netadapt_onnx.surgery.trace import Trace

PACKAGE = str(Path(netadapt_onnx.__file__).parent)
PARTS = 12
# Twice the parts: 2 and a little, for sorting and for what grows in powers of two. Squares would come to 4.
LARGEST_RATIO = 2.3


def steps(work: Callable[[], object]) -> int:
    """How many calls of functions, built-in ones included, and steps of generators it takes, and lines of ours."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    def line(frame: FrameType, event: str, argument: object) -> object:
        nonlocal count
        count += 1
        return line

    def entered(frame: FrameType, event: str, argument: object) -> object:
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    before, traced = sys.getprofile(), sys.gettrace()
    sys.setprofile(counted)
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(traced)
        sys.setprofile(before)
    return count


def growth(kind: Callable[[int], onnx.ModelProto], work: Callable[[Path], object], tmp_path: Path, n: int) -> float:
    """Steps that 2n further parts take over those that n take: what a graph of no parts takes does not count."""
    counts = []
    for parts in (n, n, 2 * n, 4 * n):  # the first time imports and fills caches
        file = tmp_path / f"{parts}.onnx"
        onnx.save(kind(parts), file)
        counts.append(steps(lambda file=file: work(file)))  # type: ignore[misc]
    _, once, twice, fourfold = counts
    return (fourfold - twice) / (twice - once)


@pytest.mark.parametrize("kind", large_graphs.KINDS.values(), ids=large_graphs.KINDS.keys())
def test_inspecting_twice_the_graph_takes_twice_the_steps(
    kind: Callable[[int], onnx.ModelProto], tmp_path: Path
) -> None:
    assert growth(kind, inspect, tmp_path, PARTS) < LARGEST_RATIO


@pytest.mark.parametrize("kind", large_graphs.KINDS.values(), ids=large_graphs.KINDS.keys())
def test_pruning_twice_the_graph_takes_twice_the_steps(kind: Callable[[int], onnx.ModelProto], tmp_path: Path) -> None:
    def cut(file: Path) -> None:
        prune(file, file.with_suffix(".cut.onnx"), ratio=0.5, overwrite=True)

    assert growth(kind, cut, tmp_path, PARTS) < LARGEST_RATIO


@pytest.mark.parametrize("criterion", ["l1", "group-l2", "fpgm"])
def test_what_a_criterion_looks_at_does_not_grow_with_the_other_groups(criterion: str, tmp_path: Path) -> None:
    def cut(file: Path) -> None:
        prune(file, file.with_suffix(".cut.onnx"), ratio=0.5, criterion=CRITERIA[criterion], overwrite=True)

    assert growth(large_graphs.pairs, cut, tmp_path, PARTS) < LARGEST_RATIO


def test_naming_open_axes_takes_steps_in_proportion_to_the_graph(tmp_path: Path) -> None:
    def opened(parts: int) -> onnx.ModelProto:
        model = large_graphs.chain(parts)
        model.graph.node[0].op_type = "Relu"  # all weights that tell of the input are behind the chain
        del model.graph.node[0].input[1:]
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
        return model

    def refused(file: Path) -> None:
        with pytest.raises(NetadaptError, match="dynamic axis"):
            refuse_open(onnx.load(file), {}, 1, None)

    assert growth(opened, refused, tmp_path, 10 * PARTS) < LARGEST_RATIO


def test_finding_the_states_of_groups_takes_steps_in_proportion_to_their_number(tmp_path: Path) -> None:
    assert growth(large_graphs.states, inspect, tmp_path, PARTS) < LARGEST_RATIO
    inspection = inspect(tmp_path / f"{PARTS}.onnx")
    assert all(isinstance(group, PinnedByStates) for group in inspection.groups)


def test_checking_functions_takes_steps_in_proportion_to_their_number(tmp_path: Path) -> None:
    def check(file: Path) -> None:
        require_valid(onnx.load(file))

    assert growth(large_graphs.KINDS["functions"], check, tmp_path, 10 * PARTS) < LARGEST_RATIO


def test_a_group_is_scored_by_its_own_layers_alone(tmp_path: Path) -> None:
    looked_at: list[tuple[str, int]] = []

    def counting(trace: Trace, group: Group) -> object:
        looked_at.append((group.name, len(trace.layers_of(group)) + len(trace.uses_of(group))))
        return CRITERIA["l2"](trace, group)

    onnx.save(large_graphs.pairs(PARTS), tmp_path / "m.onnx")
    prune(tmp_path / "m.onnx", tmp_path / "cut.onnx", ratio=0.5, criterion=counting)  # type: ignore[arg-type]
    assert len(looked_at) > PARTS
    assert max(places for _, places in looked_at) < 6


def test_ifs_within_ifs_take_steps_in_proportion_to_their_depth_squared_at_most(tmp_path: Path) -> None:
    """Each level holds all those below it, which ONNX's own inference walks through again; nothing doubles."""
    counts = {}
    for depth in (3, 6, 12, 24):
        onnx.save(large_graphs.nested_branches(depth), tmp_path / f"{depth}.onnx")
        counts[depth] = steps(lambda depth=depth: inspect(tmp_path / f"{depth}.onnx"))  # type: ignore[misc]
    assert counts[24] / counts[12] < 4.3
    result = inspect(tmp_path / "24.onnx")
    assert [group.prunable for group in result.groups] == [True, False]
