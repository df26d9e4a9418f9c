"""What drawings of networks show: groups in colours, and widths before and after."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models import concatenated, plain, resnet
from netadapt_onnx.api.diff import diff
from netadapt_onnx.api.inspect import inspect
from netadapt_onnx.api.prune import prune
from netadapt_onnx.graph.model import save
from netadapt_onnx.reporting.network_drawing import ALONE, NARROWER, NEW, PALETTE, PINNED, WIDER


def attributes(file: Path) -> dict[str, str]:
    """The attributes of each node by the first line of its label, operators with a number."""
    nodes: dict[str, str] = {}
    for line in re.findall(r"^  \d+ \[(.*)\];$", file.read_text(encoding="utf-8"), re.MULTILINE):
        name = line.partition('label="')[2].partition('"')[0].partition("\\n")[0]
        nodes[name if name not in nodes else f"{name}{len(nodes)}"] = line
    return nodes


def edge_count(file: Path, style: str = "") -> int:
    return len([line for line in file.read_text(encoding="utf-8").splitlines() if " -> " in line and style in line])


def fill(text: str) -> str:
    return text.partition('fillcolor="')[2].partition('"')[0]


def test_tied_layers_share_a_colour_and_pinned_ones_have_another(tmp_path: Path) -> None:
    model = save(resnet((8, 12), blocks=2), tmp_path / "model.onnx")
    inspection = inspect(model, graph=tmp_path / "groups.dot")
    nodes = attributes(tmp_path / "groups.dot")
    by_group: dict[str, set[str]] = {}
    for layer in inspection.layers:
        if layer.group is not None and layer.name in nodes:
            by_group.setdefault(layer.group, set()).add(fill(nodes[layer.name]))
    assert all(len(colours) == 1 for colours in by_group.values())
    sizes = {group.name: len(group.layers) for group in inspection.groups if group.prunable}
    tied = {name for name, size in sizes.items() if size > 1}
    colours = [next(iter(by_group[name])) for name in tied]
    assert tied and set(colours) <= set(PALETTE) and len(set(colours)) == len(tied)
    assert all(by_group[name] == {ALONE} for name in sizes.keys() - tied)
    pinned = next(group for group in inspection.groups if not group.prunable)
    assert by_group[pinned.name] == {PINNED}
    assert "cannot be pruned: reaches graph output" in nodes[pinned.name]


def test_a_layer_of_several_groups_is_striped(tmp_path: Path) -> None:
    inspect(save(concatenated(), tmp_path / "model.onnx"), graph=tmp_path / "groups.dot")
    nodes = attributes(tmp_path / "groups.dot")
    striped = [text for text in nodes.values() if 'style="striped"' in text]
    shares = [[float(share) for share in re.findall(r";([\d.]+)", fill(text))] for text in striped]
    assert all(sum(parts) == pytest.approx(1, abs=1e-3) for parts in shares)


def test_widths_before_and_after_are_drawn_as_bars(tmp_path: Path) -> None:
    model = save(plain((8, 16)), tmp_path / "a.onnx")
    small = tmp_path / "b.onnx"
    prune(model, small, keep={"conv1": 2})
    diff(model, small, graph=tmp_path / "widths.dot")
    nodes = attributes(tmp_path / "widths.dot")
    assert "8 → 2 channels" in nodes["conv1"]
    assert fill(nodes["conv1"]) == f"{NARROWER};0.250:#ffffff;0.750"
    assert "16 channels" in nodes["conv2"] and fill(nodes["conv2"]) == ALONE
    diff(small, model, graph=tmp_path / "wider.dot")
    assert fill(attributes(tmp_path / "wider.dot")["conv1"]) == WIDER


def test_layers_that_one_network_lacks_and_their_edges_are_marked(tmp_path: Path) -> None:
    long, short = (save(plain(widths), tmp_path / f"{len(widths)}.onnx") for widths in ((8, 8, 16), (8, 16)))
    diff(long, short, graph=tmp_path / "gone.dot")
    gone = [text for text in attributes(tmp_path / "gone.dot").values() if "gone" in text]
    assert len(gone) == 1 and 'style="filled,dashed"' in gone[0] and fill(gone[0]) == PINNED
    assert edge_count(tmp_path / "gone.dot", "dashed") == 2  # into it and out of it
    diff(short, long, graph=tmp_path / "new.dot")
    new = [text for text in attributes(tmp_path / "new.dot").values() if "new" in text]
    assert len(new) == 1 and fill(new[0]) == NEW


def test_a_model_and_itself_differ_nowhere(tmp_path: Path) -> None:
    model = save(resnet(), tmp_path / "model.onnx")
    diff(model, model, graph=tmp_path / "same.dot")
    nodes = attributes(tmp_path / "same.dot").values()
    assert not [text for text in nodes if "→" in text or "gone" in text or "new" in text]
    assert edge_count(tmp_path / "same.dot") and not edge_count(tmp_path / "same.dot", "dashed")
