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
    here = agent.environment()
    missing = [ep for ep, p in PROVIDERS.items() if p.name not in here["providers"]]
    for ep in missing:
        with pytest.raises(NetadaptError) as caught:
            Execution(ep=ep).require(here)
        assert PROVIDERS[ep].package in caught.value.hint


def test_fingerprint_is_json_and_stable() -> None:
    here = fingerprint(CPU)
    assert json.loads(json.dumps(here)) == here == fingerprint(CPU)
    assert {"cpu", "flags", "os", "arch", "onnxruntime", "ep", "threads", "precision", "governor"} <= here.keys()


def test_differences_name_what_differs() -> None:
    here = fingerprint(CPU)
    assert differences(here, here) == []
    other = here | {"threads": 4, "flags": [*here["flags"], "amx_tile"]}
    assert differences(other, here) == ["flags: amx_tile there, none more here", "threads: 4 there, 1 here"]
