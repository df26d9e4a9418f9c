"""What a file leaves open of its inputs is named all at once, with options that work as they are printed."""

from __future__ import annotations

import shlex
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models import Builder
from netadapt_onnx.cli import run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.usual_sizes import TRIALS, trials

Axes = tuple[int | str | None, ...]
ONE_VALUE = TensorProto.FLOAT


def model(
    b: Builder, inputs: dict[str, Axes | None], output: str, kinds: dict[str, int] | None = None
) -> onnx.ModelProto:
    """Inputs of any types and open axes, an output of any shape."""
    values = [helper.make_tensor_value_info(n, (kinds or {}).get(n, ONE_VALUE), axes) for n, axes in inputs.items()]
    outputs = [helper.make_tensor_value_info(output, ONE_VALUE, None)]
    graph = helper.make_graph(b.nodes, "open", values, outputs, b.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=8)


def embedded(b: Builder, ids: str, width: int = 8) -> str:
    return b.node("Gather", [b.random("table", (50, width)), ids])


def two_layers(b: Builder, x: str, width: int) -> str:
    hidden = b.node("MatMul", [x, b.random("w1", (width, 12), width)], "first")
    return b.node("MatMul", [b.relu(hidden), b.random("w2", (12, 4), 12)], "second")


def tokens() -> onnx.ModelProto:
    b = Builder()
    y = two_layers(b, embedded(b, "ids"), 8)
    return model(b, {"ids": ("batch", "seq")}, y, {"ids": TensorProto.INT64})


def of_several_ranks() -> onnx.ModelProto:
    """Token ids, positions with the same length, a mask one longer than the past, frames of 20 features."""
    b = Builder()
    x = b.node("Add", [embedded(b, "ids"), b.node("Gather", [b.random("places", (600, 8)), "positions"])])
    heard = b.node("ReduceMean", [b.node("MatMul", ["audio", b.random("hear", (20, 8), 20)])], axes=[1])
    seen = b.node("ReduceMean", ["mask"], axes=[1])
    y = two_layers(
        b, b.node("Add", [b.node("Add", [x, heard]), b.node("Unsqueeze", [seen, b.constant("two", [2])])]), 8
    )
    inputs: dict[str, Axes | None] = {
        "ids": ("batch", "seq"),
        "positions": ("seq",),
        "mask": ("batch", "past_seq + 1"),
        "audio": (1, "T", 20),
    }
    return model(b, inputs, y, {"ids": TensorProto.INT64, "positions": TensorProto.INT64})


def picture(
    side: int, channels: int | str = 3, names: tuple[str | None, ...] = ("h", "w"), name: str = "x"
) -> onnx.ModelProto:
    """Two convolutions with strides, and a Gemm that reads what they leave of pictures of one side."""
    b = Builder()
    x = b.conv(b.relu(b.conv(name, 3, 8, stride=2)), 8, 6, stride=2)
    b.node("Gemm", [b.node("Flatten", [x]), b.random("fc", (6 * (side // 4) ** 2, 10))], "fc")
    return model(b, {name: ("N", channels, *names)}, "fc_out")


def reshaped() -> onnx.ModelProto:
    """A signal that has to be of 7 times 11 values."""
    b = Builder()
    x = b.node("Reshape", ["x", b.constant("target", np.array([-1, 7, 11]))])
    return model(b, {"x": ("N", "n")}, two_layers(b, x, 11))


def patches(tokens: int) -> onnx.ModelProto:
    """Patches of 16 pixels and as many positions."""
    b = Builder()
    x = b.node("Conv", ["x", b.random("patch", (8, 3, 16, 16), 768)], "patch", strides=[16, 16])
    x = b.node("Transpose", [b.node("Reshape", [x, b.constant("flat", np.array([0, 8, -1]))])], perm=[0, 2, 1])
    return model(
        b, {"x": ("N", 3, "height", "width")}, two_layers(b, b.node("Add", [x, b.random("places", (1, tokens, 8))]), 8)
    )


def states() -> onnx.ModelProto:
    """An LSTM whose states' middle axis is the batch."""
    b = Builder()
    weights = [b.random("lstm.W", (1, 32, 5), 5), b.random("lstm.R", (1, 32, 8), 8)]
    node = helper.make_node("LSTM", ["x", *weights, "", "", "h", "c"], ["y", "hn", "cn"], name="lstm", hidden_size=8)
    b.nodes.append(node)
    return model(b, {"x": (None, None, None), "h": (1, None, 8), "c": (1, None, 8)}, "y")


def spoken() -> onnx.ModelProto:
    """A signal that is reflected by 60 at its ends and convolved with 150 taps: neither inference nor 16 values do."""
    b = Builder()
    x = b.node("Pad", ["x", b.constant("pads", np.array([0, 0, 60, 0, 0, 60]))], mode="reflect")
    return model(b, {"x": (1, 1, "samples")}, b.node("Conv", [x, b.random("taps", (4, 1, 150), 150)], "conv"))


def shapeless() -> onnx.ModelProto:
    b = Builder()
    return model(b, {"x": None}, b.conv(b.relu(b.conv("x", 3, 8)), 8, 4))


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "tokens": (tokens, "--shape ids=1x16"),
    "ranks": (of_several_ranks, "--shape ids=1x16 --shape mask=1x17 --shape audio=1x16x20 --shape positions=16"),
    "usual side": (lambda: picture(224), "--shape x=1x3x224x224"),
    "settled side": (lambda: picture(40), "--shape x=1x3x40x40"),
    "settled channels": (lambda: picture(32, "C", ("unk__1", "unk__2")), "--shape x=1x3x32x32"),
    "nameless": (lambda: picture(64, 3, (None, None)), "--shape x=1x3x64x64"),
    "quoted": (lambda: picture(28, name="my input:0;"), "--shape 'my input:0;=1x3x28x28'"),
    "reshape": (reshaped, "--shape x=1x77"),
    "positions": (lambda: patches(25), "--shape x=1x3x80x80"),
    "states": (states, "--shape x=1x16x5 --shape h=1x16x8 --shape c=1x16x8"),
    "longer": (spoken, "--shape x=1x1x128"),
    "shapeless": (shapeless, "--shape x=1x3x224x224"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_command_that_is_proposed_works_as_it_is_printed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, expected = CASES[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(build().SerializeToString())
    assert run(["inspect", str(path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and expected in line, line
    typed = shlex.split(line[line.index("--shape") :])
    assert run(["inspect", str(path), *typed]) == 0
    assert run(["prune", str(path), "--ratio", "0", *typed]) == 0  # which runs it


def test_every_input_is_named_with_its_own_axes() -> None:
    proto = of_several_ranks()
    normalise(proto)
    with pytest.raises(NetadaptError) as caught:
        fold(proto)
    assert caught.value.code == "dynamic-axis"
    for text in ("'ids' [batch, seq]", "'audio' [1, T, 20]", "'mask' [batch, past_seq + 1]"):
        assert text in caught.value.message


def test_what_is_given_stays_in_the_command_and_settles_axes_of_the_same_name() -> None:
    proto = of_several_ranks()
    normalise(proto)
    with pytest.raises(NetadaptError) as caught:
        fold(proto, {"ids": (1, 9), "mask": (1, 4)})
    assert (
        "give their shapes with --shape ids=1x9 --shape mask=1x4 --shape audio=1x16x20 --shape positions=9"
        in caught.value.hint
    )


def test_where_no_size_fits_the_user_is_asked_for_numbers() -> None:
    """Two thirds of a length can be had, but nobody can guess 3 * 997."""
    b = Builder()
    x = b.node(
        "Reshape",
        ["x", b.node("Concat", [b.constant("rows", np.array([1, 997])), b.constant("open", np.array([-1]))], axis=0)],
    )
    y = b.node("Concat", [x, b.random("rest", (1, 996, 3))], axis=2)
    proto = model(b, {"x": (1, "n"), "scale": ("N", 4)}, b.node("Mul", [y, b.node("ReduceMean", ["scale"])]))
    normalise(proto)
    with pytest.raises(NetadaptError, match=r"give its shape with --shape x=1x\?, a number for each \?$"):
        fold(proto)


def test_with_data_the_sizes_of_the_samples_are_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = Builder()
    x = b.conv(b.relu(b.conv("x", 3, 8)), 8, 5)
    y = b.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
    path, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    path.write_bytes(model(b, {"x": ("N", 3, "h", "w")}, y).SerializeToString())
    rng = np.random.default_rng(0)
    np.savez(
        data, x_train=rng.normal(size=(8, 3, 12, 10)).astype(np.float32), x_val=np.zeros((8, 3, 12, 10), np.float32)
    )
    for command in (
        ["evaluate", str(path), str(path), "--data", str(data), "--no-latency"],
        ["prune", str(path), "--ratio", "0.5", "--reconstruct", "--data", str(data)],
    ):
        assert run(command) == 2
        error = capsys.readouterr().err
        options = shlex.split(error[error.index("--shape") :])
        assert options == ["--shape", "x=1x3x12x10"]
        assert run([*command, *options]) == 0
        capsys.readouterr()


def test_gating_proposes_without_trying() -> None:
    proto = tokens()
    normalise(proto)
    with pytest.raises(NetadaptError, match=r"--shape ids=1x\?"):
        fold(proto, loops=False)


def test_the_case_that_failed_names_its_own_axes(real_cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(real_cases / "open_axes_of_other_ranks.onnx")]) == 2
    assert "'ids' [batch, seq]" in capsys.readouterr().err


def test_a_file_of_many_numbers_makes_no_more_sizes_to_try() -> None:
    numbers = helper.make_tensor("numbers", TensorProto.INT64, [3000], range(2, 3002))
    node = helper.make_node("Reshape", ["x", "numbers"], ["y"])
    graph = helper.make_graph([node], "g", [], [], [numbers])
    tracemalloc.start()
    sizes = list(trials(["side", "length", "channels"], graph, 1))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sizes) == TRIALS
    assert peak_bytes < 10_000_000


def test_a_state_is_proposed_in_the_batch_of_what_it_goes_with() -> None:
    b = Builder()
    first = b.node("Transpose", ["x"], perm=[1, 0, 2])
    weights = [b.random("w", (1, 16, 6), 6), b.random("r", (1, 16, 4), 4)]
    b.nodes.append(helper.make_node("LSTM", [first, *weights, "", "", "h", "c"], ["y"], hidden_size=4))
    proto = model(b, {"x": ("n", 5, 6), "h": (1, "n", 4), "c": (1, "n", 4)}, "y")
    with pytest.raises(NetadaptError) as raised:
        fold(proto, {})
    assert "--shape h=1x1x4 --shape c=1x1x4 --shape x=1x5x6" in (raised.value.hint or "")
