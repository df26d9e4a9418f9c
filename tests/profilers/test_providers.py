"""Execution providers: what each takes and shows, that nothing runs on another one, and what is said otherwise."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from execution_cases import order_of, two_nodes
from models import plain
from netadapt_onnx.cli import run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.device import measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution, execution_record, fingerprint
from netadapt_onnx.profilers.providers import PROVIDERS

FAMILIES = ("cpu", "cuda", "tensorrt", "openvino", "xnnpack", "coreml", "nnapi", "qnn", "directml", "webgpu")


def test_every_family_has_a_record() -> None:
    assert set(PROVIDERS) == set(FAMILIES)
    assert {ep for ep, result in PROVIDERS.items() if result.per_node} == {"cpu", "xnnpack"}
    patterns = set(onnxruntime.get_all_providers())
    for ep, result in PROVIDERS.items():
        assert result.ep == ep
        assert result.package
        assert result.name in patterns


@pytest.mark.parametrize("ep", FAMILIES)
def test_an_option_that_a_provider_does_not_have_is_refused(ep: str) -> None:
    with pytest.raises(NetadaptError, match=f"'{ep}' has no option 'no_such_thing'") as caught:
        Execution(ep, options={"no_such_thing": "1"})
    assert caught.value.code == "unknown-option"


def test_a_misspelt_option_is_put_right() -> None:
    with pytest.raises(NetadaptError) as caught:
        Execution("openvino", options={"device_typ": "CPU"})
    assert "device_type" in (caught.value.hint or "")


def test_threads_reach_providers_that_do_not_take_the_sessions() -> None:
    assert Execution("openvino", 3).all_options == {"device_type": "CPU", "num_of_threads": "3"}
    assert Execution("openvino", 3, {"device_type": "GPU"}).all_options["device_type"] == "GPU"
    assert Execution("xnnpack", 2).all_options == {"intra_op_num_threads": "2"}
    assert Execution("cpu", 4).all_options == {}


def test_options_differ_in_the_fingerprint_and_come_back_from_a_record() -> None:
    execution = Execution("openvino", 2, {"num_streams": "1"})
    record = execution_record(execution)
    assert record["options"] == {"device_type": "CPU", "num_of_threads": "2", "num_streams": "1"}
    assert record["config"][agent.NO_FALLBACK] == record["config"][agent.RECORDED] == "1"
    again = Execution(record["ep"], record["threads"], record["options"])
    assert fingerprint(again) == fingerprint(execution) != fingerprint(Execution("openvino", 2))
    assert not execution_record(Execution("directml"))["memory_pattern"]


def test_a_session_says_which_provider_has_its_nodes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(two_nodes().SerializeToString())
    recorded = execution_record(CPU)
    recorded["config"][agent.RECORDED] = "1"
    assert agent.placement(agent.open_session(tmp_path / "m.onnx", recorded)) == {"CPUExecutionProvider": 2}
    assert agent.placement(agent.open_session(tmp_path / "m.onnx", execution_record(CPU))) == {}


def test_nodes_left_to_the_cpu_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that refuses to fall back, as onnxruntime does for any provider that lacks an operator."""
    (tmp_path / "m.onnx").write_bytes(two_nodes().SerializeToString())
    started = agent._started

    def partly(path: Path, options: onnxruntime.SessionOptions, execution: dict[str, Any]) -> Any:
        try:
            refused = options.get_session_config_entry(agent.NO_FALLBACK)
        except RuntimeError:
            refused = "0"
        if refused == "1":
            raise RuntimeError("fallback to CPU EP has been explicitly disabled by the user")
        return started(path, options, {**execution, "provider": "CPUExecutionProvider", "options": {}})

    monkeypatch.setattr(agent, "_started", partly)
    record = execution_record(Execution("openvino"))
    with pytest.raises(RuntimeError, match=re.escape("openvino leaves 2 nodes to the CPU: relu (Relu), det (Det)")):
        agent.open_session(tmp_path / "m.onnx", record)
    local = agent.environment()
    monkeypatch.setattr(
        agent, "environment", lambda: local | {"providers": [*local["providers"], "OpenVINOExecutionProvider"]}
    )
    with pytest.raises(NetadaptError, match=r"det \(Det\)"):
        measure_on(LocalDevice(), order_of(two_nodes(), Execution("openvino")))


def test_a_provider_that_onnxruntime_silently_replaced_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(two_nodes().SerializeToString())
    record = execution_record(CPU) | {"provider": "CPUExecutionProvider", "ep": "cuda"}
    agent.open_session(tmp_path / "m.onnx", record)
    elsewhere = Execution("cuda")
    with pytest.raises(NetadaptError, match="'cuda' does not run all of the model: 3 nodes on CPUExecutionProvider"):
        elsewhere.require_placed({"CUDAExecutionProvider": 20, "CPUExecutionProvider": 3})
    elsewhere.require_placed({"CUDAExecutionProvider": 23})
    elsewhere.require_placed({})


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match="no such library"):
        Execution("webgpu", library=str(tmp_path / "missing.so"))
    (tmp_path / "plugin.so").write_bytes(b"not a library")
    execution = Execution("webgpu", options={"anything": "1"}, library=str(tmp_path / "plugin.so"))
    assert execution.provider.name == "WebGpuExecutionProvider"
    assert not execution.provider.per_node
    assert Execution("MyExecutionProvider", library=str(tmp_path / "plugin.so")).provider.name == "MyExecutionProvider"
    with pytest.raises(NetadaptError, match=r"Failed to load library .*plugin\.so"):
        measure_on(LocalDevice(), order_of(two_nodes(), execution))
    changed = fingerprint(execution)
    (tmp_path / "plugin.so").write_bytes(b"another")
    assert changed["library"].startswith("plugin.so ")
    assert changed != fingerprint(execution)


def test_a_library_is_for_this_machine(tmp_path: Path) -> None:
    class Elsewhere(LocalDevice):
        oldest = True

    (tmp_path / "plugin.so").write_bytes(b"")
    with pytest.raises(NetadaptError, match="this machine"):
        measure_on(Elsewhere(), order_of(two_nodes(), Execution("webgpu", library=str(tmp_path / "plugin.so"))))


def test_a_library_without_a_device_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *arguments: loaded.append(arguments))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"plugin\.so offers no device for OtherEP here \(it has: none at all\)"):
            agent.plugin_devices("OtherEP", "/a/plugin.so")
    assert len(loaded) == 1
    [device] = agent.plugin_devices("CPUExecutionProvider", "/a/plugin.so")
    assert device.ep_name == "CPUExecutionProvider"
    monkeypatch.delattr(onnxruntime, "register_execution_provider_library")
    with pytest.raises(RuntimeError, match=r"1\.22 is the first"):
        agent.plugin_devices("OtherEP", "/a/plugin.so")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--ep", "openvino"), "has no OpenVINOExecutionProvider", "onnxruntime-openvino"),
        (("--ep", "cuda"), "has no CUDAExecutionProvider", "onnxruntime-gpu"),
        (("--ep", "gpu"), "no execution provider 'gpu'", "cpu, cuda"),
        (("--ep-option", "use_arena=1"), "'cpu' has no option 'use_arena'", "none"),
        (("--ep", "openvino", "--ep-option", "device_typ=GPU"), "has no option 'device_typ'", "device_type"),
        (("--ep-option", "nonsense"), "'nonsense' is not KEY=VALUE", ""),
        (("--ep", "webgpu", "--ep-library", "missing.so"), "missing.so: no such library", ""),
    ],
)
def test_profile_refuses_what_cannot_run_with_exit_code_2(
    words: tuple[str, ...], message: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(plain().SerializeToString())
    assert run(["profile", str(tmp_path / "m.onnx"), "--table", str(tmp_path / "t.jsonl"), *words, "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert message in result["error"]["message"]
    assert hint in (result["error"]["hint"] or "")
    assert not (tmp_path / "t.jsonl").exists()


def test_families_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROVIDERS["cpu"].name = "other"  # type: ignore[misc]
