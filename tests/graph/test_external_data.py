"""External data: no place that the format has is overlooked, and no file is opened that a model may not name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from onnx import TensorProto, numpy_helper

from external_places import CONFIG, PLACES, SECRET, VALUES, WEIGHTS, Place, naming, put, spelled
from netadapt_onnx import cli
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.facts import read_facts
from netadapt_onnx.graph import external_data
from netadapt_onnx.graph.external_data import external_tensors, tensors
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.onnx_file import parse, read
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.profilers.packing import pack, unpack_graph


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
    file_proto = parse(file)
    assert file_proto.size_bytes == file.stat().st_size + VALUES.nbytes
    (tensor,) = [tensor for tensor in tensors(file_proto.proto) if tensor.name == "stray"]
    if spelled(place) == WEIGHTS:  # large ones stay in their file until they are needed
        assert external_tensors(file_proto.proto) == [tensor]
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


def test_what_a_file_of_results_packs_names_no_file() -> None:
    """Devices write their graphs with weights apart; nobody reads them, and nothing can."""
    for place in PLACES:
        if place[0].name == "graph":
            proto = naming(place, "w.bin")
            for node in proto.graph.node:
                node.output[:] = node.output or ["made"]
            graph = unpack_graph(pack(proto.SerializeToString()))
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
    file_proto, expected = load(outside).proto, load(inside).proto
    assert not external_tensors(file_proto)
    feeds = {"x": np.ones((1, 4), np.float32), "pick": np.array(False)}
    (got,), (expected_value,) = (run(session(p), feeds).values() for p in (file_proto, expected))
    np.testing.assert_allclose(expected_value, [[14, 38, 14, 62]])
    np.testing.assert_array_equal(got, expected_value)
    assert counted(outside) == counted(inside)


def counted(path: Path) -> tuple[object, ...]:
    facts = read_facts(path)
    return facts.params, facts.macs, facts.memory_bytes, facts.unknown
