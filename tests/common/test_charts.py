"""Charts take any name; one that cannot be drawn costs itself, and neither the run nor the report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

import models
from hostile_names import NAMES, acting
from netadapt_onnx import cli
from netadapt_onnx.api.report import write_report
from netadapt_onnx.common import charts
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting.page import ChartRenderer

ROWS = [{"x": float(i), "y": i + 1.0, "std": 0.1, "name": name} for i, name in enumerate(NAMES)]


class Panic(BaseException):
    """What a renderer in another language raises: no Exception."""


def symbols(spec: charts.Spec) -> list[str]:
    """What the chart says of each of its marks; nothing in it acts."""
    svg = charts.svg(spec)
    assert not acting(svg)
    root = ElementTree.fromstring(svg)
    return [e.attrib["aria-label"] for e in root.iter() if e.attrib.get("role") == "graphics-symbol"]


@pytest.mark.parametrize(
    "name", [*NAMES, "".join(NAMES)[:400], "".join(map(chr, range(0x20))), "\udcff", "a.b[0]'\"\\"]
)
def test_any_name_is_drawn_as_series_axis_and_title(name: str) -> None:
    """A character that XML does not allow ends the whole process where it reaches vl-convert."""
    rows = [{name: 1.0, f"{name}y": 2.0, "series": name}, {name: 2.0, f"{name}y": 3.0, "series": name}]
    spec = charts.lines(rows, name, f"{name}y", series="series", title=name)
    x, y = (charts.field(column)["title"] for column in (name, f"{name}y"))
    labels = symbols(spec)
    for i in (1, 2):
        assert any(label.startswith(f"{x}: {i}; {y}: {i + 1}; series: ") for label in labels), labels


@pytest.mark.seconds
def test_all_kinds_of_charts_are_drawn_to_files(tmp_path: Path) -> None:
    for i, spec in enumerate(
        (
            charts.lines(ROWS, "x", "y", series="name", title="lines"),
            charts.means(ROWS, "x", "y", "std", series="name", title="means"),
            charts.points_and_lines(ROWS, ROWS, "x", "y", series="name", title="laws", logarithmic=()),
            charts.against(ROWS, "x", "y", [0, 20], title="against"),
        )
    ):
        svg, png = charts.write(spec, tmp_path / str(i))
        assert ElementTree.fromstring(svg.read_bytes()).tag.endswith("svg")
        assert png.read_bytes().startswith(b"\x89PNG")
        charts.write_one(spec, tmp_path / f"one{i}.png")


def test_deviations_are_drawn_around_their_means() -> None:
    name = "it's [a].metric"
    rows = [{"size": 1.0, name: 0.5, "std": 0.125, "method": "uniform"}]
    labels = symbols(charts.means(rows, "size", name, "std", series="method", title="means"))
    assert any("0.375" in label and "0.625" in label for label in labels), labels


def test_columns_are_told_apart_whatever_they_are_called() -> None:
    """Vega takes `a.b` for the field b of a."""
    name = "latency@pi.local[0] (ms)"
    labels = symbols(charts.against([{name: 3.5, "y": 4.5}], name, "y", [3, 5], title="t"))
    assert f"{name}: 3.5; y: 4.5" in labels


def test_long_names_are_cut_and_stay_apart() -> None:
    long = [f"{'a' * 200}{i}{'b' * 200}" for i in range(3)]
    spec = charts.drawable(charts.lines([{"x": 1, "y": 2, "s": s} for s in [*long, "short"]], "x", "y", series="s"))
    names = [row["s"] for row in spec["data"]["values"]]
    assert len(set(names)) == 4 and "short" in names
    assert all(len(name) <= charts.LONGEST_LABEL for name in names)


def test_numbers_that_are_none_are_left_out() -> None:
    rows = [{"x": 1.0, "y": 2.0}, {"x": 2.0, "y": float("nan")}, {"x": float("inf"), "y": 3.0}]
    assert {"x: 1; y: 2"} <= set(symbols(charts.lines(rows, "x", "y")))


def test_nothing_is_fetched() -> None:
    spec = charts.lines([], "x", "y") | {"data": {"url": "http://127.0.0.1:9/x.json"}}
    with pytest.raises(NetadaptError, match="cannot be drawn") as caught:
        charts.svg(spec)
    assert caught.value.code == "chart"


@pytest.mark.parametrize("failure", [Panic("no\n::error::font"), ValueError("no"), RuntimeError("no")])
def test_whatever_the_renderer_raises_costs_the_chart(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_convert.vegalite_to_svg", raising(failure))
    drawer = ChartRenderer(interactive=True)
    figure = drawer.figure(charts.lines(ROWS, "x", "y", title="<b>"))
    assert "the chart &#x27;&lt;b&gt;&#x27; cannot be drawn" in figure and "<svg" not in figure
    assert len(drawer.failures) == 1


def test_whatever_goes_wrong_with_a_report_costs_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = "netadapt_onnx.api.report.read_run"
    monkeypatch.setattr(reports, raising(OSError(28, "No space left on device")))
    (note,) = write_report(tmp_path / "run")
    assert "report.html was not written: OSError" in note and "No space left" in note
    monkeypatch.setattr(reports, raising(NetadaptError("history.jsonl, line 1: damaged", code="corrupt-run")))
    with pytest.raises(NetadaptError, match="damaged"):
        write_report(tmp_path / "run")


def test_an_interruption_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "_svg", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        charts.svg(charts.lines(ROWS, "x", "y"))


def raising(failure: BaseException) -> object:
    def render(*_: object, **__: object) -> str:
        raise failure

    return render


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and data, where no chart can be drawn."""
    monkeypatch.chdir(tmp_path)
    for name in ("_svg", "_png"):
        monkeypatch.setattr(charts, name, raising(Panic("font")))
    onnx.save(models.plain((8, 8), size=8, classes=3), tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    x = {f"x_{split}": rng.standard_normal((16, 3, 8, 8)).astype(np.float32) for split in ("train", "val")}
    np.savez(tmp_path / "data.npz", **x)
    return tmp_path


def body(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, list[str]]:
    assert cli.run([*words, "--json"]) == 0
    decoded: dict[str, list[str]] = json.loads(capsys.readouterr().out)
    return decoded


@pytest.mark.seconds
@pytest.mark.usefixtures("fixed_training_settings")
def test_runs_end_well_where_no_chart_can_be_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--max-iterations", "1", "--short-term", "1", "--final-epochs", "1", "--step", "4")
    adapt = ("adapt", "net.onnx", "--data", "data.npz", "--budget", "macs=0.8x", "-o", "run", *quick)
    notes = [note for note in body(capsys, *adapt)["notes"] if "cannot be drawn" in note]
    assert notes and all("font" in note for note in notes)
    assert (
        "cannot be drawn" in Path("run/report.html").read_text() and "channels" in Path("run/report.html").read_text()
    )
    assert body(capsys, "report", "run")["notes"] == notes
    assert cli.run(["report", "run"]) == 0
    assert "cannot be drawn" in capsys.readouterr().out


def test_scale_ends_well_where_no_chart_can_be_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{8 * share**0.4:.3f},{8 * share**0.6:.3f},{2000 * share:.0f}" for share in (1, 0.8, 0.6, 0.5, 0.4, 0.3)]
    Path("record.csv").write_text("\n".join(["conv1,conv2,params", *rows]) + "\n")
    notes = body(capsys, "scale", "net.onnx", "--targets", "0.5x", "--fit", "record.csv", "-o", "sizes")["notes"]
    assert any("cannot be drawn" in note for note in notes)
    assert list(Path("sizes/plots").glob("*.json")) and Path("sizes/report.html").exists()


def test_sensitivity_is_told_where_no_chart_can_be_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("inspect", "net.onnx", "--sensitivity", "--data", "data.npz", "--plot", "s.svg")
    assert len(body(capsys, *words)["notes"]) == 1
    assert cli.run(words) == 0
    assert "cannot be drawn: font" in capsys.readouterr().out
    assert not Path("s.svg").exists()
