"""`gate`: every case of limits, configuration and unreadable models, with its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import netadapt_onnx
from gate_fixtures import document, run, save, small, wide
from models import Builder
from netadapt_onnx import cli
from netadapt_onnx.errors import NetadaptError

SIZE = len(small().SerializeToString())


def checks(answer: dict[str, Any], model: int = 0) -> dict[str, dict[str, Any]]:
    return {check["limit"]: check for check in answer["models"][model]["checks"]}


def test_limits_that_are_kept_and_exceeded(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(small(), workspace / "m.onnx")
    result = document(capsys, "gate", model, "--max", "size=50 kB", "--max", "params=11.3k", "--max", "macs=443k")
    assert set(result) == {"models", "seconds", "baseline"}
    (one,) = result["models"]
    assert {"path", "resources", "checks"} <= set(one)
    assert one["resources"] == {
        "params": 11274, "macs": 442688, "size_bytes": SIZE, "memory_bytes": 32768, "latency_ms": None,
    }  # fmt: skip
    for check in one["checks"]:
        assert {"limit", "value", "max", "ok", "message"} <= set(check)
        assert check["ok"] is True
    assert checks(result)["size"]["value"] == SIZE
    assert checks(result)["size"]["max"] == 50_000
    over = document(capsys, "gate", model, "--max", "size=40kB", "--max", "memory=32KiB", code=1)
    assert [check["limit"] for check in over["models"][0]["checks"]] == ["size", "memory"]  # the worst first
    assert checks(over)["size"]["ok"] is False
    assert checks(over)["memory"]["ok"] is True  # 32,768 is 32 KiB


def test_the_resources_are_those_of_inspect(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(wide(), workspace / "m.onnx")
    result = document(capsys, "gate", model, "--max", "size=1MB")["models"][0]["resources"]
    assert result == document(capsys, "inspect", model)["model"]


def test_a_value_at_its_limit_is_kept_and_one_more_is_not(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(small(), workspace / "m.onnx")
    run(capsys, "gate", model, "--max", f"size={SIZE}", "--max", "params=11274")
    lines = run(capsys, "gate", model, "--max", f"size={SIZE - 1}", code=1)
    assert f"{SIZE:,}" in lines  # 47.1 kB is more than 47.1 kB


def test_all_models_are_judged_and_the_worst_comes_first(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), workspace / "models" / "a.onnx")
    save(wide(), workspace / "models" / "b.onnx")
    (workspace / "models" / "c.onnx").write_text("not a model")
    result = document(capsys, "gate", "models/*.onnx", "--max", "params=12k", code=2)
    assert [model["path"] for model in result["models"]] == ["models/c.onnx", "models/b.onnx", "models/a.onnx"]
    assert result["error"]["code"] == result["models"][0]["error"]["code"] == "not-onnx"
    assert result["models"][0]["resources"] is None
    assert [checks(result, i)["params"]["ok"] for i in (1, 2)] == [False, True]
    text = run(capsys, "gate", "models/*.onnx", "--max", "params=12k", code=2)
    assert "1 of 3 models exceeds a limit, 1 could not be checked" in text
    (workspace / "models" / "c.onnx").unlink()
    run(capsys, "gate", "models/*.onnx", "--max", "params=12k", code=1)
    run(capsys, "gate", "models/*.onnx", "--max", "params=15k")


def test_a_failure_names_the_layers_to_blame(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = save(small(), workspace / "a.onnx"), save(wide(), workspace / "b.onnx")
    options = ("--baseline", before, "--max-increase", "macs=1%", "--max-increase", "size=100%")
    result = document(capsys, "gate", after, *options, code=1)
    assert [(b["layer"], b["before"], b["after"]) for b in result["models"][0]["blame"]] == [
        ("conv2", 221184, 294912), ("conv3", 110592, 147456),
    ]  # fmt: skip
    alone = document(capsys, "gate", after, "--max", "params=12k", code=1)["models"][0]["blame"]
    assert next((b["layer"], b["before"]) for b in alone) == ("conv3", None)


BAD_USAGE = [
    (["gate"], "nothing to check", "usage"),
    (["gate", "m.onnx"], "no limit for m.onnx", "usage"),
    (["gate", "m.onnx", "--max", "sise=4MB"], "did you mean size", "limit"),
    (["gate", "m.onnx", "--max", "size"], "not RESOURCE=VALUE", "limit"),
    (["gate", "m.onnx", "--max", "size=0.5x"], "not an amount of size", "limit"),
    (["gate", "m.onnx", "--max", "size=-1MB"], "not an amount of size", "limit"),
    (["gate", "m.onnx", "--max", "size=4"], "size=4 has no unit; write size=4MB, or size=4B", "limit"),
    (["gate", "m.onnx", "--max", "latency=4"], "latency=4 has no unit; write latency=4ms", "limit"),
    (["gate", "m.onnx", "--max-increase", "size=1.02x"], "write size=2%", "limit"),
    (["gate", "m.onnx", "--max", "size=1MB", "--max", "size=2MB"], "two limits max for size", "limit"),
    (["gate", "m.onnx", "--max-increase", "size=4MB"], "not a share", "limit"),
    (["gate", "m.onnx", "--min", "accuracy=91"], "not a share", "limit"),
    (["gate", "m.onnx", "--min", "size=1"], "known: accuracy", "limit"),
    (["gate", "m.onnx", "--max", "size=1MB", "--timeout", "soon"], "not a duration", "usage"),
    (["gate", "m.onnx", "--max", "size=1MB", "--memory-limit", "0.5x"], "not an amount of memory", "usage"),
    (["gate", "m.onnx", "--max", "size=1MB", "--output", "pdf=x"], "is not FORMAT=FILE", "usage"),
    (["gate", "m.onnx", "--max", "size=1MB", "--output", "json=m.onnx"], "m.onnx exists", "exists"),
    (["gate", "m.onnx", "--max", "size=1MB", "--output", "json=m.onnx", "--overwrite"], "is an input", "exists"),
    (["gate", "m.onnx", "--max", "size=1MB", "--output", "json=a", "--output", "text=a"], "to one file", "usage"),
    (["gate", "m.onnx", "--max", "size=1MB", "--output", "json=no/a"], "no such folder", "missing-file"),
    (["gate", "m.onnx", "--max", "size=1MB", "--config", "no.toml"], "no.toml: no such file", "missing-file"),
    (["gate", "m.onnx", "--update-baseline", "--baseline", "git:main"], "writes a JSON file", "invalid"),
    (["gate", "m.onnx", "--update-baseline", "--baseline", "no/b.json"], "no such folder", "missing-file"),
]


@pytest.mark.parametrize(
    ("arguments", "expected", "code"), BAD_USAGE, ids=lambda v: "-".join(v) if type(v) is list else ""
)
def test_wrong_usage_exits_2(
    arguments: list[str], expected: str, code: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(small(), workspace / "m.onnx").read_bytes()
    assert expected in run(capsys, *arguments, code=2)
    assert document(capsys, *arguments, code=2)["error"]["code"] == code
    assert (workspace / "m.onnx").read_bytes() == model


UNMEASURED = [
    (["--max", "size=1MB", "--max-increase", "size=2%"], "there is no baseline", "baseline"),
    (["--min", "accuracy=0.5"], "needs data", "invalid-data"),
    (["--min", "accuracy=0.5", "--data", "no.npz"], "no such file", "missing-file"),
    (["--min", "accuracy=0.5", "--data", "f.py:g"], ".npz files and folders only", "invalid-data"),
    (["--max-increase", "size=2%", "--baseline", "no.json"], "no such file", "missing-file"),
    (["--max-increase", "size=2%", "--baseline", "no.onnx"], "no such file", "missing-file"),
    (["--max-increase", "size=2%", "--baseline", "git:main"], "is in no git repository", "baseline"),
    (["--max", "latency=1s", "--device", "rpi4"], "no device 'rpi4'", "device"),
    (["--max", "latency=1s", "--ep", "qnn"], "has no QNNExecutionProvider", "missing-provider"),
]


@pytest.mark.parametrize(
    ("options", "expected", "code"), UNMEASURED, ids=lambda v: "-".join(v) if type(v) is list else ""
)
def test_a_limit_that_nobody_could_measure_exits_2(
    options: list[str], expected: str, code: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(small(), workspace / "m.onnx")
    assert expected in run(capsys, "gate", "m.onnx", *options, code=2)
    result = document(capsys, "gate", "m.onnx", *options, code=2)
    (broken,) = [check for check in result["models"][0]["checks"] if check["value"] is None]
    assert broken["ok"] is False
    assert broken["code"] == code
    if len(options) > 2 and options[0] == "--max" and options[2] == "--max-increase":
        assert checks(result)["size"]["ok"] is True  # what could be judged was


def test_a_missing_baseline_is_said_once_and_teams_advise_only_where_something_is_exceeded(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(small(), workspace / "a.onnx")
    save(small(), workspace / "b.onnx")
    (workspace / "netadapt.toml").write_text(
        '[[gate]]\nmodel = "*.onnx"\nmax = { size = "1 MB" }\nmax-increase = { size = "2%", macs = "2%" }\n'
        'message = "Ask the edge team."\n'
    )
    for form in ("text", "markdown", "github"):
        cli.run(["gate", "--format", form])
        streams = capsys.readouterr()
        output = streams.err if form == "text" else streams.out
        assert output.count("there is no baseline") == 1
        assert form != "text" or "there is no baseline" not in streams.out
        assert "2 models could not be checked" in streams.out
        assert "edge team" not in streams.out + streams.err
    assert "(1 other model could not be checked either)" in run(capsys, "gate", code=2)
    result = document(capsys, "gate", code=2)
    assert [check["hint"][:8] for check in result["models"][0]["checks"]] == ["make one", "make one", ""]
    assert result["error"]["hint"].startswith("make one with --update-baseline")
    assert "Ask the edge team." in run(
        capsys, "gate", "--max", "size=40kB", "--allow-new", "--baseline", "c.json", code=2
    )


def test_a_folder_stands_for_its_models(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), workspace / "models" / "a.onnx")
    save(small(), workspace / "models" / "deep" / "er" / "b.onnx")
    save(small(), workspace / "models" / ".hidden" / "c.onnx")
    (workspace / "models" / "notes.txt").write_text("no model")
    (workspace / "empty").mkdir()
    for folder in ("models", "models/", str(workspace / "models")):
        paths = [model["path"] for model in document(capsys, "gate", folder, "--max", "size=1MB")["models"]]
        assert [path.removeprefix(f"{workspace}/") for path in paths] == ["models/a.onnx", "models/deep/er/b.onnx"]
    (workspace / "netadapt.toml").write_text('[[gate]]\nmodel = "models"\nmax = { size = "1 MB" }\n')
    assert len(document(capsys, "gate")["models"]) == 2
    assert "no model (*.onnx) lies in the folder empty" in run(capsys, "gate", "empty", "--max", "size=1MB", code=2)
    assert "did you mean models?" in run(capsys, "gate", "model", "--max", "size=1MB", code=2)


def test_what_to_run_next_works_and_never_leads_to_itself(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), workspace / "m.onnx")
    words = ["gate", "m.onnx", "--max", "size=1MB"]
    seen = []
    for _ in range(3):
        text = run(capsys, *words)
        words = text.partition("next: netadapt-onnx ")[2].split()
        assert words not in seen
        seen.append(words)
        if "--max-increase" in words:
            break
    assert [words[2] for words in seen] == ["--update-baseline", "--max-increase"]
    run(capsys, *words)


def test_paths_that_are_no_text(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), workspace / os.fsdecode(b"m\xff.onnx"))
    assert "no characters" in run(capsys, "gate", "m*.onnx", "--max", "size=1MB", code=2)


def test_macs_of_an_open_axis_need_a_shape_and_its_size_does_not(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = Builder()
    b.conv("image", 3, 8, name="only")
    save(b.model({"image": ("N", 3, "H", "W")}, {"only_out": ("N", 8, "H", "W")}), workspace / "m.onnx")
    run(capsys, "gate", "m.onnx", "--max", "size=1MB", "--max", "params=224")
    assert "--shape image=" in run(capsys, "gate", "m.onnx", "--max", "macs=1M", code=2)
    run(capsys, "gate", "m.onnx", "--max", "macs=1M", "--shape", "image=1x3x8x8")
    run(capsys, "gate", "m.onnx", "--max", "macs=20k", "--shape", "image=2x3x8x8", code=1)
    assert "no input" in run(
        capsys, "gate", "m.onnx", "--max", "macs=1M", "--shape", "image=1x3x8x8", "--shape", "x=1x3", code=2
    )


def test_a_model_that_fails_the_checker_or_does_not_load_exits_2(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    invalid, unloadable = small(), small()
    invalid.graph.node[0].attribute.append(onnx.helper.make_attribute("colour", 3))
    unloadable.graph.node[0].op_type = "Foo"
    unloadable.graph.node[0].domain = "com.example"
    unloadable.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    for proto, message in ((invalid, "colour"), (unloadable, "com.example")):
        save(proto, workspace / "m.onnx")
        assert message in run(capsys, "gate", "m.onnx", "--max", "size=1MB", code=2)


CONFIG = """
[[tool.netadapt-onnx.gate]]
model = "models/*.onnx"
max = { size = "50 kB", params = "12 k", macs = 450000 }
message = "Raising a budget needs the edge team's review."

[[tool.netadapt-onnx.gate]]
model = ["models/b.onnx"]
max = { memory = "1 MB" }
"""


def test_limits_from_the_configuration(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "pyproject.toml").write_text(CONFIG)
    save(small(), workspace / "models" / "a.onnx")
    save(wide(), workspace / "models" / "b.onnx")
    result = document(capsys, "gate", code=1)
    assert {m["path"]: len(m["checks"]) for m in result["models"]} == {"models/a.onnx": 3, "models/b.onnx": 4}
    assert "edge team" in run(capsys, "gate", code=1)
    assert run(capsys, "gate", "models/a.onnx").count("models/a.onnx  ") == 3
    # flags win, one by one
    loosened = ("--max", "params=20k", "--max", "macs=1M", "--max", "size=1MB")
    assert document(capsys, "gate", *loosened)["models"][0]["checks"][0]["max"]
    run(capsys, "gate", *loosened[:4], code=1)


def test_the_configuration_is_found_upwards_and_its_paths_are_its_own(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "netadapt.toml").write_text('[[gate]]\nmodel = "models/a.onnx"\nmax = { size = "1 kB" }\n')
    save(small(), workspace / "models" / "a.onnx")
    (workspace / "deep" / "er").mkdir(parents=True)
    (workspace / "deep" / "pyproject.toml").write_text("[tool.other]\n")
    monkeypatch.chdir(workspace / "deep" / "er")
    result = document(capsys, "gate", code=1)
    assert result["models"][0]["path"] == str(workspace / "models" / "a.onnx")
    run(capsys, "gate", "--config", workspace / "netadapt.toml", code=1)


BAD_CONFIG = [
    ('[[gate]]\nmodel = "*.onnx"\nmax = { sise = "4 MB" }', "did you mean size"),
    ('[[gate]]\nmodel = "*.onnx"\nmaxincrease = { size = "2%" }', "did you mean max-increase"),
    ('[[gate]]\nmodell = "*.onnx"\nmax = { size = "4 MB" }', "did you mean model"),
    ("[[gate]]\nmodel = 3", "Expected"),
    ('[[gate]]\nmodel = "*.onnx"', "limits nothing"),
    ('[[gates]]\nmodel = "*.onnx"', "did you mean gate"),
    ('[[gate]]\nmodel = "*.onnx"\nmax = { size = "large" }', "not an amount of size"),
    ('[[gate]]\nmodel = "*.onnx"\nmax = { macs = "1" }\nshapes = { image = "1,3" }', "write it like 1x3x224x224"),
    ("[[gate]", "netadapt.toml"),
    ('[gate]\nmodel = "*.onnx"\nmax = { size = "4 MB" }', "write [[gate]]"),
    ('[[gate]]\nmodel = "no/*.onnx"\nmax = { size = "4 MB" }', "no file matches no/*.onnx"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_CONFIG, ids=[expected for _, expected in BAD_CONFIG])
def test_wrong_configurations_exit_2(
    text: str, expected: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(small(), workspace / "m.onnx")
    (workspace / "netadapt.toml").write_text(text)
    assert expected in run(capsys, "gate", code=2)


def labelled(path: Path, proto: onnx.ModelProto) -> Path:
    """Data whose labels are what the model says, nine times of ten."""
    from netadapt_onnx.graph.runtime import run as run_model
    from netadapt_onnx.graph.runtime import session

    x = np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype(np.float32)
    y = run_model(session(proto), {"image": x})["logits"].argmax(1)
    y[::10] = (y[::10] + 1) % 10
    np.savez(path, x_val=x, y_val=y)
    return path


def test_accuracy(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), workspace / "m.onnx")
    data = labelled(workspace / "eval.npz", small())
    result = document(capsys, "gate", "m.onnx", "--min", "accuracy=0.9", "--data", data)
    check = checks(result)["accuracy"]
    assert (check["value"], check["min"], check["max"]) == (0.9, 0.9, None)
    assert result["models"][0]["accuracy"] == {"value": 0.9, "metric": "top1", "split": "val"}
    run(capsys, "gate", "m.onnx", "--min", "accuracy=91%", "--data", data, code=1)
    assert "no test samples" in run(
        capsys, "gate", "m.onnx", "--min", "accuracy=0.9", "--data", data, "--split", "test", code=2
    )


def test_without_labels_the_baseline_is_agreed_with(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), workspace / "m.onnx")
    save(small(), workspace / "old.onnx")
    np.savez(workspace / "d.npz", x_val=np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32))
    options = ("gate", "m.onnx", "--min", "accuracy=0.99", "--data", "d.npz")
    result = document(capsys, *options, "--baseline", "old.onnx")
    assert result["models"][0]["accuracy"]["metric"] == "agreement"
    assert "no labels" in run(capsys, *options, code=2)


def test_the_python_function_mirrors_the_command(workspace: Path) -> None:
    save(small(), workspace / "a.onnx")
    result = netadapt_onnx.gate("a.onnx", max={"size": "40 kB", "params": 12_000})
    assert not result.ok
    assert [check.ok for check in result.models[0].checks] == [False, True]
    with pytest.raises(AttributeError):
        result.models[0].checks[0].ok = True  # type: ignore[misc]
    with pytest.raises(NetadaptError, match="did you mean size"):
        netadapt_onnx.gate(["a.onnx"], max={"sise": 3})
    broken = netadapt_onnx.gate("none.onnx", max={"size": 1})
    assert broken.error is not None
    assert netadapt_onnx.diff("a.onnx", "a.onnx").identical


LIGHT = """
import sys
for name in ("torch", "sklearn", "scipy", "onnxscript"):
    sys.modules[name] = None
from netadapt_onnx.cli import run
assert run(["gate", sys.argv[1], "--max", "size=1MB"]) == 0
assert not {"onnx", "onnxruntime", "numpy"} & set(sys.modules)
"""


def test_our_own_process_never_imports_what_reads_models(tmp_path: Path) -> None:
    model = save(small(), tmp_path / "m.onnx")
    done = subprocess.run([sys.executable, "-c", LIGHT, str(model)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
