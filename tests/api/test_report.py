"""One file that explains a run: whole, self-contained, and safe whatever a model calls its layers."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import netadapt_onnx
from netadapt_onnx.api.report import read_run
from netadapt_onnx.cli import run as command
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting.comparison import pareto_fronts
from netadapt_onnx.scaling import latency_target
from report_runs import EVIL, finished, scaled


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, str] = {}
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        self.cells += [data] if inside == "td" else []
        self.text[inside] = self.text.get(inside, "") + data


def test_a_report_holds_everything_and_fetches_nothing(tmp_path: Path) -> None:
    run = finished(tmp_path)
    report = netadapt_onnx.report(run)
    assert report.report == run / "report.html" and report.size_bytes == report.report.stat().st_size < 1.5e6
    page = Page(report.report)
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    fetching = {"src", "href", "xlink:href", "action", "srcset", "data"}
    assert not [(t, a, v) for t, a, v in page.attributes if a in fetching and not v.startswith("#")]
    assert not [a for _, a, _ in page.attributes if a.startswith("on")]
    assert [v for t, a, v in page.attributes if (t, a) == ("script", "type")] == ["application/json"]
    assert page.tags.count("script") == 1 and page.tags.count("svg") >= 2
    assert any(name == "role" for _, name, _ in page.attributes)
    data = json.loads(page.text["script"])
    result = json.loads((run / "result.json").read_text())
    assert data["schema"] == 1 and data["runs"][0]["result"] == result
    steps = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert data["runs"][0]["steps"] == steps
    proposals = [p for p in data["runs"][0]["points"] if p["kind"] == "proposal"]
    assert len(proposals) == sum(len(step["tried"]) for step in steps) > 0


def test_layers_and_what_stays_are_shown(tmp_path: Path) -> None:
    page = Page(netadapt_onnx.report(finished(tmp_path)).report)
    titles = page.text["h2"]
    for title in ("Layers", "Layers that cannot be pruned", "How to repeat this run"):
        assert title in titles
    assert "reaches graph output 'logits'" in page.text["td"]
    details = json.loads(page.text["script"])["runs"][0]["details"]
    groups = json.loads(page.text["script"])["runs"][0]["result"]["groups"]
    convs = {layer["name"]: layer for layer in details["layers"] if layer["op"] == "Conv"}
    inputs = 3
    for name, (before, after) in groups.items():
        assert convs[name]["params"][0] == {"conv1": 3, "conv2": 8}[name] * before * 9 + before
        assert convs[name]["params"][1] == inputs * after * 9 + after
        inputs = after
    assert details["blocked"] == [{"group": "fc1", "channels": 10, "reason": "reaches graph output 'logits'"}]
    assert netadapt_onnx.report(tmp_path / "macs-0.6x").size_bytes < 100_000


def test_an_interactive_page_allows_its_own_scripts_and_no_other(tmp_path: Path) -> None:
    report = netadapt_onnx.report(finished(tmp_path, EVIL), tmp_path / "live.html", interactive=True)
    text = report.report.read_text(encoding="utf-8")
    policy = text.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.count("'sha256-") == 2 and "unsafe-eval" not in policy
    assert "default-src 'none'" in policy and "script-src 'unsafe" not in policy
    assert report.size_bytes < 1.5e6


def test_names_from_models_are_text(tmp_path: Path) -> None:
    page = Page(netadapt_onnx.report(finished(tmp_path, EVIL)).report)
    assert "img" not in page.tags
    assert EVIL in page.text["td"]
    assert EVIL in json.loads(page.text["script"])["runs"][0]["result"]["groups"]


def test_several_runs_are_drawn_over_each_other(tmp_path: Path) -> None:
    runs = [finished(tmp_path, budget=budget) for budget in ("macs=0.8x", "macs=0.5x")]
    output = tmp_path / "compared.html"
    assert netadapt_onnx.report(runs, output).runs == ("macs-0.8x", "macs-0.5x")
    page = Page(output)
    assert "The runs compared" in page.text["h2"]
    assert len(json.loads(page.text["script"])["runs"]) == 2
    with pytest.raises(NetadaptError, match="exists"):
        netadapt_onnx.report(runs, output)


def test_what_cannot_be_reported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NetadaptError, match="not a run directory"):
        netadapt_onnx.report(tmp_path)
    run = scaled(tmp_path)
    capsys.readouterr()
    (run / "result.json").unlink()
    assert command(["report", str(run), "--json"]) == 2
    assert "has no result yet" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_run_of_scale_is_told_and_written_at_its_end(tmp_path: Path) -> None:
    run = scaled(tmp_path)
    page = Page(run / "report.html")
    for title in ("Networks", "Widths", "How widths follow the size", "How to repeat this run"):
        assert title in page.text["h2"]
    assert page.tags.count("svg") == len(list((run / "plots").glob("*.json"))) >= 2
    data = json.loads(page.text["script"])["runs"][0]
    assert data["result"] == json.loads((run / "result.json").read_text())
    for model in data["result"]["models"]:
        assert all(str(width) in page.text["td"] for width in model["widths"].values())
    assert "netadapt-onnx scale net.onnx --fit record.csv --target params=0.5x --target params=2x" in page.text["p"]


def test_networks_of_scale_and_runs_of_adapt_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_target, "BRIEF_S", 0.05)
    adapted = finished(tmp_path, budget="params=0.6x")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        x_train=rng.normal(0, 1, (64, 3, 8, 8)).astype(np.float32),
        y_train=rng.integers(0, 3, 64),
    )
    trained = scaled(tmp_path, "--data", str(tmp_path / "data.npz"), "--epochs", "1")
    report = netadapt_onnx.report([adapted, trained], tmp_path / "both.html")
    assert report.runs == ("params-0.6x", "sizes")
    page = Page(tmp_path / "both.html")
    assert {"params-0.6x", "sizes", "params=0.5x neuralscale"} <= set(page.cells)
    front = pareto_fronts([read_run(adapted), read_run(trained)], "params")
    assert {row["run"] for row in front["data"]["values"]} == {"params-0.6x", "sizes"}


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    run = finished(tmp_path)
    other = tmp_path / "other" / run.name
    shutil.copytree(run, other)
    report = netadapt_onnx.report([run, other], tmp_path / "both.html")
    assert report.runs == (f"{tmp_path.name}/{run.name}", f"other/{run.name}")
    assert netadapt_onnx.report([run, run], tmp_path / "same.html").runs[0] == f"{tmp_path.name}/{run.name} (1)"


def test_a_chart_that_is_none_is_said(tmp_path: Path) -> None:
    run = scaled(tmp_path)
    next((run / "plots").glob("*.json")).write_text("{")
    with pytest.raises(NetadaptError, match=r"plots/.*json is not readable as a run of `scale`"):
        netadapt_onnx.report(run)
