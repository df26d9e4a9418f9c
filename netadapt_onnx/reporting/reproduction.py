"""How a run can be repeated: its command, its arguments and hashes, versions and the device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from netadapt_onnx.reporting.page import paragraph, table

# Values that say no more than their absence does.
UNSAID: tuple[object, ...] = (None, [], {})


def reproduction(identity: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Tables of `run.json`; what was typed, without places, where it was recorded."""
    parts = [
        _listed("argument", "value", identity),
        _listed("version of", "", about.get("versions", {})),
        _listed("device", "", about.get("device", {})),
    ]
    return paragraph(str(about.get("command", "")), "command") + "".join(parts)


def _listed(what: str, value: str, entries: Mapping[str, Any]) -> str:
    said = [[name, _plain(content)] for name, content in entries.items() if content not in UNSAID]
    return table([what, value], said, "words") if said else ""


def _plain(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
