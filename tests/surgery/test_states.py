"""Groups that states and caches pin: the options that free them are named, all that have to be given together."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import STATES, Builder, stateful_lstm
from netadapt_onnx.cli import run
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import resize_io_of
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.states import states
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

HEADS, DIM, PAST = 3, 4, 6
WIDTH = HEADS * DIM


def stacked() -> onnx.ModelProto:
    """Two LSTMs one after the other whose states are halves of one tensor, as DTLN has them."""
    b = Builder()
    half = {k: b.constant(f"from{k}", np.array([k])) for k in (0, 1, 2)}
    one = b.constant("axis", np.array([0]))
    x, new = "x", []
    for i in range(2):
        size = 5 if i == 0 else 8
        weights = [b.random(f"lstm{i}.W", (1, 32, size), size), b.random(f"lstm{i}.R", (1, 32, 8), 8)]
        state = b.node("Slice", ["state", half[i], half[i + 1], one])
        results = [f"y{i}", f"h{i}"]
        b.nodes.append(
            onnx.helper.make_node("LSTM", [x, *weights, "", "", state], results, name=f"lstm{i}", hidden_size=8)
        )
        x = b.node("Squeeze", [results[0], b.constant(f"directions{i}", np.array([1]))])
        new.append(results[1])
    b.node("Concat", new, output="new_state", axis=0)
    b.node("MatMul", [x, b.random("out.weight", (8, 4), 8)], "out")
    return b.model({"x": (3, 1, 5), "state": (2, 1, 8)}, {"out_out": (3, 1, 4), "new_state": (2, 1, 8)})


def cached(tokens: int = 1) -> onnx.ModelProto:
    """A step of attention that reads past keys and values and returns them with the new ones."""
    b = Builder()
    q, k, v = (b.node("MatMul", ["x", b.random(f"{n}.weight", (WIDTH, WIDTH), WIDTH)], n) for n in ("q", "k", "v"))
    shape = b.constant("split", np.array([1, tokens, HEADS, DIM]))
    q, k, v = (b.node("Transpose", [b.node("Reshape", [t, shape])], perm=[0, 2, 1, 3]) for t in (q, k, v))
    k = b.node("Concat", ["past_k", k], output="present_k", axis=2)
    v = b.node("Concat", ["past_v", v], output="present_v", axis=2)
    scores = b.node("Softmax", [b.node("MatMul", [q, b.node("Transpose", [k], perm=[0, 1, 3, 2])])], axis=-1)
    mixed = b.node("Transpose", [b.node("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    flat = b.node("Reshape", [mixed, b.constant("join", np.array([1, tokens, WIDTH]))])
    b.node("MatMul", [flat, b.random("o.weight", (WIDTH, WIDTH), WIDTH)], "o")
    past, present = (1, HEADS, PAST, DIM), (1, HEADS, PAST + tokens, DIM)
    inputs = {"x": (1, tokens, WIDTH), "past_k": past, "past_v": past}
    return b.model(inputs, {"o_out": (1, tokens, WIDTH), "present_k": present, "present_v": present})


def denoiser() -> onnx.ModelProto:
    """What is taken from a picture has its channels, by more than one input: no state."""
    b = Builder()
    noise = b.conv(b.relu(b.conv("x", 3, 8)), 8, 3)
    b.node("Sub", ["x", b.node("Mul", [noise, "sigma"])], output="clean")
    return b.model({"x": (1, 3, 8, 8), "sigma": (1, 1, 1, 1)}, {"clean": (1, 3, 8, 8)})


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, set[str]]]] = {
    "lstm": (stateful_lstm, {"lstm": set(STATES)}),
    "one tensor": (stacked, {"lstm0": {"state", "new_state"}}),
    "cache": (cached, {"q": {"past_k", "present_k", "past_v", "present_v"}}),
    "cache, two tokens": (lambda: cached(2), {"q": {"past_k", "present_k", "past_v", "present_v"}}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_has_to_be_named_together_is_named(name: str) -> None:
    build, expected = CASES[name]
    traced = trace_model(build())
    freed = {group: set(names) for group, names in states(traced).items()}
    assert expected.items() <= freed.items(), freed


@pytest.mark.parametrize("name", CASES)
def test_the_command_that_frees_states_works_as_it_is_printed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, expected = CASES[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(build().SerializeToString())
    assert run(["prune", str(path), "--ratio", "0.5"]) == 2
    error = capsys.readouterr().err
    typed = shlex.split(error[error.index("netadapt-onnx prune") :])
    assert set(typed[typed.index("--resize-io") :]) >= set.union(*expected.values())
    assert run(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shlex.split(shown[shown.index("next: netadapt-onnx") :])[1:] == typed
    assert run([*typed[1:], "--verify", "-o", str(tmp_path / "small.onnx"), "--json"]) == 0
    cut = json.loads(capsys.readouterr().out)
    assert cut["verify"]["exact"] and not cut["verify"]["inexact_groups"]
    assert cut["after"]["params"] < cut["before"]["params"]


def test_dimensions_of_all_heads_go_from_a_cache_as_well() -> None:
    proto = cached()
    normalise(proto)
    names = ("past_k", "present_k", "past_v", "present_v")
    traced = trace(fold(proto), Choices("dims", names))
    groups = {g.name: (g.channels, g.step) for g in traced.prunable}
    assert groups == {"q": (WIDTH, HEADS), "v": (WIDTH, HEADS)}
    keep = select(traced, {"q": 2 * HEADS, "v": HEADS})
    pruned = resize(traced, keep)
    assert verify(traced, keep, pruned=pruned).exact
    assert fold(pruned).shapes["past_k"] == (1, HEADS, PAST, 2)


def test_json_and_explanations_name_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(stateful_lstm().SerializeToString())
    assert run(["inspect", str(path), "--json"]) == 0
    groups = {group["name"]: group for group in json.loads(capsys.readouterr().out)["groups"]}
    assert set(groups["lstm"]["resize_io"]) == set(STATES)
    assert "resize_io" not in groups["out"]
    assert run(["inspect", str(path), "--explain", "lstm"]) == 0
    explained = capsys.readouterr().out
    assert all(f"--resize-io {name}" in explained for name in STATES)


def test_a_count_for_a_pinned_group_says_what_frees_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside another group that can be pruned."""
    proto = stateful_lstm()
    weight = next(t for t in proto.graph.initializer if t.name == "out.weight")
    more = onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "more.weight")
    proto.graph.initializer.append(more)
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["out_out", "more.weight"], ["more"], name="more"))
    assert list(weight.dims) == [8, 4]
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, (7, 2, 3)))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert run(["prune", str(path), "--keep", "lstm=4"]) == 2
    error = capsys.readouterr().err
    options = shlex.split(error[error.index("--resize-io") :])
    assert run(["prune", str(path), "--keep", "lstm=4", *options]) == 0


def test_a_picture_that_its_noise_is_taken_from_is_no_state() -> None:
    """`sigma` scales all channels alike; with `x` every channel of the result would change."""
    traced = trace_model(denoiser())
    assert not traced.group("conv2").prunable
    assert states(traced).get("conv2") is None or "sigma" not in states(traced)["conv2"]


def test_a_model_with_one_input_is_not_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    b.conv("x", 3, 8)
    traced = trace_model(b.model({"x": (1, 3, 8, 8)}, {"conv1_out": (1, 8, 8, 8)}))
    monkeypatch.setattr("netadapt_onnx.surgery.states.trace", None)
    assert states(traced) == {}
    assert resize_io_of(traced.groups[0]) == ()
