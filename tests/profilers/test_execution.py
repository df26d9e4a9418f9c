from __future__ import annotations

import json

import pytest

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.execution import CPU, Execution, differences, fingerprint
from netadapt_onnx.profilers.providers import PROVIDERS


def test_unknown_provider_lists_the_known() -> None:
    with pytest.raises(NetadaptError, match=r"'gpu'.*cpu, cuda"):
        Execution(ep="gpu")


def test_missing_provider_names_its_package() -> None:
    local = agent.environment()
    missing = [ep for ep, p in PROVIDERS.items() if p.name not in local["providers"]]
    for ep in missing:
        with pytest.raises(NetadaptError) as caught:
            Execution(ep=ep).require(local)
        assert PROVIDERS[ep].package in caught.value.hint


def test_fingerprint_is_json_and_stable() -> None:
    local = fingerprint(CPU)
    assert json.loads(json.dumps(local)) == local == fingerprint(CPU)
    assert {"cpu", "flags", "os", "arch", "onnxruntime", "ep", "threads", "precision", "governor"} <= local.keys()


def test_differences_name_what_differs() -> None:
    local = fingerprint(CPU) | {"flags": ["avx", "avx2"]}
    assert differences(local, local) == []
    other = local | {"threads": 4, "flags": [*local["flags"], "amx_tile"]}
    assert differences(other, local) == ["flags: amx_tile there, none more here", "threads: 4 there, 1 here"]
