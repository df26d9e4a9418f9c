"""External data: no place that the format has is overlooked, and no file is opened that a model may not name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from onnx import TensorProto, numpy_helper

import models
from netadapt_onnx import cli, external_data
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.external_data import external_tensors, tensors
from netadapt_onnx.gating.facts import read_facts
from netadapt_onnx.model import load
from netadapt_onnx.onnx_file import read
from netadapt_onnx.profilers.packing import packed, unpacked_graph
from netadapt_onnx.runtime import run, session

VALUES = np.arange(6, dtype=np.float32)
Place = tuple[Any, ...]
SECRET = b"token = ghp_1234567890abcdef"
CONFIG = ".git/config"


def places(message: Any = onnx.ModelProto.DESCRIPTOR, above: Place = ()) -> Iterator[Place]:
    """Every way through fields from a model to a tensor; no type of message more than twice on the way."""
    for field in message.fields:
        kind = field.message_type
        if kind is None:
            continue
        if kind is TensorProto.DESCRIPTOR:
            yield (*above, field)
        elif sum(passed.message_type is kind for passed in above) < 2 - (kind is onnx.GraphProto.DESCRIPTOR):
            yield from places(kind, (*above, field))


def spelled(place: Place) -> str:
    return ".".join(field.name for field in place)


PLACES = list(places())
WEIGHTS = "graph.initializer"


def put(message: Any, place: Place) -> Any:
    """A new tensor in a place of a message."""
    for field in place:
        inner = getattr(message, field.name)
        message = inner.add() if field.is_repeated else inner
    return message


def naming(place: Place, location: str, **entries: str) -> onnx.ModelProto:
    """A model of one convolution, with a tensor more whose data are said to be at `location`."""
    b = models.Builder()
    b.conv("x", 3, 4, name="conv")
    proto = b.model({"x": (1, 3, 8, 8)}, {"conv_out": (1, 4, 8, 8)})
    tensor = put(proto, place)
    tensor.name, tensor.data_type, tensor.data_location = "stray", TensorProto.FLOAT, TensorProto.EXTERNAL
    tensor.dims.extend(VALUES.shape)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return proto


def weight_at(folder: Path, location: str, **entries: str) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(
        naming(PLACES[[spelled(p) for p in PLACES].index(WEIGHTS)], location, **entries).SerializeToString()
    )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with data that are allowed, and all kinds that are not."""
    inner = tmp_path / "models"
    (inner / "sub").mkdir(parents=True)
    (inner / ".git").mkdir()
    (inner / CONFIG).write_bytes(SECRET)
    (tmp_path / "secret").write_bytes(SECRET)
    for file in (inner / "w.bin", inner / "sub" / "w.bin", inner / ".hidden"):
        file.write_bytes(VALUES.tobytes())
    os.link(inner / "w.bin", inner / "hard")
    (inner / "link").symlink_to("w.bin")
    (inner / "away").symlink_to(tmp_path / "secret")
    (inner / "loop").symlink_to("loop")
    (inner / "links").symlink_to("sub")
    os.mkfifo(inner / "fifo")
    return inner


OPENED: list[str] | None = None


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(_record)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of files as this process opens them."""
    global OPENED
    OPENED = []
    yield OPENED
    OPENED = None


def test_every_field_that_holds_tensors_is_walked() -> None:
    """The descriptors name the fields: one that ONNX adds is among them, here and in the package."""
    kinds = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()
    holding = {f for kind in kinds for f in kind.fields if f.message_type is TensorProto.DESCRIPTOR}
    assert {place[-1] for place in PLACES} == holding
    assert len(PLACES) > 20
    for place in PLACES:
        proto = onnx.ModelProto()
        tensor = put(proto, place)
        tensor.name, tensor.data_location = "here", TensorProto.EXTERNAL
        assert [tensor.name for tensor in tensors(proto)] == ["here"], spelled(place)
        assert len(external_tensors(proto)) == 1, spelled(place)


def test_a_field_that_onnx_adds_later_is_walked() -> None:
    """ONNX with one field more: where a value's type is declared, which holds no tensor today."""
    file = descriptor_pb2.FileDescriptorProto()
    onnx.ModelProto.DESCRIPTOR.file.CopyToProto(file)
    kind = next(m for m in file.message_type if m.name == "ValueInfoProto")
    label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    added = kind.field.add(name="samples", number=900, label=label, type_name=".onnx.TensorProto")
    added.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    later = message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx.ModelProto"))()
    later.graph.input.add().samples.add(name="sample")
    later.functions.add().value_info.add().samples.add(name="inner")
    assert sorted(tensor.name for tensor in tensors(later)) == ["inner", "sample"]


@pytest.mark.parametrize("place", PLACES, ids=spelled)
def test_data_are_read_or_refused_in_every_place(place: Place, folder: Path, opened: list[str]) -> None:
    file = folder / "m.onnx"
    file.write_bytes(naming(place, CONFIG).SerializeToString())
    for command in (["inspect", str(file)], ["prune", str(file), "--ratio", "0.5"]):
        assert cli.run(command) == 2
    with pytest.raises(NetadaptError, match=r"'stray' keeps its data in a hidden file or folder \(\.git/config\)"):
        load(file)
    assert not [name for name in opened if name.endswith(("config", ".git"))]
    file.write_bytes(naming(place, "w.bin").SerializeToString())
    found = read(file)
    assert found.size_bytes == file.stat().st_size + VALUES.nbytes
    (tensor,) = [tensor for tensor in tensors(found.proto) if tensor.name == "stray"]
    if spelled(place) == WEIGHTS:  # large ones stay in their file until they are needed
        assert external_tensors(found.proto) == [tensor]
    else:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), VALUES)


@pytest.mark.parametrize("by_descriptor", [True, False])
@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../secret", "outside the model's folder"),
        ("sub/../w.bin", "outside the model's folder"),
        ("sub/../../secret", "outside the model's folder"),
        ("..\\secret", "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("C:/secret", "outside the model's folder"),
        ("C:secret", "outside the model's folder"),
        ("\\\\host\\secret", "outside the model's folder"),
        (".", "outside the model's folder"),
        (".hidden", "hidden file or folder"),
        ("sub/.hidden", "hidden file or folder"),
        ("sub\\.hidden", "hidden file or folder"),
        (CONFIG, "hidden file or folder"),
        ("link", "a link, which may lead outside"),
        ("away", "a link, which may lead outside"),
        ("loop", "a link, which may lead outside"),
        ("links/w.bin", "a link, which may lead outside"),
        ("fifo", "no regular file"),
        ("sub", "no regular file"),
        ("w.bin/w.bin", "cannot be opened: Not a directory"),
        ("x" * 300, "cannot be opened: File name too long"),
        ("w\0.bin", "cannot be printed"),
        ("w\u202e.bin", "cannot be printed"),
        ("w\n::error.bin", "cannot be printed"),
        ("", "does not say where"),
        ("other.bin", "is missing"),
        ("other/w.bin", "is missing"),
    ],
)  # fmt: skip
def test_what_a_model_may_not_name_is_refused_unopened(
    location: str, why: str, by_descriptor: bool, folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "_BY_DESCRIPTOR", by_descriptor and external_data._BY_DESCRIPTOR)
    file = weight_at(folder, location)
    opened.clear()
    with pytest.raises(NetadaptError, match="stray") as caught:
        read(file)
    assert why in caught.value.message
    assert caught.value.code == "external-data"
    assert "\n" not in str(caught.value)
    assert {Path(name) for name in opened} <= {file, folder, Path("sub")}


@pytest.mark.parametrize("by_descriptor", [True, False])
@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin", "sub//w.bin", "hard"])
def test_regular_files_below_the_models_folder_are_read(
    location: str, by_descriptor: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "_BY_DESCRIPTOR", by_descriptor and external_data._BY_DESCRIPTOR)
    monkeypatch.chdir(folder)
    for file in (weight_at(folder, location), Path("m.onnx")):
        (stray,) = [tensor for tensor in load(file).proto.graph.initializer if tensor.name == "stray"]
        np.testing.assert_array_equal(numpy_helper.to_array(stray), VALUES)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"offset": "-8"}, "impossible offset"),
        ({"offset": "1e1"}, "impossible offset"),
        ({"offset": "9" * 5000}, "impossible offset"),
        ({"length": "0x10"}, "impossible length"),
        ({"offset": "4"}, "beyond the end"),
        ({"offset": "999999999999999999", "length": "24"}, "beyond the end"),
        ({"length": "8"}, "beyond the end"),
        ({"length": "25"}, "beyond the end"),
    ],
)
def test_an_extent_that_is_not_the_tensors_is_refused(entries: dict[str, str], why: str, folder: Path) -> None:
    with pytest.raises(NetadaptError, match=why) as caught:
        read(weight_at(folder, "w.bin", **entries))
    assert len(str(caught.value)) < 400


def test_a_length_that_is_left_out_is_that_of_the_tensor(folder: Path) -> None:
    """Also where others' data follow in the same file; a length that is too much is refused."""
    (folder / "w.bin").write_bytes(b"\0" * 8 + VALUES.tobytes() + b"\1" * 100)
    (stray,) = [t for t in load(weight_at(folder, "w.bin", offset="8")).proto.graph.initializer if t.name == "stray"]
    np.testing.assert_array_equal(numpy_helper.to_array(stray), VALUES)
    with pytest.raises(NetadaptError, match=r"holds 32 bytes, its shape \(6,\) fewer"):
        read(weight_at(folder, "w.bin", length="32"))


@dataclass(frozen=True)
class Watched:
    """What `gate` printed, and the files of the folder that it opened, as Python and as the system saw it."""

    text: str
    by_python: set[str]
    by_system: set[str] | None


WATCH = """
import os, sys
log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_APPEND)
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        os.write(log, os.fsencode(arguments[0]) + b"\\n")
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """`gate` of models with external data in every place, some of which it may open, and some not."""
    root = tmp_path_factory.mktemp("gated")
    work, log, trace = root / "work", root / "opened", root / "trace"
    (work / ".git").mkdir(parents=True)
    (work / CONFIG).write_bytes(SECRET)
    (root / "secret").write_bytes(SECRET)
    (work / "link").symlink_to(root / "secret")
    for number, place in enumerate(PLACES):
        (work / f"w{number}.bin").write_bytes(VALUES.tobytes())
        (work / f"right{number}.onnx").write_bytes(naming(place, f"w{number}.bin").SerializeToString())
        for name, location in {"hidden": CONFIG, "link": "link", "above": "../secret"}.items():
            (work / f"{name}{number}.onnx").write_bytes(naming(place, location).SerializeToString())
    (root / "sitecustomize.py").write_text(WATCH)
    log.touch()
    command = [sys.executable, "-m", "netadapt_onnx", "gate", "--max", "size=1MB", "--timeout", "300s"]
    command += sorted(file.name for file in work.glob("*.onnx"))
    if _traces(root):
        command = ["strace", "-f", "-qq", "-y", "-e", "trace=open,openat,openat2", "-o", str(trace), *command]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", ""), str(Path(cli.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "OPENED": str(log)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr.decode()
    names = {file.name for file in work.iterdir() if file.is_file()} | {"config", "secret", "link"}
    by_python = {Path(line).name for line in log.read_text().splitlines()} & names
    by_system = None
    if trace.exists():
        calls = re.findall(r'open(?:at2?)?\([^"]*"([^"]+)"', trace.read_text())
        by_system = {Path(name).name for name in calls} & names
    return Watched((done.stdout + done.stderr).decode(), by_python, by_system)


def _traces(folder: Path) -> bool:
    """Whether there is a strace, and it may trace here."""
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-f", "-o", str(folder / "try"), "true"], capture_output=True, check=False)
    return done.returncode == 0


ALLOWED = {name for number in range(len(PLACES)) for name in (f"w{number}.bin", f"right{number}.onnx")}
MODELS = {f"{name}{number}.onnx" for number in range(len(PLACES)) for name in ("hidden", "link", "above")}


def test_gate_opens_models_and_what_they_may_name(gated: Watched) -> None:
    assert gated.by_python == ALLOWED | MODELS
    for number in range(len(PLACES)):
        assert (
            f"hidden{number}.onnx: tensor 'stray' keeps its data in a hidden file or folder (.git/config)" in gated.text
        )
    assert "ghp_" not in gated.text


def test_libraries_open_nothing_else_either(gated: Watched) -> None:
    if gated.by_system is None:
        pytest.skip("no strace, or it may not trace here: what native code opens was not seen")
    assert gated.by_system == ALLOWED | MODELS


def test_what_a_file_of_results_packs_names_no_file() -> None:
    """Devices write their graphs with weights apart; nobody reads them, and nothing can."""
    for place in PLACES:
        if place[0].name == "graph":
            proto = naming(place, "w.bin")
            for node in proto.graph.node:
                node.output[:] = node.output or ["made"]
            graph = unpacked_graph(packed(proto.SerializeToString()))
            assert [len(tensor.external_data) for tensor in tensors(graph) if tensor.name == "stray"] == [0]


def everywhere() -> onnx.ModelProto:
    """A model that computes with tensors of a sparse initializer, a sparse constant, a branch and a function's body."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        network (float[1, 4] x, bool pick) => (float[1, 4] y)
        {
            a = Add(x, sparse)
            constant = Constant()
            b = Add(a, constant)
            c = If(pick) <
                then_branch = g1 () => (float[1, 4] t) <float[4] inner = {1, 2, 3, 4}> { t = Add(b, inner) },
                else_branch = g2 () => (float[1, 4] e) { k = Constant <value = float[4] {5, 6, 7, 8}> () e = Mul(b, k) }
            >
            y = own.shift(c)
        }
        <domain: "own", opset_import: ["" : 17]>
        shift (i) => (o)
        {
            k = Constant <value = float[4] {9, 8, 7, 6}> ()
            o = Add(i, k)
        }
    """)
    values = numpy_helper.from_array(np.array([2.0, 3.0], dtype=np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 3]), "where")
    sparse = onnx.helper.make_sparse_tensor(values, indices, [4])
    proto.graph.sparse_initializer.append(sparse)
    proto.graph.node[1].attribute.append(onnx.helper.make_attribute("sparse_value", sparse))
    return proto


def test_a_model_with_all_of_its_tensors_in_other_files_is_the_same_model(tmp_path: Path) -> None:
    proto = everywhere()
    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    for tensor in tensors(proto):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    inside.write_bytes(proto.SerializeToString())
    for number, tensor in enumerate(tensors(proto)):
        (tmp_path / f"{number}.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{number}.bin")
    outside.write_bytes(proto.SerializeToString())
    assert len(external_tensors(proto)) == 7
    found, expected = load(outside).proto, load(inside).proto
    assert not external_tensors(found)
    feeds = {"x": np.ones((1, 4), np.float32), "pick": np.array(False)}
    (got,), (wanted,) = (run(session(p), feeds).values() for p in (found, expected))
    np.testing.assert_allclose(wanted, [[14, 38, 14, 62]])
    np.testing.assert_array_equal(got, wanted)
    assert counted(outside) == counted(inside)


def counted(path: Path) -> tuple[object, ...]:
    facts = read_facts(path)
    return facts.params, facts.macs, facts.memory_bytes, facts.unknown
