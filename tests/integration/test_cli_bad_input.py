"""Bad input ends with exit code 2, one line on stderr that says what is wrong, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models import Builder, plain, unprunable
from netadapt_onnx.cli import run

Folder = dict[str, bytes | None]


def listing(folder: Path) -> Folder:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refused(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str], *phrases: str, code: str | None = None
) -> None:
    """Run with and without --json: exit 2, one line that holds each of `told`, `folder` as it was."""
    before = listing(folder)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    for part in phrases:
        assert part in err, err
    assert run([*arguments, "--json"]) == 2
    out, again = capsys.readouterr()
    assert again == err
    error = json.loads(out)["error"]
    assert error["code"] not in ("internal", "system")
    assert code is None or error["code"] == code
    assert listing(folder) == before


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def data(path: Path, **arrays: object) -> Path:
    rng = np.random.default_rng(0)
    contents: dict[str, object] = {}
    for split, n in (("train", 64), ("val", 32)):
        contents[f"x_{split}"] = rng.standard_normal((n, 3, 16, 16)).astype(np.float32)
        contents[f"y_{split}"] = rng.integers(0, 10, n)
    contents |= arrays
    np.savez(path, **{k: np.asarray(v) for k, v in contents.items() if v is not None})
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(plain(), tmp_path / "model.onnx")


def not_onnx(path: Path) -> None:
    path.write_text("this is a README\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(plain().SerializeToString()[:-20_000])


def missing_external_data(path: Path) -> None:
    onnx.save_model(plain(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    (path.parent / "w.bin").unlink()


def unknown_initializer_type(path: Path) -> None:
    proto = plain()
    proto.graph.initializer[0].data_type = 99
    save(proto, path)


def unknown_input_type(path: Path) -> None:
    proto = plain()
    proto.graph.input[0].type.tensor_type.elem_type = 99
    save(proto, path)


def output_of_nothing(path: Path) -> None:
    proto = plain()
    proto.graph.output[0].name = "nowhere"
    save(proto, path)


def unloadable(path: Path) -> None:
    proto = plain()
    proto.graph.node[0].op_type = "NoSuchOp"
    save(proto, path)


def dynamic_axis(path: Path) -> None:
    b = Builder()
    b.conv(b.conv_bn_relu("image", 3, 8), 8, 4, name="last")
    save(b.model({"image": ("N", 3, "H", "W")}, {"last_out": ("N", 4, "H", "W")}), path)


UNREADABLE = [
    (not_onnx, "not an ONNX file", "not-onnx"),
    (empty, "no graph", "not-onnx"),
    (truncated, "truncated", "not-onnx"),
    (missing_external_data, "external data file 'w.bin'", "external-data"),
    (unknown_initializer_type, "unknown type 99", "not-onnx"),
    (unknown_input_type, "input 'image' has the unknown type 99", "not-onnx"),
    (output_of_nothing, "nothing produces the output 'nowhere'", "not-onnx"),
    (unloadable, "NoSuchOp", "unloadable"),
    (dynamic_axis, "--shape image=", "dynamic-axis"),
]
COMMANDS = {
    "inspect": ["inspect", "{model}"],
    "prune": ["prune", "{model}", "--ratio", "0.5", "-o", "{folder}/out.onnx"],
    "profile": ["profile", "{model}", "--table", "{folder}/t.jsonl"],
    "time": ["time", "{model}"],
    "evaluate": ["evaluate", "{model}", "--data", "{folder}/d.npz"],
    "finetune": ["finetune", "{model}", "--data", "{folder}/d.npz", "-o", "{folder}/out.onnx"],
    "adapt": ["adapt", "{model}", "--data", "{folder}/d.npz", "--budget", "macs=0.5x", "-o", "{folder}/run"],
}


def arguments(name: str, folder: Path) -> list[str]:
    return [a.format(model=folder / "model.onnx", folder=folder) for a in COMMANDS[name]]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("make", "phrase", "code"), UNREADABLE, ids=[m[0].__name__ for m in UNREADABLE])
def test_a_model_that_cannot_be_used(
    make: object, phrase: str, code: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    make(tmp_path / "model.onnx")
    data(tmp_path / "d.npz")
    refused(arguments(name, tmp_path), tmp_path, capsys, phrase, code=code)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(tmp_path / "d.npz")
    refused(arguments(name, tmp_path), tmp_path, capsys, "model.onnx: no such file", code="missing-file")


@pytest.mark.parametrize("name", ["prune", "profile", "adapt"])
def test_a_model_without_a_prunable_group(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(unprunable(), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    x = {f"x_{s}": rng.standard_normal((8, 3, 8, 8)).astype(np.float32) for s in ("train", "val")}
    np.savez(tmp_path / "d.npz", **x)
    refused(arguments(name, tmp_path), tmp_path, capsys, "no group of channels can be pruned", code="nothing-to-prune")


BAD_DATA = [
    ({"x_train": np.zeros((64, 3, 8, 8), np.float32)}, ["64x3x8x8", "3x16x16"]),
    ({"x_val": np.zeros((32, 16, 16, 3), np.float32)}, ["32x16x16x3", "3x16x16"]),
    ({"x_train": np.zeros((64, 3, 16, 16), np.float64)}, ["float64", "float32"]),
    ({"x_train": np.zeros((64, 3, 16, 16), np.uint8)}, ["uint8", "mean"]),
    ({"x_train": np.zeros((64, 3, 16, 16), np.uint8), "mean": ["a"], "std": [1.0]}, ["mean has type <U1"]),
    ({"x_train": np.zeros((64, 3, 16, 16), np.uint8), "mean": [0.5], "std": ["a"]}, ["std has type <U1"]),
    ({"y_val": np.full(32, 10)}, ["10", "classes"]),
    ({"y_val": np.full(32, -1)}, ["-1", "classes"]),
    ({"y_val": np.zeros((32, 10), np.int64)}, ["32x10", "Nx10"]),
    ({"y_val": np.zeros(31, np.int64)}, ["31", "32"]),
    ({"y_val": np.zeros(32)}, ["float64"]),
    ({"y_val": None}, ["y_val", "only training samples may do without"]),
    ({"x_val": np.full((32, 3, 16, 16), np.nan, np.float32)}, ["NaN", "x_val"]),
    ({"x_val": np.zeros((0, 3, 16, 16), np.float32), "y_val": np.zeros(0, np.int64)}, ["x_val"]),
]


@pytest.mark.parametrize("name", ["evaluate", "finetune", "adapt"])
@pytest.mark.parametrize(("change", "phrases"), BAD_DATA, ids=[" ".join(t) for _, t in BAD_DATA])
def test_data_that_do_not_fit(
    change: dict[str, object], phrases: list[str], name: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(model.parent / "d.npz", **change)
    refused(arguments(name, model.parent), model.parent, capsys, *phrases)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"x" * 100])
def test_data_that_cannot_be_read(content: bytes, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model.parent / "d.npz").write_bytes(content)
    refused(arguments("evaluate", model.parent), model.parent, capsys, "d.npz")


def test_missing_data(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(arguments("adapt", model.parent), model.parent, capsys, "d.npz: no such file", code="missing-file")


@pytest.mark.parametrize("name", ["prune", "finetune"])
def test_an_output_that_exists(name: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(model.parent / "d.npz")
    (model.parent / "out.onnx").write_text("precious")
    refused(arguments(name, model.parent), model.parent, capsys, "out.onnx exists", "--overwrite", code="exists")


@pytest.mark.parametrize("name", ["prune", "finetune"])
def test_an_output_in_a_folder_that_is_not_there(name: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(model.parent / "d.npz")
    command = [a.replace("out.onnx", "nowhere/out.onnx") for a in arguments(name, model.parent)]
    refused(command, model.parent, capsys, "nowhere: no such folder", code="missing-file")


def test_inputs_are_never_overwritten(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(model.parent / "d.npz")
    for name in ("prune", "finetune"):
        command = [a.replace("out.onnx", "model.onnx") for a in arguments(name, model.parent)]
        refused([*command, "--overwrite"], model.parent, capsys, "model.onnx", "input")


OVER_AN_INPUT = [
    "finetune {f}/model.onnx --data {f}/d.npz -o {f}/d.npz",
    "finetune {f}/model.onnx --data {f}/d.npz --teacher {f}/t.onnx -o {f}/t.onnx",
    "prune {f}/model.onnx --ratio 0.5 --reconstruct --data {f}/d.npz -o {f}/d.npz",
    "prune {f}/model.onnx --plan {f}/p.plan.toml -o {f}/p.onnx",
    "prune {f}/model.onnx --plan {f}/p.plan.toml -o {f}/p.plan.toml",
    "prune {f}/e.onnx --ratio 0.5 -o {f}/e.data",
    "prune {f}/e.onnx --ratio 0.5 -o {f}/e",
    "prune {f}/e.onnx --ratio 0.5 -o {f}/linked.data",
    "profile {f}/e.onnx --table {f}/e.data",
    "inspect {f}/model.onnx --table {f}/t.jsonl --write-plan {f}/t.jsonl",
    "export {f}/net.py:make -o {f}/net.py",
]


@pytest.mark.parametrize("line", OVER_AN_INPUT)
def test_no_file_that_is_read_is_overwritten(line: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model.parent
    data(folder / "d.npz")
    save(plain(), folder / "t.onnx")
    onnx.save_model(plain(), str(folder / "e.onnx"), save_as_external_data=True, location="e.data", size_threshold=0)
    (folder / "linked.data").symlink_to("e.data")
    for name in ("p.plan.toml", "t.jsonl", "net.py"):
        (folder / name).write_text("")
    command = [word.format(f=folder) for word in line.split()]
    refused([*command, "--overwrite"], folder, capsys, "is an input, which is never overwritten", code="exists")


@pytest.mark.parametrize("output", [".", "folder"])
@pytest.mark.parametrize("name", ["prune", "finetune", "profile", "export"])
def test_an_output_that_is_a_folder(
    name: str, output: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    data(model.parent / "d.npz")
    (model.parent / "folder").mkdir()
    (model.parent / "net.py").write_text("")
    exporting = ["export", "net.py:make", "-o", "out.onnx"]
    command = (
        exporting if name == "export" else [a.replace(f"{model.parent}/", "") for a in arguments(name, model.parent)]
    )
    command = [output if a in ("out.onnx", "t.jsonl") else a for a in command]
    for overwrite in ([], ["--overwrite"]):
        refused([*command, *overwrite], model.parent, capsys, "is a folder", code="exists")


@pytest.mark.parametrize(
    ("budget", "phrase"),
    [
        ("macs", "RESOURCE=VALUE"),
        ("macs=-1", "not an amount"),
        ("macs=0x", "not above zero"),
        ("speed=0.5x", "unknown resource 'speed'"),
        ("mac=0.5x", "did you mean macs?"),
        ("macs=12ms", "not an amount"),
        ("latency=12MB", "not an amount"),
    ],
)
def test_a_budget_that_is_none(budget: str, phrase: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(model.parent / "d.npz")
    command = [a.replace("macs=0.5x", budget) for a in arguments("adapt", model.parent)]
    refused(command, model.parent, capsys, phrase)


@pytest.mark.parametrize("name", ["adapt", "evaluate"])
def test_a_provider_that_is_none_although_nothing_is_timed(
    name: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(model.parent / "d.npz")
    more = ["--no-latency"] if name == "evaluate" else []
    command = [*arguments(name, model.parent), *more, "--ep", "bogus"]
    refused(command, model.parent, capsys, "no execution provider 'bogus'", code="unknown-provider")
    if name == "adapt":
        refused([*command, "--dry-run"], model.parent, capsys, "no execution provider 'bogus'")


@pytest.mark.parametrize("code", ["import sys\nsys.exit(3)\n", "import sys\ndef make(): sys.exit()\n"])
def test_a_factory_that_exits(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(code)
    command = ["export", str(tmp_path / "net.py") + ":make", "-o", str(tmp_path / "out.onnx")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.dont_write_bytecode", True)
        refused(command, tmp_path, capsys, "SystemExit", code="factory")


def test_a_shape_that_does_not_fit(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shape, phrase in (("image=1x3x8x8", "?x3x16x16"), ("img=1x3x16x16", "its inputs are image")):
        refused(["inspect", str(model), "--shape", shape], model.parent, capsys, phrase)


def test_a_group_name_that_is_nearly_right(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["prune", str(model), "--keep", "conv=4"], model.parent, capsys, "no group 'conv'", "did you mean conv")


def test_a_dynamic_axis_is_no_obstacle_once_its_shape_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamic_axis(tmp_path / "model.onnx")
    assert run(["inspect", str(tmp_path / "model.onnx"), "--shape", "image=1x3x16x16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["macs"] == (3 * 8 + 8 * 4) * 9 * 256


def test_strings_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["out"])],
        "g",
        [helper.make_tensor_value_info("words", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("out", TensorProto.STRING, [1])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(proto, tmp_path / "model.onnx")
    command = ["prune", str(tmp_path / "model.onnx"), "--ratio", "0.5"]
    refused(command, tmp_path, capsys, "no group of channels can be pruned")


TASKS = [
    (["--task", "segmentation"], {}, ["--task segmentation does not fit", "'logits' Nx10", "classification"]),
    (["--task", "classification"], {"y_train": None, "y_val": None}, ["--task classification needs labels"]),
    (["--task", "regression"], {}, ["y_train of shape 64", "for --task regression", "what fits: classification"]),
    (["--resize", "16"], {}, ["--resize", "arrays"]),
    (["--crop", "16y3"], {}, ["'16y3' is not one number or HEIGHTxWIDTH"]),
    (["--mean", "dark"], {}, ["'dark' is not numbers"]),
]


@pytest.mark.parametrize("name", ["evaluate", "finetune", "adapt"])
@pytest.mark.parametrize(("options", "change", "phrases"), TASKS, ids=[" ".join(o) for o, _, _ in TASKS])
def test_tasks_and_pictures_that_do_not_fit(
    options: list[str],
    change: dict[str, object],
    phrases: list[str],
    name: str,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data(model.parent / "d.npz", **change)
    refused([*arguments(name, model.parent), *options], model.parent, capsys, *phrases)


def test_a_loader_that_is_none(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model.parent / "own.py").write_text("def data(): return 3\n")
    command = ["finetune", str(model), "--data", f"{model.parent / 'own.py'}:data", "-o", str(model.parent / "o.onnx")]
    refused(command, model.parent, capsys, "own.py:data returned int", "return (train, val)", code="factory")


def test_how_pictures_are_read_needs_data(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", str(model), "--ratio", "0.5", "--mean", "0.5"]
    refused(command, model.parent, capsys, "--mean says how --data is read, which is missing")
