"""What a stranger's model may take while its shapes are told: rounds of loops, memory, labels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from large_graphs import between, info, node
from netadapt_onnx.api.inspect import Cautioned, inspect
from netadapt_onnx.api.prune import prune
from netadapt_onnx.data.find_batch_layout import find_layout
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph import folded_model, loop_limits, runtime, shape_inference
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.loop_limits import MOST_TRIPS, limit_trips
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.graph.shape_inference import SMALL_BYTES

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
MILLIARD = 10**9


@contextmanager
def limited_memory(size_bytes: int) -> Iterator[None]:
    """Within it, allocations of more than this fail at once instead of filling the machine; where a system can.

    It comes on top of what the process has by now: the tests before this one left libraries and their threads.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status")
    held = re.search(r"VmData:\s*(\d+) kB", status.read_text()) if status.exists() else None
    most = size_bytes + (1024 * int(held[1]) if held else 0)
    resource.setrlimit(resource.RLIMIT_DATA, (most if before[1] < 0 else min(most, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def number(name: str, value: int | Sequence[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def with_side_branch(
    parts: Sequence[onnx.NodeProto], last: str, constants: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A network of two convs with something beside it that ends in `last`, an output of unknown shape."""
    one = numpy_helper.from_array(np.float32([1]), "one")
    model = between(parts, "t0", [*constants, one])
    model.graph.output.append(info(last, FLOAT, None))
    return model


def loop_body(inner: Sequence[onnx.NodeProto], carried: str = "b", scanned: Sequence[str] = ()) -> onnx.GraphProto:
    return helper.make_graph(
        [node("Identity", ["go"], ["on"]), *inner],
        "body",
        [info("i", INT64, []), info("go", BOOL, []), info("a", FLOAT, None)],
        [info("on", BOOL, []), info(carried, FLOAT, None), *(info(name, FLOAT, None) for name in scanned)],
    )


def endless_loop(start: str = "one") -> onnx.ModelProto:
    body = loop_body([node("Relu", ["a"], ["b"])])
    return with_side_branch(
        [node("Loop", ["trips", "", start], ["z"], name="spin", body=body)], "z", [number("trips", MILLIARD)]
    )


def doubling() -> onnx.ModelProto:
    body = loop_body([node("Concat", ["a", "a"], ["b"], axis=0)])
    return with_side_branch(
        [node("Loop", ["trips", "", "one"], ["z"], name="spin", body=body)], "z", [number("trips", 100)]
    )


def collecting() -> onnx.ModelProto:
    """6 GB of scan outputs."""
    body = loop_body([node("Relu", ["a"], ["b"]), node("ConstantOfShape", ["much"], ["c"])], scanned=["c"])
    parts = [node("Loop", ["trips", "", "one"], ["carried", "z"], name="spin", body=body)]
    return with_side_branch(parts, "z", [number("trips", 1000), number("much", [1_500_000])])


def loops_in_loops() -> onnx.ModelProto:
    body = loop_body([node("Relu", ["a"], ["b"])])
    for k in range(5):
        names = {"i": f"i{k}", "go": f"go{k}", "a": f"a{k}", "b": f"b{k}", "on": f"on{k}"}
        inner = node("Loop", ["trips", "", names["a"]], [names["b"]], name=f"inner{k}", body=body)
        body = helper.make_graph(
            [node("Identity", [names["go"]], [names["on"]]), inner],
            f"body{k}",
            [info(names["i"], INT64, []), info(names["go"], BOOL, []), info(names["a"], FLOAT, None)],
            [info(names["on"], BOOL, []), info(names["b"], FLOAT, None)],
        )
    return with_side_branch(
        [node("Loop", ["trips", "", "one"], ["z"], name="spin", body=body)], "z", [number("trips", 500)]
    )


def empty_scan() -> onnx.ModelProto:
    """A Scan over a milliard of slices that hold nothing."""
    body = helper.make_graph(
        [node("Relu", ["a"], ["b"]), node("Identity", ["slice"], ["kept"])],
        "body",
        [info("a", FLOAT, [1]), info("slice", FLOAT, [0])],
        [info("b", FLOAT, [1]), info("kept", FLOAT, None)],
    )
    parts = [node("ConstantOfShape", ["size"], ["slices"])]
    parts.append(node("Scan", ["one", "slices"], ["z", "all"], name="spin", num_scan_inputs=1, body=body))
    return with_side_branch(parts, "z", [number("size", [MILLIARD, 0])])


@pytest.mark.parametrize("build", [endless_loop, doubling, collecting, loops_in_loops, empty_scan])
def test_a_loop_is_run_up_to_a_limit_and_named_where_that_is_not_its_end(
    build: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_limits, "MOST_TRIPS", 2000)  # the same limit, sooner
    onnx.save(build(), tmp_path / "m.onnx")  # type: ignore[operator]
    result = inspect(tmp_path / "m.onnx")
    assert isinstance(result, Cautioned)
    assert any("'spin') was not run to its end: " in note for note in result.notes)
    assert [group.prunable for group in result.groups] == [True, False]
    cut = prune(tmp_path / "m.onnx", tmp_path / "cut.onnx", ratio=0.5)
    assert cut.groups["first"] == (8, 4)
    assert "'spin') was not run to its end: " in cut.note
    session(tmp_path / "cut.onnx")
    with pytest.raises(NetadaptError, match=r"cannot be verified: .*'spin'.* was not run to its end"):
        prune(tmp_path / "m.onnx", ratio=0.5)


def test_a_loop_that_goes_on_from_an_input_pins_what_it_reads_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_limits, "MOST_TRIPS", 2000)
    onnx.save(endless_loop("y"), tmp_path / "m.onnx")
    result = inspect(tmp_path / "m.onnx")
    assert isinstance(result, Cautioned)
    assert "Loop ('spin') was not run to its end: a loop goes round more than 2000 times" in result.notes


def test_the_memory_of_runs_for_shapes_is_limited_and_given_back() -> None:
    for _ in range(3):
        folded = fold(normalised(doubling()))
        assert folded.unfinished == (
            f"Loop ('spin') was not run to its end: more than {runtime.BOUNDED_BYTES >> 20} MiB are needed",
        )


def test_a_loop_within_its_limit_is_not_changed_by_it() -> None:
    body = loop_body([node("Add", ["a", "a"], ["b"])], scanned=["b"])
    model = with_side_branch(
        [node("Loop", ["trips", "", "one"], ["end", "z"], name="spin", body=body)], "z", [number("trips", 9)]
    )
    folded = fold(normalised(model))
    assert folded.unfinished == ()
    assert folded.shapes["z"] == (9, 1)
    values = {t.name: numpy_helper.to_array(t) for t in folded.proto.graph.initializer}
    np.testing.assert_array_equal(values["z"][:, 0], 2.0 ** np.arange(1, 10))


@pytest.mark.parametrize(("trips", "ends"), [(MOST_TRIPS, True), (MOST_TRIPS + 1, False)])
def test_the_limit_of_rounds_is_exact(trips: int, ends: bool) -> None:
    body = loop_body([node("Relu", ["a"], ["b"])])
    loop = node("Loop", ["trips", "", "one"], ["z"], body=body)
    graph = helper.make_graph(
        [loop],
        "g",
        [],
        [info("z", FLOAT, None)],
        [number("trips", trips), numpy_helper.from_array(np.float32(1), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if ends:
        assert run(session(model, optimise=False), {})["z"] == 1
        return
    with pytest.raises(NetadaptError, match=f"a loop goes round more than {MOST_TRIPS} times") as error:
        run(session(model, optimise=False), {})
    assert error.value.code == "too-large"


def test_models_without_loops_get_no_limit() -> None:
    model = between([node("Relu", ["t0"], ["t"])], "t")
    before = model.SerializeToString()
    limit_trips(model)
    assert model.SerializeToString() == before


BOMBS = {
    "constant": ([node("ConstantOfShape", ["n"], ["z"])], [number("n", [10**5, 10**5])]),
    "beyond_64_bits": ([node("ConstantOfShape", ["n"], ["z"])], [number("n", [2**31, 2**31])]),
    "expanded": ([node("Expand", ["y", "n"], ["z"])], [number("n", [10**4, 10**4, 4, 4, 4])]),
    "tiled": ([node("Tile", ["t0", "n"], ["z"])], [number("n", [1, MILLIARD, 1, 1])]),
    "padded": ([node("Pad", ["t0", "n"], ["z"])], [number("n", [0, 0, 0, 0, 0, MILLIARD, 0, 0])]),
    "resized": (
        [node("Resize", ["t0", "", "n"], ["z"])],
        [numpy_helper.from_array(np.float32([1, 1e6, 1e4, 1]), "n")],
    ),
    "ranged": (
        [node("Range", ["from", "to", "by"], ["z"])],
        [numpy_helper.from_array(np.float32(v), k) for k, v in {"from": 0, "to": 1e10, "by": 1}.items()],
    ),
    "one_hot": (
        [node("OneHot", ["which", "n", "values"], ["z"])],
        [number("which", range(100)), number("n", MILLIARD), numpy_helper.from_array(np.float32([0, 1]), "values")],
    ),
    "weights": (
        [node("ConstantOfShape", ["n"], ["w"]), node("Conv", ["x", "w"], ["z"], name="huge")],
        [number("n", [MILLIARD, 4, 1, 1])],
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_be_huge_is_never_made(name: str, tmp_path: Path) -> None:
    parts, constants = BOMBS[name]
    onnx.save(with_side_branch(parts, "z", constants), tmp_path / "m.onnx")
    with limited_memory(6 * 10**9):
        result = inspect(tmp_path / "m.onnx")
    assert result.model.memory_bytes > 10**9
    assert {"first", "final"} <= {group.name for group in result.groups}


def test_thousands_of_constants_are_not_all_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_inference, "LARGEST_TOTAL_BYTES", 50_000_000)
    count, side = 40, 1500  # 9 MB each, which one alone may have
    parts = [node("ConstantOfShape", ["n"], [f"c{i}"]) for i in range(count)]
    model = with_side_branch(
        [*parts, node("Max", [f"c{i}" for i in range(count)], ["z"])], "z", [number("n", [side, side])]
    )
    folded = fold(normalised(model), in_place=True)
    large = [t for t in folded.proto.graph.initializer if np.prod(t.dims) * 4 > SMALL_BYTES]
    assert sum(int(np.prod(t.dims)) * 4 for t in large) <= 50_000_000
    assert folded.shapes["z"] == (side, side)


def nested_file(levels: int) -> bytes:
    """An If in a branch of an If, and so on: written by hand, since protobuf does not copy so deep a message."""

    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    graph = b""
    for _ in range(levels):
        attribute = field(1, b"then_branch") + field(6, graph) + varint(20 << 3) + varint(5)
        graph = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, attribute))
        graph += field(2, b"g") + field(12, field(1, b"y"))
    return varint(1 << 3) + varint(9) + field(7, graph) + field(8, varint(2 << 3) + varint(17))


@pytest.mark.parametrize("levels", [40, 1000])
def test_graphs_nested_deeper_than_can_be_read_are_one_clear_line(levels: int, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(nested_file(levels))
    with pytest.raises(NetadaptError, match=r"m\.onnx holds graphs within graphs|is not an ONNX file") as error:
        inspect(tmp_path / "m.onnx")
    assert error.value.code == "not-onnx"


def normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    normalise(model)
    return model


def test_texts_that_double_are_never_made(tmp_path: Path) -> None:
    names = ["text", *(f"text{i}" for i in range(50))]
    parts = [node("StringConcat", [a, a], [b]) for a, b in itertools.pairwise(names)]
    parts += [node("Equal", [names[-1], names[-1]], ["same"]), node("Cast", ["same"], ["z"], to=FLOAT)]
    model = with_side_branch(parts, "z", [helper.make_tensor("text", TensorProto.STRING, [1], [b"12345678"])])
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "m.onnx")
    with limited_memory(6 * 10**9):
        assert {"first", "final"} <= {group.name for group in inspect(tmp_path / "m.onnx").groups}


def test_samples_too_large_for_this_machine_are_not_drawn() -> None:
    model = between([node("Relu", ["t0"], ["t"])], "t")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = MILLIARD
    with pytest.raises(NetadaptError, match="is too large to run; give smaller inputs") as error:
        find_layout(fold(normalised(model)))
    assert error.value.code == "too-large"


@pytest.mark.parametrize("count", [30, 40, 70])
def test_tensors_of_more_axes_than_arrays_have_are_no_bug(count: int, tmp_path: Path) -> None:
    parts = [node("Unsqueeze", ["t0", "n"], ["t1"]), node("Squeeze", ["t1", "n"], ["t2"])]
    onnx.save(between(parts, "t2", [number("n", range(count))]), tmp_path / "m.onnx")
    reasons = {group.name: group.reason for group in inspect(tmp_path / "m.onnx").groups}
    assert reasons["first"] == f"'t1' has {4 + count} axes ('t1')"


def test_a_proof_that_takes_more_than_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folded_model, "memory_bytes", lambda: 100)
    onnx.save(between([node("Relu", ["t0"], ["t"])], "t"), tmp_path / "m.onnx")
    with pytest.raises(NetadaptError, match="cannot be verified: its tensors take") as error:
        prune(tmp_path / "m.onnx", ratio=0.5)
    assert error.value.code == "unverifiable"
